"""Automatic mixed precision: which layers go back to floating point so that accuracy stays within a limit.

First each group of layers is returned alone, on a few pictures, and what parity AP gains by that is noted.
Then groups are returned in the order of gain per work, and about the fewest that reach the limit on all
pictures are found by bisection. Everything that was measured is kept in a file, so that a search that was
interrupted goes on where it was.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mrcnn.export.precision.accuracy import Accuracy
from mrcnn.files import write_text

# Pictures for the gain of a single group, of which there are dozens.
FEW = 6

# Added to each group's share of the work, so that one that costs nothing does not come first for no gain.
_LEAST_WORK = 0.005

# A share of the work that is not worth one more pass over all pictures.
_FINE = 0.03


class Measure(Protocol):
    """Accuracy of the variant that keeps these groups in floating point; on a few pictures if `few`.

    `title` tells a user which measurement it is.
    """

    def __call__(self, keep: frozenset[str], few: bool, *, title: str) -> Accuracy: ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """A variant that was measured on all pictures, and the points that it loses."""

    keep: tuple[str, ...]
    accuracy: Accuracy
    drop: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a search has found.

    Attributes:
        chosen: the fewest groups tried that reach the limit; the last, with all of them, if none does.
        reached: whether it does.
        gains: parity AP that each group's return gains, on a few pictures; empty where none was needed.
        order: in which groups were returned.
        steps: all that was measured, the fastest first.
    """

    chosen: Step
    reached: bool
    gains: Mapping[str, float] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()


def search(
    measure: Measure, drop: Callable[[Accuracy], float], *, work: Mapping[str, float], limit: float
) -> Outcome:
    """The groups to return.

    Args:
        drop: points that a variant loses, on all pictures.
        work: each group's share of the multiplications, 0…1.
        limit: points that may be lost.
    """
    steps: dict[int, Step] = {}
    order: list[str] = []

    def step(number: int) -> Step:
        if number not in steps:
            keep = tuple(order[:number])
            title = f"variant {len(steps) + 1}, {number} of {len(work)} groups in float"
            accuracy = measure(frozenset(keep), False, title=title)
            steps[number] = Step(keep=keep, accuracy=accuracy, drop=drop(accuracy))
        return steps[number]

    if step(0).drop <= limit:
        return Outcome(chosen=steps[0], reached=True, steps=(steps[0],))
    gains = _gains(measure, list(work))
    order += sorted(work, key=lambda group: -gains[group] / (work[group] + _LEAST_WORK))
    # Bisection, of which a good first guess spares the half of the steps: each takes minutes.
    low, high = 0, len(order)
    middle = _expected(gains, order, share=1 - limit / steps[0].drop)
    while sum(work[group] for group in order[low + 1 : high]) > _FINE:
        if step(middle).drop <= limit:
            high = middle
        else:
            low = middle
        middle = (low + high) // 2
    step(high)
    return Outcome(
        chosen=steps[high],
        reached=steps[high].drop <= limit,
        gains=gains,
        order=tuple(order),
        steps=tuple(steps[number] for number in sorted(steps)),
    )


def _expected(gains: Mapping[str, float], order: Sequence[str], *, share: float) -> int:
    """How many groups bring that share of what all of them gain, at least 1 and not all."""
    total = sum(max(0.0, gains[group]) for group in order)
    gained = 0.0
    for number, group in enumerate(order[:-1], start=1):
        gained += max(0.0, gains[group])
        if gained >= share * total:
            return number
    return max(1, len(order) - 1)


def _gains(measure: Measure, groups: Sequence[str]) -> dict[str, float]:
    before = _mean(measure(frozenset(), True, title="gain of each group"))
    gains = {}
    for number, group in enumerate(groups, start=1):
        title = f"gain of group {number} of {len(groups)}"
        gains[group] = _mean(measure(frozenset([group]), True, title=title)) - before
    return gains


def _mean(accuracy: Accuracy) -> float:
    """Of boxes and masks: smoother than the lower of the two."""
    known = [value for value in (accuracy.parity_box, accuracy.parity_mask) if value is not None]
    return sum(known) / len(known) if known else 100.0


def _accuracy(figures: Mapping[str, Any]) -> Accuracy:
    """What a file holds of it; ValueError or TypeError where that is something else."""
    if not all(value is None or 0 <= value <= 100.01 for value in figures.values()):
        raise ValueError("not in points of 100")
    return Accuracy(**figures)


class Notebook:
    """Remembers measurements in a file, for a search that goes on later.

    Args:
        path: of the file.
        key: of all that the measurements depend on; those of another key are forgotten.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._known: dict[str, Any] = {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["key"] == key:
                self._known = {name: _accuracy(figures) for name, figures in content["measured"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self._known = {}  # none, or one that is no use

    @property
    def known(self) -> int:
        return len(self._known)

    def remembering(self, measure: Measure) -> Measure:
        """`measure`, but each variant once."""

        def remembered(keep: frozenset[str], few: bool, *, title: str) -> Accuracy:
            name = json.dumps([few, sorted(keep)])
            if name not in self._known:
                self._known[name] = measure(keep, few, title=title)
                self._write()
            known: Accuracy = self._known[name]
            return known

        return remembered

    def _write(self) -> None:
        measured = {name: asdict(accuracy) for name, accuracy in self._known.items()}
        write_text(self._path, json.dumps({"key": self._key, "measured": measured}))
