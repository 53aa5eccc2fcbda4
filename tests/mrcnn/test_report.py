import json
import re
import sys
from pathlib import Path

import pytest

from mrcnn import __version__, report
from mrcnn.cli import main
from mrcnn.errors import MrcnnError


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


@pytest.mark.parametrize("content", [None, "", '{\n  "schema_version": 1,\n  "kind": "accuracy"}'])
def test_a_report_replaces_a_report(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "r.json").write_text(content)
    report.check_destination(tmp_path / "r.json")


@pytest.mark.parametrize("content", ['{"images": []}', "text", "x" * 300 + '"schema_version"'])
def test_a_report_replaces_nothing_else(content: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(MrcnnError, match="is there and no report"):
        report.check_destination(tmp_path / "r.json")


def test_every_command_looks_at_its_json_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.onnx").write_text("precious")
    model = str(tmp_path / "model.onnx")
    for words in (
        ["evaluate", model, "--data", "coins"],
        ["export", model, "--onnx-only", "--precision", "fp16"],
        ["infer", model, "photo.png", "--output", str(tmp_path / "out")],
        ["parity", model, "--reference", "c.pth", "--images", "photo.png"],
        ["bench", model, "--reference", "c.pth", "--images", "photo.png"],
        ["compare", model, model, "--images", "photo.png"],
        ["dense", model],
        ["doctor"],
    ):
        assert main([*words, "--json", model]) == 2
        assert "is there and no report, so it is not replaced" in capsys.readouterr().err
        assert main([*words, "--json", str(tmp_path / "model.onnx" / "x")]) == 2
        assert "is not a folder" in capsys.readouterr().err
    assert (tmp_path / "model.onnx").read_text() == "precious"
