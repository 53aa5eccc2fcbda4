"""Programs that stand in for compilers, and headers that stand in for TensorRT's."""

from pathlib import Path


def program(path: Path, *lines: str) -> Path:
    """A shell script."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def toolset(folder: Path) -> Path:
    """A folder with a compiler, CMake, Ninja and nvcc that know their versions and nothing else."""
    folder.mkdir()
    program(folder / "c++", 'echo "g++ (Debian 12.2.0-14) 12.2.1"')
    program(folder / "cmake", 'echo "cmake version 3.25.1"')
    program(folder / "ninja")
    program(folder / "nvcc", 'echo "nvcc: NVIDIA (R) Cuda compiler driver"', 'echo "release 13.0, V13.0.88"')
    return folder


def headers(folder: Path, *lines: str) -> Path:
    """TensorRT's headers, as far as their version."""
    folder.mkdir(parents=True)
    (folder / "NvInfer.h").touch()
    (folder / "NvInferVersion.h").write_text("\n".join(lines))
    return folder


# What decides which programs are found.
VARIABLES = ("CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH", "TENSORRT_ROOT", "MRCNN_ARCHITECTURES")
