"""A GPU that is host memory and queues, for tests of what drives one."""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mrcnn.runtime.engine.device import DeviceError
from tests.runtime.engine.simulated_memory import Memory, bytes_at
from tests.runtime.engine.simulated_streams import Capture, Mark, Operation, Stream, Worker

# CUDA's handles of the default streams, which are always there: others' work lies in them.
_DEFAULT_STREAMS = (1, 2)
_OUT_OF_MEMORY = "cudaErrorMemoryAllocation"
_INVALIDATED = "cudaErrorStreamCaptureInvalidated"


class SimulatedMisuse(AssertionError):  # noqa: N818 - a verdict on the caller, not a state of the device
    """Something that a GPU would not forgive, or that CUDA refuses whatever the machine."""


class Call(NamedTuple):
    """A call of a method of the device."""

    method: str
    arguments: tuple[Any, ...]


class SimulatedDevice:
    """Implements `mrcnn.runtime.engine.device.Device` over host memory.

    *Lazy*, as it is by default, it is the slowest GPU that CUDA allows: what is put into a stream is done
    when the host waits for it (by `synchronize` or `wait`, or because a stream that it waits for needs it)
    and not before, in the stream's order. Whoever forgets to wait sees stale bytes; fresh memory is full of
    0xFF. *Eager*, it does everything at once, as with CUDA_LAUNCH_BLOCKING=1, and raises errors at once.

    Misuse raises SimulatedMisuse, and again from `assert_nothing_left`, should somebody have caught it. An
    error of a queued function is raised to those who wait for it, and what came behind it in the stream is
    dropped; a DeviceError that is sticky ends the device: from then on every method raises it.

    It cannot show: how long anything takes and what overlaps; kernels that read or write outside their
    memory, unless they hit a guard; memory that is freed while a kernel needs it, unless `run_on_stream` was
    told of it; two launches of one graph at once; that the default streams (handles 1 and 2) wait for others;
    capture over several streams; pageable host memory (every address must be allocated here, or adopted);
    what TensorRT, the driver or cuda-python do.

    Args:
        total: bytes of the GPU's memory; pinned memory is not part of it.
        eager: see above.

    Attributes:
        calls: every call of a method of the protocol and of `run_on_stream`, oldest first.
        misuses: the messages of every SimulatedMisuse so far.
    """

    name = "Simulated GPU"
    index = 0
    capability = (9, 0)

    def __init__(self, *, total: int = 1 << 30, eager: bool = False) -> None:
        self.calls: list[Call] = []
        self.misuses: list[str] = []
        self._total = total
        self._eager = eager
        self._changed = threading.Condition()  # re-entrant: a finalizer may free something at any time
        self._threads = threading.local()
        self._memory = Memory(self._misuse)
        self._worker = Worker(self._changed, self._memory.check, self._note)
        self._streams = {handle: Stream() for handle in _DEFAULT_STREAMS}
        self._orphans: list[Stream] = []  # destroyed with work in them, which a GPU would still do
        self._events: dict[int, Mark | Capture | None] = {}
        self._graphs: dict[int, list[Operation]] = {}
        self._handles = iter(range(0x7000_0001, 1 << 62))  # never used twice, and no plausible address
        self._failures: dict[str, list[tuple[int, DeviceError]]] = {}
        self._dead: DeviceError | None = None

    # What tests use besides the protocol.

    def run_on_stream(
        self,
        stream: int,
        function: Callable[[], object],
        *,
        touches: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Puts a function into a stream: a kernel. A graph calls it again at each launch.

        Args:
            touches: (address, size) of memory that it reads or writes, which must be there when it runs.
        """
        with self._changed:
            self._begin("run_on_stream", stream, function)
            self._stream(stream).put(Operation(function=function, touches=tuple(touches)))
        self._hurry(stream)

    def view(self, address: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """The bytes at an address as they are now, as an array to read or write; from any thread."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        with self._changed:
            self._memory.check(address, size)
        return bytes_at(address, size).view(dtype).reshape(shape)

    def adopt(self, address: int, size: int) -> None:
        """Makes somebody else's memory known: it may be copied from and to, and is never freed here."""
        with self._changed:
            self._memory.adopt(address, size)

    def forget(self, address: int) -> None:
        """Undoes `adopt`: the owner freed it."""
        with self._changed:
            self._memory.forget(address)

    def fail_on(self, method: str, nth_call: int = 1, error: DeviceError | str = "simulated failure") -> None:
        """Lets one call of a method raise an error: the first from now on, or the `nth_call`.

        What should have been made is not made then, and what should have been freed or destroyed is. After a
        failed `synchronize` or `wait`, all that waited to be done in that stream is lost.
        """
        if not callable(getattr(self, method)) or nth_call < 1:
            raise ValueError(f"no call {nth_call} of {method}")
        failure = DeviceError(error) if isinstance(error, str) else error
        self._failures.setdefault(method, []).append((self.count(method) + nth_call, failure))

    def invalidate_capture(self, stream: int, why: str = "a call that cannot be captured") -> None:
        """What a library does that tries something forbidden during a capture: `end_capture` will fail."""
        with self._changed:
            capture = self._stream(stream).capture
            if capture is None:
                self._misuse("there is no capture to invalidate")
            capture.invalid = capture.invalid or why

    def count(self, method: str) -> int:
        """How often a method was called."""
        return sum(call.method == method for call in self.calls)

    def pending(self, stream: int) -> int:
        """How many copies and functions of a stream are still to be done."""
        with self._changed:
            return self._stream(stream).pending()

    def assert_nothing_left(self) -> None:
        """Raises SimulatedMisuse unless all is freed and destroyed, all work done, and all use was right."""
        with self._changed:
            found = [f"misuse: {message}" for message in self.misuses]
            found += self._memory.problems()
            kinds: dict[str, Iterable[int]] = {
                "stream": self._streams,
                "event": self._events,
                "graph": self._graphs,
            }
            found += [
                f"{kind} {handle:#x}"
                for kind, handles in kinds.items()
                for handle in handles
                if handle not in _DEFAULT_STREAMS
            ]
            undone = sum(stream.pending() for stream in self._orphans)
            if undone and self._dead is None:
                found.append(f"{undone} operations of destroyed streams that nobody waited for")
        if found:
            raise SimulatedMisuse("left behind: " + "; ".join(found))

    # The protocol.

    def enter(self) -> None:
        self._threads.entered = True
        with self._changed:
            self._begin("enter")

    def memory(self) -> tuple[int, int]:
        with self._changed:
            self._begin("memory")
            return self._total - self._memory.used("memory"), self._total

    def allocate(self, size: int) -> int:
        with self._changed:
            self._begin("allocate", size)
            self._forbid_in_capture("allocate")
            if size > self._total - self._memory.used("memory"):
                raise DeviceError(f"{_OUT_OF_MEMORY}: out of memory ({size} bytes)", name=_OUT_OF_MEMORY)
            return self._memory.allocate("memory", size)

    def free(self, address: int) -> None:
        self._free("free", address, "memory")

    def allocate_pinned(self, size: int) -> int:
        with self._changed:
            self._begin("allocate_pinned", size)
            self._forbid_in_capture("allocate_pinned")
            return self._memory.allocate("pinned memory", size)

    def free_pinned(self, address: int) -> None:
        self._free("free_pinned", address, "pinned memory")

    def create_stream(self) -> int:
        with self._changed:
            self._begin("create_stream")
            handle = next(self._handles)
            self._streams[handle] = Stream()
            return handle

    def destroy_stream(self, stream: int) -> None:
        def destroy() -> None:
            found = self._stream(stream)
            if stream in _DEFAULT_STREAMS:
                self._misuse("a default stream is destroyed")
            if found.capture is not None:
                self._misuse("a stream is destroyed during its capture")
            del self._streams[stream]
            if found.queue:
                self._orphans.append(found)

        with self._changed:
            self._begin("destroy_stream", stream, undo=destroy)
            destroy()

    def synchronize(self, stream: int) -> None:
        with self._changed:
            self._begin("synchronize", stream, undo=lambda: self._worker.drop(self._stream(stream), None))
            self._forbid_in_capture("synchronize", stream)
            mark = self._stream(stream).append_mark()
            self._worker.drive(mark)

    def create_event(self) -> int:
        with self._changed:
            self._begin("create_event")
            handle = next(self._handles)
            self._events[handle] = None
            return handle

    def destroy_event(self, event: int) -> None:
        with self._changed:
            self._begin("destroy_event", event, undo=lambda: self._events.pop(event, None))
            self._event(event)
            del self._events[event]

    def record(self, event: int, stream: int) -> None:
        with self._changed:
            self._begin("record", event, stream)
            self._event(event)
            capture = self._stream(stream).capture
            self._events[event] = capture or self._stream(stream).append_mark()
        self._hurry(stream)

    def wait(self, event: int) -> None:
        def lose() -> None:
            if isinstance(found := self._event(event), Mark):
                self._worker.drop(found.stream, None)

        with self._changed:
            self._begin("wait", event, undo=lose)
            self._forbid_in_capture("wait")
            mark = self._event(event)
            if isinstance(mark, Capture):
                mark.invalid = mark.invalid or "the host waited for an event in it"
                self._misuse("the host waits for an event that was recorded during a capture")
            if mark is not None:
                self._worker.drive(mark)

    def stream_wait(self, stream: int, event: int) -> None:
        with self._changed:
            self._begin("stream_wait", stream, event)
            capture, mark = self._stream(stream).capture, self._event(event)
            if isinstance(mark, Capture):
                if capture is not mark:
                    self._misuse("a stream waits for an event that was recorded during another's capture")
                return
            if capture is not None:
                capture.invalid = "it waits for an event from before it"
                self._misuse("a capture waits for an event that was recorded outside of it")
            if mark is not None:
                self._stream(stream).put(Operation(wait_for=mark))
        self._hurry(stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        def move() -> None:
            bytes_at(target, size)[:] = bytes_at(source, size)

        with self._changed:
            self._begin("copy", target, source, size, stream)
            touches = (target, size), (source, size)
            for place in touches:
                self._memory.check(*place)
            if abs(target - source) < size:
                self._misuse("a copy onto itself")
            self._stream(stream).put(Operation(function=move, touches=touches))
        self._hurry(stream)

    def clear(self, address: int, size: int, stream: int) -> None:
        def wipe() -> None:
            bytes_at(address, size)[:] = 0

        with self._changed:
            self._begin("clear", address, size, stream)
            touches = ((address, size),)
            self._memory.check(*touches[0])
            self._stream(stream).put(Operation(function=wipe, touches=touches))
        self._hurry(stream)

    def begin_capture(self, stream: int) -> None:
        with self._changed:
            self._begin("begin_capture", stream)
            found = self._stream(stream)
            if stream in _DEFAULT_STREAMS:
                self._misuse("a capture begins in a default stream")
            if found.capture is not None:
                self._misuse("a capture begins in a stream that is being captured")
            found.capture = Capture(threading.get_ident())

    def end_capture(self, stream: int) -> int:
        with self._changed:
            found = self._stream(stream)
            capture = found.capture
            self._begin("end_capture", stream, undo=lambda: setattr(found, "capture", None))
            if capture is None:
                self._misuse("a capture ends that never began")
            found.capture = None
            if capture.thread != threading.get_ident():
                self._misuse("a capture ends in another thread than it began")
            if capture.invalid is not None:
                raise DeviceError(f"{_INVALIDATED}: {capture.invalid}", name=_INVALIDATED)
            handle = next(self._handles)
            self._graphs[handle] = capture.operations
            return handle

    def launch(self, graph: int, stream: int) -> None:
        with self._changed:
            self._begin("launch", graph, stream)
            operations = self._graph(graph)
            found = self._stream(stream)
            if found.capture is not None:
                self._misuse("a graph is launched during a capture: not simulated")
            for operation in operations:
                for place in operation.touches:
                    self._memory.check(*place)
                found.put(operation)
        self._hurry(stream)

    def destroy_graph(self, graph: int) -> None:
        with self._changed:
            self._begin("destroy_graph", graph, undo=lambda: self._graphs.pop(graph, None))
            self._graph(graph)
            del self._graphs[graph]

    # What they are made of; all is called with the lock held, except for `_free` and `_hurry`.

    def _begin(self, method: str, *arguments: Any, undo: Callable[[], object] | None = None) -> None:
        """What every call starts with; `undo` is what a failing one still does."""
        self.calls.append(Call(method, arguments))
        if not getattr(self._threads, "entered", False):
            self._misuse(f"{method} in a thread that never called enter")
        failures = self._failures.get(method, [])
        count = self.count(method) if failures else 0
        error = next((error for nth, error in failures if nth == count), self._dead)
        if error is None:
            return
        self._note(error)
        if undo is not None:
            undo()
        raise error

    def _misuse(self, message: str) -> NoReturn:
        self.misuses.append(message)
        raise SimulatedMisuse(message)

    def _free(self, method: str, address: int, kind: str) -> None:
        with self._changed:
            self._begin(method, address, undo=lambda: self._memory.free(address, kind))
            self._forbid_in_capture(method)
            block = self._memory.block(address)
            queues = [stream.queue for stream in (*self._streams.values(), *self._orphans)]
            needed = [begin for queue in queues for operation in queue for begin, _ in operation.touches]
            if block is not None and any(map(block.holds, needed)):
                self._misuse(f"{block} is freed before the work that needs it is done")
            self._memory.free(address, kind)

    def _stream(self, handle: int) -> Stream:
        if handle not in self._streams:
            self._misuse(f"{handle:#x} is no stream" if handle else "the default stream by the handle 0")
        return self._streams[handle]

    def _event(self, handle: int) -> Mark | Capture | None:
        if handle not in self._events:
            self._misuse(f"{handle:#x} is no event")
        return self._events[handle]

    def _graph(self, handle: int) -> list[Operation]:
        if handle not in self._graphs:
            self._misuse(f"{handle:#x} is no graph")
        return self._graphs[handle]

    def _forbid_in_capture(self, method: str, stream: int | None = None) -> None:
        """Invalidates the calling thread's capture, and that of `stream`: CUDA forbids the call in it."""
        captured = [(handle, s.capture) for handle, s in self._streams.items() if s.capture is not None]
        for handle, capture in captured:
            if capture.thread == threading.get_ident() or handle == stream:
                capture.invalid = capture.invalid or f"{method} was called"
                self._misuse(f"{method} during a capture")

    def _hurry(self, handle: int) -> None:
        """Does at once what was put into a stream, if that is how this device works."""
        if self._eager:
            with self._changed:
                if self._stream(handle).capture is None:
                    self._worker.drive(self._stream(handle).append_mark())

    def _note(self, error: BaseException) -> None:
        """After a sticky error nothing works any more."""
        if isinstance(error, DeviceError) and error.sticky:
            self._dead = error
