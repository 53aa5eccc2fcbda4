"""The TensorRT plugins, built for the tests where nvcc and TensorRT's headers are."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mrcnn.plugins import toolchain
from tests.plugins.host.build import Build, CompileError, Variant, build

# On one line, as pytest's summary shows it.
NO_HEADERS = (
    "TensorRT's headers are not here: git clone --depth 1 --branch release/10.3 "
    "https://github.com/NVIDIA/TensorRT and set TENSORRT_ROOT to it"
)


@pytest.fixture(scope="session")
def tensorrt_headers() -> toolchain.Tool:
    """The folder with NvInfer.h, in TENSORRT_ROOT or where the system has it."""
    root = os.environ.get("TENSORRT_ROOT") or None
    found = toolchain.find_tensorrt(root)
    if found is None and root is not None:
        pytest.fail(f"NvInfer.h is neither in TENSORRT_ROOT={root} nor in its folder include")
    if found is None:
        pytest.skip(NO_HEADERS)
    if toolchain.find_nvcc() is None:
        pytest.skip("nvcc is not here: the plugins are built with the CUDA toolkit")
    return found


def _build(variant: Variant, headers: toolchain.Tool) -> Build:
    try:
        return build(variant, headers)
    except CompileError as error:
        refusal = str(error)
    pytest.fail(refusal, pytrace=False)


@pytest.fixture(scope="session")
def plain_build(tensorrt_headers: toolchain.Tool) -> Build:
    """The plugin library as it is installed, and the program that drives it."""
    return _build("plain", tensorrt_headers)


@pytest.fixture(scope="session")
def sanitized_build(tensorrt_headers: toolchain.Tool) -> Build:
    """The same under the address, leak and undefined-behaviour sanitizers."""
    return _build("sanitized", tensorrt_headers)


@pytest.fixture(scope="session")
def emulated_build(tensorrt_headers: toolchain.Tool) -> Build:
    """The plugins over kernels that run on the CPU, and a program that takes it for a GPU."""
    return _build("emulated", tensorrt_headers)


@pytest.fixture(scope="session")
def compile_library() -> Callable[[Path, str], Path]:
    """Makes a shared library in a folder of one C++ source."""

    def compile_one(folder: Path, source: str) -> Path:
        code, library = folder / "library.cpp", folder / "library.so"
        code.write_text(source, encoding="utf-8")
        compiler = toolchain.find_compiler()
        assert compiler is not None
        subprocess.run([str(compiler.path), "-shared", "-fPIC", str(code), "-o", str(library)], check=True)
        return library

    return compile_one
