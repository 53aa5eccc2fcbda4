"""The GPU through NVIDIA's cuda-python, of CUDA 12 or 13."""

import importlib
import os
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

from mrcnn.errors import MissingRequirementError, MrcnnError, install_command
from mrcnn.runtime.engine.device import DeviceError

__all__ = ["Cuda", "open_cuda"]

_INSTALL = (
    f"{install_command('engine')}, and where the driver is for CUDA 12, as on JetPack 6, "
    "'cuda-python>=12.9.1,<13'"
)
_WITHOUT = "or run the .onnx file, which needs no GPU"

# After these, says NVIDIA's documentation, every call fails until the process is started again. Where the
# driver's names differ by more than their prefix and underscores, both are here.
_STICKY = {
    "assert",
    "contained",
    "contextisdestroyed",
    "eccuncorrectable",
    "externaldevice",
    "hardwarestackerror",
    "illegaladdress",
    "illegalinstruction",
    "invalidaddressspace",
    "invalidpc",
    "launchfailed",
    "launchfailure",
    "launchtimeout",
    "misalignedaddress",
    "mpsclientterminated",
    "nvlinkuncorrectable",
    "tensormemoryleak",
}

# What runtime functions take; the numbers are part of CUDA's interface.
_NON_BLOCKING_STREAM = 1
_EVENT_WITHOUT_TIMES = 2

_MEGABYTE = 1 << 20


class _Api:
    """The modules of cuda-python, with errors as exceptions and handles as integers."""

    def __init__(self) -> None:
        self.driver = _load("cuda.bindings.driver")
        self.runtime = _load("cuda.bindings.runtime")
        # Newer versions want it, older ones (up to 12.9.0) do not have it.
        self.handle: Callable[[Any], int] = int
        with suppress(ImportError, AttributeError):
            self.handle = importlib.import_module("cuda.bindings.utils").get_cuda_native_handle

    def call(self, function: str, *arguments: Any) -> Any:
        """What a function of CUDA gives besides its status.

        Returns:
            nothing, one value, or a tuple.

        Raises:
            DeviceError: the status is not success.
        """
        status, *values = getattr(self._module(function), function)(*arguments)
        if status != 0:
            raise self._error(function, status)
        return values[0] if len(values) == 1 else tuple(values)

    def make(self, function: str, *arguments: Any) -> int:
        """The handle that a function of CUDA gives."""
        return self.handle(self.call(function, *arguments))

    def _error(self, function: str, status: Any) -> DeviceError:
        module, prefix = self._module(function), "cuda" if function.startswith("cuda") else "cu"
        name: str = status.name
        text = ""
        with suppress(RuntimeError):  # cuda-python's own, without a driver
            text = (getattr(module, f"{prefix}GetErrorString")(status)[1] or b"").decode(errors="replace")
        if prefix == "cuda":
            # CUDA keeps the last error of each thread, and whoever asks next would take it for his.
            self.runtime.cudaGetLastError()
        sticky = name.removeprefix("cudaError").removeprefix("CUDA_ERROR").replace("_", "").lower() in _STICKY
        advice = "; CUDA does nothing more in this process: start it again" if sticky else ""
        return DeviceError(
            f"{function}: {name}{f' ({text})' if text else ''}{advice}", name=name, sticky=sticky
        )

    def _module(self, function: str) -> ModuleType:
        return self.runtime if function.startswith("cuda") else self.driver


class Cuda:
    """Implements `mrcnn.runtime.engine.device.Device`, which tells what the methods do.

    It works in one CUDA context, which is never given up: TensorRT's objects and other libraries live in it,
    and CUDA frees it with the process.

    Args:
        api: cuda-python.
        context: the CUDA context, as cuda-python gives it.
        device: the context's GPU, as cuda-python gives it.

    Attributes:
        name, index, capability: as in `Device`.
    """

    def __init__(self, api: _Api, *, context: Any, device: Any) -> None:
        attribute = api.driver.CUdevice_attribute
        major = attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        minor = attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        self._api = api
        self._context = context
        self._context_handle = api.handle(context)
        name: bytes = api.call("cuDeviceGetName", 256, device)
        self.name = name.partition(b"\0")[0].decode(errors="replace").strip()
        self.index = int(device)  # a number, and no handle of something
        self.capability: tuple[int, int] = (
            int(api.call("cuDeviceGetAttribute", major, device)),
            int(api.call("cuDeviceGetAttribute", minor, device)),
        )

    def enter(self) -> None:
        # Asked each time: another library may have made its own context current since.
        if self._api.make("cuCtxGetCurrent") != self._context_handle:
            self._api.call("cuCtxSetCurrent", self._context)

    def memory(self) -> tuple[int, int]:
        free, total = self._api.call("cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        try:
            return int(self._api.call("cudaMalloc", size))
        except DeviceError as error:
            if not error.out_of_memory:
                raise
            raise DeviceError(f"{error}; {self._shortage(size)}", name=error.name) from error

    def _shortage(self, size: int) -> str:
        asked = f"{-(-size // _MEGABYTE)} MB were asked for"
        try:
            free, total = self.memory()
        except DeviceError:
            return asked
        return f"{asked}, {free // _MEGABYTE} of {total // _MEGABYTE} MB are free"

    def free(self, address: int) -> None:
        self._api.call("cudaFree", address)

    def allocate_pinned(self, size: int) -> int:
        return int(self._api.call("cudaHostAlloc", size, 0))

    def free_pinned(self, address: int) -> None:
        self._api.call("cudaFreeHost", address)

    def create_stream(self) -> int:
        return self._api.make("cudaStreamCreateWithFlags", _NON_BLOCKING_STREAM)

    def destroy_stream(self, stream: int) -> None:
        self._api.call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        self._api.call("cudaStreamSynchronize", stream)

    def create_event(self) -> int:
        return self._api.make("cudaEventCreateWithFlags", _EVENT_WITHOUT_TIMES)

    def destroy_event(self, event: int) -> None:
        self._api.call("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        self._api.call("cudaEventRecord", event, stream)

    def wait(self, event: int) -> None:
        self._api.call("cudaEventSynchronize", event)

    def stream_wait(self, stream: int, event: int) -> None:
        self._api.call("cudaStreamWaitEvent", stream, event, 0)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        kind = self._api.runtime.cudaMemcpyKind.cudaMemcpyDefault
        self._api.call("cudaMemcpyAsync", target, source, size, kind, stream)

    def clear(self, address: int, size: int, stream: int) -> None:
        self._api.call("cudaMemsetAsync", address, 0, size, stream)

    def begin_capture(self, stream: int) -> None:
        # Thread-local: other threads may meanwhile do what is forbidden during a capture, such as allocate.
        mode = self._api.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._api.call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        # Where this fails, the stream's capture is over nevertheless, and there is no graph to destroy.
        graph = self._api.make("cudaStreamEndCapture", stream)
        if graph == 0:
            raise DeviceError("cudaStreamEndCapture: the capture was invalidated")
        try:
            return self._api.make("cudaGraphInstantiate", graph, 0)
        finally:
            with suppress(DeviceError):  # what went wrong before says more
                self._api.call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        self._api.call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._api.call("cudaGraphExecDestroy", graph)


def open_cuda(index: int = 0) -> Cuda:
    """A GPU, entered in the calling thread.

    Where a CUDA context is current in the thread, because PyCUDA made one, say, that one is used, whatever
    `index` is. Else it is the primary context of the GPU, which PyTorch and others use as well.

    Args:
        index: of the GPUs that CUDA_VISIBLE_DEVICES leaves.

    Raises:
        MissingRequirementError: cuda-python, the driver or a GPU is missing, or the driver is too old.
        MrcnnError: there is no such GPU.
        DeviceError: CUDA cannot use it; it may be full.
    """
    api = _Api()
    _initialize(api)
    count = _count(api)
    context = api.call("cuCtxGetCurrent")
    if api.handle(context) != 0:
        device = api.call("cuCtxGetDevice")
    elif type(index) is int and 0 <= index < count:
        device = api.call("cuDeviceGet", index)
        context = api.call("cuDevicePrimaryCtxRetain", device)
    else:
        raise MrcnnError(f"there is no GPU {index!r}: this process sees {count}, numbered from 0")
    cuda = Cuda(api, context=context, device=device)
    cuda.enter()
    return cuda


def _load(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cuda":
            raise MissingRequirementError(
                f"cuda-python lacks the package {error.name}: {_INSTALL}"
            ) from error
        raise MissingRequirementError(f"cuda-python is not installed: {_INSTALL}") from error
    except ImportError as error:
        line = " ".join(str(error).split())
        raise MissingRequirementError(f"cuda-python cannot be loaded ({line}): {_INSTALL}") from error


def _initialize(api: _Api) -> None:
    """Raises MissingRequirementError where the driver cannot be used."""
    try:
        api.call("cuInit", 0)
    except RuntimeError as error:  # cuda-python's own, where it finds no libcuda.so.1
        raise MissingRequirementError(
            f"no NVIDIA driver is found: install it (in a container: docker run --gpus all …), {_WITHOUT}"
        ) from error
    except DeviceError as error:
        if error.name == "CUDA_ERROR_NO_DEVICE":
            raise MissingRequirementError(_no_gpu()) from error
        if error.name == "CUDA_ERROR_NOT_INITIALIZED":
            raise MissingRequirementError(
                "this process was forked from one that uses the GPU: start it by 'spawn' instead of 'fork'"
            ) from error
        raise MissingRequirementError(
            f"the NVIDIA driver does not work: {error}; mrcnn doctor says more"
        ) from error


def _count(api: _Api) -> int:
    """How many GPUs there are; raises MissingRequirementError where cuda-python cannot use them."""
    try:
        count = int(api.call("cudaGetDeviceCount"))
    except DeviceError as error:
        if error.name == "cudaErrorInsufficientDriver":
            raise MissingRequirementError(_old_driver(api)) from error
        if error.name != "cudaErrorNoDevice":
            raise
        count = 0
    if count == 0:
        raise MissingRequirementError(_no_gpu())
    return count


def _no_gpu() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"no NVIDIA GPU is visible with CUDA_VISIBLE_DEVICES={visible!r}: unset it, {_WITHOUT}"
    return f"no NVIDIA GPU is found: use a machine that has one, {_WITHOUT}"


def _old_driver(api: _Api) -> str:
    has, wants = int(api.call("cuDriverGetVersion")), int(api.call("cudaRuntimeGetVersion"))
    do = "update the driver"
    if 12 <= has // 1000 < wants // 1000:
        do += f", or pip install 'cuda-python<{has // 1000 + 1}'"
    return f"the NVIDIA driver is for CUDA up to {_version(has)}, cuda-python for {_version(wants)}: {do}"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
