"""Checkpoints: our format, bare torchvision state dicts, and files that are neither."""

import argparse
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import detection

from mrcnn.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mrcnn.description import ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.models import architectures, build_model
from mrcnn.models.recognise import recognise

StateDict = dict[str, Tensor]

COMPACT = ModelDescription(
    architecture="maskrcnn_mobilenet_v2_fpn", class_names=("__background__", "coin"), width=0.25
)


@pytest.fixture(scope="module")
def torchvision_weights() -> StateDict:
    return detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3).state_dict()


def saved(path: Path, document: Any) -> Path:
    torch.save(document, path)
    return path


def test_own_format_keeps_everything(tmp_path: Path) -> None:
    model = build_model(COMPACT)
    save_checkpoint(tmp_path / "a.pth", model=model, description=COMPACT, training={"seed": 3})
    checkpoint = load_checkpoint(tmp_path / "a.pth")
    assert checkpoint.description == COMPACT
    assert checkpoint.training == {"seed": 3}
    assert checkpoint.assumptions == ()
    for name, tensor in checkpoint.build().state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_half_precision_storage_is_float32_again_when_loaded(tmp_path: Path) -> None:
    model = build_model(COMPACT)
    for half in (False, True):
        save_checkpoint(tmp_path / f"{half}.pth", model=model, description=COMPACT, training={}, half=half)
    assert (tmp_path / "True.pth").stat().st_size < 0.6 * (tmp_path / "False.pth").stat().st_size
    weights = load_checkpoint(tmp_path / "True.pth").state_dict
    reference = model.state_dict()["rpn.head.cls_logits.weight"]
    assert weights["rpn.head.cls_logits.weight"].dtype == torch.float32
    assert torch.equal(weights["rpn.head.cls_logits.weight"], reference.half().float())


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("maskrcnn_resnet50_fpn", 2),
        ("maskrcnn_resnet50_fpn", 91),
        ("maskrcnn_resnet50_fpn_v2", 7),
        ("fasterrcnn_resnet50_fpn", 7),
        ("fasterrcnn_resnet50_fpn_v2", 2),
    ],
)
def test_bare_torchvision_state_dicts_are_recognised(tmp_path: Path, name: str, classes: int) -> None:
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=classes).eval()
    checkpoint = load_checkpoint(saved(tmp_path / "w.pth", model.state_dict()))
    assert checkpoint.description.architecture == name
    assert checkpoint.description.num_classes == classes
    # The printed modules hold sizes, thresholds of norm layers and names: the same text is the same network.
    assert str(checkpoint.build()) == str(model)


def test_coco_has_class_names_and_the_rest_has_numbers() -> None:
    def names(classes: int) -> tuple[str, ...]:
        weights = {
            "backbone.body.layer1.0.conv2.weight": torch.zeros(64, 64, 3, 3),
            "backbone.fpn.inner_blocks.0.0.weight": torch.zeros(1),
            "roi_heads.box_predictor.cls_score.weight": torch.zeros(classes, 1),
            "roi_heads.box_predictor.bbox_pred.weight": torch.zeros(4 * classes, 1),
        }
        for stage, blocks in enumerate((3, 4, 6, 3), start=1):
            weights |= {f"backbone.body.layer{stage}.{i}.conv3.weight": torch.zeros(1) for i in range(blocks)}
        return recognise(weights)[0].class_names

    assert names(91)[1] == "person"
    assert names(91)[90] == "toothbrush"
    assert names(3) == ("__background__", "class_1", "class_2")


def test_frozen_batch_norm_is_recognised_and_its_epsilon_said(
    tmp_path: Path, torchvision_weights: StateDict
) -> None:
    frozen = {
        key: value for key, value in torchvision_weights.items() if not key.endswith("num_batches_tracked")
    }
    checkpoint = load_checkpoint(saved(tmp_path / "w.pth", frozen))
    assert checkpoint.description.norm == "frozen"
    assert checkpoint.description.norm_eps == 0.0
    assert any("--norm-eps" in line for line in checkpoint.assumptions)
    checkpoint.build()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"model": weights, "epoch": 3, "args": argparse.Namespace(lr=0.02)},
        lambda weights: {"state_dict": weights},
        lambda weights: {f"module.{key}": value for key, value in weights.items()},
        lambda weights: {k: v.half() if v.is_floating_point() else v for k, v in weights.items()},
        lambda weights: {k: v.bfloat16() if v.is_floating_point() else v for k, v in weights.items()},
        lambda weights: {"state_dict": {f"model._orig_mod.{key}": value for key, value in weights.items()}},
    ],
    ids=["torchvision reference", "state_dict", "DataParallel", "half", "bfloat16", "Lightning, compiled"],
)
def test_wrapped_state_dicts(
    tmp_path: Path, torchvision_weights: StateDict, wrap: Callable[[StateDict], Any]
) -> None:
    checkpoint = load_checkpoint(saved(tmp_path / "w.pth", wrap(torchvision_weights)))
    assert checkpoint.description.architecture == "maskrcnn_resnet50_fpn"
    checkpoint.build()


class Malicious:
    """A pickle that would create a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.path}",)


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"model": Malicious(tmp_path / "ran")})
    with pytest.raises(MrcnnError) as error:
        load_checkpoint(path)
    assert "posix.system" in str(error.value)
    assert "state_dict()" in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_bare_malicious_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps(Malicious(tmp_path / "ran"), protocol=protocol))
    with pytest.raises(MrcnnError, match=r"refused|without running code"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_model_is_refused_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", build_model(COMPACT))
    with pytest.raises(MrcnnError, match=r"torchvision\.models\.detection\.mask_rcnn\.MaskRCNN"):
        load_checkpoint(path)


def _truncated(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: None, "no such file"),
        (lambda p: p.mkdir(), "is not a file"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_text("not a checkpoint\n"), "not a PyTorch checkpoint"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "not a PyTorch checkpoint"),
        (_truncated, "damaged or truncated"),
        (lambda p: torch.save(torch.zeros(3), p), "holds a Tensor"),
        (lambda p: torch.save({}, p), "empty"),
        (lambda p: torch.save({"a": 1}, p), "'a' is a int"),
        (lambda p: torch.save({"fc.weight": torch.zeros(3)}, p), "not a torchvision R-CNN"),
        (lambda p: torch.save({"format": "mrcnn-checkpoint", "format_version": 9}, p), "update mrcnn"),
        (
            lambda p: torch.save({"format": "mrcnn-checkpoint", "format_version": 1}, p),
            "'description' is missing",
        ),
    ],
    ids=[
        "missing",
        "folder",
        "empty",
        "text",
        "png",
        "cut",
        "tensor",
        "no keys",
        "number",
        "other",
        "newer",
        "bare",
    ],
)
def test_unusable_files_are_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], Any], words: str
) -> None:
    path = tmp_path / "w.pth"
    make(path)
    with pytest.raises(MrcnnError) as error:
        load_checkpoint(path)
    assert words in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_an_own_checkpoint_that_was_changed_is_one_short_line(tmp_path: Path) -> None:
    endless: Any = 1
    for _ in range(12):
        endless = [endless] * 8
    own = {"format": "mrcnn-checkpoint", "format_version": 1, "state_dict": {}, "training": {}}
    whole = COMPACT.to_dict()
    for change, words in (
        ({"format_version": 10**400}, "format version 1000"),
        ({"description": {**whole, 5: 1}}, "unknown key 5"),
        ({"description": {**whole, "norm_eps": endless}}, "norm_eps: expected float (got [[["),
        (
            {"description": whole, "state_dict": {None: torch.zeros(1)}},
            "name None is a NoneType, not text",
        ),
    ):
        torch.save({**own, **change}, tmp_path / "w.pth")
        with pytest.raises(MrcnnError, match=re.escape(words)) as error:
            load_checkpoint(tmp_path / "w.pth")
        assert len(str(error.value)) < 300 + len(str(tmp_path))


def test_a_file_that_unpacks_to_many_times_its_size_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", bytes(2**27))
    with pytest.raises(MrcnnError, match=r"refused: its \d+ bytes unpack to 134217728"):
        load_checkpoint(tmp_path / "w.pth")


def test_safetensors_are_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(bytes(100))
    with pytest.raises(MrcnnError, match="safetensors is not read: "):
        load_checkpoint(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda t: t.to_sparse(), "not stored as a dense tensor"),
        (lambda t: t[:1, :1].contiguous().expand(10**6, 10**6), "not stored as a dense tensor"),
        (lambda t: t.to("meta"), "not stored as a dense tensor"),
        (lambda t: t.to(torch.complex64), "dtype torch.complex64, where floating point is needed"),
        (lambda t: t.to(torch.int32), "dtype torch.int32, where floating point is needed"),
        (lambda t: t > 0, "dtype torch.bool, where floating point is needed"),
    ],
    ids=["sparse", "expanded", "meta", "complex", "int", "bool"],
)
def test_weights_that_are_no_plain_numbers_are_refused_by_name(
    tmp_path: Path, make: Callable[[Tensor], Tensor], words: str
) -> None:
    weights = dict(build_model(COMPACT).state_dict())
    name = "roi_heads.box_predictor.cls_score.weight"
    weights[name] = make(weights[name])
    with pytest.raises(MrcnnError) as error:
        load_checkpoint(saved(tmp_path / "w.pth", weights))
    assert f"{name!r}" in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("rpn.head.bbox_pred.bias"), "lack key 'rpn.head.bbox_pred.bias'"),
        (lambda w: w.update({"extra.weight": torch.zeros(1)}), "surplus key 'extra.weight'"),
        (lambda w: w.update({"rpn.head.cls_logits.bias": torch.zeros(9)}), "rpn.head.cls_logits.bias"),
        (lambda w: w.update({"rpn.head.cls_logits.weight": torch.zeros(9, 1)}), "9 anchors a place, not 3"),
        (lambda w: w.update({"roi_heads.keypoint_head.0.weight": torch.zeros(1)}), "both masks and key"),
        (
            lambda w: w.update({"roi_heads.box_predictor.bbox_pred.weight": torch.zeros(5, 1024)}),
            "bbox_pred.weight' has 5 rows, where 4 for each of 3 classes, or 4 for all (class-agnostic)",
        ),
        (lambda w: [w.pop(k) for k in list(w) if k.startswith("backbone.fpn")], "neither a feature pyramid"),
        (lambda w: w.update({"backbone.body.layer3.6.conv1.weight": torch.zeros(1)}), "ResNet with blocks"),
        (lambda w: [w.pop(k) for k in list(w) if k.startswith("backbone")], "no backbone"),
    ],
)
def test_models_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, torchvision_weights: StateDict, change: Callable[[StateDict], Any], words: str
) -> None:
    weights = dict(torchvision_weights)
    change(weights)
    with pytest.raises(MrcnnError) as error:
        load_checkpoint(saved(tmp_path / "w.pth", weights)).build()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_hash_depends_on_the_weights_alone(tmp_path: Path) -> None:
    model = build_model(COMPACT)
    save_checkpoint(tmp_path / "a.pth", model=model, description=COMPACT, training={"seed": 1})
    save_checkpoint(tmp_path / "b.pth", model=model, description=COMPACT, training={"seed": 2})
    hashes = [load_checkpoint(tmp_path / name).weights_sha256 for name in ("a.pth", "b.pth")]
    assert hashes[0] == hashes[1]
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[0] += 1e-6
    save_checkpoint(tmp_path / "c.pth", model=model, description=COMPACT, training={"seed": 1})
    assert load_checkpoint(tmp_path / "c.pth").weights_sha256 != hashes[0]


def test_unknown_architecture_lists_the_known_ones() -> None:
    description = ModelDescription(architecture="yolo", class_names=("__background__", "coin"))
    with pytest.raises(MrcnnError) as error:
        build_model(description)
    assert all(name in str(error.value) for name in architectures())


def test_a_model_with_weights_draws_no_random_numbers() -> None:
    description = ModelDescription(
        architecture="maskrcnn_mobilenet_v2_fpn", class_names=("__background__", "disc"), width=0.25
    )
    weights = build_model(description).state_dict()
    before = torch.get_rng_state()
    model = Checkpoint(description=description, state_dict=weights, training={}).build()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
