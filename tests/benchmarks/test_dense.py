"""The dense part of a graph, cut out and timed."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from mrcnn.benchmarks.dense_part import dense_part
from mrcnn.cli import main
from mrcnn.export.cut import cut, with_shapes
from tests.benchmarks.conftest import Exported

QUICK = ["--shape", "96x128", "--repeats", "1", "--threads", "1"]


def run(model: onnx.ModelProto, pixels: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"normalised": pixels}))


def test_it_is_all_before_the_proposals(exported: Exported) -> None:
    part = dense_part(exported.model, shape=(96, 128))
    assert not any(node.domain for node in part.graph.node)
    names = [output.name for output in part.graph.output]
    assert {name.partition(".")[0] for name in names} == {"features", "logits", "deltas"}
    assert len(names) % 3 == 0
    pixels = np.random.default_rng(0).normal(0, 1, (1, 3, 96, 128)).astype(np.float32)
    whole = with_shapes(onnx.load(exported.model))
    for name, value in zip(names, run(part, pixels), strict=True):
        (alone,) = run(cut(whole, ["normalised"], [name]), pixels)
        assert value == pytest.approx(alone, abs=1e-5)


def test_each_program_has_its_times(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(exported.model)
    assert main(["dense", model, *QUICK, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (first, *_) = report["programs"]
    assert first["name"].endswith("on onnxruntime")
    assert first["p50_ms"] > 0
    assert first["speedup"] == 1
    assert main(["dense", model, *QUICK]) == 0
    assert "dense part, 96x128; 1 rounds, 1 threads each" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.onnx"], "none.onnx: No such file"),
        (["text.onnx"], "text.onnx: not a complete ONNX model"),
        (["MODEL", "MODEL"], "a model is given twice"),
        (["MODEL", "--shape", "100x100"], "both sides must be multiples of 32"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    message: str,
    exported: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.onnx").write_text("no model")
    assert main(["dense", *(str(exported.model) if word == "MODEL" else word for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
