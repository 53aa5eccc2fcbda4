"""Checkpoints of mmdetection 2.x and 3.x.

What mmdetection does otherwise than torchvision, by its file:

* `models/backbones/resnet.py`: the stride of a stage in its first 1x1 convolution where `style='caffe'`.
* `models/task_modules/prior_generators/anchor_generator.py`: corners not rounded, strides powers of two.
* `models/roi_heads/roi_extractors/single_level_roi_extractor.py`: RoIAlign with the half pixel and as many
  samples as fit; levels by Eqn. 1 of the FPN paper, with 56 pixels at the finest.
* `models/roi_heads/bbox_heads/bbox_head.py`: the background is the last class.
* mmcv's `rescale_size`: sides of the resized image rounded to the nearest.
"""

import re
from collections.abc import Mapping
from typing import Any

from mrcnn.description import BACKGROUND, AnchorRule, Normalization, ProposalRule, ResizeRule, RoiRule
from mrcnn.families import describe
from mrcnn.imports import Translated, Weights
from mrcnn.imports.rows import Names, background_to_the_front, change, number_of_classes, rename, rgb_first
from mrcnn.models.recognise import contiguous_names, resnet_trunk

# Their names → ours.
_NAMES: Names = (
    (r"backbone\.((?:conv1|bn1|layer[1-4])\..+)", lambda m: f"backbone.body.{m[1]}"),
    (r"roi_head\.shared_head\.layer4\.(.+)", lambda m: f"roi_heads.box_head.layer4.{m[1]}"),
    (r"neck\.lateral_convs\.(\d)\.conv\.(\w+)", lambda m: f"backbone.fpn.inner_blocks.{m[1]}.0.{m[2]}"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(\w+)", lambda m: f"backbone.fpn.layer_blocks.{m[1]}.0.{m[2]}"),
    (r"rpn_head\.rpn_conv\.(\w+)", lambda m: f"rpn.head.conv.0.0.{m[1]}"),
    (r"rpn_head\.rpn_cls\.(\w+)", lambda m: f"rpn.head.cls_logits.{m[1]}"),
    (r"rpn_head\.rpn_reg\.(\w+)", lambda m: f"rpn.head.bbox_pred.{m[1]}"),
    (
        r"roi_head\.bbox_head\.shared_fcs\.([01])\.(\w+)",
        lambda m: f"roi_heads.box_head.fc{int(m[1]) + 6}.{m[2]}",
    ),
    (r"roi_head\.bbox_head\.fc_cls\.(\w+)", lambda m: f"roi_heads.box_predictor.cls_score.{m[1]}"),
    (r"roi_head\.bbox_head\.fc_reg\.(\w+)", lambda m: f"roi_heads.box_predictor.bbox_pred.{m[1]}"),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv\.(\w+)", lambda m: f"roi_heads.mask_head.{m[1]}.0.{m[2]}"),
    (r"roi_head\.mask_head\.upsample\.(\w+)", lambda m: f"roi_heads.mask_predictor.conv5_mask.{m[1]}"),
    (
        r"roi_head\.mask_head\.conv_logits\.(\w+)",
        lambda m: f"roi_heads.mask_predictor.mask_fcn_logits.{m[1]}",
    ),
)

# RGB in 0…255. With style='caffe' pixels are BGR and not scaled.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_CAFFE_MEAN = (123.675, 116.28, 103.53)
_CAFFE_STD = (1.0, 1.0, 1.0)


def fits(weights: Weights) -> bool:
    """Whether the names are those of mmdetection's TwoStageDetector."""
    return any(name.startswith("rpn_head.rpn_") for name in weights)


def translate(weights: Weights, document: Mapping[str, Any]) -> Translated:
    """A Faster or Mask R-CNN on a ResNet or ResNeXt, C4 or FPN.

    Class names and the style of the backbone are taken from the file's `meta`, where they are.

    Raises:
        MrcnnError: a key has no counterpart here; the line names it.
    """
    state = rename(weights, _NAMES, codebase="mmdetection")
    is_c4 = any(name.startswith("roi_heads.box_head.layer4.") for name in state)
    masks = "roi_heads.mask_predictor.mask_fcn_logits.weight" in state
    assumptions: list[str] = []
    caffe = _is_caffe(document, assumptions)
    if caffe:
        change(state, "backbone.body.conv1.weight", rgb_first)
    class_names = _class_names(document, number_of_classes(state), assumptions)
    background_to_the_front(state)
    assumptions.append("anchors, thresholds and image size: mmdetection's defaults")
    mean, std = (_CAFFE_MEAN, _CAFFE_STD) if caffe else (_MEAN, _STD)
    counted = any(name.endswith("num_batches_tracked") for name in state)
    description = describe(
        f"{'maskrcnn' if masks else 'fasterrcnn'}_{resnet_trunk(state)}_{'c4' if is_c4 else 'fpn'}",
        class_names,
        norm="batch" if counted else "frozen",
        norm_eps=1e-5,
        stride_in_1x1=caffe,
        normalization=Normalization(
            mean=tuple(value / 255 for value in mean),  # type: ignore[arg-type]
            std=tuple(value / 255 for value in std),  # type: ignore[arg-type]
        ),
        resize=ResizeRule(rounding="nearest"),
        **_rules(is_c4=is_c4),
    )
    return Translated(description, state, tuple(assumptions))


def _rules(*, is_c4: bool) -> dict[str, Any]:
    """`configs/_base_/models/mask-rcnn_r50-caffe-c4.py` and `mask-rcnn_r50_fpn.py`."""
    if is_c4:
        return {
            "anchors": AnchorRule(
                sizes=((32, 64, 128, 256, 512),), aspect_ratios=((0.5, 1.0, 2.0),), exact=True
            ),
            # mmdetection takes 6000 before NMS, and TensorRT's TopK gives 3839 at most.
            "proposals": ProposalRule(pre_nms_top_n=3839, post_nms_top_n=1000, min_size=1e-6),
            "rois": RoiRule(box_size=14, mask_size=14, sampling_ratio=0, aligned=True),
        }
    return {
        "anchors": AnchorRule(exact=True),
        "proposals": ProposalRule(min_size=1e-6),
        "rois": RoiRule(sampling_ratio=0, aligned=True),
    }


def _is_caffe(document: Mapping[str, Any], assumptions: list[str]) -> bool:
    meta = document.get("meta")
    text = meta.get("config", meta.get("cfg")) if isinstance(meta, Mapping) else None
    if isinstance(text, str) and (style := re.search(r"""style['"]?\s*[=:]\s*['"](\w+)['"]""", text)):
        return style[1] == "caffe"
    assumptions.append("style='pytorch': the stride in 3x3 convolutions, RGB, pixels scaled")
    return False


def _class_names(document: Mapping[str, Any], classes: int, assumptions: list[str]) -> tuple[str, ...]:
    meta = document.get("meta")
    if isinstance(meta, Mapping):
        dataset = meta.get("dataset_meta")
        names = meta.get("CLASSES") or (
            (dataset.get("classes") or dataset.get("CLASSES")) if isinstance(dataset, Mapping) else None
        )
        if (
            isinstance(names, list | tuple)
            and len(names) == classes
            and all(isinstance(n, str) for n in names)
        ):
            return (BACKGROUND, *names)
    known, named = contiguous_names(classes)
    assumptions.append(named)
    return known
