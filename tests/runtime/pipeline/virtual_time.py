"""A clock on which the stages of a pipeline sleep, and what the pipeline should take on it."""

import threading
from collections import deque
from collections.abc import Callable

from mrcnn.runtime import pipeline as module
from mrcnn.runtime.pipeline import Pipeline
from tests.runtime.pipeline.tools import LIMIT, make


class VirtualTime:
    """A clock that goes on when all threads wait, to the next time that one of them waits for.

    Replaces the queues and the condition of the pipeline, so that it knows who waits. One lock guards it all.
    What is measured is the order that the pipeline imposes, not how fast this machine is.
    """

    def __init__(self, *, threads: int) -> None:
        self.now = 0
        self.changed = threading.Condition()
        self._threads = threads
        self._waiting: list[Callable[[], bool]] = []
        self._times: list[int] = []
        self._stuck = False

    def wait(self, ready: Callable[[], bool]) -> None:
        """Until `ready`, which depends on this clock's time, queues, and other conditions under its lock."""
        with self.changed:
            self._waiting.append(ready)
            self._advance()
            while not ready():
                assert not self._stuck, "every thread waits for another"
                assert self.changed.wait(LIMIT)
            self._waiting.remove(ready)

    def sleep(self, duration: int) -> None:
        self.wait_until(self.now + duration)

    def wait_until(self, moment: int) -> None:
        with self.changed:
            self._times.append(moment)
            self.wait(lambda: self.now >= moment)

    def change(self, action: Callable[[], object]) -> object:
        with self.changed:
            result = action()
            self.changed.notify_all()
            return result

    def _advance(self) -> None:
        if len(self._waiting) == self._threads and not any(ready() for ready in self._waiting):
            self._times = [moment for moment in self._times if moment > self.now]
            self._stuck = not self._times
            self.now = min(self._times, default=self.now)
        self.changed.notify_all()


class VirtualQueue:
    """queue.Queue and queue.SimpleQueue."""

    def __init__(self, clock: VirtualTime, size: float = float("inf")) -> None:
        self._clock = clock
        self._size = size
        self._entries: deque[object] = deque()

    def qsize(self) -> int:
        return len(self._entries)

    def put(self, entry: object) -> None:
        with self._clock.changed:
            self._clock.wait(lambda: len(self._entries) < self._size)
            self._clock.change(lambda: self._entries.append(entry))

    def get(self) -> object:
        with self._clock.changed:
            self._clock.wait(lambda: len(self._entries) > 0)
            return self._clock.change(self._entries.popleft)


class VirtualCondition:
    """threading.Condition."""

    def __init__(self, clock: VirtualTime) -> None:
        self._clock = clock
        self.wait_for = clock.wait
        self.notify_all = lambda: clock.change(lambda: None)

    def __enter__(self) -> None:
        self._clock.changed.acquire()

    def __exit__(self, *_: object) -> None:
        self._clock.changed.release()


class Device:
    """Works on one run after the other; holds `slots` that are started and whose end nobody has taken."""

    def __init__(self, clock: VirtualTime, slots: int) -> None:
        self._clock = clock
        self._free = slots
        self._idle_from = 0

    def start(self, duration: int) -> int:
        with self._clock.changed:
            self._clock.wait(lambda: self._free > 0)
            self._free -= 1
            self._idle_from = max(self._clock.now, self._idle_from) + duration
            return self._idle_from

    def finish(self, end: int) -> None:
        self._clock.wait_until(end)

        def free() -> None:
            self._free += 1

        self._clock.change(free)


Times = tuple[int, int, int]  # of the three stages


def timed(clock: VirtualTime, times: list[Times], *, slots: int | None, **options) -> Pipeline:
    """A pipeline for the items 0, 1, …, whose stages take `times`; the middle one is a device, or blocks."""
    device = Device(clock, slots) if slots is not None else None

    def prepare(item: int) -> int:
        clock.sleep(times[item][0])
        return item

    def start(item: int) -> tuple[int, int]:
        if device is not None:
            return item, device.start(times[item][1])
        clock.sleep(times[item][1])
        return item, 0

    def finish(running: tuple[int, int]) -> int:
        item, end = running
        if device is not None:
            device.finish(end)
        clock.sleep(times[item][2])
        return item

    return make(prepare=prepare, start=start, finish=finish, **options)


def duration(clock: VirtualTime, times: list[Times], *, slots: int | None = None, **options) -> int:
    """The time in which the items pass a pipeline."""
    pipeline = timed(clock, times, slots=slots, **options)
    futures = [pipeline.submit(i) for i in range(len(times))]
    clock.wait(lambda: all(future.done() for future in futures))
    end = clock.now
    pipeline.close()
    assert [future.result(0) for future in futures] == list(range(len(times)))
    return end


def expected_duration(times: list[Times], *, slots: int | None = None) -> int:
    """The same, by following each item from stage to stage."""
    handed: list[int] = []  # when prepare was rid of it
    taken: list[int] = []  # when start took it
    launched: list[int] = []  # when start was rid of it
    collected: list[int] = []  # when finish took it
    computed: list[int] = []  # when the device had it
    freed: list[int] = []  # when its place in the device was free
    done: list[int] = []

    def at(moments: list[int], index: int) -> int:
        return moments[index] if index >= 0 else 0

    for i, (a, b, c) in enumerate(times):
        handed.append(max(at(handed, i - 1) + a, at(taken, i - module._PREPARED_AHEAD)))
        taken.append(max(handed[i], at(launched, i - 1)))
        if slots is None:
            ready = taken[i] + b
            computed.append(ready)
        else:
            ready = max(taken[i], at(freed, i - slots))
            computed.append(max(ready, at(computed, i - 1)) + b)
        launched.append(max(ready, at(collected, i - module._STARTED_AHEAD)))
        collected.append(max(launched[i], at(done, i - 1)))
        freed.append(max(collected[i], computed[i]))
        done.append(freed[i] + c)
    return done[-1]
