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
from mrcnn.export.to_onnx import InputRule, export_onnx
from mrcnn.runtime.backend_onnx import OnnxBackend

# Of the largest value. Convolutions are summed in another order, and boxes are exponents of what they give.
RELATIVE = 1e-3

# The configuration, and what it is here.
CONFIGURATIONS: Mapping[str, str] = {
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml": "maskrcnn_resnet50_fpn",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml": "maskrcnn_resnet50_c4",
    "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x.yaml": "maskrcnn_resnext101_32x8d_fpn",
    "COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml": "fasterrcnn_resnet101_fpn",
}


def theirs(configuration: str) -> nn.Module:
    """detectron2's model with random weights that act like trained ones, in eval mode."""
    pytest.importorskip(
        "detectron2", reason="detectron2 is not on the package registry: built from its source"
    )
    import detectron2
    from detectron2 import config, modeling

    cfg = config.get_cfg()
    cfg.merge_from_file(str(Path(detectron2.__file__).parent.parent / "configs" / configuration))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = min(cfg.MODEL.RPN.PRE_NMS_TOPK_TEST, 3839)
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


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_their_own_code_finds_the_same(configuration: str, tmp_path: Path) -> None:
    model = theirs(configuration)
    torch.save({"model": model.state_dict(), "iteration": 1}, tmp_path / "model_final.pth")
    checkpoint = load_checkpoint(tmp_path / "model_final.pth")
    assert checkpoint.description.architecture == CONFIGURATIONS[configuration]
    export_onnx(checkpoint, tmp_path / "m.onnx", inputs=InputRule(), on_step=lambda _: None)

    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 3)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None], size=(192, 256), mode="bicubic"
    )[0].clamp(0, 255)
    with torch.inference_mode():
        (expected,) = model.inference([{"image": smooth.flip(0)}], do_postprocess=False)  # BGR
    backend = OnnxBackend(tmp_path / "m.onnx", device="cpu", threads=1)
    images = np.ascontiguousarray(smooth.permute(1, 2, 0).numpy())[None]
    found = backend.run(images, np.array([[192, 256]], np.int32))

    count = int(found["num_detections"][0])
    assert count == len(expected) > 20
    assert found["labels"][0][:count].tolist() == (expected.pred_classes + 1).tolist()
    values = {"scores": expected.scores, "boxes": expected.pred_boxes.tensor}
    if checkpoint.description.has_masks:
        values["masks"] = expected.pred_masks[:, 0]
    for name, value in values.items():
        difference = np.abs(found[name][0][:count] - value.numpy()).max() / float(value.max())
        print(f"{configuration}: {name} differ by {difference:.1e}")
        assert difference <= RELATIVE, name


# Without detectron2: its names, as its sources give them ---------------------------------------------------


def convolution(name: str, out: int, into: int, side: int, *, bias: bool = True) -> dict[str, Tensor]:
    weights = {f"{name}.weight": torch.randn(out, into, side, side) * 0.01}
    return weights | ({f"{name}.bias": torch.zeros(out)} if bias else {})


def normed(name: str, out: int, into: int, side: int) -> dict[str, Tensor]:
    ones = {f"{name}.norm.{kind}": torch.ones(out) for kind in ("weight", "running_var")}
    zeros = {f"{name}.norm.{kind}": torch.zeros(out) for kind in ("bias", "running_mean")}
    return convolution(name, out, into, side, bias=False) | ones | zeros


def linear(name: str, out: int, into: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(out, into) * 0.01, f"{name}.bias": torch.zeros(out)}


def stages(prefix: str, blocks: Mapping[int, int]) -> dict[str, Tensor]:
    """modeling/backbone/resnet.py: BottleneckBlock."""
    weights: dict[str, Tensor] = {}
    for stage, count in blocks.items():
        out = 256 * 2 ** (stage - 2)
        for block in range(count):
            name = f"{prefix}res{stage}.{block}"
            into = out if block else (64 if stage == 2 else out // 2)
            weights |= normed(f"{name}.conv1", out // 4, into, 1) | normed(
                f"{name}.conv2", out // 4, out // 4, 3
            )
            weights |= normed(f"{name}.conv3", out, out // 4, 1)
            weights |= {} if block else normed(f"{name}.shortcut", out, into, 1)
    return weights


def mask_rcnn_r50_fpn(classes: int = 2) -> dict[str, Tensor]:
    bottom_up = "backbone.bottom_up."
    weights = normed(f"{bottom_up}stem.conv1", 64, 3, 7) | stages(bottom_up, {2: 3, 3: 4, 4: 6, 5: 3})
    for level in (2, 3, 4, 5):
        weights |= convolution(f"backbone.fpn_lateral{level}", 256, 256 * 2 ** (level - 2), 1)
        weights |= convolution(f"backbone.fpn_output{level}", 256, 256, 3)
    rpn = "proposal_generator.rpn_head"
    weights |= convolution(f"{rpn}.conv", 256, 256, 3) | convolution(f"{rpn}.objectness_logits", 3, 256, 1)
    weights |= convolution(f"{rpn}.anchor_deltas", 12, 256, 1)
    weights |= linear("roi_heads.box_head.fc1", 1024, 256 * 49) | linear("roi_heads.box_head.fc2", 1024, 1024)
    weights |= linear("roi_heads.box_predictor.cls_score", classes + 1, 1024)
    weights |= linear("roi_heads.box_predictor.bbox_pred", 4 * classes, 1024)
    for layer in (1, 2, 3, 4):
        weights |= convolution(f"roi_heads.mask_head.mask_fcn{layer}", 256, 256, 3)
    weights |= convolution("roi_heads.mask_head.deconv", 256, 256, 2)
    return weights | convolution("roi_heads.mask_head.predictor", classes, 256, 1)


def mask_rcnn_r50_c4(classes: int = 2) -> dict[str, Tensor]:
    weights = normed("backbone.stem.conv1", 64, 3, 7) | stages("backbone.", {2: 3, 3: 4, 4: 6})
    weights |= stages("roi_heads.", {5: 3})
    rpn = "proposal_generator.rpn_head"
    weights |= convolution(f"{rpn}.conv", 1024, 1024, 3) | convolution(
        f"{rpn}.objectness_logits", 15, 1024, 1
    )
    weights |= convolution(f"{rpn}.anchor_deltas", 60, 1024, 1)
    weights |= linear("roi_heads.box_predictor.cls_score", classes + 1, 2048)
    weights |= linear("roi_heads.box_predictor.bbox_pred", 4 * classes, 2048)
    weights |= {"roi_heads.mask_head.deconv.weight": torch.randn(2048, 256, 2, 2) * 0.01}
    weights |= {"roi_heads.mask_head.deconv.bias": torch.zeros(256)}
    return weights | convolution("roi_heads.mask_head.predictor", classes, 256, 1)


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


def test_rows_change_their_order(tmp_path: Path) -> None:
    weights = mask_rcnn_r50_c4()
    # Two classes and the background last; 5 sizes with 3 ratios each; BGR.
    weights["roi_heads.box_predictor.cls_score.bias"] = torch.tensor([1.0, 2, 0])
    weights["roi_heads.box_predictor.bbox_pred.bias"] = torch.arange(8.0)
    weights["roi_heads.mask_head.predictor.bias"] = torch.tensor([5.0, 6])
    weights["proposal_generator.rpn_head.objectness_logits.bias"] = torch.arange(15.0)
    weights["backbone.stem.conv1.weight"][:, 0] = 7
    torch.save(weights, tmp_path / "w.pth")
    ours = load_checkpoint(tmp_path / "w.pth").state_dict
    assert ours["roi_heads.box_predictor.cls_score.bias"].tolist() == [0, 1, 2]
    assert ours["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [0, 0, 0, 0, *range(8)]
    assert ours["roi_heads.mask_predictor.mask_fcn_logits.bias"].tolist() == [0, 5, 6]
    # torchvision: all sizes of the first ratio, then of the second.
    assert ours["rpn.head.cls_logits.bias"].tolist() == [*range(0, 15, 3), *range(1, 15, 3), *range(2, 15, 3)]
    assert (ours["backbone.body.conv1.weight"][:, 2] == 7).all()


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
        (pickle.dumps({"model": Evil()}), "refused: loading it would need the Python object builtins.exec"),
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
        ({"roi_heads.box_predictor.cls_score.weight": None}, "no 'roi_heads.box_predictor.cls_score.weight'"),
        ({"backbone.bottom_up.stem.conv1.weight": None}, "no counterpart of 'backbone.body.conv1.weight'"),
        ({"roi_heads.box_predictor.bbox_pred.weight": torch.zeros(4, 1024)}, "class-agnostic heads"),
        ({"backbone.bottom_up.res5.2.conv3.norm.bias": None}, "lack key 'backbone.body.layer4.2.bn3.bias'"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    weights = {**mask_rcnn_r50_fpn(), **change}
    torch.save({name: value for name, value in weights.items() if value is not None}, tmp_path / "w.pth")
    with pytest.raises(MrcnnError, match=re.escape(message)):
        load_checkpoint(tmp_path / "w.pth").build()
