"""What the compiler says of each CUDA kernel: registers, shared memory, spills.

`python -m mrcnn.plugins.resources` compiles for every architecture that this nvcc knows and prints a table;
no GPU is needed.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mrcnn.plugins import toolchain

PLUGINS = Path(__file__).resolve().parent
SOURCES = (
    "roi_align/roi_align.cu",
    "roi_pool/roi_pool.cu",
    "nms/nms.cu",
    "resize/resize.cu",
    "common/radix_sort.cu",
)

# Turing is the oldest that TensorRT 10 supports.
_OLDEST = 75

_ENTRY = re.compile(
    r"Function properties for (?P<name>\S+)\s+"
    r"\d+ bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\s+"
    r"ptxas info\s*: Used (?P<registers>\d+) registers(?:.*?(?P<shared>\d+) bytes smem)?"
)


@dataclass(frozen=True)
class KernelResources:
    """One kernel on one architecture.

    Attributes:
        kernel: as `c++filt` shortens it; architecture: 90 for sm_90; registers: per thread;
        shared_bytes: static, per block; spill_bytes: stores and loads of registers that did not fit.
    """

    kernel: str
    source: str
    architecture: int
    registers: int
    shared_bytes: int
    spill_bytes: int


def known_architectures(nvcc: str = "nvcc") -> list[int]:
    """The architectures from Turing on that the compiler can make machine code for.

    Raises:
        FileNotFoundError: there is no such compiler.
    """
    listed = subprocess.run([nvcc, "--list-gpu-code"], check=True, capture_output=True, text=True).stdout
    return sorted(number for number in map(int, re.findall(r"sm_(\d+)", listed)) if number >= _OLDEST)


def compile_resources(source: str, architecture: int, nvcc: str = "nvcc") -> list[KernelResources]:
    """Compiles one of `SOURCES` and reads what ptxas reports of its kernels.

    Raises:
        FileNotFoundError: there is no such compiler.
        subprocess.CalledProcessError: it refused the source; its words are in `stderr`.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ["-std=c++17", "-O3", f"-arch=sm_{architecture}", "-Werror=all-warnings", "-Xptxas", "-v"]
        files = [f"-I{PLUGINS}", "-cubin", str(PLUGINS / source), "-o", f"{folder}/kernels.cubin"]
        done = subprocess.run([nvcc, *options, *files], check=True, capture_output=True, text=True)
    return parse(done.stdout + done.stderr, source, architecture)


def parse(report: str, source: str, architecture: int) -> list[KernelResources]:
    """The kernels in a report of `ptxas -v`, in its order."""
    found = list(_ENTRY.finditer(report))
    names = _demangle([match["name"] for match in found])
    return [
        KernelResources(
            kernel=name,
            source=source,
            architecture=architecture,
            registers=int(match["registers"]),
            shared_bytes=int(match["shared"] or 0),
            spill_bytes=int(match["stores"]) + int(match["loads"]),
        )
        for name, match in zip(names, found, strict=True)
    ]


def _demangle(names: Sequence[str]) -> list[str]:
    """Readable names without namespaces and parameters; as they are where there is no c++filt."""
    try:
        done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return list(names)
    short = []
    for line in done.stdout.splitlines():
        line = re.sub(r"\(anonymous namespace\)::|mrcnn::|^void ", "", line)
        line = re.sub(r"\((?:Path)\)", "", line)
        short.append(line.partition("(")[0] or line)
    return short


def table(resources: Sequence[KernelResources]) -> str:
    """A table of Markdown: a row per kernel, a column per architecture, registers in the cells."""
    architectures = sorted({entry.architecture for entry in resources})
    rows: dict[str, dict[int, KernelResources]] = {}
    for entry in resources:
        rows.setdefault(entry.kernel, {})[entry.architecture] = entry
    lines = [
        "| kernel | " + " | ".join(f"sm_{number}" for number in architectures) + " | shared bytes | spills |",
        "|---" * (len(architectures) + 3) + "|",
    ]
    for kernel, cells in rows.items():
        registers = [str(cells[number].registers) if number in cells else "" for number in architectures]
        shared = max(entry.shared_bytes for entry in cells.values())
        spills = sum(entry.spill_bytes for entry in cells.values())
        lines.append(f"| `{kernel}` | " + " | ".join(registers) + f" | {shared} | {spills} |")
    return "\n".join(lines)


def main() -> int:
    """Prints the table; 1 where a kernel of ours spills."""
    parser = argparse.ArgumentParser(prog="python -m mrcnn.plugins.resources", description=__doc__)
    parser.add_argument("architectures", nargs="*", type=int, metavar="SM", help="as 87 (default: all)")
    args = parser.parse_args()
    nvcc = toolchain.find_nvcc()
    if nvcc is None:
        print("nvcc is not found: install the CUDA toolkit", file=sys.stderr)
        return 3
    known = known_architectures(str(nvcc.path))
    unknown = sorted(set(args.architectures) - set(known))
    if unknown:
        print(f"nvcc {nvcc.text} does not know sm_{unknown[0]}, only {known}", file=sys.stderr)
        return 2
    found: list[KernelResources] = []
    try:
        for architecture in args.architectures or known:
            for source in SOURCES:
                print(f"compiling {source} for sm_{architecture}", file=sys.stderr)
                found += compile_resources(source, architecture, str(nvcc.path))
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        return 1
    ours = [entry for entry in found if not entry.kernel.startswith("cub::")]  # CUB's are NVIDIA's to tune
    print(table(ours))
    return 1 if any(entry.spill_bytes for entry in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
