"""The streams of the simulated GPU: queues, of which nothing is done before somebody waits for it."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Mark:
    """A place in a stream; `done` once everything before it is, `error` where that failed."""

    stream: "Stream"
    done: bool = False
    error: BaseException | None = None


@dataclass(frozen=True, eq=False)
class Operation:
    """What lies in a stream: something to do, or a place, or another stream's place to wait for."""

    function: Callable[[], object] | None = None
    touches: tuple[tuple[int, int], ...] = ()  # (address, size) of what the function reads and writes
    mark: Mark | None = None
    wait_for: Mark | None = None


@dataclass(eq=False)
class Capture:
    """What is written down instead of done; `invalid` says why it cannot become a graph."""

    thread: int
    operations: list[Operation] = field(default_factory=list)
    invalid: str | None = None


@dataclass(eq=False)
class Stream:
    """`busy` while a thread does one of its operations."""

    queue: deque[Operation] = field(default_factory=deque)
    busy: bool = False
    capture: Capture | None = None

    def put(self, operation: Operation) -> None:
        (self.queue if self.capture is None else self.capture.operations).append(operation)

    def append_mark(self) -> Mark:
        mark = Mark(self)
        self.put(Operation(mark=mark))
        return mark

    def pending(self) -> int:
        """Functions that are still to be done."""
        return sum(operation.function is not None for operation in self.queue)


class Worker:
    """Does what lies in streams. Every method is called with the lock of `changed` held.

    Args:
        changed: is told of everything that was done.
        check: raises unless the memory (address, size) is there.
        failed: is told of errors, before those who wait are.
    """

    def __init__(
        self,
        changed: threading.Condition,
        check: Callable[[int, int], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._changed = changed
        self._check = check
        self._failed = failed

    def drive(self, mark: Mark) -> None:
        """Does what is needed for a place to be reached, and raises what failed on the way.

        Each thread that waits does one operation after the other, of whatever stream comes next: to hold a
        stream for longer could make two threads wait for each other.
        """
        while not mark.done:
            stream = mark.stream
            while not stream.busy and (needed := stream.queue[0].wait_for) and not needed.done:
                stream = needed.stream
            if stream.busy:  # another thread is at it
                self._changed.wait()
            else:
                self._do_next(stream)
        if mark.error is not None:
            raise mark.error

    def drop(self, stream: Stream, error: BaseException | None) -> None:
        """Forgets what a stream has to do; whoever waits for any of it gets the error."""
        for operation in stream.queue:
            if operation.mark is not None:
                operation.mark.done, operation.mark.error = True, error
        stream.queue.clear()
        self._changed.notify_all()

    def _do_next(self, stream: Stream) -> None:
        operation = stream.queue.popleft()
        error = operation.wait_for.error if operation.wait_for is not None else None
        if operation.mark is not None:
            operation.mark.done = True
        if operation.function is not None:
            stream.busy = True
            try:
                for place in operation.touches:
                    self._check(*place)
                # The lock is let go: the function may take its time, wait for another thread, or call us.
                self._changed.release()
                try:
                    operation.function()
                finally:
                    self._changed.acquire()
            except BaseException as raised:
                error = raised
            stream.busy = False
        if error is not None:
            self._failed(error)
            self.drop(stream, error)
        self._changed.notify_all()
