"""The accuracy instrument: what each precision costs on photographs that the model knows."""

from pathlib import Path

import pytest

from mrcnn.cli import main
from mrcnn.evaluation import AveragePrecision, Evaluation
from mrcnn.export.precision.images import spread
from tests.benchmarks.accuracies import evaluate

# Points of AP on 40 photographs. Detections whose score lies at a threshold fall to either side of it, which
# is worth some tenths on so few; benchmarks/accuracy/README.md has the figures for all 100.
LARGEST_CHANGE = {"fp32": 0.05, "fp16": 0.5, "int8-cpu": 2.0, "int8": 2.0}

PHOTOGRAPHS = 40


@pytest.fixture(scope="module")
def checkpoint(repository: Path) -> Path:
    return repository / "benchmarks" / "accuracy" / "photos.pth"


@pytest.fixture(scope="module")
def before(checkpoint: Path, coco_mini: Path) -> Evaluation:
    """PyTorch's."""
    return evaluate(checkpoint, coco_mini, spread(100, PHOTOGRAPHS))


def test_it_knows_the_photographs(before: Evaluation) -> None:
    """Or no loss would show."""
    assert points(before.box) > 50
    assert points(before.mask) > 28


@pytest.mark.parametrize("name", LARGEST_CHANGE)
def test_what_a_precision_costs(
    name: str, checkpoint: Path, before: Evaluation, coco_mini: Path, tmp_path: Path
) -> None:
    precision, _, target = name.partition("-")
    options = [] if precision == "fp32" else ["--precision", precision]
    options += ["--target", target] if target else ["--onnx-only"]
    if precision != "fp32":
        options += ["--calib", str(coco_mini / "images"), "--calib-limit", "16"]
    assert main(["export", str(checkpoint), "--output", str(tmp_path), *options]) == 0
    converted = tmp_path / ("model.onnx" if precision == "fp32" else f"model.{name}.onnx")
    after = evaluate(converted, coco_mini, spread(100, PHOTOGRAPHS))
    for kind in ("box", "mask"):
        change = points(getattr(after, kind)) - points(getattr(before, kind))
        assert abs(change) <= LARGEST_CHANGE[name], f"{kind}: {change:+.2f}"


def points(average: AveragePrecision | None) -> float:
    assert average is not None
    assert average.AP is not None
    return average.AP
