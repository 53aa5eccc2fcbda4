"""Faster, Mask and Keypoint R-CNN on a ResNet with a feature pyramid, with torchvision's parameter names.

The `_v2` models are those of "Benchmarking Detection Transfer Learning with Vision Transformers"
(https://arxiv.org/abs/2111.11429): batch norm in FPN and heads, or group norm in its place, a deeper RPN head
and box head.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.rpn import RPNHead

from mrcnn.description import ModelDescription
from mrcnn.models.parts import DETECTORS, PYRAMID, rcnn_arguments
from mrcnn.models.resnet import STAGE_CHANNELS, trunk

FPN_CHANNELS = 256
NORMS: Mapping[str, Callable[..., nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": partial(nn.GroupNorm, 32),
}

_STAGES = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
_HEAD_LAYERS = [256, 256, 256, 256]


def resnet_fpn(description: ModelDescription) -> GeneralizedRCNN:
    return DETECTORS[description.detector](_backbone(description), **rcnn_arguments(description, PYRAMID))


def resnet_fpn_v2(description: ModelDescription) -> GeneralizedRCNN:
    heads = _v2_heads(description)
    if description.has_masks:
        heads["mask_head"] = MaskRCNNHeads(
            FPN_CHANNELS, _HEAD_LAYERS, 1, norm_layer=NORMS[description.head_norm]
        )
    backbone = _backbone(description, fpn_norm=NORMS[description.head_norm])
    return DETECTORS[description.detector](backbone, **heads, **rcnn_arguments(description, PYRAMID))


def _v2_heads(description: ModelDescription) -> dict[str, nn.Module]:
    size = description.rois.box_size
    anchors = len(description.anchors.sizes[0]) * len(description.anchors.aspect_ratios[0])
    return {
        "rpn_head": RPNHead(FPN_CHANNELS, anchors, conv_depth=2),
        "box_head": FastRCNNConvFCHead(
            (FPN_CHANNELS, size, size), _HEAD_LAYERS, [1024], norm_layer=NORMS[description.head_norm]
        ),
    }


def _backbone(description: ModelDescription, fpn_norm: Any = None) -> BackboneWithFPN:
    body = trunk(description)
    return BackboneWithFPN(body, _STAGES, list(STAGE_CHANNELS), FPN_CHANNELS, norm_layer=fpn_norm)
