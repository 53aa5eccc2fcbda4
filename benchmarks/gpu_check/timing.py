"""How kernels are timed: in turn, by the host's clock, by events and as CUDA graphs, L2 warm and cold."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mrcnn.benchmarks.gpu_check.device import Gpu
from mrcnn.benchmarks.matching import Floats
from mrcnn.benchmarks.timing import speedup

# A graph has at least this many calls, so that its own launch does not count.
GRAPH_CALLS = 20

# Memory that cold calls go round in, as a multiple of the L2: what a call needs has left it by its next turn.
_COLD_CACHES = 3
_MAX_SETS = 160

_COPY_BYTES = 1 << 30

# On a slow GPU there are fewer rounds: each kind of measurement ends after so many seconds, but not before
# so many rounds.
_SECONDS, _LEAST_ROUNDS = 8.0, 5


@dataclass(frozen=True)
class Contender:
    """One way to do a workload's work.

    Attributes:
        call: does it once, on the inputs of that number.
        capturable: whether a CUDA graph can hold the call.
    """

    call: Callable[[int], object]
    capturable: bool


def sets_needed(gpu: Gpu, bytes_per_call: int) -> int:
    """How many sets of inputs and outputs keep the L2 cold."""
    l2 = gpu.facts()["l2_bytes"] or 64 << 20
    return int(np.clip(-(-_COLD_CACHES * l2 // max(1, bytes_per_call)), 2, _MAX_SETS))


def measure(
    gpu: Gpu, contenders: Mapping[str, Contender], *, sets: int, rounds: int, reference: str
) -> dict[str, dict[str, Any]]:
    """Times all contenders, A B A B, up to `rounds` times, and compares them with the contender `reference`.

    Returns, by contender, statistics in microseconds:
        wall        the host's clock around a call and a wait; inputs in the L2, as far as it holds them
        events      the GPU's clock around the same call
        cold        the GPU's clock around a call after the L2 was flushed
        graph       a call as part of a CUDA graph of many, always on the same inputs
        graph_cold  the same, going round in memory that the L2 does not hold
        and times_reference (its wall time over ours) and times_reference_events.
    """
    flush = _Flush(gpu)
    for contender in contenders.values():
        for number in range(sets):
            contender.call(number)
    gpu.synchronize()
    seconds = _eager(gpu, contenders, rounds=rounds)
    cold = _cold(gpu, contenders, sets=sets, rounds=rounds, flush=flush)
    graphs = _graphs(gpu, contenders, sets=sets, rounds=rounds)
    figures: dict[str, dict[str, Any]] = {}
    for name in contenders:
        wall, events = seconds[name]
        figures[name] = {
            "wall": statistics(wall),
            "events": statistics(events),
            "cold": statistics(cold[name]),
            **{key: statistics(values) for key, values in graphs.get(name, {}).items()},
        }
        if name != reference:
            reference_wall, reference_events = seconds[reference]
            figures[name]["times_reference"] = speedup(wall, reference_wall)
            figures[name]["times_reference_events"] = speedup(events, reference_events)
    return figures


def statistics(seconds: Floats) -> dict[str, float]:
    """Median, 10th and 90th percentile in microseconds."""
    low, median, high = np.percentile(seconds, (10, 50, 90)) * 1e6
    return {"median": round(median, 2), "p10": round(low, 2), "p90": round(high, 2), "runs": len(seconds)}


def copy_bandwidth(gpu: Gpu, size: int = _COPY_BYTES, repeats: int = 20) -> float:
    """Bytes a second that a large copy on the GPU moves, those read and those written counted."""
    source = torch.empty(size, dtype=torch.uint8, device=gpu.place).random_(0, 256)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(repeats):
        start = gpu.mark()
        target.copy_(source)
        end = gpu.mark()
        gpu.synchronize()
        seconds.append(gpu.seconds_between(start, end))
    return 2 * size / float(np.median(seconds))


class _Flush:
    """Fills the L2 with something else, for longer than it takes to launch a dozen kernels meanwhile."""

    def __init__(self, gpu: Gpu) -> None:
        size = 8 * (gpu.facts()["l2_bytes"] or 64 << 20)
        self._memory = torch.empty(size, dtype=torch.uint8, device=gpu.place)

    def __call__(self) -> None:
        self._memory.fill_(1)


def _eager(gpu: Gpu, contenders: Mapping[str, Contender], *, rounds: int) -> dict[str, tuple[Floats, Floats]]:
    """(wall, events) seconds by contender, one call at a time."""
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    events: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in _rounds(gpu, rounds):
        for name, contender in contenders.items():
            contender.call(0)  # brings its inputs into the L2
            gpu.synchronize()
            begin = gpu.wall()
            start = gpu.mark()
            contender.call(0)
            end = gpu.mark()
            gpu.synchronize()
            wall[name].append(gpu.wall() - begin)
            events[name].append(gpu.seconds_between(start, end))
    return {name: (np.array(wall[name]), np.array(events[name])) for name in contenders}


def _cold(
    gpu: Gpu, contenders: Mapping[str, Contender], *, sets: int, rounds: int, flush: Callable[[], None]
) -> dict[str, Floats]:
    """Seconds of the GPU; launches overlap with the flush before, so that they do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in _rounds(gpu, rounds):
        for name, contender in contenders.items():
            gpu.synchronize()
            flush()
            start = gpu.mark()
            contender.call(number % sets)
            end = gpu.mark()
            gpu.synchronize()
            seconds[name].append(gpu.seconds_between(start, end))
    return {name: np.array(values) for name, values in seconds.items()}


def _graphs(
    gpu: Gpu, contenders: Mapping[str, Contender], *, sets: int, rounds: int
) -> dict[str, dict[str, Floats]]:
    """Seconds per call in graphs of many, by contender and then "graph" or "graph_cold"."""
    orders = {"graph": [0] * GRAPH_CALLS, "graph_cold": list(range(sets)) * max(1, GRAPH_CALLS // sets)}
    replays = {
        (name, key): (gpu.capture(_calls(contender.call, order)), len(order))
        for name, contender in contenders.items()
        if contender.capturable
        for key, order in orders.items()
    }
    seconds: dict[tuple[str, str], list[float]] = {which: [] for which in replays}
    for number in _rounds(gpu, rounds + 1):
        for which, (replay, calls) in replays.items():
            start = gpu.mark()
            replay()
            end = gpu.mark()
            gpu.synchronize()
            if number > 0:  # the first replay uploads the graph
                seconds[which].append(gpu.seconds_between(start, end) / calls)
    result: dict[str, dict[str, Floats]] = {}
    for (name, key), values in seconds.items():
        result.setdefault(name, {})[key] = np.array(values)
    return result


def _rounds(gpu: Gpu, most: int) -> Iterator[int]:
    """Counts rounds until there are enough, or time is up."""
    began = gpu.wall()
    for number in range(most):
        if number >= _LEAST_ROUNDS and gpu.wall() - began > _SECONDS:
            return
        yield number


def _calls(call: Callable[[int], object], order: Sequence[int]) -> Callable[[], None]:
    def work() -> None:
        for number in order:
            call(number)

    return work
