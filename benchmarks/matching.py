"""One-to-one matching of two sets of detections of the same image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.findings import Findings

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Which detection of the reference is which of the candidate's.

    Attributes:
        reference, candidate: indices (P,) of the pairs, in the reference's order.
        unmatched_reference, unmatched_candidate: indices of those left alone, ascending.
    """

    reference: Indices
    candidate: Indices
    unmatched_reference: Indices
    unmatched_candidate: Indices

    def __len__(self) -> int:
        return len(self.reference)


def match(
    reference: Findings,
    candidate: Findings,
    *,
    min_iou: float,
    box_px: float,
    same_label: bool = True,
) -> Matching:
    """Pairs detections so that as many as possible have a partner, and each the closest one.

    Two detections may be partners if their labels are equal and their boxes overlap with an IoU of at
    least `min_iou`, or no side of theirs is further apart than `box_px` (for boxes of a few pixels an
    equal rounding error costs much IoU). Among the matchings with the most pairs the one with the
    smallest sum of (1 - IoU) + |score difference| is taken: an assignment problem, solved exactly.

    Nothing depends on the order within a set. Models with random weights give dozens of detections with
    one score, whose order is arbitrary; walking down the scores and taking the best partner left, as COCO's
    evaluation does, could then take away another's only partner.
    """
    with np.errstate(invalid="ignore"):  # a broken model's NaN and infinite values match nothing
        apart = np.abs(_doubles(reference.boxes)[:, None] - _doubles(candidate.boxes)[None]).max(axis=2)
        iou = box_iou(reference.boxes, candidate.boxes)
        score = np.abs(_doubles(reference.scores)[:, None] - _doubles(candidate.scores)[None])
    cost = 1 - iou + np.minimum(score, 1)
    allowed = ((iou >= min_iou) | (apart <= box_px)) & np.isfinite(cost)
    if same_label:
        allowed &= reference.labels[:, None] == candidate.labels[None]
    return _largest_assignment(allowed, cost)


def box_iou(first: NDArray[Any], second: NDArray[Any]) -> Floats:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4), xyxy; 0 where both areas are 0."""
    first, second = _doubles(first)[:, None], _doubles(second)[None]
    overlap = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    intersection = np.prod(np.maximum(overlap, 0), axis=2)
    union = _areas(first) + _areas(second) - intersection
    result: Floats = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return result


def _largest_assignment(allowed: NDArray[np.bool_], cost: Floats) -> Matching:
    from scipy.optimize import linear_sum_assignment

    rows, columns = allowed.shape
    # A pair costs at most 2, so one more allowed pair always outweighs what the others may cost more.
    forbidden = 2.0 * (min(rows, columns) + 1)
    chosen_rows, chosen_columns = linear_sum_assignment(np.where(allowed, cost, forbidden))
    kept = allowed[chosen_rows, chosen_columns]
    pair_rows, pair_columns = chosen_rows[kept], chosen_columns[kept]
    return Matching(
        reference=pair_rows,
        candidate=pair_columns,
        unmatched_reference=np.setdiff1d(np.arange(rows), pair_rows),
        unmatched_candidate=np.setdiff1d(np.arange(columns), pair_columns),
    )


def _areas(boxes: Floats) -> Floats:
    areas: Floats = np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)
    return areas


def _doubles(values: NDArray[Any]) -> Floats:
    return np.asarray(values, dtype=np.float64)
