"""What every builder shares: a description's rules as torchvision's constructor arguments."""

from typing import Any

from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from mrcnn.description import ModelDescription
from mrcnn.errors import MrcnnError

FPN_LEVELS = 5  # P2…P5 and the pooled P6
POOLED_LEVELS = ["0", "1", "2", "3"]  # the heads pool from P2…P5


def anchor_generator(description: ModelDescription) -> AnchorGenerator:
    anchors = description.anchors
    if len(anchors.sizes) != FPN_LEVELS:
        raise MrcnnError(
            f"{description.architecture} has {FPN_LEVELS} feature levels, "
            f"but anchors are given for {len(anchors.sizes)}"
        )
    if len({len(s) * len(r) for s, r in zip(anchors.sizes, anchors.aspect_ratios, strict=True)}) != 1:
        raise MrcnnError(
            "anchors: every level needs the same number of anchors, since they share the RPN head"
        )
    return AnchorGenerator(anchors.sizes, anchors.aspect_ratios)


def roi_pool(description: ModelDescription, output_size: int) -> MultiScaleRoIAlign:
    rois = description.rois
    return MultiScaleRoIAlign(
        featmap_names=POOLED_LEVELS,
        output_size=output_size,
        sampling_ratio=rois.sampling_ratio,
        canonical_scale=rois.canonical_size,
        canonical_level=rois.canonical_level,
    )


def rcnn_arguments(description: ModelDescription) -> dict[str, Any]:
    """Keyword arguments of `torchvision.models.detection.FasterRCNN` and `MaskRCNN`."""
    arguments: dict[str, Any] = {
        "num_classes": description.num_classes,
        "min_size": description.resize.min_size,
        "max_size": description.resize.max_size,
        "size_divisible": description.resize.size_divisible,
        "image_mean": list(description.normalization.mean),
        "image_std": list(description.normalization.std),
        "rpn_anchor_generator": anchor_generator(description),
        "rpn_pre_nms_top_n_test": description.proposals.pre_nms_top_n,
        "rpn_post_nms_top_n_test": description.proposals.post_nms_top_n,
        "rpn_nms_thresh": description.proposals.nms_threshold,
        "rpn_score_thresh": description.proposals.score_threshold,
        "box_roi_pool": roi_pool(description, description.rois.box_size),
        "box_score_thresh": description.detections.score_threshold,
        "box_nms_thresh": description.detections.nms_threshold,
        "box_detections_per_img": description.detections.detections_per_image,
        "bbox_reg_weights": description.detections.delta_weights,
    }
    if description.has_masks:
        arguments["mask_roi_pool"] = roi_pool(description, description.rois.mask_size)
    return arguments
