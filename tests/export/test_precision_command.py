"""`mrcnn export --precision` as a user calls it, with good input and bad."""

import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from mrcnn.cli import main
from mrcnn.runtime import Runtime
from tests.export.photographs import make_photographs


def annotate(folder: Path, *, categories: tuple[str, ...] = ("disc", "square")) -> Path:
    """A COCO document for the photographs in the folder: in each the same box."""
    images = sorted(folder.glob("*.png"))
    document = {
        "categories": [{"id": i, "name": name} for i, name in enumerate(categories, start=1)],
        "images": [
            {"id": i, "file_name": path.name, "height": 120, "width": 160} for i, path in enumerate(images)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [10, 10, 90, 80], "iscrowd": 0}
            for i in range(len(images))
        ],
    }
    path = folder.parent / "instances.json"
    path.write_text(json.dumps(document))
    return path


def export(model: Path, folder: Path, *options: str) -> int:
    return main(["export", str(model), "--output", str(folder / "out"), *options])


@pytest.mark.parametrize(
    ("options", "name", "precision", "target"),
    [
        (["--precision", "fp16", "--onnx-only"], "model.fp16", "fp16", None),
        (["--precision", "int8", "--onnx-only"], "model.int8", "int8", "tensorrt"),
        (["--precision", "int8", "--target", "cpu"], "model.int8-cpu", "int8", "cpu"),
    ],
)
def test_a_graph_is_converted_and_its_cost_reported(
    options: list[str], name: str, precision: str, target: str | None, compact_onnx: Path, tmp_path: Path
) -> None:
    photos = make_photographs(tmp_path, 4)
    report = tmp_path / "report.json"
    assert export(compact_onnx, tmp_path, *options, "--calib", str(photos), "--json", str(report)) == 0
    converted = tmp_path / "out" / f"{name}.onnx"
    onnx.checker.check_model(converted, full_check=True)
    found = json.loads(report.read_text())["converted"]
    assert found == json.loads((tmp_path / "out" / f"{name}.report.json").read_text())
    assert (found["precision"], found["target"], found["images"]) == (precision, target, 4)
    assert found["float32"]["parity_box"] == 100
    assert found["accuracy"]["parity_box"] > 40  # random weights: thousands of ties
    assert "4 pictures" in found["notes"][0]
    with Runtime(converted) as runtime, Runtime(compact_onnx) as before:
        assert (runtime.deployment.precision, runtime.deployment.quantized_for) == (precision, target)
        assert runtime.deployment.weights_sha256 == before.deployment.weights_sha256
        image = photos / "000.png"
        assert abs(len(runtime.infer(image)) - len(before.infer(image))) <= 6


def test_without_tensorrt_the_converted_file_is_there_and_one_command_builds_its_engine(
    compact_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    photos = str(make_photographs(tmp_path, 2))
    assert export(compact_onnx, tmp_path, "--precision", "fp16", "--calib", photos, "--tf32") == 3
    converted = tmp_path / "out" / "model.fp16.onnx"
    assert converted.is_file()
    last = capsys.readouterr().err.splitlines()[-1]
    # The precision is in the file: the second command needs neither pictures nor the options of the first.
    assert f"{converted} is ready: on the GPU machine run: mrcnn export {converted} --tf32" in last


def test_fp16_without_pictures_says_what_its_ranges_are_of(
    compact_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(compact_onnx, tmp_path, "--precision", "fp16", "--onnx-only") == 0
    assert "note: ranges come from drawn shapes: --calib DIR" in capsys.readouterr().out


def test_a_search_reaches_its_limit_and_goes_on_where_it_was(
    compact_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is out of reach of INT8, so that everything is returned, which is float32 again."""
    options = ["--precision", "int8", "--target", "cpu", "--max-ap-drop", "0"]
    options += ["--calib", str(make_photographs(tmp_path, 2)), "--json", str(tmp_path / "report.json")]
    assert export(compact_onnx, tmp_path, *options) == 0
    found = json.loads((tmp_path / "report.json").read_text())["converted"]
    assert found["search"]["reached"]
    assert found["search"]["steps"][0]["ap_drop"] > 0
    assert found["accuracy"]["parity_box"] == 100 - found["ap_drop"] == 100
    assert Path(found["plot"]).read_bytes().startswith(b"\x89PNG")
    assert "parity AP (there are no annotations) may be lost: reached" in capsys.readouterr().out

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("mrcnn.export.precision.accuracy.Judge.accuracy", never)
    assert export(compact_onnx, tmp_path, *options) == 0
    assert "the search goes on after" in capsys.readouterr().err


def test_what_the_search_has_measured_is_what_is_written(compact_onnx: Path, tmp_path: Path) -> None:
    """For TensorRT layers that are not INT8 become FP16, which costs accuracy, too."""
    options = ["--precision", "int8", "--onnx-only", "--calib", str(make_photographs(tmp_path, 2))]
    options += ["--json", str(tmp_path / "report.json"), "--max-ap-drop", "99"]
    assert export(compact_onnx, tmp_path, *options) == 0
    found = json.loads((tmp_path / "report.json").read_text())["converted"]
    assert found["milliseconds"] is None
    (step,) = found["search"]["steps"]
    (tmp_path / "report.json").unlink()
    assert export(compact_onnx, tmp_path, *options[:-2]) == 0  # without a search
    alone = json.loads((tmp_path / "report.json").read_text())["converted"]
    assert alone["accuracy"] == found["accuracy"]
    assert step["ap_drop"] == found["ap_drop"] == alone["ap_drop"]


def test_another_models_annotations_are_refused_before_the_work(
    compact_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = annotate(make_photographs(tmp_path, 2), categories=("cat", "dog", "bird"))
    options = ["--precision", "int8", "--target", "cpu", "--calib", str(document)]
    assert export(compact_onnx, tmp_path, *options, "--calib-images", str(tmp_path / "photos")) == 2
    assert "have no name in common" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.calibration"))


def test_heads_that_see_nothing_stay_as_they_are(
    compact_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(compact_onnx)
    for tensor in model.graph.initializer:
        if tensor.name == "roi_heads.box_predictor.cls_score.bias":
            bias = np.array([99, 0, 0], np.float32)  # everything is background
            tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    photos = str(make_photographs(tmp_path, 2))
    options = ["--precision", "int8", "--onnx-only", "--calib", photos]
    assert export(tmp_path / "model.onnx", tmp_path, *options) == 0
    shown = capsys.readouterr().out
    assert "no region came there on these pictures, so it stays float: roi_heads.mask_head.0" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--precision", "int8"],
            "--precision int8 needs pictures to calibrate on: --calib DIR or COCO.json",
        ),
        (["--calib", "photos"], "--calib is for --precision fp16 or int8: add it"),
        (["--target", "cpu"], "--target is for --precision int8"),
        (["--precision", "fp16", "--max-ap-drop", "1"], "--max-ap-drop is for --precision int8: not fp16"),
        (
            ["--precision", "int8", "--calib", "instances.json", "--json", "instances.json"],
            "is there and no report",
        ),
        (["--precision", "int8", "--calib", "photos", "--json", "photos/000.png"], "is there and no report"),
        (
            ["--precision", "int8", "--recalibrate", "--calib", "photos", "--calib-cache", "photos/000.png"],
            "is there and no calibration cache, so it is not replaced",
        ),
        (["--precision", "int8", "--calib", "n" * 300], "no such file or folder"),
        (
            ["--precision", "int8", "--calib", "photos", "--max-ap-drop", "nan"],
            "--max-ap-drop must be in 0…100",
        ),
        (
            ["--precision", "int8", "--calib", "photos", "--max-ap-drop", "-1"],
            "--max-ap-drop must be in 0…100",
        ),
        (
            ["--precision", "int8", "--calib", "photos", "--calib-limit", "0"],
            "--calib-limit must be in 1…10000",
        ),
        (["--precision", "int8", "--calib", "none"], "none: no such file or folder"),
        (["--precision", "int8", "--calib", "empty"], "empty: no pictures in this folder"),
        (["--precision", "int8", "--calib", "text"], "--calib text: the pictures cannot be read"),
        (["--precision", "int8", "--calib", "black"], "--calib black: the pictures are all of one colour"),
        (["--precision", "int8", "--calib", "bad.json"], "bad.json: is not JSON"),
        (["--precision", "int8", "--calib", "pipe.json"], "pipe.json: not a regular file"),
        (["--precision", "fp16", "--onnx-only", "--shape", "96x96"], "--shape and --batch are for engines"),
        (["--precision", "int8", "--calib", "instances.json"], "lacks 2 of the 2 images of instances.json"),
        (["--precision", "int8", "--calib", "photos", "--calib-images", "x"], "is for a COCO document"),
        (["--precision", "int8", "--target", "cpu", "--calib", "photos", "--tf32"], "--tf32 is for engines"),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str],
    message: str,
    compact_onnx: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_photographs(Path(), 2)
    annotate(Path("photos"))
    for name in ("empty", "text", "black"):
        Path(name).mkdir()
    Path("text/a.png").write_text("no picture")
    Image.new("RGB", (64, 48)).save("black/a.png")
    Path("bad.json").write_text("{")
    os.mkfifo("pipe.json")
    Path("photos").joinpath("notes.txt").write_text("not a picture, and none of our business")
    assert export(compact_onnx, Path(), *options) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert not list(tmp_path.rglob("*.onnx"))


def test_an_empty_name_is_not_the_current_folder(
    compact_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--calib", "--calib-images", "--calib-cache", "--output"):
        with pytest.raises(SystemExit) as stopped:
            export(compact_onnx, tmp_path, "--precision", "int8", option, "")
        assert stopped.value.code == 2
        assert f"argument {option}: no name was given" in capsys.readouterr().err


def test_pictures_among_others_and_pictures_smaller_than_a_stride_are_used(
    compact_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = make_photographs(tmp_path, 1, size=(7, 5))
    (photos / "broken.png").write_text("no picture")
    Image.new("RGB", (64, 48), (9, 9, 9)).save(photos / "grey.png")
    assert (
        export(compact_onnx, tmp_path, "--precision", "int8", "--target", "cpu", "--calib", str(photos)) == 0
    )
    shown = capsys.readouterr()
    assert "skipped: " in shown.err
    assert "broken.png: not a picture" in shown.err
    assert "note: left out, since of one colour: 1 picture" in shown.out
    assert "note: ranges come from 1 picture: others may exceed them; 64 are a good number" in shown.out


def test_weights_that_are_not_finite_are_named(
    compact_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(compact_onnx)
    tensor = next(t for t in model.graph.initializer if t.name == "roi_heads.box_head.fc7.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[3, 4] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    photos = str(make_photographs(tmp_path, 2))
    for options in (["--precision", "fp16", "--onnx-only"], ["--precision", "int8", "--target", "cpu"]):
        assert export(tmp_path / "model.onnx", tmp_path, *options, "--calib", photos) == 2
        assert (
            "error: the weights 'roi_heads.box_head.fc7.weight' hold values that are not finite"
            in capsys.readouterr().err
        )


def test_a_graph_without_constant_weights_is_refused(
    compact_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(compact_onnx)
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "ConvTranspose") and node.input[1] in constants:
            copied = f"{node.output[0]}/weight"
            nodes.append(onnx.helper.make_node("Identity", [node.input[1]], [copied], name=copied))
            node.input[1] = copied
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "model.onnx")
    options = ["--precision", "int8", "--target", "cpu", "--calib", str(make_photographs(tmp_path, 1))]
    assert export(tmp_path / "model.onnx", tmp_path, *options) == 2
    assert "no layer has constant weights that could be converted" in capsys.readouterr().err


def test_a_cache_of_other_pictures_is_refused_and_replaced_on_demand(
    compact_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--precision", "int8", "--target", "cpu", "--calib-cache", str(tmp_path / "cache")]
    first, second = make_photographs(tmp_path / "1", 2), make_photographs(tmp_path / "2", 3)
    assert export(compact_onnx, tmp_path, *options, "--calib", str(first)) == 0
    assert export(compact_onnx, tmp_path, *options, "--calib", str(second)) == 2
    assert (
        "cache: was made from other pictures, or another --calib-limit: --recalibrate replaces it"
        in capsys.readouterr().err
    )
    assert export(compact_onnx, tmp_path, *options, "--calib", str(second), "--recalibrate") == 0
    assert export(compact_onnx, tmp_path, *options, "--calib", str(second)) == 0


def test_the_cache_that_nobody_has_named_is_replaced(
    compact_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """FP16 looks at fewer pictures than INT8: the one after the other in one folder must work."""
    photos = ["--calib", str(make_photographs(tmp_path, 5))]
    assert (
        export(compact_onnx, tmp_path, "--precision", "fp16", "--onnx-only", *photos, "--calib-limit", "2")
        == 0
    )
    assert "calibrated anew" not in capsys.readouterr().out
    assert export(compact_onnx, tmp_path, "--precision", "int8", "--target", "cpu", *photos) == 0
    assert "note: calibrated anew: " in (shown := capsys.readouterr().out)
    assert "was made from other pictures, or another --calib-limit" in shown
    assert export(compact_onnx, tmp_path, "--precision", "int8", "--target", "cpu", *photos) == 0
    assert "calibrated anew" not in capsys.readouterr().out


def test_what_is_converted_already_is_refused(
    compact_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = ["--calib", str(make_photographs(tmp_path, 2))]
    assert export(compact_onnx, tmp_path, "--precision", "int8", "--target", "cpu", *photos) == 0
    converted = tmp_path / "out" / "model.int8-cpu.onnx"
    assert export(converted, tmp_path, "--precision", "fp16", "--onnx-only", *photos) == 2
    assert "is in int8 already: give the float32 file" in capsys.readouterr().err
    assert export(converted, tmp_path) == 2
    assert (
        "laid out for ONNX Runtime's INT8 kernels on a CPU, which TensorRT has not" in capsys.readouterr().err
    )


def test_a_graph_whose_nodes_have_no_names_is_converted(compact_onnx: Path, tmp_path: Path) -> None:
    """Tools that simplify graphs leave them out, and the ONNX standard does not ask for them."""
    model = onnx.load(compact_onnx)
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, tmp_path / "model.onnx")
    photos = ["--calib", str(make_photographs(tmp_path, 2))]
    assert export(tmp_path / "model.onnx", tmp_path, "--precision", "fp16", "--onnx-only", *photos) == 0
    found = json.loads((tmp_path / "out" / "model.fp16.report.json").read_text())
    assert found["kept_fp32"] == {}
    assert export(tmp_path / "model.onnx", tmp_path, "--precision", "int8", "--target", "cpu", *photos) == 0
    found = json.loads((tmp_path / "out" / "model.int8-cpu.report.json").read_text())
    assert len(found["layers_int8"]) > 20


def test_a_report_that_cannot_be_written_leaves_no_model(
    compact_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", None)

    photos = ["--calib", str(make_photographs(tmp_path, 2))]
    monkeypatch.setattr("mrcnn.export.precision.report.complete", full)
    assert export(compact_onnx, tmp_path, "--precision", "fp16", "--onnx-only", *photos) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.onnx"))
