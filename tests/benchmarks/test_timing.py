import numpy as np
import pytest

from mrcnn.benchmarks.timing import Clock, percentiles_ms, speedup, take_turns


class Hand:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.time = 0.0

    def advance(self, seconds: float) -> None:
        self.time += seconds

    def clock(self) -> Clock:
        return Clock(now=lambda: self.time, sleep=self.advance)


def test_programs_alternate_on_the_same_item_and_items_come_round() -> None:
    calls: list[tuple[str, int]] = []
    take_turns(
        {"a": lambda item: calls.append(("a", item)), "b": lambda item: calls.append(("b", item))},
        [10, 20],
        repeats=3,
        warmup=0,
        clock=Hand().clock(),
    )
    assert calls == [("a", 10), ("b", 10), ("a", 20), ("b", 20), ("a", 10), ("b", 10)]


def test_only_the_program_is_timed_and_the_warmup_is_left_out() -> None:
    hand = Hand()
    durations = iter([9.0, 1.0, 2.0, 3.0])  # the first is the warm-up
    times = take_turns(
        {"a": lambda _: hand.advance(next(durations)), "b": lambda _: hand.advance(0.5)},
        ["only"],
        repeats=3,
        warmup=1,
        clock=hand.clock(),
    )
    np.testing.assert_allclose(times["a"], [1, 2, 3])  # the pauses between the turns are not in it
    np.testing.assert_allclose(times["b"], [0.5, 0.5, 0.5])


def test_percentiles_by_hand() -> None:
    seconds = np.arange(101) / 1000  # 0 … 100 ms
    assert percentiles_ms(seconds) == {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99}


def test_speedup_is_the_median_of_ratios_not_the_ratio_of_medians() -> None:
    ours = np.array([1.0, 10.0, 2.0])
    reference = np.array([3.0, 20.0, 8.0])  # ratios 3, 2, 4; medians 8 / 2 = 4
    result = speedup(ours, reference)
    assert result["speedup"] == 3
    assert result["speedup_p10"] == pytest.approx(2.2)
    assert result["speedup_p90"] == pytest.approx(3.8)
