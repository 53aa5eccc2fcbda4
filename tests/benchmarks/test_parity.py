import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn.benchmarks.agreement import Tolerances
from mrcnn.benchmarks.parity import measure_parity
from mrcnn.checkpoint import load_checkpoint
from mrcnn.cli import main
from mrcnn.export.to_onnx import InputRule, export_onnx
from tests.benchmarks.conftest import Exported

KEYS = {
    "images",
    "reference_detections",
    "matched_share",
    "box_px_max",
    "box_px_p99",
    "score_max",
    "mask_iou_mean",
    "mask_iou_min",
    "label_mismatches",
    "parity_ap",
}


def test_an_exported_model_agrees_with_its_checkpoint(
    exported: Exported, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "parity.json"
    command = ["parity", exported.model, "--reference", exported.checkpoint, "--images", photos]
    status = main([*map(str, command), "--json", str(path), "--output", str(tmp_path)])
    report = json.loads(path.read_text())
    assert status == 0, report["failures"]
    assert report.keys() >= KEYS | {"machine", "versions", "command", "git_commit"}
    assert report["passed"] is True
    assert report["images"] == len(report["per_image"]) == 3
    assert report["reference_detections"] == report["matched"] > 10
    assert report["matched_share"] == 1
    assert report["parity_ap"] == report["parity_ap_mask"] == report["parity_ap_box"] == 100
    assert report["notes"] == report["skipped"] == []
    assert "equal within the tolerances" in capsys.readouterr().out
    with Image.open(tmp_path / "parity-worst.png") as picture:
        assert picture.width > 3 * picture.height / 2


def test_other_weights_do_not_pass(
    exported: Exported, other_checkpoint: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["parity", exported.model, "--reference", other_checkpoint, "--images", photos, "--json"]
    assert main([*map(str, command)]) == 1
    output = capsys.readouterr()
    report = json.loads(output.out)  # nothing else is on standard output
    assert report["passed"] is False
    assert report["matched_share"] < 0.5
    assert report["parity_ap"] < 50
    assert any("other weights" in note for note in report["notes"])
    (line,) = [line for line in output.err.splitlines() if line.startswith("mrcnn parity:")]
    assert "outside tolerance: matched_share is" in line


def test_tolerances_of_the_command_line_decide(exported: Exported, photos: Path) -> None:
    command = ["parity", exported.model, "--reference", exported.checkpoint, "--images", photos / "a.png"]
    assert main([*map(str, command)]) == 0
    # float32 sums in another order leave differences of this size nowhere
    assert main([*map(str, command), "--max-box-px", "0"]) == 1


def test_bad_images_are_skipped_and_the_status_tells(
    exported: Exported, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(photos / "a.png", tmp_path)
    (tmp_path / "bad.png").write_bytes((photos / "b.png").read_bytes()[:100])
    command = ["parity", exported.model, "--reference", exported.checkpoint, "--images", tmp_path, "--json"]
    assert main([*map(str, command)]) == 1
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert report["passed"] is True
    assert report["images"] == 1
    (skipped,) = report["skipped"]
    assert skipped["image"] == str(tmp_path / "bad.png")
    assert str(tmp_path / "bad.png") in output.err


@pytest.mark.parametrize("what", ["model", "checkpoint", "images", "swapped", "output"])
def test_wrong_arguments_are_one_line(
    what: str, exported: Exported, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, checkpoint, images = exported.model, exported.checkpoint, photos
    if what == "model":
        model = tmp_path / "none.onnx"
    elif what == "checkpoint":
        checkpoint = tmp_path / "none.pth"
    elif what == "images":
        images = tmp_path
    elif what == "swapped":
        model, checkpoint = checkpoint, model
    output_folder = photos / "a.png" if what == "output" else tmp_path
    command = ["parity", model, "--reference", checkpoint, "--images", images, "--output", output_folder]
    assert main([*map(str, command)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("mrcnn parity: error: ")
    assert output.err.count("\n") == 1


def test_the_report_names_the_worst_image(exported: Exported, photos: Path) -> None:
    report = measure_parity(
        exported.model,
        reference=exported.checkpoint,
        images=sorted(photos.glob("*.png")),
        tolerances=Tolerances(),
    )
    assert Path(report["worst_image"]).parent == photos
    assert report["worst_picture"] is None
    assert report["tolerances"]["box_px"] == 0.1


def test_a_fixed_input_is_equal_on_the_same_input(exported: Exported, photos: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    export_onnx(
        load_checkpoint(exported.checkpoint), model, inputs=InputRule(size=(160, 128)), on_step=lambda _: None
    )
    images = sorted(photos.glob("*.png"))  # of these c.png, 64x200, must be shrunk to fit
    plain, same = (
        measure_parity(
            model,
            reference=exported.checkpoint,
            images=images,
            tolerances=Tolerances(),
            same_input=same_input,
        )
        for same_input in (False, True)
    )
    assert same["failures"] == []
    assert same["matched"] > 10
    assert not plain["passed"]
    assert any("fixed at 160x128" in note for note in plain["notes"])


def test_an_onnx_file_is_a_reference_too(exported: Exported, photos: Path, tmp_path: Path) -> None:
    same = measure_parity(
        exported.model, reference=exported.model, images=sorted(photos.iterdir()), tolerances=Tolerances()
    )
    assert same["passed"]
    assert same["box_px_max"] == same["score_max"] == 0
    fixed = tmp_path / "fixed.onnx"
    inputs = InputRule(size=(128, 160), batch=1)
    export_onnx(load_checkpoint(exported.checkpoint), fixed, inputs=inputs, on_step=lambda _: None)
    # The dynamic graph on the input that the fixed one has: the same but for rounding.
    equal = measure_parity(
        fixed,
        reference=exported.model,
        images=sorted(photos.iterdir()),
        tolerances=Tolerances(),
        same_input=True,
    )
    assert equal["passed"], equal["failures"]
    assert any("fixed at 128x160" in note for note in equal["notes"])


def test_a_first_image_that_is_mostly_padding_spoils_nothing(
    exported: Exported, photos: Path, tmp_path: Path
) -> None:
    """torchvision would infer wrong feature strides from it, and keep them."""
    strip = np.random.default_rng(0).integers(0, 256, (8, 400, 3), dtype=np.uint8)
    Image.fromarray(strip).save(tmp_path / "strip.png")  # resized to 3x192, padded to 32x192
    images = [tmp_path / "strip.png", photos / "a.png"]
    report = measure_parity(
        exported.model, reference=exported.checkpoint, images=images, tolerances=Tolerances()
    )
    assert report["failures"] == []


def test_photographs(exported: Exported, coco_mini: Path) -> None:
    """At their own sizes; random weights find many things alike, so that ties are everywhere."""
    images = sorted((coco_mini / "images").glob("*.jpg"))[:12]
    report = measure_parity(
        exported.model,
        reference=exported.checkpoint,
        images=images,
        tolerances=Tolerances(matched_share=0.99),
    )
    assert report["failures"] == []
    assert report["reference_detections"] > 100
