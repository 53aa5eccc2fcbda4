"""What a training step draws at random: the size of an image, and the anchors and proposals to learn from.

The names are ours, the numbers torchvision's parameters; `apply_sampling` brings them into a model. Nothing
of this plays a part at inference.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mrcnn.errors import MrcnnError

if TYPE_CHECKING:
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

_FRACTIONS = ("anchor_positive_fraction", "roi_positive_fraction", "roi_positive_iou", "smallest_scale")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The defaults are torchvision's, which are those of the feature pyramid's papers.

    Attributes:
        anchors_per_image: drawn to train the RPN.
        anchor_positive_fraction: the most of them that may be positive.
        anchor_positive_iou: from which IoU with an object on an anchor is positive; so is each object's best.
        anchor_negative_iou: below which IoU with every object an anchor is negative; between, it is left out.
        pre_nms_top_n: the RPN's best anchors per level that become proposals.
        post_nms_top_n: proposals per image that NMS may leave.
        rois_per_image: proposals drawn to train the heads.
        roi_positive_fraction: the most of them that may be positive: 0.25 is the papers' 1:3.
        roi_positive_iou: from which IoU with an object on a proposal is positive; negative below.
        smallest_scale: the shorter side is drawn, from this fraction of the model's `min_size` to all of it.
    """

    anchors_per_image: int = 256
    anchor_positive_fraction: float = 0.5
    anchor_positive_iou: float = 0.7
    anchor_negative_iou: float = 0.3
    pre_nms_top_n: int = 2000
    post_nms_top_n: int = 2000
    rois_per_image: int = 512
    roi_positive_fraction: float = 0.25
    roi_positive_iou: float = 0.5
    smallest_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("anchors_per_image", "pre_nms_top_n", "post_nms_top_n", "rois_per_image"):
            if not getattr(self, name) > 0:
                raise MrcnnError(f"{name} must be positive (got {getattr(self, name)})")
        for name in _FRACTIONS:
            if not 0 < getattr(self, name) <= 1:
                raise MrcnnError(f"{name} must be above 0 and at most 1 (got {getattr(self, name)})")
        if not 0 < self.anchor_negative_iou <= self.anchor_positive_iou <= 1:
            raise MrcnnError(
                "0 < anchor_negative_iou <= anchor_positive_iou <= 1 must hold "
                f"(got {self.anchor_negative_iou}, {self.anchor_positive_iou})"
            )


def apply_sampling(model: "GeneralizedRCNN", sampling: Sampling) -> None:
    """Makes `model` draw by these rules when it is in training mode; in eval mode nothing changes."""
    rpn, heads, transform = model.rpn, model.roi_heads, model.transform
    rpn.fg_bg_sampler.batch_size_per_image = sampling.anchors_per_image
    rpn.fg_bg_sampler.positive_fraction = sampling.anchor_positive_fraction
    rpn.proposal_matcher.high_threshold = sampling.anchor_positive_iou
    rpn.proposal_matcher.low_threshold = sampling.anchor_negative_iou
    rpn._pre_nms_top_n["training"] = sampling.pre_nms_top_n
    rpn._post_nms_top_n["training"] = sampling.post_nms_top_n
    heads.fg_bg_sampler.batch_size_per_image = sampling.rois_per_image
    heads.fg_bg_sampler.positive_fraction = sampling.roi_positive_fraction
    heads.proposal_matcher.high_threshold = sampling.roi_positive_iou
    heads.proposal_matcher.low_threshold = sampling.roi_positive_iou
    # torchvision draws one of these in training, and takes the last in eval mode.
    largest = transform.min_size[-1]
    transform.min_size = tuple(range(max(1, round(largest * sampling.smallest_scale)), largest + 1))
