"""The rows of the README's support table: small models whose random weights act like trained ones."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.resnet import Bottleneck

from mrcnn.checkpoint import Checkpoint
from mrcnn.description import DetectionRule, ModelDescription, ProposalRule, ResizeRule
from mrcnn.families import describe
from mrcnn.models import build_model
from mrcnn.models.features import feature_maps

CLASSES = ("__background__", "disc", "square")


def small_description(architecture: str, **rois: Any) -> ModelDescription:
    """With its family's anchors and pooling, but few proposals on small images."""
    description = describe(
        architecture,
        CLASSES,
        resize=ResizeRule(min_size=96, max_size=160),
        detections=DetectionRule(detections_per_image=4),
        width=0.5 if "mobilenet" in architecture else 1.0,
    )
    rule = description.proposals
    return replace(
        description,
        proposals=ProposalRule(pre_nms_top_n=200, post_nms_top_n=8, nms_threshold=rule.nms_threshold),
        # Of a head that is as wide as usual the weights alone would take half a gigabyte.
        rois=replace(description.rois, head_width=64, **rois),
    )


def matterport() -> ModelDescription:
    """One size of network: images are shrunk to fit and padded to a square."""
    square = ResizeRule(min_size=96, max_size=128, size_divisible=128)
    return replace(small_description("maskrcnn_resnet50_fpn"), resize=square)


ROWS: Mapping[str, Callable[[], ModelDescription]] = {
    "Mask R-CNN, ResNet-50-FPN": lambda: small_description("maskrcnn_resnet50_fpn"),
    "Mask R-CNN, ResNet-50-FPN, padded to a square": matterport,
    "Mask R-CNN, ResNet-50-FPN v2": lambda: small_description("maskrcnn_resnet50_fpn_v2"),
    "Mask R-CNN, ResNet-50-FPN v2 with group norm": lambda: replace(
        small_description("maskrcnn_resnet50_fpn_v2"), head_norm="group"
    ),
    "Mask R-CNN, ResNet-101-FPN": lambda: small_description("maskrcnn_resnet101_fpn"),
    "Mask R-CNN, ResNeXt-101-32x8d-FPN": lambda: small_description("maskrcnn_resnext101_32x8d_fpn"),
    "Mask R-CNN, ResNeXt-101-64x4d-FPN": lambda: small_description("maskrcnn_resnext101_64x4d_fpn"),
    "Mask R-CNN, ResNet-50-C4": lambda: small_description("maskrcnn_resnet50_c4"),
    "Mask R-CNN, ResNet-50-C4, conv5 of stride 1": lambda: small_description(
        "maskrcnn_resnet50_c4", head_stride=1
    ),
    "Mask R-CNN, ResNet-101-C4": lambda: small_description("maskrcnn_resnet101_c4"),
    "Mask R-CNN, MobileNetV2": lambda: small_description("maskrcnn_mobilenet_v2"),
    "Mask R-CNN, MobileNetV2-FPN": lambda: small_description("maskrcnn_mobilenet_v2_fpn"),
    "Keypoint R-CNN, ResNet-50-FPN": lambda: small_description("keypointrcnn_resnet50_fpn"),
    "Keypoint R-CNN, ResNet-101-FPN": lambda: small_description("keypointrcnn_resnet101_fpn"),
    "Faster R-CNN, ResNet-50-FPN": lambda: small_description("fasterrcnn_resnet50_fpn"),
    "Faster R-CNN, VGG-16, RoIAlign": lambda: small_description("fasterrcnn_vgg16"),
    "Faster R-CNN, VGG-16, RoIAlign (max)": lambda: small_description("fasterrcnn_vgg16", mode="max"),
    "Faster R-CNN, VGG-16, RoIPool": lambda: small_description("fasterrcnn_vgg16", mode="pool"),
}


# Rows with no stage that another one lacks: they have another trunk, pooling or resize, or no masks.
LIKE: Mapping[str, str] = {
    "Mask R-CNN, ResNet-50-FPN, padded to a square": "Mask R-CNN, ResNet-50-FPN",
    "Mask R-CNN, ResNet-101-FPN": "Mask R-CNN, ResNet-50-FPN",
    "Mask R-CNN, ResNeXt-101-32x8d-FPN": "Mask R-CNN, ResNet-50-FPN",
    "Mask R-CNN, ResNeXt-101-64x4d-FPN": "Mask R-CNN, ResNet-50-FPN",
    "Mask R-CNN, MobileNetV2-FPN": "Mask R-CNN, ResNet-50-FPN",
    "Faster R-CNN, ResNet-50-FPN": "Mask R-CNN, ResNet-50-FPN",
    "Mask R-CNN, ResNet-50-C4, conv5 of stride 1": "Mask R-CNN, ResNet-50-C4",
    "Mask R-CNN, ResNet-101-C4": "Mask R-CNN, ResNet-50-C4",
    "Keypoint R-CNN, ResNet-101-FPN": "Keypoint R-CNN, ResNet-50-FPN",
    "Faster R-CNN, VGG-16, RoIAlign (max)": "Faster R-CNN, VGG-16, RoIAlign",
    "Faster R-CNN, VGG-16, RoIPool": "Faster R-CNN, VGG-16, RoIAlign",
}


def plugins_of(description: ModelDescription) -> list[str]:
    """The plugins of the lowered graph: one pooling for each head, and NMS for proposals and detections."""
    pooling = "MrcnnRoIPool" if description.rois.mode == "pool" else "MrcnnRoIAlign"
    heads = 1 if description.detector == "fasterrcnn" else 2
    return [pooling] * heads + ["MrcnnNMS"] * 2


def checkpoint_of(description: ModelDescription, *, seed: int = 0) -> Checkpoint:
    weights = settled_weights(description.architecture, description.head_norm, seed)
    return Checkpoint(description=description, state_dict=weights, training={})


@lru_cache(maxsize=1)
def settled_weights(architecture: str, head_norm: str, seed: int) -> Mapping[str, Tensor]:
    """Of `small_description(architecture)` with these norms; poolings and resizes have no weights."""
    torch.manual_seed(seed)
    model = build_model(replace(small_description(architecture), head_norm=head_norm))
    settle_norms(model)
    return model.state_dict()


@torch.no_grad()
def settle_norms(model: GeneralizedRCNN) -> None:
    """Batch norm learns the statistics of noise: unnormalised, a hundred random layers end in infinity.

    And blocks change little of what goes past them, as trained ones do; else rounding would grow. Heatmaps
    get biases.
    """
    model.train()
    if model.roi_heads.keypoint_predictor is not None:
        # torchvision begins with 0, which the tracer leaves out: trained ones are not 0.
        torch.nn.init.normal_(model.roi_heads.keypoint_predictor.kps_score_lowres.bias)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of the last pass
        if isinstance(module, Bottleneck):
            module.bn3.weight.fill_(0.2)
    heads = model.roi_heads
    channels = next(iter(feature_maps(model, torch.randn(2, 3, 96, 128)).values())).shape[1]
    for pool, head in ((heads.box_roi_pool, heads.box_head), (heads.mask_roi_pool, heads.mask_head)):
        if head is not None and any(isinstance(part, torch.nn.BatchNorm2d) for part in head.modules()):
            head(torch.randn(4, channels, *pool.output_size))
    model.eval()
