"""Finds what the native libraries are built with, and asks programs without waiting for them for ever.

`build.py` and `mrcnn doctor` share it. setup.py needs it before there is a package: it uses the
standard library alone.
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

# What to run when something was added.
AGAIN = "python -m mrcnn.plugins.build"

_ARCHITECTURES = re.compile(r"native|all|\d+[af]?(-real|-virtual)?(;\d+[af]?(-real|-virtual)?)*")
_PROBE = Path(__file__).resolve().parent / "probe.py"


class BuildError(Exception):
    """Options that have no meaning, or a build that failed although it was required; one line."""


class ToolError(Exception):
    """A program is missing, does not answer in time or fails; one line."""


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
                f"the architectures must be native, all, or numbers as in 87;90 (got {self.architectures!r})"
            )


@dataclass(frozen=True)
class LeftOut:
    """A part that was not built; `failed` where what it needs was there or named, but did not work."""

    part: str
    reason: str
    remedy: str
    failed: bool = False

    def __str__(self) -> str:
        return f"{self.part} left out: {self.reason}; {self.remedy}"


class Tool(NamedTuple):
    """A program, or the folder of TensorRT's headers, and its version; () where it says none."""

    path: Path
    version: tuple[int, ...]

    @property
    def text(self) -> str:
        """The version as it is written."""
        return ".".join(map(str, self.version)) or "of unknown version"


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """What takes part in a build; nothing can be built where `cmake` is None, and `missing` says why."""

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
    if sys.platform != "linux":
        return _nothing(f"they are built on Linux, this is {sys.platform}", "the rest works without them")
    try:
        compiler, cmake, generator = find_compiler(), find_cmake(), find_generator()
    except ToolError as error:
        return _nothing(str(error), f"repair it and run: {AGAIN}", failed=True)
    if compiler is None:
        remedy = f"install g++ (Debian, Ubuntu: apt install g++) and run: {AGAIN}"
        return _nothing("no C++ compiler found", remedy)
    if cmake is None or cmake.version < MINIMUM_CMAKE:
        reason = "CMake not found" if cmake is None else f"CMake {cmake.text} is older than 3.24"
        return _nothing(reason, f"pip install cmake ninja, and run: {AGAIN}")
    if generator is None:
        return _nothing("neither ninja nor make found", f"pip install ninja, and run: {AGAIN}")
    nvcc, tensorrt, left_out = _find_cuda(options)
    return Toolchain(
        compiler=compiler,
        cmake=cmake,
        generator=generator,
        nvcc=nvcc,
        tensorrt=tensorrt,
        missing=() if left_out is None else (left_out,),
    )


def check(options: Options) -> None:
    """Refuses options that somebody gave and no compiler can follow, before anything is compiled.

    Raises:
        BuildError: there are no TensorRT headers in the folder, or nvcc does not know a GPU.
    """
    if options.cpu_only:
        return
    if options.tensorrt_root is not None and find_tensorrt(options.tensorrt_root) is None:
        raise BuildError(f"NvInfer.h is neither in {options.tensorrt_root} nor in its folder include")
    try:
        nvcc = find_nvcc()
        listed = answer([nvcc.path, "--list-gpu-code"]) if nvcc else ""
    except ToolError:
        return  # the build says what is wrong with it
    known = set(re.findall(r"sm_(\d+)", listed))
    wanted = re.findall(r"\d+", options.architectures)
    unknown = [number for number in wanted if known and number not in known]
    if unknown:
        numbers = ", ".join(sorted(known, key=int))
        raise BuildError(f"nvcc does not know the GPU architecture {unknown[0]} (known: {numbers})")


def _nothing(reason: str, remedy: str, *, failed: bool = False) -> Toolchain:
    return Toolchain(missing=(LeftOut("native libraries", reason, remedy, failed),))


def _find_cuda(options: Options) -> tuple[Tool | None, Tool | None, LeftOut | None]:
    """nvcc, TensorRT's headers, and why one of them has no part in the build."""
    both = "CUDA kernels and TensorRT plugins"
    if options.cpu_only:
        return None, None, LeftOut(both, "--cpu-only was asked for", f"without it: {AGAIN}")
    try:
        nvcc = find_nvcc()
    except ToolError as error:
        return None, None, LeftOut(both, str(error), f"repair it and run: {AGAIN}", failed=True)
    if nvcc is None:
        return None, None, LeftOut(both, "nvcc not found", f"install the CUDA toolkit and run: {AGAIN}")
    root = options.tensorrt_root
    tensorrt = find_tensorrt(root)
    if tensorrt is not None and tensorrt.version >= MINIMUM_TENSORRT:
        return nvcc, tensorrt, None
    if tensorrt is not None:
        reason = f"TensorRT {tensorrt.text} in {tensorrt.path} is older than 10.3"
    elif root is not None:
        reason = f"NvInfer.h not found in TENSORRT_ROOT={root} or its folder include"
    else:
        reason = "NvInfer.h not found"
    remedy = f"set TENSORRT_ROOT to a folder with TensorRT's headers and run: {AGAIN}"
    return nvcc, None, LeftOut("TensorRT plugins", reason, remedy, failed=root is not None)


def find_compiler(timeout: float = 10) -> Tool | None:
    """The C++ compiler that CMake takes; raises as `find_tool` does."""
    return find_tool(*os.environ.get("CXX", "").split()[:1], "c++", "g++", "clang++", timeout=timeout)


def find_nvcc(timeout: float = 10) -> Tool | None:
    """nvcc, also where it is not on PATH, as JetPack leaves it; raises as `find_tool` does."""
    named = os.environ.get("CUDACXX", "").split()[:1]
    return find_tool(*named, "nvcc", folders=cuda_folders(), timeout=timeout)


def cuda_folders() -> list[Path]:
    """Where the CUDA toolkit has its programs when they are not on PATH."""
    roots = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    return [Path(root, "bin") for root in (*roots, "/usr/local/cuda")]


def find_cmake(timeout: float = 10) -> Tool | None:
    """CMake on PATH or beside this Python, one that is new enough if possible; raises as `find_tool` does."""
    first = find_tool("cmake", timeout=timeout)
    if first is not None and first.version >= MINIMUM_CMAKE:
        return first
    return find_tool(str(Path(sysconfig.get_path("scripts"), "cmake")), timeout=timeout) or first


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
            return Tool(folder.resolve(), _tensorrt_version(folder / "NvInferVersion.h"))
    return None


def _tensorrt_version(header: Path) -> tuple[int, ...]:
    try:
        text = header.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    found = dict(re.findall(r"define (?:NV_TENSORRT|TRT)_(MAJOR|MINOR)(?:_ENTERPRISE)? (\d+)", text))
    return (int(found["MAJOR"]), int(found["MINOR"])) if len(found) == 2 else ()


def find_program(*names: str, folders: Iterable[str | Path] = ()) -> Path | None:
    """The first of `names` (names or paths) on PATH or in one of `folders`."""
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, folders)])
    found = (shutil.which(name, path=places) for name in names)
    return next((Path(name) for name in found if name), None)


def find_tool(*names: str, folders: Iterable[str | Path] = (), timeout: float = 10) -> Tool | None:
    """As `find_program`, with the version that it says.

    Raises:
        ToolError: it is there and does not work.
    """
    path = find_program(*names, folders=folders)
    if path is None:
        return None
    output = answer([path, "--version"], timeout=timeout)
    # nvcc has "release 13.0, V13.0.88"; g++ ends its first line with the version, after the distribution's.
    found = re.findall(r"V(\d+(?:\.\d+)+)", output) or re.findall(r"\d+(?:\.\d+)+", output.partition("\n")[0])
    return Tool(path, tuple(map(int, found[-1].split("."))) if found else ())


def answer(command: Sequence[str | Path], *, timeout: float = 10) -> str:
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
    if process.returncode != 0:
        said = next((line.strip() for line in output.splitlines() if line.strip()), "without a word")
        raise ToolError(f"{name}: {_end(process.returncode)}: {said[:200]}")
    return output


def _end(status: int) -> str:
    """How a program ended: its exit status, or the signal that killed it."""
    if status > 0:
        return f"ended with status {status}"
    names = {number.value: number.name for number in signal.Signals}
    return f"killed by {names.get(-status, f'signal {-status}')}"


def _abandon(process: "subprocess.Popen[str]") -> None:
    """Kills a program with its children; does not wait for long, as a hanging driver ignores even this."""
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
    output = answer([sys.executable, "-I", _PROBE, *arguments], timeout=timeout)
    try:
        document: dict[str, Any] = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        raise ToolError(f"{_PROBE.name}: no answer in its output: {output[-200:]!r}") from None
    return document
