import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrcnn.benchmarks import contention
from mrcnn.benchmarks.contention import OtherWork

needs_proc = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="there is no /proc")

# /proc counts in ticks of 10 ms, and the child takes a while to start.
SECONDS = 0.6


@needs_proc
def test_another_process_is_seen() -> None:
    """The machine may be doing other things besides, so only the least is known."""
    with OtherWork() as while_child_works:
        code = f"import time\nend = time.process_time() + {SECONDS}\nwhile time.process_time() < end: pass"
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds = time.monotonic() - while_child_works._start[0]
    assert while_child_works.cores is not None
    assert while_child_works.cores * seconds > 0.8 * SECONDS


@needs_proc
def test_our_own_work_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3 s of work on our cores, 2 s were ours; that took 2 s."""
    busy, own, wall = iter([100.0, 103.0]), iter([10.0, 12.0]), iter([50.0, 52.0])
    monkeypatch.setattr(contention, "_busy_seconds", lambda: next(busy))
    clocks = SimpleNamespace(process_time=lambda: next(own), monotonic=lambda: next(wall))
    monkeypatch.setattr(contention, "time", clocks)
    with OtherWork() as other:
        pass
    assert other.cores == 0.5


def test_without_proc_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(contention, "_STAT", tmp_path / "none")
    with OtherWork() as other:
        pass
    assert other.cores is None


@pytest.mark.parametrize(("cores", "lines"), [(None, 0), (0.1, 0), (0.5, 1)])
def test_what_disturbs_is_told(cores: float | None, lines: int) -> None:
    other = OtherWork()
    other.cores = cores
    assert len(other.doubts()) == lines
