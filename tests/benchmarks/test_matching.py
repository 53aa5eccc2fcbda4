import itertools

import numpy as np
import pytest

from mrcnn.benchmarks.matching import Matching, box_iou, match
from mrcnn.errors import MrcnnError
from mrcnn.findings import Findings

# What the parity command uses by default; the cases below are built around these figures.
MIN_IOU = 0.9
BOX_PX = 0.1


def findings(*rows: tuple[list[float], float, int]) -> Findings:
    """Each row: box (xyxy), score, label."""
    return Findings(
        boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[1] for row in rows], np.float32),
        labels=np.array([row[2] for row in rows], np.int64),
    )


def pairs(reference: Findings, candidate: Findings, *, same_label: bool = True) -> set[tuple[int, int]]:
    result = match(reference, candidate, min_iou=MIN_IOU, box_px=BOX_PX, same_label=same_label)
    check_partition(result, len(reference), len(candidate))
    return set(zip(result.reference.tolist(), result.candidate.tolist(), strict=True))


def check_partition(result: Matching, references: int, candidates: int) -> None:
    """Every detection is in exactly one pair or unmatched."""
    for matched, unmatched, count in (
        (result.reference, result.unmatched_reference, references),
        (result.candidate, result.unmatched_candidate, candidates),
    ):
        assert sorted([*matched, *unmatched]) == list(range(count))


def test_box_iou_by_hand() -> None:
    first = np.array([[0, 0, 10, 10], [0, 0, 0, 0]])
    second = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 7]])
    # halves overlap: 50 / 150; touching edges share nothing; inside: 10 / 100; an empty box has no IoU
    np.testing.assert_allclose(box_iou(first, second), [[1, 1 / 3, 0, 0.1], [0, 0, 0, 0]], rtol=1e-12)


def test_equal_sets_match_whole() -> None:
    one = findings(([0, 0, 10, 10], 0.9, 1), ([20, 20, 50, 40], 0.8, 2))
    assert pairs(one, one) == {(0, 0), (1, 1)}


def test_other_label_is_no_partner_unless_asked_for() -> None:
    reference = findings(([0, 0, 10, 10], 0.9, 1))
    candidate = findings(([0, 0, 10, 10], 0.9, 2))
    assert pairs(reference, candidate) == set()
    assert pairs(reference, candidate, same_label=False) == {(0, 0)}


@pytest.mark.parametrize(
    ("box", "partner"),
    [
        ([0, 0, 100, 90.5], True),  # IoU 0.905
        ([0, 0, 100, 89.5], False),  # IoU 0.895
        ([200, 0, 300, 100], False),
    ],
)
def test_overlap_decides(box: list[float], partner: bool) -> None:
    reference = findings(([0, 0, 100, 100], 0.9, 1))
    assert pairs(reference, findings((box, 0.9, 1))) == ({(0, 0)} if partner else set())


def test_tiny_boxes_match_by_pixels() -> None:
    # 0.5 px wide and 0.0625 px apart: an IoU of 7/9, but a difference that rounding explains
    reference = findings(([4, 4, 4.5, 8], 0.9, 1))
    candidate = findings(([4.0625, 4, 4.5625, 8], 0.9, 1))
    assert box_iou(reference.boxes, candidate.boxes)[0, 0] < MIN_IOU
    assert pairs(reference, candidate) == {(0, 0)}


def test_a_duplicate_stays_alone() -> None:
    reference = findings(([0, 0, 10, 10], 0.9, 1))
    candidate = findings(([0, 0, 10, 10], 0.9, 1), ([0, 0, 10, 10], 0.9, 1))
    result = match(reference, candidate, min_iou=MIN_IOU, box_px=BOX_PX)
    assert len(result) == 1
    assert len(result.unmatched_candidate) == 1


def test_the_last_partner_is_left_to_who_needs_it() -> None:
    # Reference 0 (the higher score) overlaps both candidates, and candidate 0 best; but candidate 0 is
    # the only one that reference 1 can have. Walking down the scores would leave reference 1 alone.
    reference = findings(([0, 0, 100, 100], 0.9, 1), ([4, 0, 104, 100], 0.8, 1))
    candidate = findings(([1, 0, 101, 100], 0.9, 1), ([-4, 0, 96, 100], 0.8, 1))
    assert pairs(reference, candidate) == {(0, 1), (1, 0)}


def test_equal_boxes_match_by_score() -> None:
    reference = findings(([0, 0, 10, 10], 0.9, 1), ([0, 0, 10, 10], 0.6, 1))
    candidate = findings(([0, 0, 10, 10], 0.6001, 1), ([0, 0, 10, 10], 0.8999, 1))
    assert pairs(reference, candidate) == {(0, 1), (1, 0)}


def test_empty_sets() -> None:
    nothing, one = findings(), findings(([0, 0, 10, 10], 0.9, 1))
    assert pairs(nothing, nothing) == pairs(nothing, one) == pairs(one, nothing) == set()


def test_values_that_are_no_numbers_match_nothing() -> None:
    one = findings(([0, 0, 10, 10], 0.9, 1))
    assert pairs(one, findings(([0, 0, np.nan, 10], 0.9, 1))) == set()
    assert pairs(one, findings(([0, 0, np.inf, 10], 0.9, 1))) == set()
    assert pairs(one, findings(([0, 0, 10, 10], np.nan, 1))) == set()


@pytest.mark.parametrize("seed", range(5))
def test_permutation_of_ties_costs_nothing(seed: int) -> None:
    """Sixty detections of one score on a few boxes that are equal or nearly so, as random weights give."""
    random = np.random.default_rng(seed)
    corners = random.integers(0, 200, size=(12, 2))[random.integers(0, 12, size=60)]
    boxes = np.hstack([corners, corners + 80]) + random.uniform(0, 0.02, size=(60, 4))
    reference = Findings(
        boxes=boxes.astype(np.float32),
        scores=np.full(60, 0.25, np.float32),
        labels=random.integers(1, 4, size=60),
    )
    order = random.permutation(60)
    candidate = Findings(
        boxes=reference.boxes[order], scores=reference.scores[order], labels=reference.labels[order]
    )
    result = match(reference, candidate, min_iou=MIN_IOU, box_px=BOX_PX)
    assert len(result) == 60
    np.testing.assert_array_equal(
        reference.boxes[result.reference], candidate.boxes[result.candidate], "each has its own twin"
    )


@pytest.mark.parametrize("seed", range(20))
def test_as_many_pairs_as_trying_every_assignment(seed: int) -> None:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 12, size=(9, 2))
    boxes = np.hstack([corners, corners + 60]).astype(np.float32)
    labels = random.integers(1, 3, size=9)
    scores = random.uniform(size=9).astype(np.float32)
    reference = Findings(boxes=boxes[:4], scores=scores[:4], labels=labels[:4])
    candidate = Findings(boxes=boxes[4:], scores=scores[4:], labels=labels[4:])
    allowed = (box_iou(reference.boxes, candidate.boxes) >= MIN_IOU) & (
        reference.labels[:, None] == candidate.labels[None]
    )
    most = max(
        sum(allowed[row, column] for row, column in enumerate(columns))
        for columns in itertools.permutations(range(5), 4)
    )
    assert len(pairs(reference, candidate)) == most


def test_findings_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(MrcnnError, match="must fit 1 scores"):
        Findings(boxes=np.zeros((2, 4), np.float32), scores=np.ones(1, np.float32), labels=np.ones(1, int))
