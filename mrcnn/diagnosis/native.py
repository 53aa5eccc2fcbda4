"""Verdicts on the native libraries, and on what they are built with."""

import re
from dataclasses import replace
from typing import Literal

from mrcnn import __version__
from mrcnn.diagnosis.machine import Found, Library, Machine
from mrcnn.diagnosis.packages import distribution
from mrcnn.diagnosis.row import Row, dotted, numbers
from mrcnn.plugins.toolchain import AGAIN, MINIMUM_CMAKE, MINIMUM_TENSORRT

CUDA_TOOLKIT = "https://developer.nvidia.com/cuda-downloads"

# Compute capabilities of Jetson boards: no other GPU runs their machine code, nor they another's.
_JETSON = frozenset({(7, 2), (8, 7), (10, 1), (11, 0)})


def compiler(machine: Machine) -> Row:
    """The C++ compiler."""
    found = machine.compiler
    if found.tool is None:
        return _no_tool("C++ compiler", found, f"install g++ (Debian, Ubuntu: apt install g++), then {AGAIN}")
    return Row("C++ compiler", "ok", f"{found.tool.path.name} {found.tool.text}")


def cmake(machine: Machine) -> Row:
    """CMake."""
    found, do = machine.cmake, f"pip install 'cmake>=3.24' ninja, then {AGAIN}"
    if found.tool is None:
        return _no_tool("CMake", found, do)
    if found.tool.version < MINIMUM_CMAKE:
        return Row("CMake", "missing", f"{found.tool.text}, older than {dotted(MINIMUM_CMAKE)}", do)
    return Row("CMake", "ok", found.tool.text)


def nvcc(machine: Machine) -> Row:
    """The CUDA compiler; one that is newer than the driver is told at the library that it makes."""
    found, driver = machine.nvcc, machine.driver
    if found.tool is not None:
        return Row("nvcc", "ok", found.tool.text)
    do = f"install the CUDA toolkit ({CUDA_TOOLKIT}), then {AGAIN}"
    if machine.jetson:
        do = f"sudo apt install nvidia-cuda-dev, then {AGAIN}"
    elif driver.cuda is not None:
        do = f"install the CUDA toolkit {driver.cuda[0]}.x ({CUDA_TOOLKIT}), then {AGAIN}"
    return _no_tool("nvcc", found, _if_useful(do, machine))


def headers(machine: Machine) -> Row:
    """TensorRT's headers, which its Python package lacks."""
    name, found, root = "TensorRT headers", machine.headers, machine.tensorrt_root
    if found is not None and found.version >= MINIMUM_TENSORRT:
        return Row(name, "ok", f"{found.text} in {found.path}")
    if found is None and root is not None:
        do = "set it to a folder with NvInfer.h or include/NvInfer.h, or unset it"
        return Row(name, "problem", f"no NvInfer.h in TENSORRT_ROOT={root}", do)
    installed = distribution(machine, "tensorrt")
    release = dotted(numbers(installed[1])[:2]) if installed else ""
    branch = f"release/{release or 'X.Y'}"
    clone = f"git clone --depth 1 --branch {branch} https://github.com/NVIDIA/TensorRT"
    if not release:
        clone += " (X.Y as in TensorRT's version, 10.3 or newer)"
    do = (
        f"apt install libnvinfer-headers-dev from NVIDIA's repository, or {clone} and set TENSORRT_ROOT "
        f"to it; then {AGAIN}"
    )
    if machine.jetson:
        newer = "" if found is None else " of JetPack 6.1 or newer"
        do = f"sudo apt install nvidia-jetpack{newer}, then {AGAIN}"
    detail = "not found" if found is None else f"{found.text}, older than {dotted(MINIMUM_TENSORRT)}"
    return Row(name, "missing", detail, _if_useful(do, machine))


def _if_useful(do: str, machine: Machine) -> str:
    return do if machine.driver.gpus or machine.jetson else f"only to build for other machines: {do}"


def _no_tool(name: str, found: Found, do: str) -> Row:
    if found.error is not None:
        return Row(name, "problem", found.error, f"repair it, then {AGAIN}")
    return Row(name, "missing", "not found", do)


def kernels(machine: Machine) -> Row:
    """The library of the kernels."""
    needed = [compiler(machine), cmake(machine)] + ([nvcc(machine)] if machine.driver.gpus else [])
    return _library("kernels", machine.kernels, machine, needed)


def plugins(machine: Machine) -> Row:
    """The library of TensorRT plugins."""
    needed = [compiler(machine), cmake(machine), nvcc(machine), headers(machine)]
    row = _library("TensorRT plugins", machine.plugins, machine, needed)
    return replace(row, do=_if_useful(row.do, machine)) if row.state == "missing" and row.do else row


def _library(name: str, library: Library, machine: Machine, needed: list[Row]) -> Row:
    absent = [row.name for row in needed if row.state != "ok"]
    do = f"see {' and '.join(absent)}, then {AGAIN}" if absent else f"run: {AGAIN}"
    if not machine.system.startswith("Linux"):
        do = "nothing: it is built on Linux only, and everything but TensorRT works without it"
    if library.error is not None:
        return Row(name, "problem", f"{library.path.name}: {library.error}", do)
    info = library.info
    if info is None:
        return Row(name, "missing", _why_not_built(machine), do)
    version = re.match(r"mrcnn ([^,]+)", info)
    if version is None or version[1] != __version__:
        return Row(name, "problem", f"{info}; it belongs to another version than {__version__}", do)
    if machine.driver.gpus and "CUDA" not in info:
        return Row(name, "missing", f"{info}; no part for the GPU", do)
    wrong = _unusable(info, machine)
    if wrong is not None:
        return Row(name, "problem", f"{info}; {wrong[0]}", wrong[1])
    first_use = any(
        code_for(info, gpu.capability) == "ptx" for gpu in machine.driver.gpus if gpu.capability is not None
    )
    later = "; the driver compiles it for this GPU at its first use" if first_use else ""
    return Row(name, "ok", info + later)


def _why_not_built(machine: Machine) -> str:
    """The reason in the last build's report."""
    reasons = [line.partition(" left out: ")[2].partition("; ")[0] for line in machine.left_out]
    return f"not built: {reasons[0]}" if reasons and reasons[0] else "not built"


def _unusable(info: str, machine: Machine) -> tuple[str, str] | None:
    """Why this machine's GPUs cannot run a library with that build info, and what to do."""
    driver = machine.driver
    toolkit = numbers(info.partition("CUDA ")[2])
    if driver.cuda is not None and toolkit[:1] > driver.cuda[:1]:
        return (
            f"the driver supports only CUDA {dotted(driver.cuda)}",
            f"update the driver, or install the CUDA toolkit {driver.cuda[0]}.x, then {AGAIN}",
        )
    for gpu in driver.gpus:
        code = "native" if gpu.capability is None else code_for(info, gpu.capability)
        if code is None:
            return f"{gpu.name} cannot run it", AGAIN
        if code == "ptx" and driver.cuda is not None and toolkit > driver.cuda:
            return f"the driver, for CUDA {dotted(driver.cuda)}, cannot compile it for {gpu.name}", AGAIN
    return None


def code_for(info: str, capability: tuple[int, int]) -> Literal["native", "ptx"] | None:
    """What a library holds for a GPU: machine code, or PTX that the driver can compile for it.

    Args:
        info: its build info, such as "mrcnn 0.1.0, CPU, CUDA 13.0 sm_80-real sm_90": CMake's names, where a
            plain number means both, "-real" machine code and "-virtual" PTX.
    """
    ptx = False
    for number, feature, kind in re.findall(r"sm_(\d+)([af]?)(-real|-virtual)?", info):
        compiled = (int(number[:-1]), int(number[-1]))
        if kind != "-virtual":
            exact = feature == "a" or capability in _JETSON or compiled in _JETSON
            same = compiled[0] == capability[0] and compiled[1] <= capability[1]
            if compiled == capability or (same and not exact):
                return "native"
        if kind != "-real" and not feature:
            ptx = ptx or compiled <= capability
    return "ptx" if ptx else None
