"""A plan in TensorRT: deserialised, and found to be what the sidecar tells."""

import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn.description import Deployment
from mrcnn.errors import MrcnnError
from mrcnn.runtime.engine.tensorrt import ErrorLog, error_log, load_plugins
from mrcnn.runtime.outputs import expected_outputs
from mrcnn.sidecar import Sidecar

Shape = tuple[int, ...]
Input = tuple[int, int, int]  # (batch, height, width)

IMAGES = "images"  # the graph's large input

_NOT_AS_TOLD = "the engine is not what its sidecar tells ({}): build it again with `mrcnn export`"
_DYNAMIC = -1


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of the engine.

    Attributes:
        declared: its shape, -1 where it depends on the input.
        most_bytes: for the largest input.
    """

    name: str
    dtype: "np.dtype[Any]"
    declared: Shape
    most_bytes: int
    is_input: bool


class Plan:
    """An engine that was opened with `open_plan`; may be shared by threads.

    Attributes:
        path: of the file, for messages.
        profiles: as the sidecar has them; their places are TensorRT's indices.
        tensors: inputs, then outputs.
        plan_bytes: length of the file, an estimate for the weights on the GPU.
        activation_bytes: what the contexts that share a block need, whatever the profile.
    """

    # TensorRT's objects are attributes and never local variables: with those, an error's traceback would keep
    # them, and the weights on the GPU.

    def __init__(self, data: bytearray, *, path: Path, trt: Any, log: ErrorLog, sidecar: Sidecar) -> None:
        self.path = path
        self.profiles = sidecar.profiles
        self.plan_bytes = sidecar.plan_bytes
        self._trt, self._log = trt, log
        self._runtime: Any = None
        self._engine: Any = None
        self._creating = threading.Lock()
        try:
            self._load(data, host_code=sidecar.version_compatible or sidecar.plugins_embedded)
            self.tensors = self._checked_tensors(sidecar.deployment)
            self._check_profiles()
        except BaseException:
            self.close()
            raise

    def profile_of(self, shape: Input) -> int:
        """The index of the smallest profile that takes an input.

        Raises:
            MrcnnError: there is none.
        """
        fitting = [
            (math.prod(profile.most), index)
            for index, profile in enumerate(self.profiles)
            if all(low <= n <= high for low, n, high in zip(profile.least, shape, profile.most, strict=True))
        ]
        if not fitting:
            batch, height, width = shape
            raise MrcnnError(f"{self.path}: the engine was not built for {batch} images of {height}x{width}")
        return min(fitting)[1]

    def create_context(self) -> Any:
        """A TensorRT execution context without memory for its activations; for one thread at a time.

        Raises:
            MrcnnError: TensorRT makes none.
        """
        moment = self._log.now()
        with self._creating:
            context = self._engine.create_execution_context(
                self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            )
        if context is None:
            raise self.failure("make a context", moment)
        return context

    def now(self) -> int:
        """The moment before a call to TensorRT, for `failure`."""
        return self._log.now()

    def failure(self, what: str, moment: int) -> MrcnnError:
        """The error for what TensorRT could not do, with the reason that it logged since `moment`."""
        return MrcnnError(f"{self.path}: TensorRT cannot {what} ({self._log.reason(moment)})")

    def close(self) -> None:
        """Frees the engine; contexts must be gone before, and their memory be freed afterwards."""
        self._engine = None
        self._runtime = None

    def _load(self, data: bytearray, *, host_code: bool) -> None:
        moment = self._log.now()
        self._runtime = self._trt.Runtime(self._log.logger)
        # Such a plan holds a library, TensorRT's lean runtime or our plugins, and runs its code.
        self._runtime.engine_host_code_allowed = host_code
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise self.failure("load the engine", moment)
        self.activation_bytes = int(self._engine.device_memory_size_v2)

    def _checked_tensors(self, deployment: Deployment) -> tuple[Tensor, ...]:
        is_input = self._trt.TensorIOMode.INPUT
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == is_input]
        expected_inputs = _input_tensors(deployment)
        if set(inputs) != set(expected_inputs):
            raise self._not_as_told(f"inputs {', '.join(sorted(inputs))}")
        rows = _dimension(deployment.batch)
        if "scores" not in names or len(self._engine.get_tensor_shape("scores")) != 2:
            raise self._not_as_told("no output scores")
        slots = tuple(self._engine.get_tensor_shape("scores"))[1]
        expected = expected_outputs(deployment, rows=rows, slots=slots)
        outputs = set(names) - set(inputs)
        if outputs != set(expected):
            raise self._not_as_told(f"outputs {', '.join(sorted(outputs))}")
        most_slots = slots if slots != _DYNAMIC else deployment.description.detections.detections_per_image
        bounds = {name: self._bounds(shape, most_slots) for name, (_, shape) in expected.items()}
        bounds |= {name: self._input_bounds(name) for name in inputs}
        told = expected_inputs | expected
        return tuple(self._tensor(name, *told[name], bounds[name], is_input=name in inputs) for name in told)

    def _tensor(
        self,
        name: str,
        dtype: "np.dtype[Any]",
        shape: Shape,
        bounds: list[Shape],
        *,
        is_input: bool,
    ) -> Tensor:
        found, declared = self._engine.get_tensor_dtype(name), tuple(self._engine.get_tensor_shape(name))
        if found != self._data_type(dtype):
            raise self._not_as_told(f"{name} is {found}")
        agree = len(shape) == len(declared) and all(
            here == told or _DYNAMIC in (here, told) for here, told in zip(declared, shape, strict=True)
        )
        if not agree:
            raise self._not_as_told(f"{name} has shape {declared}")
        most_bytes = max(math.prod(bound) for bound in bounds) * dtype.itemsize
        return Tensor(name=name, dtype=dtype, declared=declared, most_bytes=most_bytes, is_input=is_input)

    def _data_type(self, dtype: "np.dtype[Any]") -> Any:
        types = self._trt.DataType
        return {"float32": types.FLOAT, "uint8": types.UINT8, "int32": types.INT32}[dtype.name]

    def _bounds(self, shape: Shape, most_slots: int) -> list[Shape]:
        """An output's largest shape in each profile."""
        slots = tuple(most_slots if side == _DYNAMIC else side for side in shape[1:])
        return [(profile.most[0], *slots) for profile in self.profiles]

    def _input_bounds(self, name: str) -> list[Shape]:
        return [input_shapes(profile.most)[name] for profile in self.profiles]

    def _check_profiles(self) -> None:
        count = self._engine.num_optimization_profiles
        if count != len(self.profiles):
            raise self._not_as_told(f"{count} profiles")
        for tensor in self.tensors:
            if not tensor.is_input:
                continue
            for index, profile in enumerate(self.profiles):
                sizes = (profile.least, profile.best, profile.most)
                told = [input_shapes(size)[tensor.name] for size in sizes]
                if _DYNAMIC in tensor.declared:
                    found = [tuple(s) for s in self._engine.get_tensor_profile_shape(tensor.name, index)]
                else:  # TensorRT does not say what a profile is to a tensor of fixed shape
                    found = [tensor.declared] * 3
                if found != told:
                    raise self._not_as_told(f"profile {index} takes {tensor.name} of {found}")

    def _not_as_told(self, what: str) -> MrcnnError:
        return MrcnnError(f"{self.path}: {_NOT_AS_TOLD.format(what)}")


def open_plan(path: Path, data: bytearray, sidecar: Sidecar, *, trt: Any, plugins: Path) -> Plan:
    """Gives a plan that was checked to TensorRT.

    The GPU must be open: without one, TensorRT's runtime is an object that crashes whoever touches it.

    Args:
        path: where `data` comes from, for messages.
        trt: NVIDIA's module `tensorrt` or `tensorrt_lean`.
        plugins: our plugin library.

    Raises:
        MrcnnError: TensorRT refuses the plan, or the engine is not what the sidecar tells.
        MissingRequirementError: the plugins are not in the library.
    """
    if not sidecar.plugins_embedded:
        load_plugins(trt, plugins, version=sidecar.deployment.plugin_version)
    return Plan(data, path=path, trt=trt, log=error_log(trt), sidecar=sidecar)


def input_shapes(shape: Input) -> dict[str, Shape]:
    """The shapes of the graph's inputs, by name, for (batch, height, width)."""
    return {"images": (*shape, 3), "image_sizes": (shape[0], 2)}


def _input_tensors(deployment: Deployment) -> "dict[str, tuple[np.dtype[Any], Shape]]":
    batch, height, width = map(_dimension, (deployment.batch, deployment.height, deployment.width))
    return {
        "images": (np.dtype(deployment.input_dtype), (batch, height, width, 3)),
        "image_sizes": (np.dtype(np.int32), (batch, 2)),
    }


def _dimension(size: int | None) -> int:
    return _DYNAMIC if size is None else size
