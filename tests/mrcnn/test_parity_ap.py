from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn.findings import Findings
from mrcnn.parity_ap import parity_ap

SIDE = 64


def squares(corners: Any, *, scores: Any, labels: Any, side: int = 16) -> Findings:
    """Square masks that fill their boxes; a side of 0 gives boxes of one pixel with empty masks."""
    corners = np.asarray(corners, np.float32).reshape(-1, 2)
    rles = []
    for x, y in corners.astype(int):
        mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
        mask[y : y + side, x : x + side] = 1
        rles.append(dict(coco_mask.encode(mask)))
    return Findings(
        boxes=np.hstack([corners, corners + max(side, 1)]),
        scores=np.asarray(scores, np.float32),
        labels=np.asarray(labels, np.int64),
        rles=tuple(rles),
    )


TWO = squares([[0, 0], [32, 32]], scores=[0.9, 0.8], labels=[1, 1])


@pytest.mark.parametrize("kind", ["bbox", "segm"])
class TestParityAP:
    def test_equal_results_give_100(self, kind: Any) -> None:
        assert parity_ap([TWO, TWO], [TWO, TWO], kind=kind) == 100

    def test_a_single_detection_gives_100(self, kind: Any) -> None:
        one = squares([[0, 0]], scores=[0.06], labels=[7])
        assert parity_ap([one], [one], kind=kind) == 100

    def test_half_found(self, kind: Any) -> None:
        # precision 1 up to recall 0.5: 51 of COCO's 101 recall points
        found = squares([[0, 0]], scores=[0.9], labels=[1])
        assert parity_ap([TWO], [found], kind=kind) == pytest.approx(100 * 51 / 101)

    def test_shifted_by_a_quarter(self, kind: Any) -> None:
        # 4 of 16 pixels aside: IoU 12 / 20 = 0.6, found at the thresholds 0.5, 0.55 and 0.6 of ten
        truth = squares([[0, 0]], scores=[0.9], labels=[1])
        found = squares([[4, 0]], scores=[0.9], labels=[1])
        assert parity_ap([truth], [found], kind=kind) == pytest.approx(30)

    def test_another_image_or_label_is_not_found(self, kind: Any) -> None:
        one = squares([[0, 0]], scores=[0.9], labels=[1])
        none = squares([], scores=[], labels=[])
        other = squares([[0, 0]], scores=[0.9], labels=[2])
        assert parity_ap([one, none], [none, one], kind=kind) == 0
        assert parity_ap([one], [other], kind=kind) == 0

    def test_nothing_found_and_nothing_to_find(self, kind: Any) -> None:
        none = squares([], scores=[], labels=[])
        assert parity_ap([TWO], [none], kind=kind) == 0
        assert parity_ap([none], [TWO], kind=kind) is None

    def test_more_than_a_hundred_tied_detections_in_any_order(self, kind: Any) -> None:
        random = np.random.default_rng(3)
        corners = random.integers(0, 12, size=(150, 2))
        order = random.permutation(150)
        labels = random.integers(1, 3, size=150)
        truth = squares(corners, scores=np.full(150, 0.25), labels=labels)
        found = squares(corners[order], scores=np.full(150, 0.25), labels=labels[order])
        assert parity_ap([truth], [found], kind=kind) == 100


def test_empty_masks_cost_nothing_when_both_have_them() -> None:
    one = squares([[0, 0]], scores=[0.9], labels=[1])
    empty = squares([[8, 8]], scores=[0.95], labels=[1], side=0)
    both = Findings(
        boxes=np.vstack([one.boxes, empty.boxes]),
        scores=np.concatenate([one.scores, empty.scores]),
        labels=np.concatenate([one.labels, empty.labels]),
        rles=(one.rles or ()) + (empty.rles or ()),
    )
    assert parity_ap([both], [both], kind="segm") == 100
    filled = squares([[0, 0], [8, 8]], scores=[0.9, 0.95], labels=[1, 1])
    assert parity_ap([both], [filled], kind="segm") == pytest.approx(50)  # the invented mask comes first


def test_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    parity_ap([TWO], [TWO], kind="bbox")
    assert capsys.readouterr().out == ""
