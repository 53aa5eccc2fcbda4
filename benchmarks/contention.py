"""How much other programs worked on our cores while a benchmark ran."""

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")

# What a desktop does by itself is less.
_DISTURBING_CORES = 0.2


class OtherWork:
    """Measures what runs beside the `with` block; `cores` holds the result afterwards.

    PyTorch's threads wait for each other at the end of each operation, so that a core that is taken away for
    a moment stops all of them: a busy machine slows some programs down tenfold and others hardly. The load
    average would not do, since it includes what this very process did a minute ago.

    Attributes:
        cores: how many of the cores that this process may use were busy with something else, on average;
            None where there is no /proc.
    """

    cores: float | None = None

    def __enter__(self) -> "OtherWork":
        self._start = (time.monotonic(), time.process_time(), _busy_seconds())
        return self

    def __exit__(self, *_: object) -> None:
        (wall, own, busy), busy_now = self._start, _busy_seconds()
        if busy is None or busy_now is None:
            return
        others = (busy_now - busy) - (time.process_time() - own)
        self.cores = round(max(0.0, others / (time.monotonic() - wall)), 2)

    def doubts(self) -> list[str]:
        """A note, if other programs have disturbed the measurement."""
        if self.cores is None or self.cores < _DISTURBING_CORES:
            return []
        return [f"other programs kept {self.cores:.1f} cores busy meanwhile: doubt these times"]


def _busy_seconds() -> float | None:
    """Time that our cores have been working, for anybody, since the machine started."""
    if not _STAT.exists():
        return None
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = 0
    for line in _STAT.read_text(encoding="ascii").splitlines():
        name, *values = line.split()
        if name in ours:
            user, nice, system, _idle, _iowait, interrupt, soft_interrupt, steal, *_ = map(int, values)
            ticks += user + nice + system + interrupt + soft_interrupt + steal
    return ticks / os.sysconf("SC_CLK_TCK")
