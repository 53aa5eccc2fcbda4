"""How far two programs agree on what is in the images: per image, in total, and against tolerances."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from mrcnn.benchmarks.matching import Floats, Matching, match
from mrcnn.description import DetectionRule
from mrcnn.errors import MrcnnError
from mrcnn.findings import Findings

# Why a detection has no partner. Rounding may push a detection whose score lies at a cut to either side of
# it; such a detection counts as unmatched like any other, but it is named.
AT_SCORE_THRESHOLD = "at the score threshold"
AT_TOP_K = "at the cut to the best K"
OTHER_LABEL = "other label"
UNEXPLAINED = "unexplained"


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """What still counts as equal.

    Attributes:
        match_iou: least box IoU of two detections of one label to be taken for the same one. It only pairs
            them; how equal they are is judged by the other figures. Non-maximum suppression leaves boxes
            of one label with an IoU of at most 0.5, so that no detection has two such partners.
        matched_share: least share of detections with a partner.
        box_px: largest difference of a box coordinate, pixels of the original image.
        score: largest difference of a score.
        mask_iou_mean: least mean IoU of the masks of matched detections.
        keypoint_px: largest distance of key points of matched detections, pixels of the original image, for
            99 of 100. A key point is the largest pixel of a heatmap: where two are equal but for rounding,
            either is right, so that single points may lie anywhere.
    """

    match_iou: float = 0.9
    matched_share: float = 0.999
    box_px: float = 0.1
    score: float = 1e-3
    mask_iou_mean: float = 0.995
    keypoint_px: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            upper = float("inf") if field.name in ("box_px", "keypoint_px") else 1.0
            if not 0 <= value <= upper:
                raise MrcnnError(f"tolerance {field.name} must be in 0…{upper:g} (got {value})")


@dataclass(frozen=True, kw_only=True)
class Unmatched:
    """A detection without a partner: whose it is, what it is, and why it may be alone."""

    side: str
    label: int
    score: float
    box: tuple[float, ...]
    reason: str


@dataclass(frozen=True, kw_only=True)
class ImageAgreement:
    """The comparison of one image.

    Attributes:
        box_px, score, mask_iou: per matched pair (P,): largest coordinate difference in pixels, score
            difference, IoU of the masks. `mask_iou` is None for models without masks.
        keypoint_px: (P, K), the distance of each of their K key points in pixels; None for models without.
    """

    image: str
    reference_detections: int
    exported_detections: int
    box_px: Floats
    score: Floats
    mask_iou: Floats | None
    keypoint_px: Floats | None
    unmatched: tuple[Unmatched, ...]

    @property
    def matched(self) -> int:
        return len(self.box_px)

    @property
    def badness(self) -> tuple[float, ...]:
        """Larger is worse: unmatched detections first, then the worst mask, key point and box."""
        mask = 0.0 if self.mask_iou is None else 1 - self.mask_iou.min(initial=1)
        point = 0.0 if self.keypoint_px is None else self.keypoint_px.max(initial=0)
        return float(len(self.unmatched)), float(mask), float(point), float(self.box_px.max(initial=0))

    def figures(self) -> dict[str, Any]:
        """The numbers of this image, JSON-able."""
        return {
            "image": self.image,
            "reference_detections": self.reference_detections,
            "exported_detections": self.exported_detections,
            "matched": self.matched,
            **_pair_figures(self.box_px, self.score, self.mask_iou, self.keypoint_px),
            "unmatched": [asdict(one) for one in self.unmatched],
        }


def compare(
    reference: Findings, exported: Findings, *, image: str, rule: DetectionRule, tolerances: Tolerances
) -> ImageAgreement:
    """Matches the two sets and measures every pair.

    Args:
        image: the name that the result bears.
        rule: the model's score threshold and detections per image, to explain detections left alone.
    """
    pairs = match(reference, exported, min_iou=tolerances.match_iou, box_px=tolerances.box_px)
    boxes = reference.boxes[pairs.reference] - exported.boxes[pairs.candidate].astype(np.float64)
    scores = reference.scores[pairs.reference] - exported.scores[pairs.candidate].astype(np.float64)
    return ImageAgreement(
        image=image,
        reference_detections=len(reference),
        exported_detections=len(exported),
        box_px=np.abs(boxes).max(axis=1),
        score=np.abs(scores),
        mask_iou=_mask_ious(reference, exported, pairs),
        keypoint_px=_keypoint_distances(reference, exported, pairs),
        unmatched=_explain(reference, exported, pairs, rule=rule, tolerances=tolerances),
    )


def summarise(images: Sequence[ImageAgreement]) -> dict[str, Any]:
    """The figures over all images, JSON-able; None where there is nothing to measure.

    `matched_share` is the number of pairs over the number of detections of whichever side has more, image
    by image: both a lost and an invented detection lower it.
    """
    larger_side = sum(max(one.reference_detections, one.exported_detections) for one in images)
    matched = sum(one.matched for one in images)
    reasons = [lone.reason for one in images for lone in one.unmatched]
    mask_ious = [one.mask_iou for one in images if one.mask_iou is not None]
    keypoints = [one.keypoint_px.ravel() for one in images if one.keypoint_px is not None]
    return {
        "images": len(images),
        "reference_detections": sum(one.reference_detections for one in images),
        "exported_detections": sum(one.exported_detections for one in images),
        "matched": matched,
        "matched_share": matched / larger_side if larger_side else None,
        **_pair_figures(
            np.concatenate([np.empty(0), *(one.box_px for one in images)]),
            np.concatenate([np.empty(0), *(one.score for one in images)]),
            np.concatenate(mask_ious) if mask_ious else None,
            np.concatenate(keypoints) if keypoints else None,
        ),
        # A wrong label leaves one detection alone on either side.
        "label_mismatches": reasons.count(OTHER_LABEL) // 2,
        "unmatched": len(reasons),
        "borderline": {
            "score_threshold": reasons.count(AT_SCORE_THRESHOLD),
            "top_k": reasons.count(AT_TOP_K),
        },
    }


def failures(figures: dict[str, Any], tolerances: Tolerances) -> tuple[str, ...]:
    """One line per figure outside its tolerance; empty when all hold."""
    if figures["matched_share"] is None:
        return ("neither side found an object on any image, so nothing was compared: give other images",)
    limits = (
        ("matched_share", "at least", tolerances.matched_share),
        ("box_px_max", "at most", tolerances.box_px),
        ("score_max", "at most", tolerances.score),
        ("mask_iou_mean", "at least", tolerances.mask_iou_mean),
        ("keypoint_px_p99", "at most", tolerances.keypoint_px),
    )
    lines = []
    for name, bound, limit in limits:
        value = figures[name]
        if value is not None and not (value >= limit if bound == "at least" else value <= limit):
            lines.append(f"{name} is {value:.6g}, must be {bound} {limit:g}")
    return tuple(lines)


def _pair_figures(
    box_px: Floats, score: Floats, mask_iou: Floats | None, keypoint_px: Floats | None
) -> dict[str, float | None]:
    return {
        "box_px_max": _statistic(np.max, box_px),
        "box_px_p99": _statistic(_percentile_99, box_px),
        "score_max": _statistic(np.max, score),
        "mask_iou_mean": _statistic(np.mean, mask_iou),
        "mask_iou_min": _statistic(np.min, mask_iou),
        "keypoint_px_max": _statistic(np.max, keypoint_px),
        "keypoint_px_p99": _statistic(_percentile_99, keypoint_px),
    }


def _percentile_99(values: Floats) -> Any:
    return np.percentile(values, 99)


def _statistic(function: Callable[[Floats], Any], values: Floats | None) -> float | None:
    return None if values is None or len(values) == 0 else float(function(values))


def _mask_ious(reference: Findings, exported: Findings, pairs: Matching) -> Floats | None:
    """IoU per pair; two empty masks are equal, so theirs is 1."""
    if reference.rles is None or exported.rles is None:
        return None
    from pycocotools import mask as coco_mask

    ious = np.ones(len(pairs))
    for row, (i, j) in enumerate(zip(pairs.reference, pairs.candidate, strict=True)):
        a, b = reference.rles[i], exported.rles[j]
        if coco_mask.area(a) or coco_mask.area(b):
            ious[row] = coco_mask.iou([a], [b], [0])[0, 0]
    return ious


def _keypoint_distances(reference: Findings, exported: Findings, pairs: Matching) -> Floats | None:
    """(P, K), in pixels."""
    if reference.keypoints is None or exported.keypoints is None:
        return None
    apart = reference.keypoints[pairs.reference, :, :2].astype(np.float64)
    apart -= exported.keypoints[pairs.candidate, :, :2]
    distances: Floats = np.hypot(apart[..., 0], apart[..., 1])
    return distances


def _explain(
    reference: Findings, exported: Findings, pairs: Matching, *, rule: DetectionRule, tolerances: Tolerances
) -> tuple[Unmatched, ...]:
    sides = (
        ("reference", reference, pairs.unmatched_reference, exported),
        ("exported", exported, pairs.unmatched_candidate, reference),
    )
    lone = [
        Unmatched(
            side=side,
            label=int(own.labels[i]),
            score=float(own.scores[i]),
            box=tuple(map(float, own.boxes[i])),
            reason=_cut_reason(own.scores[i], other, rule, tolerances.score),
        )
        for side, own, indices, other in sides
        for i in indices
    ]
    left = {
        side: [k for k, one in enumerate(lone) if one.side == side and one.reason == UNEXPLAINED]
        for side, *_ in sides
    }
    relabelled = match(
        _findings([lone[k] for k in left["reference"]]),
        _findings([lone[k] for k in left["exported"]]),
        min_iou=tolerances.match_iou,
        box_px=tolerances.box_px,
        same_label=False,
    )
    for side, indices in (("reference", relabelled.reference), ("exported", relabelled.candidate)):
        for i in indices:
            k = left[side][i]
            lone[k] = replace(lone[k], reason=OTHER_LABEL)
    return tuple(lone)


def _cut_reason(score: np.float32, other: Findings, rule: DetectionRule, tolerance: float) -> str:
    """Which cut the other side may have made, where the scores differ by rounding only."""
    if len(other) >= rule.detections_per_image and abs(score - other.scores.min()) <= tolerance:
        return AT_TOP_K
    if abs(score - rule.score_threshold) <= tolerance:
        return AT_SCORE_THRESHOLD
    return UNEXPLAINED


def _findings(lone: Sequence[Unmatched]) -> Findings:
    return Findings(
        boxes=np.array([one.box for one in lone], np.float32).reshape(-1, 4),
        scores=np.array([one.score for one in lone], np.float32),
        labels=np.array([one.label for one in lone], np.int64),
    )
