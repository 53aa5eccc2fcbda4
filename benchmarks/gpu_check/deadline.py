"""How long a step may take."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """A moment of a clock; `now` is that clock, in seconds."""

    end: float
    now: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float, now: Callable[[], float] = time.monotonic) -> "Deadline":
        return cls(now() + seconds, now)

    @property
    def remaining(self) -> float:
        """Seconds until then; 0 afterwards."""
        return max(0.0, self.end - self.now())

    @property
    def passed(self) -> bool:
        return self.remaining == 0.0

    def part(self, seconds: float) -> "Deadline":
        """`seconds` from now on, but no later than this one."""
        return Deadline(min(self.end, self.now() + seconds), self.now)
