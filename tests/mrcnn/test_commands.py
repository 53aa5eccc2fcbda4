"""`mrcnn train` and `mrcnn evaluate` from the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mrcnn.checkpoint import load_checkpoint
from mrcnn.cli import main
from mrcnn.data.synthetic import SyntheticDataset
from mrcnn.description import ModelDescription, ResizeRule
from mrcnn.families import COCO_PERSON
from mrcnn.models import build_model
from tests.conftest import REPOSITORY
from tests.test_packaging import BLOCKER

TINY = [
    *("--data", "shapes", "--synthetic-images", "8", "--synthetic-size", "64x64", "--min-size", "64"),
    *("--width", "0.25", "--batch-size", "2", "--rois-per-image", "16", "--workers", "0", "--device", "cpu"),
]
AP_KEYS = {"AP", "AP50", "AP75", "APs", "APm", "APl"}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """For tensors this small threads do nothing but wait for each other, on a busy machine for long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def coco_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of shapes as a COCO dataset."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("coco")
    data = SyntheticDataset("shapes", length=3, size=(64, 64))
    document = data.ground_truth(range(3))
    (folder / "images").mkdir()
    for index, record in enumerate(document["images"]):
        record["file_name"] = f"{index}.png"
        Image.fromarray(data.image(index)).save(folder / "images" / record["file_name"])
    (folder / "instances.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the shapes that finds next to nothing."""
    from mrcnn.checkpoint import save_checkpoint

    description = ModelDescription(
        architecture="maskrcnn_mobilenet_v2_fpn",
        class_names=SyntheticDataset("shapes", length=1).class_names,
        width=0.25,
        resize=ResizeRule(min_size=64, max_size=64),
    )
    path = tmp_path_factory.mktemp("model") / "shapes.pth"
    torch.manual_seed(0)
    save_checkpoint(path, model=build_model(description), description=description, training={})
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as an ONNX file."""
    from mrcnn.export.to_onnx import InputRule, export_onnx

    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(load_checkpoint(checkpoint), path, inputs=InputRule(), on_step=lambda _: None)
    return path


def refused(capsys: pytest.CaptureFixture[str], command: str, *arguments: object) -> str:
    """Runs a command that must end with status 2 and one line, and returns the line."""
    assert main([command, *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_train_writes_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    assert main(["train", *TINY, "--epochs", "0.5", "--seed", "5", "--half", "--output", str(output)]) == 0
    assert "2 iterations" in capsys.readouterr().out
    checkpoint = load_checkpoint(output / "model.pth")
    assert checkpoint.description.class_names == SyntheticDataset("shapes", length=1).class_names
    assert checkpoint.description.width == 0.25
    assert checkpoint.description.resize == ResizeRule(min_size=64, max_size=1333)
    options = checkpoint.training["options"]
    assert (options["iterations"], options["steps"], options["seed"]) == (2, (1,), 5)
    assert {"torch", "torchvision", "mrcnn"} <= set(checkpoint.training["versions"])
    assert (output / "model.pth").stat().st_size < 0.6 * (output / "resume.pth").stat().st_size


def test_train_on_key_points_and_evaluate_them(
    tmp_path: Path, coco_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every shape is a person, whose points lie on the diagonal of its box."""
    document = json.loads((coco_folder / "instances.json").read_text())
    document["categories"] = [{"id": 1, "name": "person"}]
    for annotation in document["annotations"]:
        x, y, w, h = annotation["bbox"]
        points = ((x + w * i / 17, y + h * i / 17, 2) for i in range(17))
        annotation.update(category_id=1, num_keypoints=17, keypoints=[n for point in points for n in point])
    path = tmp_path / "person_keypoints.json"
    path.write_text(json.dumps(document))
    output = tmp_path / "run"
    command = ["train", "--data", path, "--images", coco_folder / "images", "--half", "--output", output]
    command += ["--architecture", "keypointrcnn_resnet50_fpn", "--iterations", "1"]
    command += ["--val", path, "--val-images", coco_folder / "images", *TINY[6:8], *TINY[10:]]
    assert main([*map(str, command)]) == 0
    steps, evaluated = map(json.loads, (output / "log.jsonl").read_text().splitlines())
    assert steps["losses"]["keypoint"] > 0
    assert evaluated["keypoint"].keys() == AP_KEYS
    assert evaluated["mask"] is None
    trained = load_checkpoint(output / "model.pth").description
    assert trained.keypoints == COCO_PERSON
    assert trained.class_names == ("__background__", "person")
    capsys.readouterr()
    images = ["--images", str(coco_folder / "images"), "--limit", "1", "--json"]
    assert main(["evaluate", str(output / "model.pth"), "--data", str(path), *images]) == 0
    assert json.loads(capsys.readouterr().out)["keypoint"].keys() == AP_KEYS
    for file in output.glob("*.pth"):  # a gigabyte that pytest would keep
        file.unlink()


def test_train_on_a_coco_dataset_from_start_weights(
    tmp_path: Path, coco_folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((coco_folder / "instances.json").read_text())
    for category in document["categories"]:
        category["id"] *= 10
    document["categories"].append({"id": 70, "name": "star"})
    for annotation in document["annotations"]:
        annotation["category_id"] *= 10
    path = tmp_path / "more.json"
    path.write_text(json.dumps(document))
    arguments = ["--data", str(path), "--images", str(coco_folder / "images"), "--init", str(checkpoint)]
    shared = [*TINY[2:], "--iterations", "1", "--val", str(path), "--val-images", str(coco_folder / "images")]
    config = tmp_path / "said.json"
    config.write_text('{"detections": {"score_threshold": 0.3}}')
    shared += ["--config", str(config)]
    assert main(["train", *arguments, *shared, "--output", str(tmp_path / "run")]) == 0
    fresh = [line for line in capsys.readouterr().err.splitlines() if line.startswith("random start weights")]
    assert len(fresh) == 1
    assert "roi_heads.box_predictor.cls_score" in fresh[0]
    trained = load_checkpoint(tmp_path / "run" / "model.pth")
    assert trained.description.class_names[-1] == "star"
    assert trained.description.resize.max_size == 64, "the rule of the start weights, where none is given"
    assert trained.description.detections.score_threshold == 0.3
    assert trained.training["config"] == str(config)


def test_train_with_two_processes(tmp_path: Path, repository: Path) -> None:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "mrcnn.cli", "train", *TINY, "--iterations", "3", "--output", str(tmp_path / "run")),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 iterations") == 1, "only one process reports"
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in log if "losses" in record] == [1, 2, 3]
    assert [record["iteration"] for record in log if "box" in record] == [3]
    load_checkpoint(tmp_path / "run" / "model.pth").build()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nonsense"], "neither a file nor one of coins, shapes"),
        (["--data", "shapes", "--images", "photos"], "no meaning for the synthetic data"),
        (["--data", "shapes", "--val", "coins"], "different categories"),
        (["--data", "shapes", "--architecture", "yolo"], "unknown architecture 'yolo'"),
        (["--data", "shapes", "--init", "none.pth"], "none.pth: no such file"),
        (["--data", "shapes", "--iterations", "-1"], "iterations must be positive"),
        (["--data", "shapes", "--batch-size", "0"], "--batch-size must be positive"),
        (["--data", "shapes", "--epochs", "0"], "--epochs must be positive"),
        (["--data", "shapes", "--min-size", "0"], "0 < min_size <= max_size must hold"),
        (["--data", "shapes", "--width", "0"], "width must be"),
        (["--data", "shapes", "--lr", "-1"], "learning_rate must be positive"),
        (["--data", "shapes", "--lr", "nan"], "--lr must be at most 1000 (got nan)"),
        (["--data", "shapes", "--lr", "inf"], "--lr must be at most 1000 (got inf)"),
        (["--data", "shapes", "--epochs", "inf"], "--epochs must be at most 1e+06"),
        (["--data", "shapes", "--epochs", "nan"], "--epochs must be at most 1e+06"),
        (["--data", "shapes", "--iterations", "9" * 30], "--iterations must be at most 1e+09"),
        (["--data", "shapes", "--seed", "9" * 30], "--seed must be at most 9.22337e+18"),
        (["--data", "shapes", "--seed", "-1"], "seed must not be negative"),
        (["--data", "shapes", "--width", "nan"], "width must be"),
        (["--data", "shapes", "--width", "1e9"], "width must be"),
        (["--data", "shapes", "--synthetic-size", "64x99999"], "must be at most 4096 pixels (got 64x99999)"),
        (["--data", "shapes", "--synthetic-images", "0"], "--synthetic-images must be positive"),
        (["--data", "shapes", "--resume"], "nothing to resume"),
        (["--data", "shapes", "--synthetic-size", "8x8"], "at least 32 pixels"),
    ],
)
def test_train_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    output = tmp_path / "run"
    assert message in refused(capsys, "train", *arguments, "--device", "cpu", "--output", output)
    assert not output.exists()


def test_train_does_not_overwrite_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "resume.pth").touch()
    assert "holds a run already" in refused(capsys, "train", *TINY, "--output", tmp_path)
    assert "is a file" in refused(capsys, "train", *TINY, "--output", tmp_path / "resume.pth")


@pytest.mark.parametrize(("option", "value"), [("--synthetic-size", "64"), ("--steps", "a,b")])
def test_train_refuses_malformed_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", *TINY, "--output", str(tmp_path), option, value])
    assert caught.value.code == 2
    assert repr(value) in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("device", "status", "message"),
    [
        ("cuda", 3, "--device cuda: PyTorch finds no usable GPU here"),
        ("cuda:1", 3, "--device cuda:1: PyTorch finds no usable GPU here"),
        ("cpu:5", 3, "--device cpu:5: PyTorch finds only 1 of these here"),
        ("mps", 3, "--device mps: PyTorch finds no usable GPU here"),
        ("meta", 2, "--device meta: not a device to compute on"),
        ("foo", 2, "--device foo: not a device to compute on"),
    ],
)
def test_devices_that_are_not_there(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    device: str,
    status: int,
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    first = [str(checkpoint)] if command == "evaluate" else ["--output", str(tmp_path / "run")]
    assert main([command, *first, "--data", "shapes", "--device", device]) == status
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_evaluate_a_checkpoint(
    coco_folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "result.json"
    data = coco_folder / "instances.json"
    assert main(["evaluate", str(checkpoint), "--data", str(data), "--json", str(result)]) == 0
    table = capsys.readouterr().out
    assert "AP50" in table
    assert "3 images" in table
    document = json.loads(result.read_text())
    assert document.keys() >= {"model", "data", "images", "seconds_per_image", "machine", "versions"}
    assert (document["schema_version"], document["kind"]) == (1, "accuracy")
    assert document["precision"] == "fp32"
    assert set(document["box"]) == set(document["mask"]) == AP_KEYS
    assert document["images"] == 3
    assert 0 <= document["box"]["AP"] < 20, "random weights find nothing"


def test_evaluate_says_the_same_of_every_kind_of_model(
    coco_folder: Path, checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    data = coco_folder / "instances.json"
    documents = []
    for model in (checkpoint, exported):
        result = tmp_path / f"{model.stem}.json"
        assert main(["evaluate", str(model), "--data", str(data), "--json", str(result)]) == 0
        documents.append(json.loads(result.read_text()))
    ours, theirs = documents
    assert ours.keys() == theirs.keys()
    for part in ("box", "mask", "machine"):
        assert ours[part].keys() == theirs[part].keys()
    assert ours["detections"] == theirs["detections"] > 0


def test_evaluate_an_exported_model_without_pytorch(coco_folder: Path, exported: Path) -> None:
    code = BLOCKER.format(names=("torch", "torchvision")) + (
        "from mrcnn.cli import main\nsys.exit(main(['evaluate', *sys.argv[1:]]))"
    )
    words = [str(exported), "--data", str(coco_folder / "instances.json"), "--json", "-"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["box"].keys() == AP_KEYS


def test_evaluate_counts_what_was_found_and_names_the_precision(
    coco_folder: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same graph with another precision in its metadata: what counts is what the file says."""
    import onnx

    from mrcnn.description import METADATA_KEY
    from mrcnn.runtime import Runtime

    graph = onnx.load(exported)
    (entry,) = [prop for prop in graph.metadata_props if prop.key == METADATA_KEY]
    entry.value = json.dumps(json.loads(entry.value) | {"precision": "fp16"})
    onnx.save(graph, tmp_path / "half.onnx")
    data = coco_folder / "instances.json"
    assert main(["evaluate", str(tmp_path / "half.onnx"), "--data", str(data), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["precision"] == "fp16"
    with Runtime(exported) as runtime:
        found = [len(runtime.infer(path)) for path in (coco_folder / "images").iterdir()]
    assert document["detections"] == sum(found)


def test_evaluate_prints_json_alone(
    coco_folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(coco_folder / "instances.json"), "--limit", "2", "--json"]
    assert main(["evaluate", str(checkpoint), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2


def test_evaluate_boxes_where_the_data_have_no_masks(
    coco_folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((coco_folder / "instances.json").read_text())
    for annotation in document["annotations"]:
        del annotation["segmentation"]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(document))
    images = str(coco_folder / "images")
    assert main(["evaluate", str(checkpoint), "--data", str(path), "--images", images, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mask"] is None


def test_evaluate_refuses(
    coco_folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = coco_folder / "instances.json"
    assert "no name in common" in refused(capsys, "evaluate", checkpoint, "--data", "coins")
    assert "--limit must be positive" in refused(capsys, "evaluate", checkpoint, "--data", data, "--limit", 0)
    assert "no such file" in refused(capsys, "evaluate", tmp_path / "no.pth", "--data", data)
    assert "no such file" in refused(capsys, "evaluate", tmp_path / "no.onnx", "--data", data).lower()
    nowhere = ["--images", tmp_path / "x"]
    assert "no such folder" in refused(capsys, "evaluate", checkpoint, "--data", data, *nowhere)
    (tmp_path / "text.pth").write_text("hello")
    assert "not a PyTorch checkpoint" in refused(capsys, "evaluate", tmp_path / "text.pth", "--data", data)
