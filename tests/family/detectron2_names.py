"""State dicts with detectron2's names and shapes, as its `modeling/` gives them, and random values."""

from collections.abc import Mapping

import torch
from torch import Tensor


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


def keypoint_rcnn_r50_fpn(points: int = 17) -> dict[str, Tensor]:
    """Of one class, as `Base-Keypoint-RCNN-FPN.yaml`."""
    weights = {k: v for k, v in mask_rcnn_r50_fpn(1).items() if "mask_head" not in k}
    for layer in range(1, 9):
        weights |= convolution(f"roi_heads.keypoint_head.conv_fcn{layer}", 512, 256 if layer == 1 else 512, 3)
    weights["roi_heads.keypoint_head.score_lowres.weight"] = torch.randn(512, points, 4, 4) * 0.01
    return weights | {"roi_heads.keypoint_head.score_lowres.bias": torch.zeros(points)}
