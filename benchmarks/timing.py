"""Timing programs against each other, in turn, and the statistics of it."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from mrcnn.benchmarks.matching import Floats

Item = TypeVar("Item")

# Threads of a library that has just computed spin for a while in case more work comes. The pause lets them
# fall asleep, so that they do not take the cores from the program whose turn is next.
PAUSE_S = 0.1


@dataclass(frozen=True)
class Clock:
    """Where time comes from; tests bring their own."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


def take_turns(
    programs: Mapping[str, Callable[[Item], object]],
    items: Sequence[Item],
    *,
    repeats: int,
    warmup: int,
    clock: Clock | None = None,
    progress: str | None = None,
) -> dict[str, Floats]:
    """Times each program on the same item, then all on the next: A B A B.

    What disturbs a machine for seconds (heat, other programs) disturbs all programs alike in this order,
    and differences between items cancel in the ratios of one round.

    Args:
        items: what the programs are called with, one per round, from the start again when used up.
        repeats, warmup: rounds that are timed, and rounds before them that are not.
        progress: title of a progress bar, or None for none.

    Returns:
        seconds (repeats,) by program; index i is round i in all of them.
    """
    clock = clock or Clock()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    rounds: Iterable[int] = range(-warmup, repeats)
    for number in tqdm(rounds, desc=progress, unit="round", disable=None if progress else True):
        item = items[number % len(items)]
        for name, program in programs.items():
            clock.sleep(PAUSE_S)
            start = clock.now()
            program(item)
            elapsed = clock.now() - start
            if number >= 0:
                seconds[name].append(elapsed)
    return {name: np.array(values) for name, values in seconds.items()}


def percentiles_ms(seconds: Floats) -> dict[str, float]:
    """Median, 90th and 99th percentile in milliseconds."""
    return {f"p{q}_ms": round(1e3 * float(np.percentile(seconds, q)), 3) for q in (50, 90, 99)}


def speedup(seconds: Floats, reference_seconds: Floats) -> dict[str, float]:
    """How many times faster than the reference: the median of the rounds' ratios, and their spread."""
    ratios = reference_seconds / seconds
    return {
        "speedup": round(float(np.median(ratios)), 3),
        "speedup_p10": round(float(np.percentile(ratios, 10)), 3),
        "speedup_p90": round(float(np.percentile(ratios, 90)), 3),
    }
