"""What stands in for NVIDIA's cuda-python: modules whose functions answer as told, and are written down."""

import sys
from collections.abc import Callable
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

# As CUDA numbers them.
Status = IntEnum(
    "Status",
    {
        "cudaSuccess": 0,
        "cudaErrorMemoryAllocation": 2,
        "cudaErrorInsufficientDriver": 35,
        "cudaErrorNoDevice": 100,
        "cudaErrorInvalidResourceHandle": 400,
        "cudaErrorIllegalAddress": 700,
        "cudaErrorLaunchFailure": 719,
        "cudaErrorStreamCaptureInvalidated": 901,
    },
)
DriverStatus = IntEnum(
    "DriverStatus",
    {
        "CUDA_SUCCESS": 0,
        "CUDA_ERROR_OUT_OF_MEMORY": 2,
        "CUDA_ERROR_NOT_INITIALIZED": 3,
        "CUDA_ERROR_NO_DEVICE": 100,
        "CUDA_ERROR_LAUNCH_FAILED": 719,
        "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": 803,
    },
)

_TEXTS = {
    "cudaErrorMemoryAllocation": b"out of memory",
    "cudaErrorIllegalAddress": b"an illegal memory access was encountered",
}


class Handle:
    """A handle as cuda-python gives it: an object that is no integer and has one."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __int__(self) -> int:
        return self.value


class FakeCuda:
    """cuda.bindings with one GPU and no context.

    Attributes:
        calls: (function, arguments), oldest first.
        answers: what a function answers, by its name: a tuple, as in cuda-python, or what makes one.
        current: the context that is current in the thread.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.current = 0
        self.answers: dict[str, tuple[Any, ...] | Callable[..., tuple[Any, ...]]] = {
            "cuCtxGetCurrent": lambda: (DriverStatus(0), Handle(self.current)),
            "cuCtxSetCurrent": self._set_current,
            "cuCtxGetDevice": (DriverStatus(0), Handle(3)),
            "cuDeviceGet": lambda index: (DriverStatus(0), Handle(index)),
            "cuDeviceGetName": (DriverStatus(0), b"NVIDIA Orin\0\0\0\0\0"),
            "cuDeviceGetAttribute": lambda attribute, _: (DriverStatus(0), {75: 8, 76: 7}[attribute]),
            "cuDevicePrimaryCtxRetain": (DriverStatus(0), Handle(0xC0)),
            "cuDriverGetVersion": (DriverStatus(0), 12060),
            "cuGetErrorString": lambda status: (DriverStatus(0), _TEXTS.get(status.name)),
            "cudaGetDeviceCount": (Status(0), 2),
            "cudaRuntimeGetVersion": (Status(0), 13050),
            "cudaGetErrorString": lambda status: (Status(0), _TEXTS.get(status.name, b"")),
            "cudaMalloc": (Status(0), 0x1000),
            "cudaHostAlloc": (Status(0), 0x2000),
            "cudaMemGetInfo": (Status(0), 100 << 20, 8000 << 20),
            "cudaStreamCreateWithFlags": (Status(0), Handle(0x3000)),
            "cudaEventCreateWithFlags": (Status(0), Handle(0x4000)),
            "cudaStreamEndCapture": (Status(0), Handle(0x5000)),
            "cudaGraphInstantiate": (Status(0), Handle(0x6000)),
        }

    def install(self, monkeypatch: pytest.MonkeyPatch, *, utils: bool = True) -> None:
        """Puts the modules where they are imported from; `utils` is missing up to 12.9.0."""
        driver = self._module("driver", CUdevice_attribute=SimpleNamespace(**_ATTRIBUTES))
        runtime = self._module(
            "runtime",
            cudaMemcpyKind=SimpleNamespace(cudaMemcpyDefault="default"),
            cudaStreamCaptureMode=SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread"),
        )
        handles = ModuleType("cuda.bindings.utils")
        handles.get_cuda_native_handle = int  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
        monkeypatch.setitem(sys.modules, "cuda.bindings.utils", handles if utils else None)

    def count(self, function: str) -> int:
        return sum(name == function for name, _ in self.calls)

    def _module(self, name: str, **constants: Any) -> ModuleType:
        prefix = {"driver": "cu", "runtime": "cuda"}[name]

        def find(function: str) -> Callable[..., tuple[Any, ...]]:
            if not function.startswith(prefix) or function.startswith("cuda") != (prefix == "cuda"):
                raise AttributeError(function)
            return lambda *arguments: self._answer(function, arguments)

        module = ModuleType(f"cuda.bindings.{name}")
        module.__getattr__ = find  # type: ignore[method-assign]
        vars(module).update(constants)
        return module

    def _answer(self, function: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        self.calls.append((function, arguments))
        status = Status if function.startswith("cuda") else DriverStatus
        answer = self.answers.get(function, (status(0),))
        return answer(*arguments) if callable(answer) else answer

    def _set_current(self, context: Handle) -> tuple[Any, ...]:
        self.current = int(context)
        return (DriverStatus(0),)


_ATTRIBUTES = {
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": 75,
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": 76,
}
