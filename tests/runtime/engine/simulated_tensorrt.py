"""A module `tensorrt` that runs ONNX files on the simulated GPU, for tests of what drives TensorRT.

Names, arguments and refusals are those of TensorRT's Python API in 10.3 and 11, as far as we use it;
`test_lean_names.py` compares the names with NVIDIA's. A "plan" is a header and an ONNX file.
"""

import enum
import json
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from mrcnn.runtime.engine.device import DeviceError
from tests.runtime.engine.simulated_device import SimulatedDevice, SimulatedMisuse

MAGIC = b"simulated plan\n"
VERSION = "10.13.3.9"
ALIGNMENT = 256


class Severity(enum.Enum):
    """`ILogger.Severity`."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    """What a logger derives from; one that never calls `__init__` is refused, as pybind11 does."""

    Severity = Severity

    def __init__(self) -> None:
        self.constructed = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class DataType(enum.Enum):
    """Some of TensorRT's, with the names that ONNX Runtime has for them."""

    FLOAT = "tensor(float)"
    HALF = "tensor(float16)"
    INT32 = "tensor(int32)"
    INT64 = "tensor(int64)"
    UINT8 = "tensor(uint8)"


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.UINT8: np.uint8,
}


class SimulatedTensorrt:
    """The module.

    Attributes:
        contexts, engines, runtimes: those that are alive.
        enqueued: successful calls of execute_async_v3 outside of captures, `captured` those inside.
        ran: runs that were done, replays included.
        fail: kind → called with the number of such calls so far; True makes it fail. Kinds: "enqueue"
            (outside of captures), "capture" (execute_async_v3 in a capture), "context", "kernel" (on the GPU,
            which raises `kernel_error`).
    """

    ILogger = ILogger
    DataType = DataType
    TensorIOMode = TensorIOMode
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy

    def __init__(self, device: SimulatedDevice, *, version: str = VERSION) -> None:
        self.__version__ = version
        self.device = device
        self.registry = Registry()
        self.contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        self.engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        self.runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()
        self.enqueued = self.captured = self.ran = 0
        self.fail: dict[str, Callable[[int], bool]] = {}
        self.kernel_error = DeviceError("simulated error in a kernel")
        self.logger: Any = None
        self._calls: dict[str, int] = {}
        self.runtime_type = Runtime
        self.Runtime = partial(Runtime, self)

    def get_plugin_registry(self) -> "Registry":
        return self.registry

    def fails(self, kind: str) -> bool:
        """Counts a call and tells whether it is to fail."""
        self._calls[kind] = self._calls.get(kind, 0) + 1
        return kind in self.fail and self.fail[kind](self._calls[kind])

    def count(self, kind: str) -> int:
        """How many calls of a kind there were."""
        return self._calls.get(kind, 0)

    def error(self, text: str) -> None:
        """Logs as TensorRT does, between lines that nobody wants to see."""
        self.logger.log(Severity.INFO, "something of no interest")
        self.logger.log(Severity.ERROR, f"[simulated.cpp::here::1] Error Code 1: {text}")
        self.logger.log(Severity.ERROR, "a consequence of it")


class Registry:
    """`IPluginRegistry`; a library is a text file with the plugins' names."""

    def __init__(self) -> None:
        self.creators: set[tuple[str, str, str]] = set()
        self.loads: list[str] = []

    def get_creator(self, type: str, version: str, plugin_namespace: str = "") -> object | None:
        return object() if (type, version, plugin_namespace) in self.creators else None

    def load_library(self, plugin_path: str) -> object | None:
        self.loads.append(plugin_path)
        try:
            names = Path(plugin_path).read_text(encoding="utf-8").split()
        except OSError:
            return None
        found = {(name, "1", "mrcnn") for name in names}
        if found & self.creators:
            return None
        self.creators |= found
        return Library(found)

    def deregister_library(self, handle: "Library") -> None:
        self.creators -= handle.creators


class Library:
    """What `load_library` gives."""

    def __init__(self, creators: set[tuple[str, str, str]]) -> None:
        self.creators = creators


class Runtime:
    """`trt.Runtime`."""

    def __init__(self, trt: SimulatedTensorrt, logger: Any) -> None:
        assert isinstance(logger, ILogger)
        assert logger.constructed, "ILogger.__init__ was not called"
        if trt.logger is None:  # the first one stays, as with TensorRT
            trt.logger = logger
        self.trt = trt
        self.engine_host_code_allowed = False
        trt.runtimes.add(self)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> "Engine | None":
        data = bytes(memoryview(serialized_engine))
        if not data.startswith(MAGIC):
            self.trt.error("Internal Error (magic tag does not match)")
            return None
        head, _, model = data.removeprefix(MAGIC).partition(b"\n")
        header = json.loads(head)
        if header["version"] != self.trt.__version__:
            self.trt.error("Internal Error (version tag does not match)")
        elif header["host_code"] and not self.engine_host_code_allowed:
            self.trt.error("API Usage Error (host code is not allowed)")
        elif header["host_code"] and not header["plugins"] and self.trt.registry.creators:
            # As one of NVIDIA's users has reported; we have not seen it.
            self.trt.error("Cannot register the library as plugin creator of MrcnnNMS exists already.")
        elif header["plugins"] and not self.trt.registry.creators:
            self.trt.error("API Usage Error (Cannot find plugin: MrcnnNMS, version: 1, namespace: mrcnn)")
        else:
            return Engine(self, header, model)
        return None


class Engine:
    """`ICudaEngine`."""

    def __init__(self, runtime: Runtime, header: dict[str, Any], model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        self.runtime, self.trt = runtime, runtime.trt
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self.tensors = self.inputs | self.outputs
        self.profiles: list[dict[str, list[tuple[int, ...]]]] = [
            {
                "images": [(*shape, 3) for shape in profile],
                "image_sizes": [(shape[0], 2) for shape in profile],
            }
            for profile in header["profiles"]
        ]
        self.device_memory_size_v2 = header["activations"]
        self.num_io_tensors = len(self.tensors)
        self.num_optimization_profiles = len(self.profiles)
        self.trt.engines.add(self)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(self.tensors[name].type)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(side if isinstance(side, int) else -1 for side in self.tensors[name].shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return self.profiles[profile_index][name]

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> "Context | None":
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED, "its memory would not be counted"
        if self.trt.fails("context"):
            self.trt.error("Cuda Runtime (out of memory)")
            return None
        return Context(self)


class Context:
    """`IExecutionContext`; counts its changes, since they break the graphs that were captured from it."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.trt, self.device = engine, engine.trt, engine.trt.device
        self.changes = 0
        self.profile = 0
        self.memory = (0, 0)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.flushed = False  # it ran once since its shapes were set
        self.trt.contexts.add(self)

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % ALIGNMENT == 0
        self.memory = (memory, size)
        self._changed()

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle != 0
        if not 0 <= profile_index < len(self.engine.profiles):
            self.trt.error("API Usage Error (no such profile)")
            raise RuntimeError("Error in set optimization profile async.")
        self.profile = profile_index
        self.shapes.clear()
        self._changed()
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        shape = tuple(shape)
        least, _, most = self.engine.profiles[self.profile][name]
        fits = len(shape) == len(least) and all(
            low <= side <= high for low, side, high in zip(least, shape, most, strict=True)
        )
        if not fits:
            self.trt.error(f"API Usage Error ({name}: {shape} is outside of the profile)")
            return False
        self.shapes[name] = shape
        self._changed()
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if memory % ALIGNMENT:
            self.trt.error(f"API Usage Error ({name}: not aligned)")
            return False
        self.addresses[name] = memory
        self._changed()
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sides = {
            symbol: side
            for known, shape in self.shapes.items()
            for symbol, side in zip(self.engine.inputs[known].shape, shape, strict=True)
        }
        return tuple(
            side if isinstance(side, int) else sides.get(side, -1) for side in self.engine.tensors[name].shape
        )

    def execute_async_v3(self, stream_handle: int) -> bool:
        capturing = self.device._streams[stream_handle].capture is not None  # there is no public question
        problem = self._problem(capturing)
        if problem is not None:
            self.trt.error(problem)
            if capturing:
                self.device.invalidate_capture(stream_handle, problem)
            return False
        kernel = self._kernel(captured_at=self.changes if capturing else None)
        self.flushed = True
        try:
            self.device.run_on_stream(stream_handle, kernel, touches=self._touches())
        except SimulatedMisuse:
            raise
        except Exception as error:  # an eager device does it at once
            self.trt.error(str(error))
            error.__traceback__ = None  # which would keep this context
            return False
        if capturing:
            self.trt.captured += 1
        else:
            self.trt.enqueued += 1
        return True

    def _problem(self, capturing: bool) -> str | None:
        if set(self.addresses) != set(self.engine.tensors) or self.infer_shapes():
            return "API Usage Error (addresses or shapes are missing)"
        if self.memory[1] < self.engine.device_memory_size_v2:
            return "API Usage Error (no device memory)"
        if capturing and not self.flushed:
            return "Cuda Runtime (operation not permitted when stream is capturing)"
        return "simulated refusal" if self.trt.fails("capture" if capturing else "enqueue") else None

    def _changed(self) -> None:
        self.changes += 1
        self.flushed = False

    def _arrays(self, names: Any) -> dict[str, tuple[int, tuple[int, ...], Any]]:
        engine = self.engine
        return {
            name: (self.addresses[name], self.get_tensor_shape(name), NUMPY[engine.get_tensor_dtype(name)])
            for name in names
        }

    def _touches(self) -> list[tuple[int, int]]:
        arrays = self._arrays(self.engine.tensors).values()
        touches = [(at, int(np.prod(shape)) * np.dtype(dtype).itemsize) for at, shape, dtype in arrays]
        return [*touches, self.memory] if self.memory[1] else touches

    def _kernel(self, *, captured_at: int | None) -> Callable[[], None]:
        """The work with shapes and addresses as they are now."""
        inputs, outputs, memory = (
            self._arrays(self.engine.inputs),
            self._arrays(self.engine.outputs),
            self.memory,
        )
        trt, device, session = self.trt, self.device, self.engine.session
        context = weakref.ref(self)  # the device keeps all calls, and must not keep contexts alive by that

        def run() -> None:
            if trt.fails("kernel"):  # before there is a reference for the error's traceback to keep
                raise trt.kernel_error
            alive = context()
            if alive is None:
                device._misuse("a context was destroyed before its work was done, or before its graph")
            if captured_at is not None and alive.changes != captured_at:
                device._misuse("the context of a graph was changed after the capture")
            scratch = device.view(memory[0], (memory[1],), np.uint8) if memory[1] else np.zeros(0, np.uint8)
            mark = np.uint8(id(run) % 251)
            scratch[:] = mark
            feeds = {name: device.view(*array).copy() for name, array in inputs.items()}
            values = session.run(list(outputs), feeds)
            if (scratch != mark).any():
                device._misuse("two runs shared their activations")
            for array, value in zip(outputs.values(), values, strict=True):
                device.view(*array)[...] = value
            trt.ran += 1

        return run

    def __del__(self) -> None:
        with suppress(SimulatedMisuse):  # which the device remembers, if the memory was freed before
            if self.memory[1]:
                self.device.view(self.memory[0], (self.memory[1],), np.uint8)
