import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrcnn.benchmarks.agreement import Tolerances
from mrcnn.benchmarks.demo import __main__ as demo
from mrcnn.benchmarks.demo.photograph import coin_masks, coins_found, coins_photograph
from mrcnn.benchmarks.parity import measure_parity
from mrcnn.runtime import Detections, Runtime
from tests.benchmarks.conftest import Exported

HEIGHT, WIDTH = 303, 384


def ellipses(shift: float = 0, score: float = 0.9, side: int = 112) -> Detections:
    """A mask for each coin that is true to its rim, moved to the right by `shift` of its width."""
    boxes, probs = [], []
    for mask in coin_masks(HEIGHT, WIDTH):
        (top, bottom), (left, right) = (
            np.flatnonzero(mask.any(axis=axis))[[0, -1]] + (0, 1) for axis in (1, 0)
        )
        moved = shift * (right - left)
        boxes.append((left + moved, top, right + moved, bottom))
        crop = Image.fromarray(mask[top:bottom, left:right].astype(np.float32))
        probs.append(np.asarray(crop.resize((side, side), Image.Resampling.BILINEAR)))
    return Detections(
        boxes=np.array(boxes, np.float32),
        scores=np.full(len(boxes), score, np.float32),
        labels=np.ones(len(boxes), np.int64),
        class_names=("__background__", "coin"),
        image_size=(HEIGHT, WIDTH),
        mask_probs=np.array(probs, np.float32),
    )


def test_the_photograph_is_the_one_that_the_coins_lie_in() -> None:
    image = coins_photograph()
    assert image.shape == (HEIGHT, WIDTH, 3)
    masks = coin_masks(HEIGHT, WIDTH)
    assert len(masks) == 24
    assert masks.sum(axis=0).max() == 1, "they do not overlap"
    ground = image[~masks.any(axis=0)]
    for mask in masks:
        assert image[mask].mean() > ground.mean() + 40  # coins are lighter than the ground


def test_coins_are_counted_by_their_rims() -> None:
    assert coins_found(ellipses(), min_score=0.5) == 24
    assert coins_found(ellipses(shift=0.2), min_score=0.5) == 0
    assert coins_found(ellipses(score=0.4), min_score=0.5) == 0
    assert coins_found(ellipses()[:5], min_score=0.5) == 5


def test_a_coin_found_twice_counts_once() -> None:
    once = ellipses()[:3]
    twice = once[np.array([0, 1, 2, 0, 1, 2])]
    assert coins_found(twice, min_score=0.5) == 3


def test_the_demo_writes_its_files_and_fails_without_coins(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random weights everything works but finding coins; timing has tests of its own."""
    times: dict[str, Any] = dict.fromkeys(("p50_ms", "reference_p50_ms", "speedup", "rle_speedup"), 1.0)
    monkeypatch.setattr(demo, "CHECKPOINT", exported.checkpoint)
    monkeypatch.setattr(demo, "_export", lambda model: shutil.copy(exported.model, model))
    monkeypatch.setattr(
        "mrcnn.benchmarks.latency.measure_latency",
        lambda *_, **__: times | {"peak_rss_mb": None, "notes": []},
    )
    assert demo.run_demo(tmp_path) == 1
    output = capsys.readouterr()
    assert "0 of 24" in output.out
    assert "20 are expected" in output.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["kind"] == "demo"
    assert report["coins_found"] == 0
    assert report["parity"]["passed"] is True
    assert report["parity"]["images"] == 6
    assert report["bench"]["speedup"] == 1
    assert (tmp_path / "model.onnx").is_file()
    with Image.open(tmp_path / "overlay.png") as overlay:
        assert overlay.size == (WIDTH, HEIGHT)


def test_without_its_checkpoint_the_demo_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "CHECKPOINT", tmp_path / "none.pth")
    monkeypatch.setattr("sys.argv", ["demo", "--output", str(tmp_path / "out")])
    assert demo.main() == 3
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def coins_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("coins") / "model.onnx"
    demo._export(model)
    return model


def test_the_demo_checkpoint_finds_the_coins(coins_model: Path) -> None:
    with Runtime(coins_model) as runtime:
        detections = runtime.infer(coins_photograph(), color="rgb")
    assert coins_found(detections, min_score=demo.MIN_SCORE) >= demo.LEAST_COINS


def test_the_demo_checkpoint_is_equal_on_photographs(coins_model: Path, coco_mini: Path) -> None:
    images = sorted((coco_mini / "images").glob("*.jpg"))[:15]
    report = measure_parity(coins_model, reference=demo.CHECKPOINT, images=images, tolerances=Tolerances())
    assert report["failures"] == []
    assert report["reference_detections"] > 0
