"""Average precision against cases that can be computed by hand."""
# ruff: noqa: SIM300 - AP is the name of a figure, not a constant

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn.data.sample import DetectionDataset
from mrcnn.data.synthetic import SyntheticDataset
from mrcnn.errors import MrcnnError
from mrcnn.evaluation import Evaluation, evaluate_detections, map_labels

Json = dict[str, Any]

SIDE = 200
# pycocotools samples precision at 101 recalls; all figures here are exact but for float64 rounding.
ROUNDING = 1e-9


def rle(x: int, y: int, w: int, h: int) -> Json:
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    encoded = coco_mask.encode(mask)
    return {"size": [SIDE, SIDE], "counts": encoded["counts"].decode()}


def thing(image: int, box: tuple[int, int, int, int], category: int = 1, **more: Any) -> Json:
    return {
        "image_id": image,
        "category_id": category,
        "bbox": list(box),
        "segmentation": rle(*box),
        **more,
    }


def truth(*annotations: Json, images: int = 2) -> Json:
    return {
        "images": [{"id": n, "height": SIDE, "width": SIDE} for n in range(1, images + 1)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": n, **a} for n, a in enumerate(annotations)],  # the id 0 is meant
    }


BOX, OTHER, LARGE = (10, 10, 40, 40), (100, 100, 50, 50), (0, 0, 120, 120)
TWO = truth(thing(1, BOX), thing(2, OTHER))


def both(evaluation: Evaluation) -> tuple[Any, Any]:
    assert evaluation.mask is not None
    return evaluation.box, evaluation.mask


def test_perfect_detections_are_100() -> None:
    for scores in both(evaluate_detections(TWO, [thing(1, BOX, score=0.9), thing(2, OTHER, score=0.3)])):
        assert (scores.AP, scores.AP50, scores.AP75, scores.APm) == pytest.approx((100,) * 4, abs=ROUNDING)
        assert scores.APs is None, "there is no small object"
        assert scores.APl is None


def test_half_of_the_objects_found() -> None:
    # Precision 1 up to recall 0.5: that is 51 of the 101 sampled recalls 0, 0.01, …, 1.
    for scores in both(evaluate_detections(TWO, [thing(1, BOX, score=0.9)])):
        assert scores.AP == pytest.approx(100 * 51 / 101, abs=ROUNDING)


def test_a_false_detection_before_the_true_ones() -> None:
    # Precision is 1/2 after the first hit and 2/3 after the second, so 2/3 is the best at any recall.
    results = [thing(1, (150, 150, 30, 30), score=0.95), thing(1, BOX, score=0.9), thing(2, OTHER, score=0.8)]
    for scores in both(evaluate_detections(TWO, results)):
        assert scores.AP == pytest.approx(100 * 2 / 3, abs=ROUNDING)


def test_overlap_decides_at_which_thresholds_an_object_counts() -> None:
    # 40 x 40 against 40 x 32: IoU 0.8 passes 0.50, 0.55, … 0.75, 0.80: seven of the ten thresholds.
    shrunk = (10, 10, 40, 32)
    for scores in both(evaluate_detections(truth(thing(1, BOX)), [thing(1, shrunk, score=0.9)])):
        assert scores.AP == pytest.approx(70, abs=ROUNDING)
        assert (scores.AP50, scores.AP75) == pytest.approx((100, 100), abs=ROUNDING)


def test_boxes_and_masks_are_judged_apart() -> None:
    half = {**thing(1, BOX, score=0.9), "segmentation": rle(10, 10, 40, 20)}
    evaluation = evaluate_detections(truth(thing(1, BOX)), [half])
    box, mask = both(evaluation)
    assert box.AP == pytest.approx(100, abs=ROUNDING)
    assert mask.AP50 == pytest.approx(100, abs=ROUNDING)  # IoU 0.5 exactly
    assert mask.AP == pytest.approx(10, abs=ROUNDING)


def test_wrong_labels_are_0() -> None:
    results = [thing(1, BOX, 2, score=0.9), thing(2, OTHER, 2, score=0.9)]
    for scores in both(evaluate_detections(TWO, results)):
        assert scores.AP == 0


def test_no_detections_are_0() -> None:
    for scores in both(evaluate_detections(TWO, [])):
        assert (scores.AP, scores.AP50, scores.AP75, scores.APm) == (0, 0, 0, 0)
        assert scores.APl is None


def test_no_objects_have_no_ap() -> None:
    for scores in both(evaluate_detections(truth(), [thing(1, BOX, score=0.9)])):
        assert scores.AP is None


def test_the_mean_is_over_categories() -> None:
    document = truth(thing(1, BOX, 1), thing(1, LARGE, 2))
    for scores in both(evaluate_detections(document, [thing(1, BOX, 1, score=0.9)])):
        assert scores.AP == pytest.approx(50, abs=ROUNDING)
        assert scores.APm == pytest.approx(100, abs=ROUNDING)
        assert scores.APl == 0


def test_detections_in_a_crowd_are_neither_right_nor_wrong() -> None:
    document = truth(thing(1, BOX), thing(1, LARGE, iscrowd=1))
    results = [thing(1, (60, 60, 30, 30), score=0.99), thing(1, BOX, score=0.9)]
    for scores in both(evaluate_detections(document, results)):
        assert scores.AP == pytest.approx(100, abs=ROUNDING)


def test_boxes_only() -> None:
    results = [{key: value for key, value in thing(1, BOX, score=0.9).items() if key != "segmentation"}]
    document = truth(thing(1, BOX, area=1600))
    document["annotations"][0].pop("segmentation")
    evaluation = evaluate_detections(document, results, iou_types=("bbox",))
    assert evaluation.box.AP == pytest.approx(100, abs=ROUNDING)
    assert evaluation.mask is None
    with pytest.raises(MrcnnError, match="mask AP needs them all"):
        evaluate_detections(document, results)


def test_the_ground_truth_is_not_changed_and_may_be_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "truth.json"
    before = json.dumps(TWO)
    named = [{**image, "file_name": f"{image['id']}.png"} for image in TWO["images"]]
    path.write_text(json.dumps({**TWO, "images": named}))
    assert evaluate_detections(path, []) == evaluate_detections(TWO, [])
    assert json.dumps(TWO) == before
    assert capsys.readouterr().out == ""
    with pytest.raises(MrcnnError, match="no such file"):
        evaluate_detections(tmp_path / "none.json", [])


def named(*names: str, ids: tuple[int, ...]) -> DetectionDataset:
    data = SyntheticDataset("coins", length=1)
    data.class_names = ("__background__", *names)
    data.category_ids = (0, *ids)
    return data


def test_labels_find_their_categories_by_name() -> None:
    ids, assumed = map_labels(("__background__", "dog", "cat"), named("cat", "dog", ids=(17, 18)))
    assert ids == (None, 18, 17)
    assert assumed == ()


def test_classes_that_only_one_side_knows() -> None:
    ids, assumed = map_labels(("__background__", "cow", "N/A", "cat"), named("cat", "dog", ids=(17, 18)))
    assert ids == (None, None, None, 17)
    assert len(assumed) == 2
    assert "'dog'" in assumed[0]
    assert "'cow'" in assumed[1]
    assert "N/A" not in assumed[1]


def test_names_without_meaning_go_by_order() -> None:
    names = ("__background__", "class_1", "class_2")
    ids, (assumed,) = map_labels(names, named("cat", "dog", ids=(17, 18)))
    assert ids == (None, 17, 18)
    assert "order of the ids" in assumed


def test_strangers_are_refused() -> None:
    with pytest.raises(MrcnnError, match=r"\('cow'\) and .* \('cat', 'dog'\) have no name in common"):
        map_labels(("__background__", "cow"), named("cat", "dog", ids=(17, 18)))
