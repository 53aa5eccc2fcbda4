import subprocess
import sys

import pytest

from mrcnn.benchmarks import memory

# The kernel gathers each thread's count of pages now and then, not at every page.
NOISE_MB = 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, which only Linux has")
class TestPeakMemory:
    def test_grows_with_what_is_allocated_and_does_not_fall(self) -> None:
        before = memory.peak_rss_mb()
        block = bytearray(200_000_000)
        block[::4096] = b"x" * len(block[::4096])  # touch every page
        during = memory.peak_rss_mb()
        del block
        after = memory.peak_rss_mb()
        assert before is not None
        assert during is not None
        assert after is not None
        assert during >= before
        assert during >= 200
        assert after >= during - NOISE_MB

    def test_a_child_does_not_inherit_the_parents_peak(self) -> None:
        block = bytearray(300_000_000)
        block[::4096] = b"x" * len(block[::4096])
        code = "from mrcnn.benchmarks.memory import peak_rss_mb; print(peak_rss_mb())"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert 1 < float(child.stdout) < 100  # a bare Python has about 15 MB
