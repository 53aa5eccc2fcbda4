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
from mrcnn.description import KeypointRule
from mrcnn.errors import MrcnnError
from mrcnn.evaluation import (
    AveragePrecision,
    Evaluation,
    average_precision,
    evaluate_detections,
    map_labels,
)
from mrcnn.families import describe

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


PERSONS = describe("keypointrcnn_resnet50_fpn", ("__background__", "person"))


def person(image: int, box: tuple[int, int, int, int], *, moved: float = 0, **more: Any) -> Json:
    """A person whose 17 points lie on the diagonal of its box, or that many pixels to the right of it."""
    x, y, w, h = box
    points = [(x + w * i / 16 + moved, y + h * i / 16) for i in range(17)]
    flat = [number for point in points for number in (*point, 2)]
    return {"image_id": image, "category_id": 1, "bbox": list(box), "area": w * h, "keypoints": flat, **more}


def persons(*annotations: Json) -> Json:
    return {**truth(*annotations), "categories": [{"id": 1, "name": "person"}]}


def points_of_persons(document: Json, results: list[Json]) -> AveragePrecision:
    scores = average_precision(document, results, description=PERSONS).keypoint
    assert scores is not None
    return scores


def test_perfect_key_points_are_100() -> None:
    document = persons(person(1, BOX), person(2, LARGE))
    scores = points_of_persons(document, [person(1, BOX, score=0.9), person(2, LARGE, score=0.3)])
    assert (scores.AP, scores.AP50, scores.AP75, scores.APm, scores.APl) == pytest.approx((100,) * 5)
    assert scores.APs is None, "COCO gives none"


def test_moved_key_points_are_judged_by_coco_s_similarity() -> None:
    """exp(-d^2 / (2 area (2 sigma)^2)), the mean over points, against 0.50, 0.55, … 0.95."""
    sigmas = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
    moved = 8.0
    similarity = np.exp(-(moved**2) / (2 * 120 * 120 * (2 * sigmas) ** 2)).mean()
    passed = int((similarity >= np.linspace(0.5, 0.95, 10)).sum())
    assert 0 < passed < 10
    scores = points_of_persons(persons(person(1, LARGE)), [person(1, LARGE, moved=moved, score=0.9)])
    assert scores.AP == pytest.approx(10 * passed, abs=ROUNDING)


def test_points_that_are_not_known_do_not_count() -> None:
    """A person without any is neither missed nor wrongly found; unknown points of another say nothing."""
    half = person(1, LARGE)
    half["keypoints"] = [0 if index >= 27 else value for index, value in enumerate(half["keypoints"])]
    nothing = person(2, OTHER)
    del nothing["keypoints"]
    results = [person(1, LARGE, score=0.9), person(2, OTHER, score=0.95)]
    assert points_of_persons(persons(half, nothing), results).AP == pytest.approx(100, abs=ROUNDING)


def test_where_there_is_no_keypoint_ap() -> None:
    plain = persons(thing(1, BOX))
    assert average_precision(plain, [], description=PERSONS).keypoint is None
    assert average_precision(plain, [], description=PERSONS).mask is None
    own = describe("keypointrcnn_resnet50_fpn", PERSONS.class_names, keypoints=KeypointRule(names=("tip",)))
    assert average_precision(persons(person(1, BOX)), [], description=own).keypoint is None
    boxes = describe("fasterrcnn_resnet50_fpn", PERSONS.class_names)
    assert average_precision(persons(person(1, BOX)), [], description=boxes).keypoint is None


def test_other_numbers_of_points_are_one_line() -> None:
    document = persons(person(1, BOX, keypoints=[1, 2, 2]))
    with pytest.raises(MrcnnError, match=r"ground truth: annotation 1 has 3 numbers as keypoints, .* are 51"):
        average_precision(document, [], description=PERSONS)


def test_the_finest_figure_is_that_of_masks_or_points() -> None:
    document = persons(person(1, BOX))
    found = average_precision(document, [person(1, BOX, moved=500, score=0.9)], description=PERSONS)
    assert found.box.AP == pytest.approx(100, abs=ROUNDING)
    assert found.finest.AP == 0
    assert evaluate_detections(TWO, [], iou_types=("bbox",)).finest.AP == 0
