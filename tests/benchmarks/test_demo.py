import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrcnn.benchmarks.agreement import Tolerances
from mrcnn.benchmarks.demo import __main__ as demo
from mrcnn.benchmarks.demo.photograph import COINS, coins_found, coins_photograph
from mrcnn.benchmarks.parity import measure_parity
from mrcnn.runtime import Detections, Runtime
from tests.benchmarks.conftest import Exported

HEIGHT, WIDTH = 303, 384


def discs(shift: float = 0, score: float = 0.9, side: int = 28) -> Detections:
    """A round mask for each coin, `shift` of its radius to the right."""
    y, x = np.mgrid[:side, :side] + 0.5
    disc = ((x - side / 2) ** 2 + (y - side / 2) ** 2 <= (side / 2) ** 2).astype(np.float32)
    boxes = [(x + shift * r - r, y - r, x + shift * r + r, y + r) for x, y, r in COINS]
    return Detections(
        boxes=np.array(boxes, np.float32),
        scores=np.full(len(COINS), score, np.float32),
        labels=np.ones(len(COINS), np.int64),
        class_names=("__background__", "coin"),
        image_size=(HEIGHT, WIDTH),
        mask_probs=np.repeat(disc[None], len(COINS), axis=0),
    )


def test_the_photograph_is_the_one_that_the_coins_lie_in() -> None:
    image = coins_photograph()
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert len(COINS) == 24
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for cx, cy, radius in COINS:
        distance = np.hypot(x - cx, y - cy)
        inside, around = (
            image[distance < radius],
            image[(distance > 1.2 * radius) & (distance < 1.5 * radius)],
        )
        assert inside.mean() > around.mean() + 20  # coins are lighter than the ground


def test_coins_are_counted_by_their_rims() -> None:
    assert coins_found(discs(), min_score=0.5) == 24
    assert coins_found(discs(shift=0.1), min_score=0.5) == 24
    assert coins_found(discs(shift=0.5), min_score=0.5) == 0
    assert coins_found(discs(score=0.4), min_score=0.5) == 0
    assert coins_found(discs()[:5], min_score=0.5) == 5


def test_a_coin_found_twice_counts_once() -> None:
    once = discs()[:3]
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
        "mrcnn.benchmarks.latency.measure_latency", lambda *_, **__: times | {"peak_rss_mb": None}
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
