"""State dicts with mmdetection's names and shapes, as its `models/` gives them, and random values."""

from collections.abc import Mapping

import torch
from torch import Tensor

BLOCKS: Mapping[int, int] = {1: 3, 2: 4, 3: 6, 4: 3}


def convolution(name: str, out: int, into: int, side: int, *, bias: bool = True) -> dict[str, Tensor]:
    """Weights of a size that keeps the size of what goes through."""
    weights = {f"{name}.weight": torch.randn(out, into, side, side) * (2 / (into * side**2)) ** 0.5}
    return weights | ({f"{name}.bias": torch.randn(out) * 0.1} if bias else {})


def batch_norm(name: str, channels: int, *, scale: float = 1.0) -> dict[str, Tensor]:
    return {
        f"{name}.weight": torch.full((channels,), scale),
        f"{name}.bias": torch.zeros(channels),
        f"{name}.running_mean": torch.zeros(channels),
        f"{name}.running_var": torch.ones(channels),
        f"{name}.num_batches_tracked": torch.tensor(0),
    }


def linear(name: str, out: int, into: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(out, into) * into**-0.5, f"{name}.bias": torch.randn(out) * 0.1}


def stage(
    prefix: str, number: int, *, group_width: int | None = None, blocks: int | None = None
) -> dict[str, Tensor]:
    """models/backbones/resnet.py, resnext.py: Bottleneck. `group_width` is that of layer1 in a ResNeXt."""
    weights: dict[str, Tensor] = {}
    out = 256 * 2 ** (number - 1)
    width = out if group_width == 8 else out // 4
    for block in range(blocks or BLOCKS[number]):
        name = f"{prefix}layer{number}.{block}"
        into = out if block else (64 if number == 1 else out // 2)
        grouped = width if group_width is None else width // 32
        weights |= convolution(f"{name}.conv1", width, into, 1, bias=False) | batch_norm(f"{name}.bn1", width)
        weights |= convolution(f"{name}.conv2", width, grouped, 3, bias=False)
        weights |= batch_norm(f"{name}.bn2", width)
        weights |= convolution(f"{name}.conv3", out, width, 1, bias=False)
        weights |= batch_norm(f"{name}.bn3", out, scale=0.2)
        if not block:
            weights |= convolution(f"{name}.downsample.0", out, into, 1, bias=False)
            weights |= batch_norm(f"{name}.downsample.1", out)
    return weights


def stem() -> dict[str, Tensor]:
    return convolution("backbone.conv1", 64, 3, 7, bias=False) | batch_norm("backbone.bn1", 64)


def rpn(channels: int, anchors: int) -> dict[str, Tensor]:
    """Small ones: scores that round to 1 have no order."""
    weights = convolution("rpn_head.rpn_cls", anchors, channels, 1)
    weights |= convolution("rpn_head.rpn_reg", 4 * anchors, channels, 1)
    small = {name: value * 0.2 for name, value in weights.items()}
    return convolution("rpn_head.rpn_conv", channels, channels, 3) | small


def box_predictor(classes: int, channels: int, *, agnostic: bool) -> dict[str, Tensor]:
    weights = linear("roi_head.bbox_head.fc_cls", classes + 1, channels)
    weights = {name: value * 3 for name, value in weights.items()}
    return weights | linear("roi_head.bbox_head.fc_reg", 4 if agnostic else 4 * classes, channels)


def mask_rcnn_r50_fpn(classes: int = 2, *, agnostic: bool = False) -> dict[str, Tensor]:
    """configs/_base_/models/mask-rcnn_r50_fpn.py; `agnostic`: reg_class_agnostic and class_agnostic."""
    weights = stem()
    for number in (1, 2, 3, 4):
        weights |= stage("backbone.", number)
        weights |= convolution(f"neck.lateral_convs.{number - 1}.conv", 256, 256 * 2 ** (number - 1), 1)
        weights |= convolution(f"neck.fpn_convs.{number - 1}.conv", 256, 256, 3)
    weights |= rpn(256, 3) | box_predictor(classes, 1024, agnostic=agnostic)
    weights |= linear("roi_head.bbox_head.shared_fcs.0", 1024, 256 * 49)
    weights |= linear("roi_head.bbox_head.shared_fcs.1", 1024, 1024)
    for layer in range(4):
        weights |= convolution(f"roi_head.mask_head.convs.{layer}.conv", 256, 256, 3)
    weights |= convolution("roi_head.mask_head.upsample", 256, 256, 2)
    return weights | convolution("roi_head.mask_head.conv_logits", 1 if agnostic else classes, 256, 1)


def mask_rcnn_r50_caffe_c4(classes: int = 2) -> dict[str, Tensor]:
    """configs/_base_/models/mask-rcnn_r50-caffe-c4.py."""
    weights = stem()
    for number in (1, 2, 3):
        weights |= stage("backbone.", number)
    weights |= stage("roi_head.shared_head.", 4)
    weights |= rpn(1024, 15) | box_predictor(classes, 2048, agnostic=False)
    upsample = convolution("roi_head.mask_head.upsample", 2048, 256, 2)
    upsample["roi_head.mask_head.upsample.bias"] = torch.zeros(256)
    return weights | upsample | convolution("roi_head.mask_head.conv_logits", classes, 256, 1)


# What mmdetection 3.x writes into `meta["cfg"]`, shortened.
CONFIG_3X = """
data_preprocessor = dict(type='DetDataPreprocessor', pad_size_divisor=32)
metainfo = dict(classes=('cat', 'dog', ), palette=[(220, 20, 60), ])
model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True, pad_mask=True, pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=50, style='pytorch'),
    rpn_head=dict(
        anchor_generator=dict(
            type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64])),
    roi_head=dict(
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
            out_channels=256, featmap_strides=[4, 8, 16, 32]),
        bbox_head=dict(
            num_classes=2,
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder', target_means=[0., 0.], target_stds=[0.05, 0.05, 0.1, 0.1])),
        mask_roi_extractor=dict(
            type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
            out_channels=256, featmap_strides=[4, 8, 16, 32])),
    test_cfg=dict(
        rpn=dict(nms_pre=900, max_per_img=800, nms=dict(type='nms', iou_threshold=0.6), min_bbox_size=0),
        rcnn=dict(score_thr=0.1, nms=dict(type='nms', iou_threshold=0.4), max_per_img=50)))
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(1000, 600), keep_ratio=True),
]
"""

# The same of 2.x, in `meta["config"]`: other keys, and pixels of Caffe.
CONFIG_2X = """
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
model = dict(
    type='MaskRCNN',
    backbone=dict(type='ResNet', depth=50, norm_cfg=dict(type='BN', requires_grad=False), style='caffe'),
    test_cfg=dict(
        rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiScaleFlipAug', img_scale=(1333, 800), flip=False,
        transforms=[dict(type='Resize', keep_ratio=True), dict(type='Normalize', **img_norm_cfg)])
]
"""
