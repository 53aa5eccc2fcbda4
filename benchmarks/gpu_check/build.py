"""Compiles what is checked, for the GPU that is here, into build/gpu-check/."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mrcnn.benchmarks.gpu_check.deadline import Deadline
from mrcnn.benchmarks.gpu_check.shell import Ran, run
from mrcnn.benchmarks.gpu_check.steps import FAILED, PASSED, Settings
from mrcnn.errors import MissingRequirementError
from mrcnn.plugins import toolchain
from mrcnn.plugins.kernels import Kernels
from mrcnn.plugins.resources import parse

# Line numbers for compute-sanitizer, and the assembler's report; neither changes the code.
_CUDA_FLAGS = "-lineinfo -Xptxas=-v"


def require_tools() -> dict[str, str]:
    """Versions of the compilers.

    Raises:
        MissingRequirementError: one is not there or does not work.
    """
    try:
        nvcc, cmake, generator = toolchain.find_nvcc(), toolchain.find_cmake(), toolchain.find_generator()
    except toolchain.ToolError as error:
        raise MissingRequirementError(str(error)) from error
    if nvcc is None:
        raise MissingRequirementError(
            "nvcc is not found: install the CUDA toolkit, or name it with CUDACXX=…/bin/nvcc "
            "(--library checks kernels that were built elsewhere)"
        )
    if cmake is None or cmake.version < toolchain.MINIMUM_CMAKE:
        raise MissingRequirementError("CMake 3.24 or newer is not found: pip install cmake")
    if generator is None:
        raise MissingRequirementError("neither ninja nor make is found: pip install ninja")
    return {"nvcc": nvcc.text, "cmake": cmake.text}


def build_kernels(settings: Settings, facts: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
    """Builds `settings.library`, and the TensorRT plugins beside it where TensorRT's headers are."""
    folder = settings.library.parent
    settings.library.unlink(missing_ok=True)  # a failed build must not leave an old one to be checked
    plugins_path(settings).unlink(missing_ok=True)
    options = {
        # As "native", but known where nvidia-smi does not know it, on a Jetson.
        "MRCNN_ARCHITECTURES": str(facts["compute_capability"]).replace(".", ""),
        "CMAKE_CUDA_FLAGS": _CUDA_FLAGS,
        "CMAKE_BUILD_TYPE": "Release",
    }
    done = configure(settings.root / "plugins", folder, deadline=deadline, options=options)
    if done.code == 0:
        done = build_target(folder, "mrcnn_kernels", deadline=deadline)
    if done.code != 0:
        return {"status": FAILED, "failures": [{"check": "kernels", "wrong": [done.last_words]}]}
    capability = int(options["MRCNN_ARCHITECTURES"])
    resources = parse("\n".join(done.lines), "", capability)
    record = {
        "status": PASSED,
        "failures": [],
        "kernels": Kernels(settings.library).build_info,
        # CUB's are NVIDIA's to tune.
        "resources": [
            {name: value for name, value in asdict(kernel).items() if name not in ("source", "architecture")}
            for kernel in resources
            if not kernel.kernel.startswith("cub::")
        ],
        "plugins": None,
    }
    done = build_target(folder, None, deadline=deadline)
    if done.code != 0:
        failure = {"check": "TensorRT plugins", "wrong": [done.last_words]}
        return {**record, "status": FAILED, "failures": [failure]}
    if plugins_path(settings).is_file():
        record["plugins"] = Kernels(plugins_path(settings)).build_info
    return record


def plugins_path(settings: Settings) -> Path:
    """Where the library of TensorRT plugins is, if there is one."""
    return settings.library.with_name("libmrcnn_plugins.so")


def configure(source: Path, folder: Path, *, deadline: Deadline, options: Mapping[str, str]) -> Ran:
    """Runs CMake anew, so that nothing of another machine or place is left."""
    require_tools()
    cmake, nvcc, generator = toolchain.find_cmake(), toolchain.find_nvcc(), toolchain.find_generator()
    assert cmake
    assert nvcc
    assert generator
    settings = {**options, "CMAKE_MAKE_PROGRAM": str(generator[1])}
    command = [str(cmake.path), "--fresh", "-G", generator[0], "-S", str(source), "-B", str(folder)]
    command += [f"-D{name}={value}" for name, value in settings.items()]
    # Where CUDA is not a project's language, CMake looks for the toolkit by PATH.
    path = os.pathsep.join([str(nvcc.path.parent), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "CUDACXX": str(nvcc.path), "PATH": path}
    return run(command, deadline=deadline, environment=environment)


def build_target(folder: Path, target: str | None, *, deadline: Deadline) -> Ran:
    """Builds one target, or all."""
    cmake = toolchain.find_cmake()
    assert cmake
    command = [str(cmake.path), "--build", str(folder), "--parallel", str(os.cpu_count() or 1)]
    return run([*command, *([] if target is None else ["--target", target])], deadline=deadline)
