import json
import re
import subprocess
import sys

import pytest

from mrcnn import __version__
from mrcnn.benchmarks import memory, report


def test_a_report_has_its_figures_and_its_provenance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/mrcnn", "bench", "my model.onnx"])
    document = report.document("latency", {"p50_ms": 1.5})
    assert document["schema_version"] == report.SCHEMA_VERSION
    assert document["kind"] == "latency"
    assert document["p50_ms"] == 1.5
    assert document["command"] == "mrcnn bench 'my model.onnx'"
    assert document["versions"]["mrcnn"] == __version__
    assert document["versions"]["python"].startswith(f"{sys.version_info.major}.")
    assert document["machine"]["cpu"]
    assert document["machine"]["cores"] >= 1
    json.dumps(document, allow_nan=False)


def test_the_commit_is_a_hash_or_none() -> None:
    commit = report.environment()["git_commit"]
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)


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
