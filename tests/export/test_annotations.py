"""Calibrating on a COCO document: when its AP counts, and when it must not."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mrcnn.cli import main
from mrcnn.export.precision import accuracy
from mrcnn.export.precision.accuracy import Accuracy, Judge
from mrcnn.export.precision.images import CalibrationImages
from mrcnn.families import COCO_PERSON
from mrcnn.runtime import Detections, Runtime
from mrcnn.runtime.images import read_image
from tests.export.photographs import make_photographs

COUNT = 3

Document = dict[str, Any]
Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def truth(compact_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A document in which the model's own detections are the objects, so that its AP is high."""
    folder = tmp_path_factory.mktemp("truth")
    photos = make_photographs(folder, COUNT)
    document: dict[str, Any] = {"images": [], "annotations": []}
    with Runtime(compact_onnx, device="cpu") as runtime:
        document["categories"] = [
            {"id": label, "name": name} for label, name in enumerate(runtime.class_names) if label
        ]
        for image_id, path in enumerate(sorted(photos.iterdir()), start=1):
            found = runtime.infer(read_image(path), color="rgb")
            size = dict(zip(("height", "width"), found.image_size, strict=True))
            document["images"].append({"id": image_id, "file_name": path.name, **size})
            for one in found.to_coco(image_id):
                number = len(document["annotations"]) + 1
                area = one["bbox"][2] * one["bbox"][3]
                document["annotations"].append(one | {"id": number, "area": area, "iscrowd": 0})
    assert len(document["annotations"]) > COUNT
    return document


@pytest.fixture
def run(compact_onnx: Path, tmp_path: Path) -> Run:
    """Converts on a document; gives the status and, where there is one, the report."""
    photos = make_photographs(tmp_path, COUNT)

    def convert(document: dict[str, Any], *options: str) -> tuple[int, dict[str, Any]]:
        (tmp_path / "instances.json").write_text(json.dumps(document))
        words = ["--precision", "int8", "--target", "cpu", "--calib", str(tmp_path / "instances.json")]
        words += ["--calib-images", str(photos), "--output", str(tmp_path / "out")]
        status = main(["export", str(compact_onnx), *words, *options])
        path = tmp_path / "out" / "model.int8-cpu.report.json"
        return status, json.loads(path.read_text()) if path.exists() else {}

    return convert


def test_with_annotations_the_loss_is_told_in_ap(run: Run, truth: Document) -> None:
    status, found = run(truth, "--max-ap-drop", "90")
    assert status == 0
    assert found["annotated"]
    assert found["float32"]["box"] > 90
    assert found["float32"]["mask"] > 90
    losses = [found["float32"][kind] - found["accuracy"][kind] for kind in ("box", "mask")]
    assert found["ap_drop"] == pytest.approx(max(0, *losses), abs=1e-3)
    assert found["search"]["returned"] == []


def test_a_search_is_not_gone_on_with_on_other_annotations(
    run: Run, truth: Document, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was measured without annotations has no AP, and must not pass for no loss."""
    assert run(truth | {"annotations": []}, "--max-ap-drop", "99")[0] == 0
    assert "the search goes on" not in capsys.readouterr().err
    status, found = run(truth, "--max-ap-drop", "90")
    assert status == 0
    assert "the search goes on" not in capsys.readouterr().err
    assert found["accuracy"]["box"] is not None
    assert run(truth, "--max-ap-drop", "80")[0] == 0
    assert "the search goes on after" in capsys.readouterr().err


def test_an_ap_that_was_not_measured_is_a_loss() -> None:
    judge = Judge.__new__(Judge)
    judge.reference = Accuracy(parity_box=100, parity_mask=100, box=50, mask=40)
    assert judge.drop(Accuracy(parity_box=100, parity_mask=100, box=50)) == 40


def test_a_gain_is_no_loss() -> None:
    judge = Judge.__new__(Judge)
    judge.reference = Accuracy(parity_box=100, parity_mask=100, box=50, mask=40)
    for box, mask, drop in ((51, 39, 1), (49.5, 39.8, 0.5), (52, 41, 0), (50, 40, 0)):
        variant = Accuracy(parity_box=60, parity_mask=60, box=box, mask=mask)
        assert judge.drop(variant) == pytest.approx(drop)


def test_key_points_are_judged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An INT8 model whose boxes stay and whose points move has lost something."""
    points = np.random.default_rng(0).uniform(20, 80, (1, 17, 2)).astype(np.float32)

    def found(moved: float) -> Detections:
        return Detections(
            image_size=(100, 100),
            boxes=np.array([[10, 10, 90, 90]], np.float32),
            scores=np.array([0.9], np.float32),
            labels=np.array([1], np.int64),
            class_names=("__background__", "person"),
            keypoints=np.concatenate([points + moved, np.ones((1, 17, 1), np.float32)], axis=2),
            keypoint_scores=np.ones((1, 17), np.float32),
            keypoint_rule=COCO_PERSON,
        )

    (truth,) = found(0).to_coco(1)
    annotation = truth | {"id": 1, "iscrowd": 0, "area": 6400, "num_keypoints": 17}
    annotation["keypoints"] = [2 if i % 3 == 2 else v for i, v in enumerate(truth["keypoints"])]
    document = {
        "images": [{"id": 1, "file_name": "a.png", "height": 100, "width": 100}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "person"}],
    }
    dataset = SimpleNamespace(
        class_names=("__background__", "person"),
        category_ids=(0, 1),
        image_id=lambda _: 1,
        ground_truth=lambda _: document,
    )
    images = CalibrationImages(paths=(Path("a.png"),), digest="", dataset=dataset, indices=(0,))
    judge = Judge([found(0)], images, on_progress=lambda *_: None)
    assert judge.reference.keypoint == pytest.approx(100, abs=0.1)
    monkeypatch.setattr(accuracy, "detect", lambda *_, **__: [found(30)])
    after = judge.accuracy(Path("m.onnx"), title="")
    assert after.box == judge.reference.box
    assert after.keypoint == pytest.approx(0, abs=0.1)
    assert judge.drop(after) == pytest.approx(100, abs=0.2)


def test_annotations_of_other_classes_are_told_and_no_measure_for_a_limit(
    run: Run, truth: Document, capsys: pytest.CaptureFixture[str]
) -> None:
    """No name in common, and labels in another order: AP 0 of which nothing can be lost."""
    other = [{"id": c["id"], "name": f"another {c['id']}"} for c in reversed(truth["categories"])]
    moved = [a | {"bbox": [0, 0, 1, 1], "segmentation": [[0, 0, 1, 0, 1, 1]]} for a in truth["annotations"]]
    document = truth | {"categories": other, "annotations": moved}
    status, found = run(document)
    assert status == 0
    notes = "\n".join(found["notes"])
    assert "no class name is common to the model and the annotations" in notes
    assert "float32 has an AP of 0.00" in notes
    assert run(document, "--max-ap-drop", "0.5")[0] == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error" in line)
    assert "float32 has an AP of 0.00 there" in line


def test_a_document_with_other_sizes_is_refused(
    run: Run, truth: Document, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = [image | {"height": image["width"], "width": image["height"]} for image in truth["images"]]
    polygons = [a | {"segmentation": [[1, 1, 9, 1, 9, 9]]} for a in truth["annotations"]]
    assert run(truth | {"images": turned, "annotations": polygons})[0] == 2
    assert "has 160x120 pixels, but" in capsys.readouterr().err


def test_annotations_without_masks_or_without_objects_are_noted(run: Run, truth: Document) -> None:
    boxes = [{k: v for k, v in a.items() if k != "segmentation"} for a in truth["annotations"]]
    _, found = run(truth | {"annotations": boxes})
    assert found["float32"]["box"] > 90
    assert found["float32"]["mask"] is None
    assert "mask AP is not measured: there are annotations without segmentation" in found["notes"]
    for annotations in ([], [a | {"iscrowd": 1} for a in truth["annotations"]]):
        _, found = run(truth | {"annotations": annotations})
        assert not found["annotated"]
        assert any(note.startswith("no annotation of these pictures counts") for note in found["notes"])
        least = min(found["accuracy"][f"parity_{kind}"] for kind in ("box", "mask"))
        assert found["ap_drop"] == pytest.approx(100 - least, abs=1e-3)


def test_a_documents_name_may_be_written_large(compact_onnx: Path, truth: Document, tmp_path: Path) -> None:
    (tmp_path / "VAL.JSON").write_text(json.dumps(truth))
    photos = make_photographs(tmp_path, COUNT)
    words = ["--precision", "fp16", "--onnx-only", "--calib", str(tmp_path / "VAL.JSON")]
    words += ["--calib-images", str(photos), "--output", str(tmp_path / "out")]
    assert main(["export", str(compact_onnx), *words]) == 0
