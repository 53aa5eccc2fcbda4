"""What every builder shares: a description's rules as torchvision's constructor arguments."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import MultiScaleRoIAlign

from mrcnn.description import ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.models.anchors import ExactAnchorGenerator
from mrcnn.models.pooling import RoiPooler

DETECTORS: Mapping[str, type[GeneralizedRCNN]] = {
    "fasterrcnn": FasterRCNN,
    "maskrcnn": MaskRCNN,
    "keypointrcnn": KeypointRCNN,
}


@dataclass(frozen=True)
class Levels:
    """The feature maps of a backbone.

    Attributes:
        anchored: how many the RPN looks at.
        pooled: the names of those that the heads pool from.
    """

    anchored: int
    pooled: tuple[str, ...]


PYRAMID = Levels(5, ("0", "1", "2", "3"))  # P2…P5, and the pooled P6 for the RPN alone
SINGLE = Levels(1, ("0",))


def anchor_generator(description: ModelDescription, levels: Levels) -> AnchorGenerator:
    anchors = description.anchors
    if len(anchors.sizes) != levels.anchored:
        plural = "s" if levels.anchored > 1 else ""
        raise MrcnnError(
            f"{description.architecture} has {levels.anchored} feature level{plural}, "
            f"but anchors are given for {len(anchors.sizes)}"
        )
    if len({len(s) * len(r) for s, r in zip(anchors.sizes, anchors.aspect_ratios, strict=True)}) != 1:
        raise MrcnnError(
            "anchors: every level needs the same number of anchors, since they share the RPN head"
        )
    generator = ExactAnchorGenerator if anchors.exact else AnchorGenerator
    return generator(anchors.sizes, anchors.aspect_ratios)


def roi_pool(description: ModelDescription, levels: Levels, output_size: int) -> MultiScaleRoIAlign:
    rois = description.rois
    if rois.aligned or rois.mode != "avg":
        return RoiPooler(rois, levels.pooled, output_size)
    return MultiScaleRoIAlign(
        featmap_names=list(levels.pooled),
        output_size=output_size,
        sampling_ratio=rois.sampling_ratio,
        canonical_scale=rois.canonical_size,
        canonical_level=rois.canonical_level,
    )


def rcnn_arguments(description: ModelDescription, levels: Levels) -> dict[str, Any]:
    """Keyword arguments of torchvision's `FasterRCNN` and the detectors derived from it."""
    arguments: dict[str, Any] = {
        "num_classes": description.num_classes,
        "min_size": description.resize.min_size,
        "max_size": description.resize.max_size,
        "size_divisible": description.resize.size_divisible,
        "image_mean": list(description.normalization.mean),
        "image_std": list(description.normalization.std),
        "rpn_anchor_generator": anchor_generator(description, levels),
        "rpn_pre_nms_top_n_test": description.proposals.pre_nms_top_n,
        "rpn_post_nms_top_n_test": description.proposals.post_nms_top_n,
        "rpn_nms_thresh": description.proposals.nms_threshold,
        "rpn_score_thresh": description.proposals.score_threshold,
        "box_roi_pool": roi_pool(description, levels, description.rois.box_size),
        "box_score_thresh": description.detections.score_threshold,
        "box_nms_thresh": description.detections.nms_threshold,
        "box_detections_per_img": description.detections.detections_per_image,
        "bbox_reg_weights": description.detections.delta_weights,
    }
    if description.has_masks:
        arguments["mask_roi_pool"] = roi_pool(description, levels, description.rois.mask_size)
    if description.keypoints is not None:
        arguments["keypoint_roi_pool"] = roi_pool(description, levels, description.rois.keypoint_size)
        arguments["num_keypoints"] = len(description.keypoints)
    return arguments
