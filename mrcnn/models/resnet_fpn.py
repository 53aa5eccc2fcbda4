"""Mask R-CNN and Faster R-CNN on ResNet-50-FPN, with torchvision's parameter names.

The `_v2` models are those of "Benchmarking Detection Transfer Learning with Vision Transformers"
(https://arxiv.org/abs/2111.11429): batch norm in FPN and heads, a deeper RPN head and box head.
"""

from functools import partial
from typing import Any

from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d

from mrcnn.description import ModelDescription
from mrcnn.models.parts import rcnn_arguments

FPN_CHANNELS = 256

_STAGES = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
_STAGE_CHANNELS = [256, 512, 1024, 2048]
_HEAD_LAYERS = [256, 256, 256, 256]


def maskrcnn_resnet50_fpn(description: ModelDescription) -> MaskRCNN:
    return MaskRCNN(_backbone(description), **rcnn_arguments(description))


def fasterrcnn_resnet50_fpn(description: ModelDescription) -> FasterRCNN:
    return FasterRCNN(_backbone(description), **rcnn_arguments(description))


def maskrcnn_resnet50_fpn_v2(description: ModelDescription) -> MaskRCNN:
    mask_head = MaskRCNNHeads(FPN_CHANNELS, _HEAD_LAYERS, 1, norm_layer=nn.BatchNorm2d)
    return MaskRCNN(
        _backbone(description, fpn_norm=nn.BatchNorm2d),
        mask_head=mask_head,
        **_v2_heads(description),
        **rcnn_arguments(description),
    )


def fasterrcnn_resnet50_fpn_v2(description: ModelDescription) -> FasterRCNN:
    return FasterRCNN(
        _backbone(description, fpn_norm=nn.BatchNorm2d),
        **_v2_heads(description),
        **rcnn_arguments(description),
    )


def _v2_heads(description: ModelDescription) -> dict[str, nn.Module]:
    size = description.rois.box_size
    anchors = len(description.anchors.sizes[0]) * len(description.anchors.aspect_ratios[0])
    return {
        "rpn_head": RPNHead(FPN_CHANNELS, anchors, conv_depth=2),
        "box_head": FastRCNNConvFCHead(
            (FPN_CHANNELS, size, size), _HEAD_LAYERS, [1024], norm_layer=nn.BatchNorm2d
        ),
    }


def _backbone(description: ModelDescription, fpn_norm: Any = None) -> BackboneWithFPN:
    frozen = description.norm == "frozen"
    norm = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
    trunk = resnet50(weights=None, norm_layer=partial(norm, eps=description.norm_eps))
    if frozen:
        # Stem and first stage stay as pre-trained, as in the paper's code and torchvision's default.
        for part in (trunk.conv1, trunk.layer1):
            part.requires_grad_(False)
    return BackboneWithFPN(trunk, _STAGES, _STAGE_CHANNELS, FPN_CHANNELS, norm_layer=fpn_norm)
