"""The result type: what it refuses, its parts, and its other forms."""

import sys

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mrcnn.description import KeypointRule
from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.runtime import Detections

NAMES = ("__background__", "coin", "dog")


TIP_AND_TAIL = KeypointRule(names=("tip", "tail"), skeleton=((0, 1),))


def detections(count: int = 3, **changes: object) -> Detections:
    """Boxes of 10 x 20 pixels in a row, each filled by its mask."""
    left = 30 * np.arange(count, dtype=np.float32) + 5
    fields: dict[str, object] = {
        "boxes": np.stack([left, np.full_like(left, 8), left + 10, np.full_like(left, 28)], axis=1),
        "scores": np.linspace(0.9, 0.5, count, dtype=np.float32),
        "labels": np.arange(count) % 2 + 1,
        "class_names": NAMES,
        "image_size": (50, 120),
        "mask_probs": np.ones((count, 28, 28), np.float32),
    }
    return Detections(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.zeros((3, 5), np.float32)}, r"boxes must have shape \(3, 4\) \(got \(3, 5\)\)"),
        ({"scores": np.zeros(2, np.float32)}, r"scores must have shape \(3,\) \(got \(2,\)\)"),
        ({"labels": np.zeros((3, 1), int)}, r"labels must have shape \(3,\)"),
        ({"mask_probs": np.zeros((3, 28, 14), np.float32)}, r"mask_probs must have shape \(3, 14, 14\)"),
        ({"mask_probs": np.zeros((2, 28, 28), np.float32)}, r"mask_probs must have shape \(3, 28, 28\)"),
        ({"boxes": np.full((3, 4), np.nan, np.float32)}, "boxes has values that are not finite"),
        ({"labels": np.array([0, 1, 3])}, "labels must be 0…2, one per class name"),
        ({"labels": np.array([-1, 1, 2])}, "labels must be 0…2"),
        ({"labels": np.array([1.0, 1.5, 2])}, r"labels must be an array of whole numbers \(got float64\)"),
        ({"boxes": None}, r"boxes must be an array of numbers \(got object\)"),
        ({"boxes": [[1, 2], [3]]}, "boxes is no array"),
        ({"scores": ["a", "b", "c"]}, "scores must be an array of numbers"),
        ({"mask_probs": 3.0}, "mask_probs must be an array of numbers"),
        ({"image_size": (50,)}, r"image_size must be \(height, width\) in pixels \(got \(50,\)\)"),
        ({"image_size": (0, 120)}, "image_size must be"),
        ({"image_size": (50.5, 120)}, "image_size must be"),
        ({"image_size": None}, "image_size must be"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(MrcnnError, match=message):
        detections(**changes)


def test_parts() -> None:
    found = detections()
    assert len(found) == 3
    assert found.names == ["coin", "dog", "coin"]
    assert len(found[1]) == 1
    assert found[-1].scores.tolist() == [0.5]
    assert found[1:].names == ["dog", "coin"]
    assert found[found.labels == 1].names == ["coin", "coin"]
    assert found[np.array([2, 0])].scores.tolist() == found.scores[[2, 0]].tolist()
    assert [one.names for one in found] == [["coin"], ["dog"], ["coin"]]
    assert (found[1].masks == found.masks[1:2]).all()
    with pytest.raises(IndexError):
        found[3]


def test_repr_is_short_and_names_the_best() -> None:
    assert repr(detections()) == "Detections(3 in 50x120: coin 0.90, dog 0.70, coin 0.50)"
    assert repr(detections(50)).endswith(", …)")


def test_masks_are_made_once_and_agree() -> None:
    found = detections()
    assert found.masks is found.masks
    assert found.masks.shape == (3, 50, 120)
    assert found.masks.dtype == np.bool_
    expected = coco_mask.encode(np.asfortranarray(found.masks.transpose(1, 2, 0), np.uint8))
    assert [rle["counts"] for rle in found.rles] == [rle["counts"].decode() for rle in expected]


def test_polygons_outline_the_masks() -> None:
    found = detections()
    for index, ((outline,), mask) in enumerate(zip(found.polygons, found.masks, strict=True)):
        y, x = np.nonzero(mask)
        assert outline.shape[1] == 2
        assert outline.dtype == np.int32
        assert outline.min(axis=0).tolist() == [x.min(), y.min()]
        assert outline.max(axis=0).tolist() == [x.max(), y.max()], index


def test_polygons_of_parts_and_of_an_empty_mask() -> None:
    probs = np.zeros((2, 28, 28), np.float32)
    probs[0, :10] = probs[0, 18:] = 1
    found = detections(2, mask_probs=probs)
    assert [len(outlines) for outlines in found.polygons] == [2, 0]


def test_coco_results_load_in_pycocotools() -> None:
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 17, "width": 120, "height": 50}],
        "annotations": [],
        "categories": [{"id": 1, "name": "coin"}, {"id": 18, "name": "dog"}],
    }
    truth.createIndex()
    found = detections()
    loaded = truth.loadRes(found.to_coco(17, {1: 1, 2: 18}))
    annotations = loaded.loadAnns(loaded.getAnnIds())
    assert [a["category_id"] for a in annotations] == [1, 18, 1]
    assert all((loaded.annToMask(a) == m).all() for a, m in zip(annotations, found.masks, strict=True))
    assert found.to_coco(17)[1]["bbox"] == [35, 8, 10, 20]
    assert found.to_coco(17)[1]["category_id"] == 2


def test_without_masks() -> None:
    found = detections(mask_probs=None)
    for name in ("masks", "rles", "polygons"):
        with pytest.raises(MrcnnError, match="the model gives boxes only"):
            getattr(found, name)
    assert all("segmentation" not in result for result in found.to_coco(1))
    assert found.to_supervision().mask is None
    assert found[0].mask_probs is None


def pointed(count: int = 3, **changes: object) -> Detections:
    """With two points each: the box's first corner, and the opposite one."""
    boxes = detections(count).boxes
    ones = np.ones((count, 2, 1), np.float32)
    fields: dict[str, object] = {
        "mask_probs": None,
        "keypoints": np.concatenate([boxes.reshape(-1, 2, 2), ones], axis=2),
        "keypoint_scores": np.arange(2 * count).reshape(count, 2),
        "keypoint_rule": TIP_AND_TAIL,
    }
    return detections(count, **fields | changes)


def test_key_points_go_with_their_detections() -> None:
    found = pointed()
    assert found[1].keypoints is not None
    assert found[1].keypoints.tolist() == [[[35, 8, 1], [45, 28, 1]]]
    assert found[np.array([2, 0])].keypoint_scores is not None
    assert found[np.array([2, 0])].keypoint_scores.tolist() == [[4, 5], [0, 1]]
    assert found[1:].keypoint_rule == TIP_AND_TAIL
    assert found.keypoint_scores is not None
    assert found.keypoint_scores.dtype == np.float32
    assert detections().keypoints is None
    assert pointed(0)[:].keypoints is not None


def test_key_points_are_written_in_turn_and_load_in_pycocotools() -> None:
    results = pointed().to_coco(17)
    assert [result["keypoints"] for result in results] == [
        [5, 8, 1, 15, 28, 1],
        [35, 8, 1, 45, 28, 1],
        [65, 8, 1, 75, 28, 1],
    ]
    assert all("keypoints" not in result for result in detections().to_coco(17))
    assert pointed(0).to_coco(17) == []
    truth = COCO()
    truth.dataset = {"info": {}, "images": [{"id": 17}], "annotations": [], "categories": [{"id": 1}]}
    truth.createIndex()
    loaded = truth.loadRes(results)
    assert [a["keypoints"] for a in loaded.loadAnns(loaded.getAnnIds())] == [r["keypoints"] for r in results]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoints": np.zeros((3, 2, 2))}, r"keypoints must have shape \(3, 2, 3\) \(got \(3, 2, 2\)\)"),
        ({"keypoints": np.zeros((3, 17, 3))}, r"keypoints must have shape \(3, 2, 3\)"),
        ({"keypoint_scores": np.zeros((2, 2))}, r"keypoint_scores must have shape \(3, 2\)"),
        ({"keypoints": np.full((3, 2, 3), np.nan)}, "keypoints has values that are not finite"),
        ({"keypoint_scores": np.full((3, 2), np.inf)}, "keypoint_scores has values that are not finite"),
        ({"keypoints": [["a"]]}, "keypoints must be an array of numbers"),
        ({"keypoint_scores": None}, "keypoints, keypoint_scores and keypoint_rule come together"),
        ({"keypoints": None}, "come together"),
        ({"keypoint_rule": None}, "come together"),
    ],
)
def test_key_points_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(MrcnnError, match=message):
        pointed(**changes)


def test_nothing_found() -> None:
    found = detections(0)
    assert len(found) == 0
    assert list(found) == []
    assert found.masks.shape == (0, 50, 120)
    assert found.rles == found.polygons == found.to_coco(1) == []
    assert len(found.to_supervision()) == 0
    assert repr(found) == "Detections(0 in 50x120: )"


def test_supervision_gets_everything() -> None:
    found = detections()
    converted = found.to_supervision()
    assert (converted.xyxy == found.boxes).all()
    assert (converted.mask == found.masks).all()
    assert (converted.confidence == found.scores).all()
    assert (converted.class_id == found.labels).all()
    assert converted.data["class_name"].tolist() == found.names


def test_missing_supervision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingRequirementError, match=r"not installed: pip install supervision$"):
        detections().to_supervision()


def test_lists_become_arrays() -> None:
    found = detections(1, boxes=[[1, 2, 3, 4]], scores=[0.5], labels=[2], image_size=[50, 120])
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)
    assert found.image_size == (50, 120)
    assert found.names == ["dog"]


def test_a_label_without_category_is_named() -> None:
    with pytest.raises(MrcnnError, match="category_ids has no entry for label 2"):
        detections().to_coco(1, {1: 1})
