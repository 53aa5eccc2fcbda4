"""Compiles the CUDA kernels for the CPU, so that their logic is tested on machines without a GPU.

The sources are taken as they are but for two things that a C++ compiler does not read: launches, and shared
memory of a size given at launch.
"""

import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
PLUGINS = REPOSITORY / "plugins"
HERE = Path(__file__).resolve().parent

_LAUNCH = re.compile(r"(\w+(?:<[^<>;]*>)?)<<<(.*?)>>>\((.*?)\);", re.DOTALL)
_DYNAMIC_SHARED = re.compile(r"extern __shared__ (\w+) (\w+)\[\];")

KERNELS = ("roi_align/roi_align.cu", "roi_pool/roi_pool.cu", "nms/nms.cu", "resize/resize.cu")
OTHERS = (
    "common/error.cpp",
    "roi_align/roi_align_check.cpp",
    "roi_align/roi_align_cpu.cpp",
    "roi_pool/roi_pool_check.cpp",
    "roi_pool/roi_pool_cpu.cpp",
    "nms/nms_check.cpp",
    "nms/nms_cpu.cpp",
    "resize/resize_check.cpp",
    "resize/resize_cpu.cpp",
)


def as_cpp(source: str) -> str:
    """CUDA C++ with launches as calls of the emulation."""

    def launch(match: re.Match[str]) -> str:
        kernel, configuration, arguments = match.groups()
        grid, block, shared, _stream = _split(configuration)
        return f"mrcnn::emulation::launch({grid}, {block}, {shared}, [&] {{ {kernel}({arguments}); }});"

    source = _DYNAMIC_SHARED.sub(
        r"\1* const \2 = static_cast<\1*>(mrcnn::emulation::dynamic_shared());", source
    )
    return _LAUNCH.sub(launch, source)


def _split(configuration: str) -> list[str]:
    """The parts between commas that stand outside parentheses."""
    parts, depth = [""], 0
    for character in configuration:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def build(folder: Path) -> Path:
    """Writes and compiles everything into `folder`; returns the library, which has the C interface.

    Raises:
        subprocess.CalledProcessError: the compiler refused the sources; its words are on stderr.
    """
    sources = [HERE / "emulation.cpp", HERE / "radix_sort.cpp", *(PLUGINS / name for name in OTHERS)]
    for name in KERNELS:
        translated = folder / (Path(name).name + ".cpp")
        translated.write_text(as_cpp((PLUGINS / name).read_text(encoding="utf-8")), encoding="utf-8")
        sources.append(translated)
    library = folder / "libmrcnn_emulated.so"
    flags = ["-std=c++17", "-O2", "-g", "-fPIC", "-shared", "-ffp-contract=off", "-Wno-unknown-pragmas"]
    includes = [f"-I{HERE / 'include'}", f"-I{PLUGINS}"]
    define = '-DMRCNN_BUILD_INFO="mrcnn, CPU, CUDA emulated"'
    subprocess.run(
        ["c++", *flags, *includes, define, *map(str, sources), "-o", str(library)], check=True, cwd=folder
    )
    return library
