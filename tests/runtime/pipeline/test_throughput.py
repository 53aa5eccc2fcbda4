"""As fast as the slowest stage, in virtual time."""

import itertools
import random
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from mrcnn.runtime.pipeline import in_order
from tests.runtime.pipeline.tools import MAX_THROUGHPUT_LOSS, limited
from tests.runtime.pipeline.virtual_time import Times, VirtualTime, duration, expected_duration, timed


@limited
def test_three_items_in_virtual_time(clock: VirtualTime) -> None:
    """
    prepare 0-4 4-8 8-12
    start       4-14 14-24 24-34
    finish           14-20 24-30 34-40
    """
    assert duration(clock, [(4, 10, 6)] * 3) == 40


@limited
def test_three_items_with_a_device(clock: VirtualTime) -> None:
    """
    prepare 0-2 2-4 4-6
    device      2-12 12-22 22-32: the third waits for a place until finish has taken the first
    finish            12-15 22-25 32-35
    """
    assert duration(clock, [(2, 10, 3)] * 3, slots=2) == 35


@pytest.mark.parametrize("slots", [None, 2])
@pytest.mark.parametrize(
    "times", [*itertools.permutations((4, 10, 6)), (10, 10, 10), (1, 10, 10), (10, 1, 10), (10, 10, 1)]
)
@limited
def test_as_fast_as_the_slowest_stage(clock: VirtualTime, times: Times, slots: int | None) -> None:
    count = 100
    ideal = count * max(times)
    assert ideal <= duration(clock, [times] * count, slots=slots) <= ideal / (1 - MAX_THROUGHPUT_LOSS)


@pytest.mark.parametrize("slots", [None, 1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
@limited
def test_no_time_is_lost_between_the_stages(clock: VirtualTime, seed: int, slots: int | None) -> None:
    """Whatever the times: only what the small queues and the device's places impose is waited for."""
    generator = random.Random(seed)
    times = [tuple(generator.choice((0, 1, 5, 20, 100)) for _ in range(3)) for _ in range(60)]
    waiting = generator.randint(1, 8)
    assert duration(clock, times, slots=slots, waiting=waiting) == expected_duration(times, slots=slots)


class Watched:
    """A future whose result is awaited in virtual time."""

    def __init__(self, clock: VirtualTime, future: Future) -> None:
        self._clock = clock
        self._future = future
        self.done, self.cancel = future.done, future.cancel

    def result(self) -> object:
        self._clock.wait(self._future.done)
        return self._future.result(0)


@pytest.mark.parametrize(("source", "consumer"), [(0, 0), (0, 10), (0, 11), (6, 3), (11, 0), (0, 30)])
@pytest.mark.parametrize("slots", [None, 2])
@limited
def test_results_in_order_are_as_fast(
    clock: VirtualTime, source: int, consumer: int, slots: int | None
) -> None:
    """Reading the source and using the results take turns; the pipeline works meanwhile."""
    count = 100
    pipeline = timed(clock, [(4, 10, 6)] * count, slots=slots)

    def items() -> Iterator[int]:
        for item in range(count):
            yield item
            clock.sleep(source)  # only now, since the clock needs the threads that the first item starts

    results = []
    for result in in_order(lambda item: Watched(clock, pipeline.submit(item)), items(), ahead=8):
        clock.sleep(consumer)
        results.append(result)
    ideal = count * max(10, source + consumer)
    assert results == list(range(count))
    assert ideal <= clock.now <= ideal / (1 - MAX_THROUGHPUT_LOSS)
    pipeline.close()
