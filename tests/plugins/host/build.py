"""Builds the plugin library and the program that drives it, once for each state of their sources.

The results lie in `build/plugin-host/` of the checkout, in folders whose names have the variant, the version
of TensorRT's headers and a hash of whatever goes in. Several processes may ask at once: one builds, the
others wait.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mrcnn.plugins import toolchain
from tests.plugins.emulation.build import KERNELS, as_cpp

REPOSITORY = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
PLUGINS = REPOSITORY / "plugins"
EMULATION = HERE.parent / "emulation"
CACHE = REPOSITORY / "build" / "plugin-host"

# plain: as it is installed; sanitized: under ASan and UBSan; emulated: kernels that run on the CPU.
Variant = Literal["plain", "sanitized", "emulated"]

# Builds of other sources are removed once they are this old: no process is using them any more.
_KEPT_SECONDS = 24 * 3600


class CompileError(Exception):
    """CMake or a compiler refused; the message is the end of what they printed."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """A plugin library, and a program that was built with the same headers."""

    library: Path
    host: Path


def build(variant: Variant, headers: toolchain.Tool) -> Build:
    """The library and the program of a variant; warnings are errors.

    Args:
        headers: the folder with NvInfer.h.

    Raises:
        CompileError: they do not compile.
    """
    settings = [f"-DTENSORRT_ROOT={headers.path}", "-DMRCNN_WERROR=ON"]
    if variant == "sanitized":
        settings.append("-DMRCNN_SANITIZE=ON")
    sources = _sources(PLUGINS, ".h", ".cpp", ".cu", ".cmake", ".map", ".txt")
    host_sources = _sources(HERE, ".h", ".cpp", ".txt")

    def compile_library(folder: Path) -> None:
        _cmake(PLUGINS, folder, settings, target="mrcnn_plugins")

    def compile_host(folder: Path) -> None:
        _cmake(HERE, folder, settings, target="all")

    def compile_both(folder: Path) -> None:
        for kernel in KERNELS:
            translated = as_cpp((PLUGINS / kernel).read_text(encoding="utf-8"))
            (folder / f"{Path(kernel).name}.cpp").write_text(translated, encoding="utf-8")
        _cmake(HERE, folder, [*settings, f"-DMRCNN_EMULATED={folder}"], target="all")

    if variant == "emulated":
        sources += [*host_sources, *_sources(EMULATION, ".h", ".cpp", ".py")]
        library = host = _once(variant, headers, sources, compile_both)
    else:
        library = _once(f"library-{variant}", headers, sources, compile_library)
        host_sources += [path for path in sources if path.suffix == ".h"]
        host = _once(f"host-{variant}", headers, host_sources, compile_host)
    return Build(library=library / "libmrcnn_plugins.so", host=host / "mrcnn_plugin_host")


def _once(
    name: str, headers: toolchain.Tool, sources: Sequence[Path], action: Callable[[Path], None]
) -> Path:
    """The folder in which `action` has built these sources, now or earlier."""
    key = _hash(headers, sources)
    folder = CACHE / f"{name}-{headers.text}-{key}"
    done = folder / "done"
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not done.exists():
            _remove_old()
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            action(folder)
            if _hash(headers, sources) == key:  # nobody has changed a source meanwhile
                done.touch()
    return folder


def _cmake(source: Path, folder: Path, settings: Sequence[str], *, target: str) -> None:
    cmake, generator = toolchain.find_cmake(), toolchain.find_generator()
    if cmake is None or generator is None:
        raise CompileError("CMake and ninja, or make, are needed: pip install cmake ninja")
    name, program = generator
    first = [cmake.path, "-S", source, "-B", folder, "-G", name, f"-DCMAKE_MAKE_PROGRAM={program}", *settings]
    jobs = str(len(os.sched_getaffinity(0)))
    second = [cmake.path, "--build", folder, "--target", target, "--parallel", jobs]
    for command in (first, second):
        ran = subprocess.run(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if ran.returncode != 0:
            raise CompileError(f"{' '.join(map(str, command))}\n{ran.stdout[-6000:]}")


def _sources(folder: Path, *suffixes: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in suffixes]


def _hash(headers: toolchain.Tool, sources: Iterable[Path]) -> str:
    """Changes whenever the result of a build could."""
    content = hashlib.sha256()
    version = REPOSITORY / "mrcnn" / "__init__.py"
    for path in sorted([*sources, version, headers.path / "NvInferVersion.h"]):
        content.update(f"{path}\0".encode() + path.read_bytes() + b"\0")
    tools = [toolchain.find_compiler(), toolchain.find_nvcc(), toolchain.find_cmake()]
    content.update(repr(tools).encode())
    return content.hexdigest()[:12]


def _remove_old() -> None:
    for done in CACHE.glob("*/done"):
        if done.stat().st_mtime < time.time() - _KEPT_SECONDS:
            shutil.rmtree(done.parent, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes that ends with the process; the file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
