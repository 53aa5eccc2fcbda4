"""Peak memory of a program, measured in a process that runs nothing else."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mrcnn.errors import MrcnnError

_STATUS = Path("/proc/self/status")


def peak_rss_mb() -> float | None:
    """The largest resident memory of this process so far, in 10^6 bytes; None where there is no /proc.

    `getrusage` would not do: its figure survives `exec`, so that a process started by a large one begins
    with the size of that. The high-water mark in /proc belongs to the address space and starts anew.
    """
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    return None


def measure_peak_rss_mb(module: str, arguments: Sequence[str]) -> float | None:
    """Runs `python -m module arguments`, whose last line of output is `peak_rss_mb()` as JSON.

    Raises:
        MrcnnError: the process failed, was killed for its use of memory, say.
    """
    result = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise MrcnnError(f"measuring memory: {module} ended with status {result.returncode}: {reason}")
    value = json.loads(result.stdout.splitlines()[-1])
    return None if value is None else float(value)


if __name__ == "__main__":
    print(json.dumps(peak_rss_mb()))
