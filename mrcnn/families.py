"""The rules that each family of architectures comes with, where nothing else is said."""

from collections.abc import Mapping
from typing import Any

from mrcnn.description import AnchorRule, ModelDescription, ProposalRule, RoiRule

_THREE_RATIOS = (0.5, 1.0, 2.0)
_FIVE_SIZES = (32, 64, 128, 256, 512)

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
    },
}


def describe(architecture: str, class_names: tuple[str, ...], **fields: Any) -> ModelDescription:
    """A description with the family's rules, but for `fields`. Feature pyramids have the class defaults."""
    family = architecture.partition("_")[2]
    if family.endswith("_c4"):
        family = "c4"
    rules = {**_FAMILIES.get(family, {}), **fields}
    return ModelDescription(architecture=architecture, class_names=class_names, **rules)
