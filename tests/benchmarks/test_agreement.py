import json
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn.benchmarks.agreement import (
    AT_SCORE_THRESHOLD,
    AT_TOP_K,
    OTHER_LABEL,
    UNEXPLAINED,
    ImageAgreement,
    Tolerances,
    compare,
    failures,
    summarise,
)
from mrcnn.description import DetectionRule
from mrcnn.errors import MrcnnError
from mrcnn.findings import Findings

RULE = DetectionRule(score_threshold=0.05, detections_per_image=3)
TOLERANCES = Tolerances()

# Differences of float32 inputs are exact in double; only the inputs' own rounding (2^-24 of 100) is left.
EPS = 1e-5


def rle(height: int, width: int, rows: slice, columns: slice) -> dict[str, Any]:
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[rows, columns] = 1
    return dict(coco_mask.encode(mask))


def findings(
    *rows: tuple[list[float], float, int],
    rles: tuple[dict[str, Any], ...] | None = None,
    keypoints: list[Any] | None = None,
) -> Findings:
    return Findings(
        boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[1] for row in rows], np.float32),
        labels=np.array([row[2] for row in rows], np.int64),
        rles=rles,
        keypoints=None if keypoints is None else np.array(keypoints, np.float32),
    )


def agree(reference: Findings, exported: Findings) -> ImageAgreement:
    return compare(reference, exported, image="a.png", rule=RULE, tolerances=TOLERANCES)


def reasons(result: ImageAgreement) -> list[tuple[str, str]]:
    return [(one.side, one.reason) for one in result.unmatched]


def test_differences_by_hand() -> None:
    reference = findings(
        ([0, 0, 10, 20], 0.9, 1),
        ([30, 30, 60, 60], 0.5, 2),
        rles=(rle(80, 80, slice(0, 20), slice(0, 10)), rle(80, 80, slice(30, 60), slice(30, 60))),
    )
    exported = findings(
        ([30, 30.25, 59.5, 60], 0.4375, 2),
        ([0, 0, 10, 20], 0.9, 1),
        rles=(rle(80, 80, slice(30, 60), slice(30, 45)), rle(80, 80, slice(0, 20), slice(0, 10))),
    )
    result = agree(reference, exported)
    np.testing.assert_allclose(result.box_px, [0, 0.5], atol=EPS)
    np.testing.assert_allclose(result.score, [0, 0.0625], atol=EPS)
    np.testing.assert_allclose(result.mask_iou, [1, 0.5], atol=EPS)
    assert result.unmatched == ()


def test_empty_masks_are_equal_to_each_other_only() -> None:
    empty, full = rle(8, 8, slice(0, 0), slice(0, 0)), rle(8, 8, slice(0, 8), slice(0, 8))
    box = ([0, 0, 8, 8], 0.9, 1)
    assert agree(findings(box, rles=(empty,)), findings(box, rles=(empty,))).mask_iou == [1]
    assert agree(findings(box, rles=(empty,)), findings(box, rles=(full,))).mask_iou == [0]


def test_key_points_by_hand() -> None:
    """Distances of matched detections, whatever their order; the visibility does not count."""
    boxes = ([0, 0, 10, 20], 0.9, 1), ([30, 30, 60, 60], 0.5, 2)
    reference = findings(*boxes, keypoints=[[[1, 2, 1], [3, 4, 1]], [[40, 40, 1], [50, 50, 1]]])
    exported = findings(*boxes[::-1], keypoints=[[[43, 44, 1], [50, 50, 1]], [[1, 2, 0], [3, 4.5, 0]]])
    result = agree(reference, exported)
    np.testing.assert_allclose(result.keypoint_px, [[0, 0.5], [5, 0]], atol=EPS)
    assert result.figures()["keypoint_px_max"] == pytest.approx(5, abs=EPS)
    assert agree(reference, findings(*boxes)).keypoint_px is None


def test_one_key_point_in_a_hundred_may_lie_anywhere() -> None:
    def moved(count: int) -> tuple[str, ...]:
        points = np.zeros((1, 400, 3))
        other = points.copy()
        other[0, :count, 0] = 7
        box = ([0, 0, 10, 20], 0.9, 1)
        pair = findings(box, keypoints=points.tolist()), findings(box, keypoints=other.tolist())
        return failures(summarise([agree(*pair)]), TOLERANCES)

    assert moved(3) == ()
    assert moved(8) == ("keypoint_px_p99 is 7, must be at most 0.1",)


def test_at_the_score_threshold() -> None:
    result = agree(findings(([0, 0, 10, 10], 0.0502, 1)), findings())
    assert reasons(result) == [("reference", AT_SCORE_THRESHOLD)]


def test_at_the_cut_to_the_best_k() -> None:
    common = (([0, 0, 10, 10], 0.9, 1), ([20, 0, 30, 10], 0.8, 1))
    reference = findings(*common, ([40, 0, 50, 10], 0.3002, 1))
    exported = findings(*common, ([60, 0, 70, 10], 0.3, 1))
    assert reasons(agree(reference, exported)) == [("reference", AT_TOP_K), ("exported", AT_TOP_K)]


def test_far_below_the_other_sides_cut_is_no_excuse() -> None:
    reference = findings(([0, 0, 10, 10], 0.3, 1))
    exported = findings(*(([x, 50, x + 10, 60], 0.9, 1) for x in (0, 20, 40)))
    assert (
        reasons(agree(reference, exported)) == [("reference", UNEXPLAINED)] + [("exported", UNEXPLAINED)] * 3
    )


def test_a_wrong_label_is_named_and_unmatched() -> None:
    result = agree(findings(([0, 0, 10, 10], 0.9, 1)), findings(([0, 0, 10, 10], 0.9, 2)))
    assert reasons(result) == [("reference", OTHER_LABEL), ("exported", OTHER_LABEL)]
    figures = summarise([result])
    assert figures["label_mismatches"] == 1
    assert figures["matched_share"] == 0


def test_both_lost_and_invented_detections_lower_the_share() -> None:
    one, two = ([0, 0, 10, 10], 0.9, 1), ([20, 0, 30, 10], 0.8, 1)
    lost = agree(findings(one, two), findings(one))
    invented = agree(findings(one), findings(one, two))
    assert summarise([lost])["matched_share"] == summarise([invented])["matched_share"] == 0.5
    # a loss in one image must not be made up by an invention in another
    assert summarise([lost, invented])["matched_share"] == 0.5


def test_summary_spans_images() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    near = [0.0, 0.0, 10.0, 10.0625]
    full, half = rle(8, 8, slice(0, 8), slice(0, 8)), rle(8, 8, slice(0, 8), slice(0, 4))
    first = agree(findings((box, 0.9, 1), rles=(full,)), findings((box, 0.9, 1), rles=(full,)))
    second = agree(findings((box, 0.5, 1), rles=(full,)), findings((near, 0.25, 1), rles=(half,)))
    figures = summarise([first, second])
    assert figures["images"] == 2
    assert figures["reference_detections"] == figures["exported_detections"] == figures["matched"] == 2
    assert figures["box_px_max"] == pytest.approx(0.0625, abs=EPS)
    assert figures["box_px_p99"] == pytest.approx(0.0625 * 0.99, abs=EPS)  # linear between the two values
    assert figures["score_max"] == pytest.approx(0.25, abs=EPS)
    assert figures["mask_iou_mean"] == pytest.approx(0.75, abs=EPS)
    assert figures["mask_iou_min"] == pytest.approx(0.5, abs=EPS)
    json.dumps([figures, first.figures(), second.figures()], allow_nan=False)


def test_without_masks_or_pairs_the_figures_are_none() -> None:
    figures = summarise([agree(findings(), findings(([0, 0, 10, 10], 0.9, 1)))])
    assert figures["matched_share"] == 0
    for name in (
        *("box_px_max", "box_px_p99", "score_max", "mask_iou_mean", "mask_iou_min"),
        *("keypoint_px_max", "keypoint_px_p99"),
    ):
        assert figures[name] is None
    assert failures(figures, TOLERANCES) == ("matched_share is 0, must be at least 0.999",)


def test_comparing_nothing_does_not_pass() -> None:
    (line,) = failures(summarise([agree(findings(), findings())]), TOLERANCES)
    assert "nothing was compared" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("matched_share", 0.99),
        ("box_px_max", 0.11),
        ("score_max", 0.002),
        ("mask_iou_mean", 0.99),
        ("keypoint_px_p99", 0.11),
    ],
)
def test_each_figure_outside_its_tolerance_is_named(name: str, value: float) -> None:
    figures = {
        "matched_share": 0.999,
        "box_px_max": 0.1,
        "score_max": 1e-3,
        "mask_iou_mean": 0.995,
        "keypoint_px_p99": 0.1,
    }
    assert failures(figures, TOLERANCES) == ()
    (line,) = failures(figures | {name: value}, TOLERANCES)
    assert name in line


def test_not_a_number_fails() -> None:
    figures = {
        "matched_share": 1.0,
        "box_px_max": float("nan"),
        "score_max": 0.0,
        "mask_iou_mean": None,
        "keypoint_px_p99": None,
    }
    assert len(failures(figures, TOLERANCES)) == 1


def test_worst_image_has_most_unmatched_then_the_worst_mask() -> None:
    box = ([0, 0, 10, 10], 0.9, 1)
    moved = ([0, 0, 10, 10.5], 0.9, 1)
    alone, shifted, equal = (
        agree(findings(box), findings()),
        agree(findings(box), findings(moved)),
        agree(findings(box), findings(box)),
    )
    assert max((equal, shifted, alone), key=lambda one: one.badness) is alone
    assert max((equal, shifted), key=lambda one: one.badness) is shifted


def test_tolerances_are_checked() -> None:
    with pytest.raises(MrcnnError, match="matched_share must be in 0…1"):
        Tolerances(matched_share=99.9)
    with pytest.raises(MrcnnError, match="box_px"):
        Tolerances(box_px=-1)
