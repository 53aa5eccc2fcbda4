"""The checkpoint in benchmarks/demo, on a photograph that it was not trained on."""

import json
from pathlib import Path

import numpy as np
import pytest

from mrcnn.checkpoint import Checkpoint, load_checkpoint
from mrcnn.cli import main
from mrcnn.data.synthetic import SyntheticDataset
from mrcnn.predictor import TorchPredictor

# The 24 coins of `skimage.data.coins()` as ellipses: around what is brighter than the ground in a box read
# off by hand, then compared with the rims by eye, at four times the size. x and y of the centre and the
# half-axes in pixels, the angle of the first axis in degrees.
COINS = np.array(
    [
        (44.7, 54.8, 22.8, 19.6, 169.3),
        (100.8, 56.8, 20.1, 18.0, -174.4),
        (155.7, 51.4, 23.9, 22.6, -171.1),
        (215.7, 51.7, 24.1, 22.0, -179.7),
        (276.6, 53.0, 21.1, 19.1, -171.0),
        (335.3, 43.8, 30.0, 28.4, -177.2),
        (45.4, 125.0, 21.5, 20.2, 144.2),
        (102.8, 126.0, 19.7, 18.2, 155.4),
        (154.1, 127.7, 20.2, 17.7, 175.3),
        (205.8, 124.2, 20.9, 19.2, 154.9),
        (271.2, 119.6, 26.0, 24.3, 179.2),
        (336.9, 125.0, 20.1, 19.5, 144.4),
        (44.0, 197.4, 19.4, 18.8, -165.4),
        (102.2, 196.0, 22.5, 21.5, -176.6),
        (154.6, 198.2, 19.9, 19.1, 178.0),
        (213.1, 193.6, 24.4, 23.5, -177.4),
        (274.4, 194.4, 24.1, 21.3, -144.7),
        (347.8, 187.0, 32.8, 31.2, -175.4),
        (46.4, 260.4, 29.0, 27.8, 160.8),
        (114.3, 266.1, 22.0, 21.0, -173.3),
        (172.9, 261.7, 29.1, 26.1, -178.0),
        (244.5, 263.7, 24.7, 23.4, 161.4),
        (301.5, 263.6, 26.8, 24.2, 147.7),
        (358.6, 268.5, 23.2, 20.8, 179.9),
    ]
)

# A ring one pixel wide around a coin of radius 22 is 9 % of its area, and the coins are not quite ellipses.
RIM_IOU = 0.85

# Points of AP that two engines with equal results may differ by: detections at the score threshold, and
# masks' pixels at 0.5, may fall to either side.
AP_POINTS = 0.3


@pytest.fixture(scope="module")
def path(repository: Path) -> Path:
    return repository / "benchmarks" / "demo" / "coins.pth"


@pytest.fixture(scope="module")
def checkpoint(path: Path) -> Checkpoint:
    return load_checkpoint(path)


def ellipse_masks(height: int, width: int) -> np.ndarray:  # type: ignore[type-arg]
    """The coins as masks (24, height, width)."""
    x0, y0, a, b, degrees = COINS.T[:, :, None, None]
    y, x = np.mgrid[:height, :width] + 0.5
    angle = np.radians(degrees)
    along = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
    across = (y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)
    masks: np.ndarray = (along / a) ** 2 + (across / b) ** 2 <= 1  # type: ignore[type-arg]
    return masks


def test_small_and_described(path: Path, checkpoint: Checkpoint) -> None:
    assert path.stat().st_size <= 8_000_000
    assert checkpoint.description.class_names == SyntheticDataset("coins", length=1).class_names
    assert checkpoint.assumptions == ()
    assert checkpoint.training["data"] == "coins"
    assert checkpoint.training["init"] is None
    options, metrics = checkpoint.training["options"], checkpoint.training["metrics"]
    assert metrics["iteration"] == options["iterations"], "the whole run, as the command says"


def test_finds_all_coins_of_the_photograph(checkpoint: Checkpoint) -> None:
    from skimage.data import coins

    photograph = np.repeat(coins()[:, :, None], 3, axis=2)
    found = TorchPredictor(checkpoint.build(), checkpoint.description).infer(photograph)
    sure = found[found.scores >= 0.5]
    truth = ellipse_masks(*found.image_size).reshape(len(COINS), -1).astype(np.float32)
    masks = sure.masks.reshape(len(sure), -1).astype(np.float32)
    common = masks @ truth.T
    overlap = common / (masks.sum(1)[:, None] + truth.sum(1)[None, :] - common)
    assert (overlap.max(axis=0) > RIM_IOU).all(), "every coin is found, its mask following the rim"
    assert len(sure) == len(COINS), "and nothing else"


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
