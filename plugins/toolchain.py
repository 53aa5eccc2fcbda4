"""Finds what the native libraries are built with, and asks programs without waiting for them for ever.

`build.py` and `mrcnn doctor` share it. setup.py needs it before there is a package: the standard library alone.
"""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

MINIMUM_CMAKE = (3, 24)
MINIMUM_TENSORRT = (10, 3)

AGAIN = "python -m mrcnn.plugins.build"  # what to run when something was added

_PROBE = Path(__file__).resolve().parent / "probe.py"


_ARCHITECTURES = re.compile(r"native|all|\d+[af]?(-real|-virtual)?(;\d+[af]?(-real|-virtual)?)*")

class BuildError(Exception):
    """Options that have no meaning, or a build that failed although it was required; one line."""


class ToolError(Exception):
    """A program is missing, does not answer in time or fails; one line."""


class Tool(NamedTuple):
    """A program, or the folder of TensorRT's headers, and its version; () where it says none."""

    path: Path
    version: tuple[int, ...]

    @property
    def text(self) -> str:
        """The version as it is written."""
        return ".".join(map(str, self.version)) or "of unknown version"


def answer(command: Sequence[str | Path], *, timeout: float = 5) -> str:
    """What a program prints on both its streams.

    Raises:
        ToolError: it is missing, fails, or has not ended after `timeout` seconds.
    """
    name = Path(command[0]).name
    try:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # ValueError: a null character in a name
        raise ToolError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _abandon(process)
        raise ToolError(f"{name}: no answer within {timeout:g} s") from None
    if process.returncode < 0:
        raise ToolError(f"{name}: killed by {signal.Signals(-process.returncode).name}")
    if process.returncode > 0:
        said = next((line.strip() for line in output.splitlines() if line.strip()), "without a word")
        raise ToolError(f"{name}: ends with status {process.returncode}: {said[:200]}")
    return output


def _abandon(process: "subprocess.Popen[str]") -> None:
    """Kills a program with its children; without waiting for long, since a hanging driver ignores even this."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(0.2)
    if process.stdout is not None:
        process.stdout.close()


def probe(*arguments: str | Path, timeout: float = 10) -> dict[str, Any]:
    """The answer of `probe.py`, which says what it may be asked.

    Raises:
        ToolError: the driver or the library kills it, or lets it wait.
    """
    output = answer([sys.executable, _PROBE, *arguments], timeout=timeout)
    try:
        document: dict[str, Any] = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        raise ToolError(f"{_PROBE.name}: no answer in its output: {output[-200:]!r}") from None
    return document


def find_program(*names: str, folders: Iterable[str | Path] = ()) -> Path | None:
    """The first of `names` (names or paths) on PATH or in one of `folders`."""
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, folders)])
    found = (shutil.which(name, path=places) for name in names)
    return next((Path(name) for name in found if name), None)


def find_tool(*names: str, folders: Iterable[str | Path] = ()) -> Tool | None:
    """As `find_program`, with the version that it says.

    Raises:
        ToolError: it is there and does not work.
    """
    path = find_program(*names, folders=folders)
    if path is None:
        return None
    output = answer([path, "--version"])
    # nvcc has "release 13.0, V13.0.88"; g++ ends its first line with the version, after the distribution's.
    found = re.findall(r"V(\d+(?:\.\d+)+)", output) or re.findall(r"\d+(?:\.\d+)+", output.partition("\n")[0])
    return Tool(path, tuple(map(int, found[-1].split("."))) if found else ())


def find_compiler() -> Tool | None:
    """The C++ compiler that CMake takes; raises as `find_tool` does."""
    return find_tool(*os.environ.get("CXX", "").split()[:1], "c++", "g++", "clang++")


def find_nvcc() -> Tool | None:
    """nvcc, also where it is not on PATH, as JetPack leaves it; raises as `find_tool` does."""
    roots = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    folders = [Path(root, "bin") for root in (*roots, "/usr/local/cuda")]
    return find_tool(*os.environ.get("CUDACXX", "").split()[:1], "nvcc", folders=folders)


def find_cmake() -> Tool | None:
    """CMake on PATH or beside this Python: one that is new enough, if there is; raises as `find_tool` does."""
    found = [find_tool("cmake"), find_tool(str(Path(sysconfig.get_path("scripts"), "cmake")))]
    return max((tool for tool in found if tool), key=lambda tool: tool.version >= MINIMUM_CMAKE, default=None)


def find_generator() -> tuple[str, Path] | None:
    """CMake's name of a generator, and its program: Ninja, or else make."""
    ninja = find_program("ninja", "ninja-build", folders=[sysconfig.get_path("scripts")])
    if ninja is not None:
        return "Ninja", ninja
    make = find_program("make", "gmake")
    return None if make is None else ("Unix Makefiles", make)


def find_tensorrt(root: str | None) -> Tool | None:
    """TensorRT's headers in the folder `root`, or where the system has them if that is None."""
    machine = f"{platform.machine()}-linux-gnu"
    bases = ["/usr", "/usr/local", "/usr/local/tensorrt", "/opt/tensorrt"] if root is None else [root]
    for folder in (Path(base, part) for base in bases for part in ("", "include", f"include/{machine}")):
        if (folder / "NvInfer.h").is_file():
            return Tool(folder, _tensorrt_version(folder / "NvInferVersion.h"))
    return None


def _tensorrt_version(header: Path) -> tuple[int, ...]:
    try:
        text = header.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    found = dict(re.findall(r"define (?:NV_TENSORRT|TRT)_(MAJOR|MINOR)(?:_ENTERPRISE)? (\d+)", text))
    return (int(found["MAJOR"]), int(found["MINOR"])) if len(found) == 2 else ()


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to build.

    Args:
        architectures: GPUs to compile for: "native" (this machine's), "all", or numbers such as "87;90".
        tensorrt_root: a folder with NvInfer.h or include/NvInfer.h; None to look where the system has it.
        cpu_only: leave out CUDA and TensorRT, also where they are.

    Raises:
        BuildError: `architectures` is none of those.
    """

    architectures: str = "native"
    tensorrt_root: str | None = None
    cpu_only: bool = False

    def __post_init__(self) -> None:
        if not _ARCHITECTURES.fullmatch(self.architectures):
            raise BuildError(
                f"the architectures must be native, all, or numbers such as 87;90 (got {self.architectures!r})"
            )


@dataclass(frozen=True)
class LeftOut:
    """A part that was not built; `failed` where everything that it needs was there, but it did not compile."""

    part: str
    reason: str
    remedy: str
    failed: bool = False

    def __str__(self) -> str:
        return f"{self.part} left out: {self.reason}; {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """What takes part in a build. Without a compiler or CMake `missing` says so, and nothing can be built."""

    compiler: Tool | None = None
    cmake: Tool | None = None
    generator: tuple[str, Path] | None = None
    nvcc: Tool | None = None
    tensorrt: Tool | None = None
    missing: tuple[LeftOut, ...] = ()

    def versions(self) -> dict[str, str]:
        """Name -> version of what there is."""
        named = {"c++": self.compiler, "cmake": self.cmake, "nvcc": self.nvcc, "tensorrt": self.tensorrt}
        return {name: tool.text for name, tool in named.items() if tool is not None}


def find_toolchain(options: Options) -> Toolchain:
    """What this machine has for a build with `options`, and a line for what it lacks."""
    everything = "native libraries"
    again = f"and run: {AGAIN}"
    if sys.platform != "linux":
        return _nothing(LeftOut(everything, f"they need Linux, this is {sys.platform}", "use the CPU"))
    try:
        compiler, cmake, generator = find_compiler(), find_cmake(), find_generator()
    except ToolError as error:
        return _nothing(LeftOut(everything, str(error), f"repair it {again}", failed=True))
    if compiler is None:
        install = f"install g++ (Debian, Ubuntu: apt install g++) {again}"
        return _nothing(LeftOut(everything, "no C++ compiler found", install))
    if cmake is None or cmake.version < MINIMUM_CMAKE:
        reason = "CMake not found" if cmake is None else f"CMake {cmake.text} is older than 3.24"
        return _nothing(LeftOut(everything, reason, f"pip install cmake ninja {again}"))
    if generator is None:
        return _nothing(LeftOut(everything, "neither ninja nor make found", f"pip install ninja {again}"))
    nvcc, tensorrt, missing = _find_cuda(options, again)
    return Toolchain(
        compiler=compiler, cmake=cmake, generator=generator, nvcc=nvcc, tensorrt=tensorrt, missing=missing
    )


def _nothing(reason: LeftOut) -> Toolchain:
    return Toolchain(missing=(reason,))


def _find_cuda(
    options: Options, again: str
) -> tuple[Tool | None, Tool | None, tuple[LeftOut, ...]]:
    """nvcc, TensorRT's headers, and why one of them has no part in the build."""
    both = "CUDA kernels and TensorRT plugins"
    if options.cpu_only:
        return None, None, (LeftOut(both, "built for the CPU only", f"run: {AGAIN}"),)
    try:
        nvcc = find_nvcc()
    except ToolError as error:
        return None, None, (LeftOut(both, str(error), f"repair it {again}", failed=True),)
    if nvcc is None:
        return None, None, (LeftOut(both, "nvcc not found", f"install the CUDA toolkit {again}"),)
    root, tensorrt = options.tensorrt_root, find_tensorrt(options.tensorrt_root)
    failed = False
    if tensorrt is None:
        failed = root is not None
        reason = "NvInfer.h not found" + ("" if root is None else f" in TENSORRT_ROOT={root} or its include")
    elif tensorrt.version < MINIMUM_TENSORRT:
        reason = f"TensorRT {tensorrt.text} in {tensorrt.path} is older than 10.3"
    else:
        return nvcc, tensorrt, ()
    remedy = f"set TENSORRT_ROOT to a folder with TensorRT's headers {again}"
    return nvcc, None, (LeftOut("TensorRT plugins", reason, remedy, failed),)
