"""Checkpoints of detectron2: names, conventions, and its own code on the same input where it is installed."""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mrcnn.checkpoint import load_checkpoint
from mrcnn.errors import MrcnnError
from mrcnn.families import COCO_PERSON
from mrcnn.imports.given import Given
from tests.family.compared import PROPOSALS, RELATIVE, differences, ours, photograph
from tests.family.detectron2_names import keypoint_rcnn_r50_fpn, mask_rcnn_r50_c4, mask_rcnn_r50_fpn
from tests.family.imported import imported

# The configuration, and what it is here.
CONFIGURATIONS: Mapping[str, str] = {
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml": "maskrcnn_resnet50_fpn",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml": "maskrcnn_resnet50_c4",
    "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x.yaml": "maskrcnn_resnext101_32x8d_fpn",
    "COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml": "fasterrcnn_resnet101_fpn",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml": "keypointrcnn_resnet50_fpn",
}
CELLS = "proposal_generator.anchor_generator.cell_anchors"
AGNOSTIC = {"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True}


def theirs(configuration: str, options: Mapping[str, Any]) -> nn.Module:
    """detectron2's model with random weights that act like trained ones, in eval mode."""
    pytest.importorskip(
        "detectron2", reason="detectron2 is not on the package registry: built from its source"
    )
    import detectron2
    from detectron2 import config, modeling

    cfg = config.get_cfg()
    cfg.merge_from_file(str(Path(detectron2.__file__).parent.parent / "configs" / configuration))
    cfg.merge_from_list([item for option in options.items() for item in option])
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = PROPOSALS
    torch.manual_seed(0)
    model = modeling.build_model(cfg).eval()
    settle(model)
    return model


@torch.no_grad()
def settle(model: nn.Module) -> None:
    """Frozen batch norm takes the statistics of noise, and blocks change little of what goes past them."""
    hooks = []
    for name, module in model.named_modules():
        if type(module).__name__ == "FrozenBatchNorm2d":
            hooks.append(module.register_forward_pre_hook(take_statistics))
            if name.endswith("conv3.norm"):
                module.weight.fill_(0.2)
    image = torch.rand(3, 96, 128) * 255
    model([{"image": image}])
    for hook in hooks:
        hook.remove()
    for name, parameter in model.named_parameters():
        if "objectness" in name or "cls_score" in name or "anchor_deltas" in name or "bbox_pred" in name:
            parameter.mul_(5)  # their start of 0.01 makes all scores alike


def take_statistics(module: Any, inputs: tuple[Tensor]) -> None:
    (values,) = inputs
    if len(values) == 0:  # no region came to the head
        return
    module.running_mean.copy_(values.mean((0, 2, 3)))
    module.running_var.copy_(values.var((0, 2, 3)) + 1e-3)


@torch.inference_mode()
def what_theirs_finds(model: Any, image: Tensor) -> dict[str, Tensor]:
    """In an image RGB in 0…255, not resized; masks and heatmaps as the network gives them."""
    inputs = [{"image": image.flip(0)}]
    (found,) = model.inference(inputs, do_postprocess=False)
    values = {
        "labels": found.pred_classes + 1,
        "scores": found.scores,
        "boxes": found.pred_boxes.tensor,
    }
    if found.has("pred_masks"):
        values["masks"] = found.pred_masks[:, 0]
    if found.has("pred_keypoint_heatmaps"):
        values["heatmaps"] = found.pred_keypoint_heatmaps
    return values


@pytest.mark.parametrize(
    ("configuration", "options"),
    [*((name, {}) for name in CONFIGURATIONS), (next(iter(CONFIGURATIONS)), AGNOSTIC)],
)
def test_their_own_code_finds_the_same(configuration: str, options: Mapping[str, Any]) -> None:
    model = theirs(configuration, options)
    checkpoint = imported(model.state_dict())
    assert checkpoint.description.architecture == CONFIGURATIONS[configuration]
    image = photograph()
    expected = what_theirs_finds(model, image)
    for name, difference in differences(ours(checkpoint, image), expected).items():
        print(f"{configuration}: {len(expected['labels'])} {name} differ by {difference:.1e}")
        assert difference <= RELATIVE, name


# Without detectron2: its names, as its sources give them ---------------------------------------------------


@pytest.mark.parametrize("make", [mask_rcnn_r50_fpn, mask_rcnn_r50_c4])
def test_all_names_find_their_place(make: Callable[[], dict[str, Tensor]], tmp_path: Path) -> None:
    torch.save({"model": make(), "optimizer": {}, "iteration": 3}, tmp_path / "model_final.pth")
    checkpoint = load_checkpoint(tmp_path / "model_final.pth")
    checkpoint.build()
    description = checkpoint.description
    assert description.architecture == f"maskrcnn_resnet50_{'c4' if 'c4' in make.__name__ else 'fpn'}"
    assert description.class_names == ("__background__", "class_1", "class_2")
    assert description.stride_in_1x1
    assert description.anchors.exact
    assert description.rois.aligned
    assert description.resize.output_size(427, 640) == (800, 1199)  # torchvision: 1199.06 → 1199; 800
    assert description.normalization.mean == pytest.approx((123.675 / 255, 116.28 / 255, 103.53 / 255))
    assert any("STRIDE_IN_1X1" in line for line in checkpoint.assumptions)


def test_rows_change_their_order() -> None:
    weights = mask_rcnn_r50_c4()
    # Two classes and the background last; 5 sizes with 3 ratios each; BGR.
    weights["roi_heads.box_predictor.cls_score.bias"] = torch.tensor([1.0, 2, 0])
    weights["roi_heads.box_predictor.bbox_pred.bias"] = torch.arange(8.0)
    weights["roi_heads.mask_head.predictor.bias"] = torch.tensor([5.0, 6])
    weights["proposal_generator.rpn_head.objectness_logits.bias"] = torch.arange(15.0)
    weights["backbone.stem.conv1.weight"][:, 0] = 7
    found = imported(weights).state_dict
    assert found["roi_heads.box_predictor.cls_score.bias"].tolist() == [0, 1, 2]
    assert found["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [0, 0, 0, 0, *range(8)]
    assert found["roi_heads.mask_predictor.mask_fcn_logits.bias"].tolist() == [0, 5, 6]
    # torchvision: all sizes of the first ratio, then of the second.
    assert found["rpn.head.cls_logits.bias"].tolist() == [
        *range(0, 15, 3),
        *range(1, 15, 3),
        *range(2, 15, 3),
    ]
    assert (found["backbone.body.conv1.weight"][:, 2] == 7).all()


def test_the_model_zoos_pickle_is_read(tmp_path: Path) -> None:
    weights = {name: tensor.numpy() for name, tensor in mask_rcnn_r50_fpn().items()}
    document = {"model": weights, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "model_final_f10217.pkl").write_bytes(pickle.dumps(document, protocol=2))
    load_checkpoint(tmp_path / "model_final_f10217.pkl").build()


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('it ran')",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"model": Evil()}), "refused: loading it would need the Python object 'builtins.exec'"),
        (pickle.dumps({"model": {"a": np.array([Evil()])}}), "refused"),
        (b"\x80\x04}q\x00", "is not a pickle of arrays, or is damaged"),
        (pickle.dumps({"blobs": {}}), "has no weights under the key 'model'"),
        (
            pickle.dumps({"model": {"conv1_w": np.zeros((64, 3, 7, 7), np.float32)}}),
            "not a torchvision R-CNN",
        ),
        (pickle.dumps({"model": {}}), "the state dict is empty"),
    ],
)
def test_a_bad_pickle_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(MrcnnError, match=message):
        load_checkpoint(tmp_path / "w.pkl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"roi_heads.mask_head.point_head.fc1.weight": torch.zeros(1)},
            "'roi_heads.mask_head.point_head.fc1",
        ),
        (
            {"roi_heads.box_predictor.cls_score.weight": None},
            "the weights lack 'roi_heads.box_predictor.cls_score.weight'",
        ),
        (
            {"backbone.bottom_up.stem.conv1.weight": None},
            "lack 'backbone.body.conv1.weight' (so called in",
        ),
        (
            {"roi_heads.box_predictor.bbox_pred.weight": torch.zeros(12, 1024)},
            "bbox_pred.weight' has 12 rows, where 4 for each of 2 classes, or 4 for all (class-agnostic)",
        ),
        (
            {"proposal_generator.rpn_head.objectness_logits.weight": torch.zeros(9, 256, 1, 1)},
            "the RPN has 9 anchors a place, not 3 (1 sizes, 3 ratios): give the field 'anchors' in --config",
        ),
        (
            {"backbone.bottom_up.stem.conv1.weight": torch.zeros(3)},
            "'backbone.bottom_up.stem.conv1.weight' has shape (3,), which is no such layer's",
        ),
        (
            {"roi_heads.box_head.fc1.weight": torch.zeros(1024, 12)},
            "'roi_heads.box_head.fc1.weight' has shape (1024, 12), where (1024, 12544) is needed",
        ),
        (
            {f"{CELLS}.0": torch.zeros(3, 4)},
            "cell_anchors' are no boxes",
        ),
        (
            {f"{CELLS}.0": torch.tensor([[0, 0, torch.inf, torch.inf]])},
            "cell_anchors' are no boxes",
        ),
        (
            {f"{CELLS}.0": torch.tensor([[0, 0, 1, 1], [0, 0, 2.0, 4]])},
            "are not every size with every ratio",
        ),
        (
            {"roi_heads.keypoint_head.conv_fcn1.weight": torch.zeros(1)},
            "both masks and key points are not supported",
        ),
        (
            {"backbone.bottom_up.res5.2.conv3.norm.bias": None},
            "key 'backbone.bottom_up.res5.2.conv3.norm.bias'",
        ),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Tensor | None], message: str) -> None:
    weights = {**mask_rcnn_r50_fpn(), **change}
    with pytest.raises(MrcnnError, match=re.escape(message)):
        imported({name: value for name, value in weights.items() if value is not None}).build()


def test_key_points_find_their_place() -> None:
    weights = keypoint_rcnn_r50_fpn()
    checkpoint = imported(weights)
    checkpoint.build()
    description = checkpoint.description
    assert description.architecture == "keypointrcnn_resnet50_fpn"
    assert description.class_names == ("__background__", "person")
    assert description.keypoints == COCO_PERSON
    assert torch.equal(
        checkpoint.state_dict["roi_heads.keypoint_head.14.weight"],
        weights["roi_heads.keypoint_head.conv_fcn8.weight"],
    )


def test_class_agnostic_heads_become_those_of_every_class() -> None:
    weights = mask_rcnn_r50_fpn(classes=3)
    for name, rows in (("box_predictor.bbox_pred", 4), ("mask_head.predictor", 1)):
        for kind in ("weight", "bias"):
            weights[f"roi_heads.{name}.{kind}"] = weights[f"roi_heads.{name}.{kind}"][:rows] + 1
    checkpoint = imported(weights)
    checkpoint.build()
    for our_layer, their_layer, rows in (
        ("box_predictor.bbox_pred", "box_predictor.bbox_pred", 4),
        ("mask_predictor.mask_fcn_logits", "mask_head.predictor", 1),
    ):
        found = checkpoint.state_dict[f"roi_heads.{our_layer}.weight"].unflatten(0, (4, rows))
        assert (found[0] == 0).all(), "the background"
        for label in (1, 2, 3):
            assert torch.equal(found[label], weights[f"roi_heads.{their_layer}.weight"])
    assert sum(line.startswith("class-agnostic") for line in checkpoint.assumptions) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_anchors_in_older_files_are_taken(dtype: torch.dtype) -> None:
    weights = mask_rcnn_r50_fpn()
    for level, size in enumerate((8, 16, 32, 64, 400)):
        sides = [(size / ratio**0.5, size * ratio**0.5) for ratio in (1 / 3, 1, 3)]
        cells = torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides])
        weights[f"{CELLS}.{level}"] = cells.to(dtype)
    anchors = imported(weights).description.anchors
    assert anchors.sizes == ((8,), (16,), (32,), (64,), (400,))
    assert anchors.aspect_ratios == ((1 / 3, 1.0, 3.0),) * 5
    assert anchors.exact


def test_anchors_of_ones_own_are_given() -> None:
    weights = mask_rcnn_r50_fpn()
    rpn = "proposal_generator.rpn_head"
    for name, per_anchor in (("objectness_logits", 1), ("anchor_deltas", 4)):
        weights[f"{rpn}.{name}.weight"] = torch.randn(4 * per_anchor, 256, 1, 1)
        weights[f"{rpn}.{name}.bias"] = torch.arange(4.0 * per_anchor)
    # Two sizes and two ratios a place: detectron2 has sizes in the outer loop, torchvision ratios.
    anchors = {"sizes": [[s, 2 * s] for s in (8, 16, 32, 64, 128)], "aspect_ratios": [[1.0, 2.0]] * 5}
    checkpoint = imported(weights, Given(fields={"anchors": anchors}))
    checkpoint.build()
    assert checkpoint.description.anchors.sizes[0] == (8, 16)
    assert checkpoint.description.anchors.exact, "what is not given stays detectron2's"
    assert checkpoint.state_dict["rpn.head.cls_logits.bias"].tolist() == [0, 2, 1, 3]
