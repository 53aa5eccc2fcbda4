"""Asks the NVIDIA driver or one of our libraries something, as a script that prints JSON.

    python probe.py gpus                     see `gpus`
    python probe.py library FILE [NAME …]    see `library`

Run in a process of its own, by `mrcnn.plugins.toolchain.probe`: a broken driver may hang whoever asks it, and
a truncated library kills whoever loads it. Needs the standard library alone.
"""

import ctypes
import json
import sys
from collections.abc import Sequence
from typing import Any

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def gpus(driver: str = "libcuda.so.1") -> dict[str, Any]:
    """What the driver's library says; on a Jetson too, where nvidia-smi knows no compute capability.

    Returns:
        installed: whether the library is there. cuda: the newest CUDA that it supports, [major, minor].
        gpus: {name, capability: [major, minor], memory_bytes} each. error: one line, or None.
    """
    answer: dict[str, Any] = {"installed": False, "cuda": None, "gpus": [], "error": None}
    try:
        cuda = ctypes.CDLL(driver)
    except OSError as error:
        # A file that is there and cannot be loaded is another matter than none.
        answer["installed"] = "No such file" not in str(error)
        answer["error"] = _line(error)
        return answer
    answer["installed"] = True
    try:
        _ask(cuda, answer)
    except (AttributeError, _DriverError) as error:
        answer["error"] = _line(error)
    return answer


def library(path: str, names: Sequence[str]) -> dict[str, Any]:
    """Loads a library of ours and looks for functions in it.

    Returns:
        info: what its mrcnnBuildInfo says, or None. error: one line where it cannot be used, or None.
    """
    try:
        loaded = ctypes.CDLL(path)
        for name in names:
            getattr(loaded, name)
        loaded.mrcnnBuildInfo.restype = ctypes.c_char_p
        return {"info": loaded.mrcnnBuildInfo().decode(errors="replace"), "error": None}
    except (OSError, AttributeError) as error:
        return {"info": None, "error": _line(error)}


class _DriverError(Exception):
    """A function of the driver failed; the message names both."""


def _ask(cuda: ctypes.CDLL, answer: dict[str, Any]) -> None:
    version = ctypes.c_int()
    _check(cuda, "cuDriverGetVersion", cuda.cuDriverGetVersion(ctypes.byref(version)))
    answer["cuda"] = [version.value // 1000, version.value % 1000 // 10]
    status = cuda.cuInit(0)
    if status == _NO_DEVICE:
        return
    _check(cuda, "cuInit", status)
    count = ctypes.c_int()
    _check(cuda, "cuDeviceGetCount", cuda.cuDeviceGetCount(ctypes.byref(count)))
    for index in range(count.value):
        device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
        _check(cuda, "cuDeviceGet", cuda.cuDeviceGet(ctypes.byref(device), index))
        _check(cuda, "cuDeviceGetName", cuda.cuDeviceGetName(name, len(name), device))
        _check(cuda, "cuDeviceTotalMem", cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
        answer["gpus"].append(
            {
                "name": name.value.decode(errors="replace"),
                "capability": [_attribute(cuda, attribute, device) for attribute in (_MAJOR, _MINOR)],
                "memory_bytes": memory.value,
            }
        )


def _attribute(cuda: ctypes.CDLL, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    status = cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    _check(cuda, "cuDeviceGetAttribute", status)
    return value.value


def _check(cuda: ctypes.CDLL, function: str, status: int) -> None:
    if status != 0:
        text = ctypes.c_char_p()
        cuda.cuGetErrorName(status, ctypes.byref(text))
        name = text.value.decode(errors="replace") if text.value else f"error {status}"
        raise _DriverError(f"{function} answers {name}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    print(json.dumps(gpus() if sys.argv[1] == "gpus" else library(sys.argv[2], sys.argv[3:])))
