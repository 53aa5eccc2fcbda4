"""The checkpoint in benchmarks/demo, on a photograph that it was not trained on."""

import json
from pathlib import Path

import pytest

from mrcnn.benchmarks.demo.photograph import COINS, coins_found, coins_photograph
from mrcnn.checkpoint import Checkpoint, load_checkpoint
from mrcnn.cli import main
from mrcnn.data.synthetic import SyntheticDataset
from mrcnn.predictor import TorchPredictor

# Points of AP that two engines with equal results may differ by: detections at the score threshold, and
# masks' pixels at 0.5, may fall to either side.
AP_POINTS = 0.3


@pytest.fixture(scope="module")
def path(repository: Path) -> Path:
    return repository / "benchmarks" / "demo" / "coins.pth"


@pytest.fixture(scope="module")
def checkpoint(path: Path) -> Checkpoint:
    return load_checkpoint(path)


def test_small_and_described(path: Path, checkpoint: Checkpoint) -> None:
    assert path.stat().st_size <= 8_000_000
    assert checkpoint.description.class_names == SyntheticDataset("coins", length=1).class_names
    assert checkpoint.assumptions == ()
    assert checkpoint.training["data"] == "coins"
    assert checkpoint.training["init"] is None
    options, metrics = checkpoint.training["options"], checkpoint.training["metrics"]
    assert metrics["iteration"] == options["iterations"], "the whole run, as the command says"


def test_finds_all_coins_of_the_photograph(checkpoint: Checkpoint) -> None:
    found = TorchPredictor(checkpoint.build(), checkpoint.description).infer(coins_photograph())
    assert coins_found(found, min_score=0.5) == len(COINS), "every coin is found, its mask following the rim"
    assert (found.scores >= 0.5).sum() == len(COINS), "and nothing else"


def test_an_exported_model_has_the_same_ap(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(path), "--onnx-only", "--output", str(tmp_path)]) == 0
    results = []
    for model in (path, tmp_path / "model.onnx"):
        capsys.readouterr()
        assert main(["evaluate", str(model), "--data", "coins", "--limit", "3", "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out))
    ours, exported = results
    assert ours["mask"]["AP"] > 75
    for kind in ("box", "mask"):
        assert exported[kind]["AP"] == pytest.approx(ours[kind]["AP"], abs=AP_POINTS)
