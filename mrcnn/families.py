"""The rules that each family of architectures comes with, where nothing else is said."""

from collections.abc import Mapping
from typing import Any

from mrcnn.description import AnchorRule, KeypointRule, ModelDescription, ProposalRule, RoiRule

_THREE_RATIOS = (0.5, 1.0, 2.0)
_FIVE_SIZES = (32, 64, 128, 256, 512)

# The points, their order and the lines between them are those of COCO's category "person".
COCO_PERSON = KeypointRule(
    names=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    mirrored=tuple((left, left + 1) for left in range(1, 17, 2)),
    skeleton=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
        *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    ),
)

_FAMILIES: Mapping[str, Mapping[str, Any]] = {
    # 15 anchors a place; 300 proposals at inference (He et al. 2017, section 4).
    "c4": {
        "anchors": AnchorRule(sizes=(_FIVE_SIZES,), aspect_ratios=(_THREE_RATIOS,)),
        "proposals": ProposalRule(pre_nms_top_n=3000, post_nms_top_n=300),
        "rois": RoiRule(box_size=14, mask_size=14),
    },
    # torchvision's tutorial on its detection models.
    "mobilenet_v2": {"anchors": AnchorRule(sizes=(_FIVE_SIZES,), aspect_ratios=(_THREE_RATIOS,))},
    # 9 anchors a place; 300 proposals at inference (Ren et al. 2015, section 3.3).
    "vgg16": {
        "anchors": AnchorRule(sizes=((128, 256, 512),), aspect_ratios=(_THREE_RATIOS,)),
        "proposals": ProposalRule(pre_nms_top_n=3000, post_nms_top_n=300),
        "rois": RoiRule(head_width=4096),
    },
}


_DETECTORS: Mapping[str, Mapping[str, Any]] = {"keypointrcnn": {"keypoints": COCO_PERSON}}


def describe(architecture: str, class_names: tuple[str, ...], **fields: Any) -> ModelDescription:
    """A description with the family's and the detector's rules, but for `fields`; else the class defaults."""
    detector, _, family = architecture.partition("_")
    if family.endswith("_c4"):
        family = "c4"
    rules = {**_DETECTORS.get(detector, {}), **_FAMILIES.get(family, {}), **fields}
    return ModelDescription(architecture=architecture, class_names=class_names, **rules)
