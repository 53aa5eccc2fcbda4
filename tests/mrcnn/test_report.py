import json
import re
import sys

import pytest

from mrcnn import __version__, report


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
