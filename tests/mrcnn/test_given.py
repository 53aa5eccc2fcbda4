"""What the user says of a model beside its weights: the file of --config."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import keypointrcnn_resnet50_fpn, maskrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from mrcnn.checkpoint import load_checkpoint, save_checkpoint
from mrcnn.cli import main
from mrcnn.description import ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.imports import Translated, torchvision
from mrcnn.imports.given import Given, read_given
from mrcnn.models import build_model
from mrcnn.opening import open_model

SIZES, RATIOS = ((16, 24),) * 5, ((0.5, 1.0),) * 5


def given(tmp_path: Path, fields: Any) -> Given:
    (tmp_path / "c.json").write_text(json.dumps(fields))
    return read_given(tmp_path / "c.json")


def bare(**options: Any) -> dict[str, Tensor]:
    """torchvision's own model of two classes and the background, without values."""
    with torch.device("meta"):
        model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3, **options)
    return dict(model.state_dict())


def translated(weights: dict[str, Tensor], said: Given) -> Translated:
    return torchvision.translate(weights, {}, said)


def test_anchors_of_ones_own_are_asked_for_and_taken(tmp_path: Path) -> None:
    weights = bare(rpn_anchor_generator=AnchorGenerator(SIZES, RATIOS))
    with pytest.raises(MrcnnError, match=re.escape("the RPN has 4 anchors a place, not 3")) as error:
        translated(weights, Given())
    assert "'anchors' in --config FILE" in str(error.value)
    assert "\n" not in str(error.value)
    # What the line shows is JSON.
    shown = str(error.value).partition(", as ")[2].replace(", …", "")
    assert json.loads(shown).keys() == {"anchors"}
    said = given(tmp_path, {"anchors": {"sizes": SIZES, "aspect_ratios": RATIOS}})
    description = translated(weights, said).description
    assert description.anchors.sizes == SIZES
    assert not description.anchors.exact
    with torch.device("meta"):
        model = build_model(description)
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in weights.items()}


def test_fields_replace_those_of_the_family_one_by_one(tmp_path: Path) -> None:
    fields = {
        "class_names": ["cat", "dog"],
        "resize": {"min_size": 600},
        "normalization": {"mean": [0, 0, 0], "std": [1, 1, 1]},
        "detections": {"score_threshold": 0.5},
        "norm_eps": 1e-3,
    }
    found = translated(bare(), given(tmp_path, fields))
    description = found.description
    assert description.class_names == ("__background__", "cat", "dog")
    assert (description.resize.min_size, description.resize.max_size) == (600, 1333)
    assert description.normalization.std == (1, 1, 1)
    assert description.detections.score_threshold == 0.5
    assert description.detections.nms_threshold == 0.5
    assert description.norm_eps == 1e-3
    assert not any(line.startswith("class name") for line in found.assumptions), "they were given"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"anchor": {}}, "--config: unknown key 'anchor' (known: architecture, class_names,"),
        ({"anchors": {"size": [[8]]}}, "--config.anchors: unknown key 'size'"),
        ({"anchors": {"sizes": [[8]] * 3}}, "sizes and aspect_ratios need one entry per feature level"),
        ({"anchors": 3}, "--config.anchors: expected an object (got 3)"),
        ({"resize": {"min_size": "big"}}, "min_size: expected int (got 'big')"),
        ({"class_names": ["cat"]}, "--config: 1 classes, but the weights are of 2"),
        ({"keypoints": {"names": ["nose"]}}, "keypoints must be absent"),
        (
            {"architecture": "fasterrcnn_vgg16"},
            "architecture is told by the weights, 'mask",
        ),
        ({"detections": {"score_threshold": 2}}, "score_threshold must be in 0…1 (got 2"),
    ],
)
def test_fields_that_do_not_fit_are_named(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(MrcnnError) as error:
        translated(bare(), given(tmp_path, fields))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_points_of_ones_own_are_named(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_keypoints=2)
    weights = dict(model.state_dict())
    said = given(tmp_path, {"keypoints": {"names": ["head", "tail"]}})
    found = translated(weights, said)
    assert found.description.keypoints is not None
    assert found.description.keypoints.names == ("head", "tail")
    with pytest.raises(MrcnnError, match="3 key points, but the weights are of 2"):
        translated(weights, given(tmp_path, {"keypoints": {"names": ["a", "b", "c"]}}))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", "{", "is not JSON"),
        ("c.json", "[1]", "must hold a JSON object"),
        ("c.json", "[" * 100_000, "is not JSON"),
        ("c.json", b"\xff\xfe", "cannot be read"),
    ],
)
def test_files_that_are_no_use_are_one_line(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MrcnnError, match=message) as error:
        read_given(path)
    assert str(error.value).startswith(f"--config {path}")
    with pytest.raises(MrcnnError, match="cannot be read"):
        read_given(tmp_path / "missing.json")
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(MrcnnError, match=r"pipe\.yaml: is not a file"):
        read_given(tmp_path / "pipe.yaml")


@pytest.mark.parametrize(
    ("name", "content", "codebase"),
    [("c.py", "model = dict()", "mmdetection"), ("c.yaml", "MODEL: {}", "detectron2")],
)
def test_a_config_of_a_codebase_is_for_its_weights(
    name: str, content: str, codebase: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(MrcnnError, match=f"config of {codebase}, but the weights are torchvision's"):
        translated(bare(), read_given(tmp_path / name))
    save_checkpoint(tmp_path / "c.pth", model=build_model(COMPACT), description=COMPACT, training={})
    with pytest.raises(MrcnnError, match=f"config of {codebase}, but the weights are mrcnn's"):
        load_checkpoint(tmp_path / "c.pth", config=tmp_path / name)


@pytest.mark.parametrize("rows", [4, 8])
def test_class_agnostic_boxes_and_masks_are_those_of_every_class(rows: int) -> None:
    """Four rows for all, or as in maskrcnn-benchmark four of the background before them."""
    weights = bare()
    box, mask = "roi_heads.box_predictor.bbox_pred", "roi_heads.mask_predictor.mask_fcn_logits"
    weights |= {f"{box}.weight": torch.randn(rows, 1024), f"{box}.bias": torch.randn(rows)}
    weights |= {f"{mask}.weight": torch.randn(1, 256, 1, 1), f"{mask}.bias": torch.randn(1)}
    found = translated(weights, Given())
    for name, per_class in ((box, 4), (mask, 1)):
        for kind in ("weight", "bias"):
            ours = found.state_dict[f"{name}.{kind}"].unflatten(0, (3, per_class))
            for label in range(3):
                assert torch.equal(ours[label], weights[f"{name}.{kind}"][-per_class:])
    assert [line.partition(":")[0] for line in found.assumptions[-2:]] == [
        "class-agnostic box regression",
        "class-agnostic masks",
    ]


COMPACT = ModelDescription(
    architecture="maskrcnn_mobilenet_v2_fpn", class_names=("__background__", "coin"), width=0.25
)


def test_a_checkpoint_is_opened_with_it(tmp_path: Path) -> None:
    """An own checkpoint says everything; --config says otherwise."""
    save_checkpoint(tmp_path / "c.pth", model=build_model(COMPACT), description=COMPACT, training={})
    (tmp_path / "c.json").write_text('{"class_names": ["disc"], "detections": {"score_threshold": 0.7}}')
    with open_model(tmp_path / "c.pth", config=tmp_path / "c.json") as model:
        assert model.description.class_names == ("__background__", "disc")
        assert model.description.detections.score_threshold == 0.7
        assert model.description.width == 0.25


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["export", "w.pth", "--config", "none.json"], "--config none.json: cannot be read"),
        (["evaluate", "w.pth", "--data", "shapes", "--config", "none.json"], "--config none.json: cannot"),
        (["export", "m.onnx", "--config", "none.json"], "--config is for checkpoints"),
        (["evaluate", "m.onnx", "--data", "shapes", "--config", "none.json"], "--config is for checkpoints"),
        (["compare", "m.onnx", "m.onnx", "--data", "shapes", "--config", "none.json"], "is for checkpoints"),
        (["compare", "w.pth", "w.pth", "--data", "shapes", "--config", "none.json"], "none.json: cannot be"),
        (["train", "--data", "shapes", "--output", "o", "--config", "none.json"], "the checkpoint of --init"),
        (
            ["train", "--data", "shapes", "--output", "o", "--init", "w.pth", "--config", "none.json"],
            "none.json: cannot be read",
        ),
    ],
)
def test_commands_tell_what_is_wrong_with_it(
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pth").touch()
    Path("m.onnx").touch()
    assert main(command) == 2
    assert message in capsys.readouterr().err
