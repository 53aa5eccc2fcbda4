"""One place for a run on the GPU: its stream, its memory, its contexts and its recorded runs."""

import ctypes
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.errors import MrcnnError
from mrcnn.runtime.engine.device import Device, DeviceError
from mrcnn.runtime.engine.pixels import Inputs, Place, Staging
from mrcnn.runtime.engine.plan import IMAGES, Input, Plan, Shape, Tensor, input_shapes

MOST_GRAPHS = 16  # per slot; each keeps a context, a few megabytes on host and GPU

_ALIGNMENT = 256  # of every address that TensorRT gets


class _Context:
    """TensorRT's context, destroyed at a chosen time: an error's traceback may refer to this, not to that."""

    def __init__(self, made: Any) -> None:
        self.trt = made

    def destroy(self) -> None:
        self.trt = None


@dataclass(frozen=True)
class _Bound:
    """A context that is set to an input's shape; `outputs` are the shapes that it will give."""

    context: _Context
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]


@dataclass(frozen=True)
class _Recorded:
    """A run as a CUDA graph. Its context is nobody else's, as changing it would break the graph."""

    graph: int
    bound: _Bound


@dataclass(frozen=True)
class Layout:
    """Where tensors lie in one block of memory."""

    offsets: dict[str, int]
    size: int

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> "Layout":
        """One behind the other, at addresses that TensorRT takes."""
        offsets, size = {}, 0
        for tensor in tensors:
            offsets[tensor.name] = size
            size += -(-tensor.most_bytes // _ALIGNMENT) * _ALIGNMENT
        return cls(offsets, size)


class Slot:
    """Runs one input at a time. Whoever uses it has called `Device.enter` and is alone with it.

    The first run of a shape is an ordinary one, in a context that all such runs of a profile share. The
    second gets a context of its own, in which it is run and then recorded; later ones replay the recording.
    All contexts share one block for their activations, since no two run at once. Of the recordings, those
    least recently used go; where recording fails, that shape stays with ordinary runs.

    Raises:
        DeviceError: the GPU lacks the memory, or refuses otherwise; nothing is left allocated then.
    """

    def __init__(self, plan: Plan, device: Device) -> None:
        self._plan, self._device = plan, device
        self._layout = Layout.of(plan.tensors)
        # Images do not go through it: what they are read from, and how much that is, changes with each run.
        self._host_layout = Layout.of(tensor for tensor in plan.tensors if tensor.name != IMAGES)
        self._dtypes = {tensor.name: tensor.dtype for tensor in plan.tensors}
        self._shared: dict[int, _Context] = {}  # by profile
        self._spare: _Context | None = None  # one whose run is not recorded, or not yet
        self._recorded: OrderedDict[Input, _Recorded] = OrderedDict()
        self._seen: set[Input] = set()
        self._unrecordable: set[Input] = set()
        self._busy = False  # there may be work in the stream that nobody waited for
        self._running: _Bound | None = None
        self._inputs: Inputs | None = None  # what the GPU may still read
        with ExitStack() as undo:
            self._stream = device.create_stream()
            undo.callback(device.destroy_stream, self._stream)
            self._done = device.create_event()
            undo.callback(device.destroy_event, self._done)
            self._activations = device.allocate(plan.activation_bytes) if plan.activation_bytes else 0
            if self._activations:
                undo.callback(device.free, self._activations)
            self._buffers = device.allocate(self._layout.size)
            undo.callback(device.free, self._buffers)
            self._pinned = device.allocate_pinned(self._host_layout.size)
            undo.callback(device.free_pinned, self._pinned)
            self._staging = Staging(device)
            undo.callback(self._staging.free)
            self._undo = undo.pop_all()
        host = (ctypes.c_uint8 * self._host_layout.size).from_address(self._pinned)
        self._host: NDArray[np.uint8] = np.ctypeslib.as_array(host)
        self._place = Place(
            device=device,
            stream=self._stream,
            images=self._buffers + self._layout.offsets[IMAGES],
            staging=self._staging,
        )

    @property
    def staging_bytes(self) -> int:
        """On the GPU, for images on their way."""
        return self._staging.gpu_bytes

    def launch(self, inputs: Inputs) -> None:
        """Starts a run. Arrays on the host may be changed afterwards; images on the GPU not before its end.

        Args:
            inputs: of a shape within a profile.

        Raises:
            MrcnnError: TensorRT refuses. DeviceError: the GPU does. The slot can be used again.
        """
        # There may be a run that failed half-way, or that nobody wanted: its errors are not this one's.
        if self._busy and (lost := self._drain()) is not None:
            raise lost
        self._busy, self._inputs = True, inputs
        inputs.load(self._place)
        self._view("image_sizes", inputs.image_sizes.shape)[...] = inputs.image_sizes
        self._running = self._start(inputs.shape)
        self._device.record(self._done, self._stream)

    def collect(self) -> dict[str, NDArray[Any]]:
        """Waits for the run and gives its outputs by name, in memory of the caller's.

        Raises:
            DeviceError: something went wrong on the GPU.
        """
        running, self._running = self._running, None
        assert running is not None, "nothing was launched"
        self._device.wait(self._done)
        self._busy, self._inputs = False, None
        return {name: self._view(name, shape).copy() for name, shape in running.outputs.items()}

    def drop_contexts(self) -> None:
        """Waits for the stream, and frees the recordings and contexts; no error of the GPU stops it."""
        if self._busy:
            self._drain()
        self._running = None
        for recorded in self._recorded.values():
            with suppress(DeviceError):
                self._device.destroy_graph(recorded.graph)
            recorded.bound.context.destroy()
        self._recorded.clear()
        self._destroy_spare()
        for context in self._shared.values():
            context.destroy()
        self._shared.clear()

    def free(self) -> None:
        """Frees the memory and the stream, after `drop_contexts`; no error of the GPU stops it."""
        with suppress(DeviceError):
            self._undo.close()

    def _drain(self) -> DeviceError | None:
        """Waits until nothing is left of an earlier run; gives what still goes wrong then."""
        self._running = None
        error = None
        for _ in range(2):  # the first may still tell what went wrong in the run
            try:
                self._device.synchronize(self._stream)
            except DeviceError as again:
                error = again
            else:
                self._busy, self._inputs = False, None
                self._destroy_spare()
                return None
        return error

    def _start(self, shape: Input) -> _Bound:
        recorded = self._recorded.get(shape)
        if recorded is not None:
            self._recorded.move_to_end(shape)
            self._device.launch(recorded.graph, self._stream)
            return recorded.bound
        if shape in self._seen and shape not in self._unrecordable:
            return self._run_and_record(shape)
        self._seen.add(shape)
        return self._run(self._shared_context(shape), shape)

    def _run(self, context: _Context, shape: Input) -> _Bound:
        bound = self._bind(context, shape)
        self._enqueue(bound)
        return bound

    def _run_and_record(self, shape: Input) -> _Bound:
        """A run, done when this returns, and its recording, if there can be one."""
        try:
            self._spare = context = self._create_context(self._plan.profile_of(shape))
        except DeviceError:
            raise
        except MrcnnError:  # no memory for one more context: go on with those that there are
            self._unrecordable.add(shape)
            return self._run(self._shared_context(shape), shape)
        # A context's first run of a shape does what cannot be recorded. That it must be over before the
        # recording is documented nowhere, but NVIDIA's own trtexec waits, and it happens once per shape.
        bound = self._run(context, shape)
        self._device.synchronize(self._stream)
        graph = self._capture(bound)
        if graph is None:
            self._unrecordable.add(shape)
            self._destroy_spare()
            return bound
        self._recorded[shape], self._spare = _Recorded(graph, bound), None
        if len(self._recorded) > MOST_GRAPHS:
            self._forget_oldest()
        return bound

    def _forget_oldest(self) -> None:
        shape, oldest = self._recorded.popitem(last=False)
        self._seen.discard(shape)
        try:
            self._device.destroy_graph(oldest.graph)
        finally:
            oldest.bound.context.destroy()

    def _destroy_spare(self) -> None:
        if self._spare is not None:
            self._spare.destroy()
            self._spare = None

    def _capture(self, bound: _Bound) -> int | None:
        """The run as a graph, without running it; None where it cannot be captured."""
        try:
            self._device.begin_capture(self._stream)
        except DeviceError:
            return None
        try:
            self._enqueue(bound)
        except BaseException as error:
            with suppress(DeviceError):  # the capture has to end, and what it holds is of no use
                self._device.destroy_graph(self._device.end_capture(self._stream))
            if isinstance(error, MrcnnError):
                return None
            raise
        try:
            return self._device.end_capture(self._stream)
        except DeviceError:
            return None

    def _enqueue(self, bound: _Bound) -> None:
        """Puts a run into the stream, images left out: sizes to the GPU, the network, outputs back."""
        for name, shape in bound.inputs.items():
            if name != IMAGES:
                self._copy(name, shape, to_gpu=True)
        moment = self._plan.now()
        if not bound.context.trt.execute_async_v3(self._stream):
            raise self._plan.failure("run the engine", moment)
        for name, shape in bound.outputs.items():
            self._copy(name, shape, to_gpu=False)

    def _copy(self, name: str, shape: Shape, *, to_gpu: bool) -> None:
        size = self._view(name, shape).nbytes
        host, gpu = self._pinned + self._host_layout.offsets[name], self._buffers + self._layout.offsets[name]
        target, source = (gpu, host) if to_gpu else (host, gpu)
        self._device.copy(target, source, size, self._stream)

    def _shared_context(self, shape: Input) -> _Context:
        profile = self._plan.profile_of(shape)
        if profile not in self._shared:
            self._shared[profile] = self._create_context(profile)
        return self._shared[profile]

    def _create_context(self, profile: int) -> _Context:
        """A context over this slot's memory, set to a profile."""
        context = _Context(self._plan.create_context())
        try:
            self._set_up(context, profile)
        except BaseException:
            context.destroy()
            raise
        return context

    def _set_up(self, context: _Context, profile: int) -> None:
        moment = self._plan.now()
        if self._activations:
            context.trt.set_device_memory(self._activations, self._plan.activation_bytes)
        if len(self._plan.profiles) > 1:  # a new context has the first
            try:
                context.trt.set_optimization_profile_async(profile, self._stream)
            except RuntimeError as error:
                raise self._plan.failure(f"set profile {profile}", moment) from error
        for name, offset in self._layout.offsets.items():
            if not context.trt.set_tensor_address(name, self._buffers + offset):
                raise self._plan.failure(f"take memory for {name}", moment)

    def _bind(self, context: _Context, shape: Input) -> _Bound:
        """Sets a context to an input's shape, and asks which outputs follow."""
        moment = self._plan.now()
        inputs = input_shapes(shape)
        for name, each in inputs.items():
            if not context.trt.set_input_shape(name, each):
                raise self._plan.failure(f"take {name} of {each}", moment)
        try:
            missing = context.trt.infer_shapes()
        except RuntimeError as error:
            raise self._plan.failure("tell the outputs' shapes", moment) from error
        if missing:
            raise self._plan.failure(f"do without {', '.join(missing)}", moment)
        outputs = {}
        for tensor in self._plan.tensors:
            if not tensor.is_input:
                outputs[tensor.name] = self._fitting(tensor, tuple(context.trt.get_tensor_shape(tensor.name)))
        return _Bound(context, inputs, outputs)

    def _fitting(self, tensor: Tensor, shape: Shape) -> Shape:
        if min(shape) < 0 or int(np.prod(shape)) * tensor.dtype.itemsize > tensor.most_bytes:
            raise MrcnnError(
                f"{self._plan.path}: the engine gives {tensor.name} of {shape}, more than was told"
            )
        return shape

    def _view(self, name: str, shape: Shape) -> NDArray[Any]:
        """A tensor in the pinned memory."""
        dtype = self._dtypes[name]
        size = int(np.prod(shape)) * dtype.itemsize
        offset = self._host_layout.offsets[name]
        return self._host[offset : offset + size].view(dtype).reshape(shape)
