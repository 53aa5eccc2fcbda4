import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mrcnn.benchmarks.comparison import short_names
from mrcnn.checkpoint import load_checkpoint, save_checkpoint
from mrcnn.cli import main
from mrcnn.description import DetectionRule
from mrcnn.export.to_onnx import InputRule, export_onnx
from mrcnn.runtime import Runtime
from tests.benchmarks.conftest import Exported
from tests.conftest import REPOSITORY
from tests.test_packaging import BLOCKER

QUICK = ("--repeats", "1", "--warmup", "0", "--threads", "1")

# Recall ends at 0.5, which is 51 of the 101 recalls 0, 0.01, …, 1 that pycocotools samples.
HALF = 100 * 51 / 101
ROUNDING = 1e-5


@pytest.fixture(scope="session")
def data(exported: Exported, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos, and for the objects in them what the exported model finds: its AP is 100."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(photos, folder / "images")
    document: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 70, "name": "square"}, {"id": 90, "name": "disc"}],
    }
    with Runtime(exported.model, threads=1) as runtime:
        for number, path in enumerate(sorted(photos.iterdir()), start=1):
            with Image.open(path) as image:
                record = {"id": number, "file_name": path.name, "width": image.width, "height": image.height}
            document["images"].append(record)
            for found in runtime.infer(path).to_coco(number, {1: 90, 2: 70}):
                document["annotations"].append(found | {"id": len(document["annotations"]) + 1})
    path = folder / "instances.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="session")
def half(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, which gives the better half of its 20 detections of an image."""
    path = tmp_path_factory.mktemp("half") / "model.onnx"
    checkpoint = load_checkpoint(exported.checkpoint)
    rule = DetectionRule(detections_per_image=10)
    checkpoint = replace(checkpoint, description=replace(checkpoint.description, detections=rule))
    export_onnx(checkpoint, path, inputs=InputRule(), on_step=lambda _: None)
    return path


def compared(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> Any:
    """What `mrcnn compare` writes as JSON."""
    assert main(["compare", *map(str, words), *QUICK, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_a_model_equals_itself(exported: Exported, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = compared(capsys, exported.model, exported.model, "--data", data)
    assert (report["schema_version"], report["kind"]) == (1, "compare")
    assert report.keys() >= {"machine", "versions", "command", "git_commit"}
    assert (report["images"], report["timed_images"], report["threads"]) == (3, 3, 1)
    first, second = report["models"]
    for entry in (first, second):
        assert entry["box"]["AP"] == pytest.approx(100, abs=ROUNDING)
        assert entry["mask"]["AP"] == pytest.approx(100, abs=ROUNDING)
        assert entry["box_difference"] == entry["mask_difference"] == 0
        assert entry["parity_ap_box"] == entry["parity_ap_mask"] == 100
        assert entry["detections"] == 60
        assert entry["size_mb"] == pytest.approx(exported.model.stat().st_size / 1e6, abs=1e-3)
        assert entry["precision"] == "fp32"
        assert entry["p50_ms"] > 0
        assert entry["notes"] == []
    assert first["speedup"] == 1


def test_what_is_said_of_checkpoints_is_not_said_of_exported_models(
    exported: Exported, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "said.json").write_text('{"detections": {"detections_per_image": 10}}')
    words = [exported.model, exported.checkpoint, exported.checkpoint, "--config", tmp_path / "said.json"]
    report = compared(capsys, *words, "--data", data)
    assert [entry["detections"] for entry in report["models"]] == [60, 30, 30]


def test_half_of_the_detections(
    exported: Exported, half: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = compared(capsys, exported.model, half, "--data", data)
    first, second = report["models"]
    assert second["detections"] == 30
    for kind in ("box", "mask"):
        assert second[kind]["AP"] == pytest.approx(HALF, abs=ROUNDING)
        assert second[f"{kind}_difference"] == pytest.approx(HALF - 100, abs=ROUNDING)
        assert second[f"parity_ap_{kind}"] == pytest.approx(HALF, abs=ROUNDING)
    assert first["notes"] == []
    assert second["notes"] == ["has another detections than the first model"]


def test_the_table(exported: Exported, half: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [exported.checkpoint, half, exported.model]
    assert main(["compare", *map(str, models), "--data", str(data), *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"3 images of {data}; 1 rounds, 1 threads each"
    names = ["compact.pth", str(Path(half.parent.name, "model.onnx"))]
    assert f"  note: {names[1]}: has another detections than the first model" in lines
    (title,) = [line for line in lines if "box AP" in line]
    table = lines[lines.index(title) + 1 : -1]
    assert [line.split()[0] for line in table] == [
        *names,
        str(Path(exported.model.parent.name, "model.onnx")),
    ]
    assert len({len(line) for line in (title, *table)}) == 1, "columns lie below each other"
    assert " 100.00  " in table[0]
    assert " 50.50 (-49.50) " in table[1]
    assert " 100.00 (+0.00) " in table[2]
    assert table[0].rstrip().endswith("1.00")


def test_without_data_there_is_no_average_precision(
    exported: Exported, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [exported.checkpoint, exported.model, "--images", photos / "a.png", photos]
    report = compared(capsys, *words, "--limit", 2)
    assert report["images"] == 2
    assert report["data"] is None
    for entry in report["models"]:
        assert entry["box"] is entry["mask"] is entry["box_difference"] is None
        assert entry["parity_ap_box"] == entry["parity_ap_mask"] == 100
    assert main(["compare", *map(str, words), *QUICK]) == 0
    table = capsys.readouterr().out
    assert "parity AP, boxes" in table
    assert "box AP" not in table


def test_other_weights_and_a_fixed_input_are_told(
    exported: Exported,
    other_checkpoint: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fixed = tmp_path / "fixed.onnx"
    inputs = InputRule(size=(128, 160), batch=2, dtype="uint8")
    export_onnx(load_checkpoint(exported.checkpoint), fixed, inputs=inputs, on_step=lambda _: None)
    report = compared(capsys, exported.model, other_checkpoint, fixed, "--images", photos)
    first, other, small = report["models"]
    assert first["notes"] == []
    assert other["notes"] == ["has other weights than the first model"]
    assert other["parity_ap_box"] < 50
    (note,) = small["notes"]
    assert note.startswith("its input is fixed at 128x160 pixels")
    assert 0 < small["parity_ap_box"] < 100


def test_labels_go_by_the_names_of_the_classes(
    exported: Exported, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same weights under exchanged names find nothing right; with exchanged classifiers, everything."""
    checkpoint = load_checkpoint(exported.checkpoint)
    description = replace(checkpoint.description, class_names=("__background__", "square", "disc"))
    model = checkpoint.build()
    save_checkpoint(tmp_path / "wrong.pth", model=model, description=description, training={})
    order = [0, 2, 1]
    predictor = model.roi_heads.box_predictor
    for layer in (predictor.cls_score, model.roi_heads.mask_predictor.mask_fcn_logits):
        layer.weight.data = layer.weight.data[order]
        layer.bias.data = layer.bias.data[order]
    deltas = predictor.bbox_pred
    deltas.weight.data = deltas.weight.data.reshape(3, 4, -1)[order].reshape(12, -1)
    deltas.bias.data = deltas.bias.data.reshape(3, 4)[order].reshape(12)
    save_checkpoint(tmp_path / "right.pth", model=model, description=description, training={})
    models = [exported.model, tmp_path / "wrong.pth", tmp_path / "right.pth"]
    _, wrong, right = compared(capsys, *models, "--data", data)["models"]
    assert wrong["parity_ap_box"] == wrong["parity_ap_mask"] == wrong["box"]["AP"] == 0
    assert right["parity_ap_box"] == right["parity_ap_mask"] == 100
    assert right["mask"]["AP"] == pytest.approx(100, abs=ROUNDING)
    assert "has another class_names than the first model" in wrong["notes"]


def test_unreadable_pictures_are_skipped_and_do_not_count(
    exported: Exported, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(data.parent / "images", folder)
    (folder / "b.png").write_bytes(b"")
    words = ["compare", exported.model, exported.model, "--data", data, "--images", folder, *QUICK]
    assert main([*map(str, words), "--json", str(tmp_path / "report.json")]) == 1
    assert f"skipped: {folder / 'b.png'}: the file is empty" in capsys.readouterr().err
    report = json.loads((tmp_path / "report.json").read_text())
    assert [entry["image"] for entry in report["skipped"]] == [str(folder / "b.png")]
    assert report["images"] == 2
    assert report["models"][1]["box"]["AP"] == pytest.approx(100, abs=ROUNDING), "of what could be read"


def test_synthetic_data_and_no_pytorch(exported: Exported, tmp_path: Path) -> None:
    code = BLOCKER.format(names=("torch", "torchvision")) + (
        "from mrcnn.cli import main\nsys.exit(main(['compare', *sys.argv[1:]]))"
    )
    report = tmp_path / "report.json"
    words = [exported.model, exported.model, "--data", "shapes", "--limit", "1", *QUICK, "--json", report]
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert "box AP" in done.stdout
    entry = json.loads(report.read_text())["models"][1]
    assert entry["parity_ap_mask"] == 100
    assert any(note.endswith("of the data: these count as missed") for note in entry["notes"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL", "--images", "PHOTOS"], "needs another model"),
        (["MODEL", "MODEL"], "name --data or --images"),
        (["MODEL", "MODEL", "--data", "DATA", "--images", "PHOTOS", "PHOTOS"], "takes one folder"),
        (["MODEL", "none.onnx", "--images", "PHOTOS"], "none.onnx"),
        (["MODEL", "none.pth", "--images", "PHOTOS"], "none.pth: no such file"),
        (["MODEL", "MODEL", "--images", "nowhere"], "nowhere: no such file or folder"),
        (["MODEL", "MODEL", "--data", "nowhere"], "neither a file nor one of"),
        (["MODEL", "MODEL", "--data", "DATA", "--images", "nowhere"], "no such folder of images"),
        (["MODEL", "MODEL", "--data", "coins"], "have no name in common"),
        (["MODEL", "MODEL", "--images", "PHOTOS", "--json", "PHOTOS"], "it is a folder"),
    ],
)
def test_wrong_arguments_are_one_line(
    exported: Exported,
    photos: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    words: Sequence[str],
    message: str,
) -> None:
    known = {"MODEL": exported.model, "PHOTOS": photos, "DATA": data}
    assert main(["compare", *(str(known.get(word, word)) for word in words)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.strip().splitlines()
    assert line.startswith("mrcnn compare: error: ")
    assert message in line


@pytest.mark.parametrize(
    "option", [["--repeats", "0"], ["--warmup", "-1"], ["--limit", "0"], ["--threads", "x"]]
)
def test_counts_that_are_none_are_refused(exported: Exported, photos: Path, option: list[str]) -> None:
    words = ["compare", exported.model, exported.model, "--images", photos, *option]
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["out/a.onnx", "b.pth"], ["a.onnx", "b.pth"]),
        (["x/m/model.onnx", "y/m/model.onnx"], ["x/m/model.onnx", "y/m/model.onnx"]),
        (["r/x/model.onnx", "r/y/model.onnx", "r/y/a.pth"], ["x/model.onnx", "y/model.onnx", "a.pth"]),
        (["model.onnx", "x/model.onnx"], ["model.onnx", "x/model.onnx"]),
        (["x/model.onnx", "x/model.onnx"], ["model.onnx", "model.onnx"]),
    ],
)
def test_names_are_as_short_as_they_can_be(paths: list[str], names: list[str]) -> None:
    assert short_names([Path(path) for path in paths]) == [str(Path(name)) for name in names]
