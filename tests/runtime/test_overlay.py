"""Overlays: what is drawn where, and that any image can be drawn on."""

import colorsys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from mrcnn.description import KeypointRule
from mrcnn.errors import MrcnnError
from mrcnn.runtime import Detections, draw
from mrcnn.runtime.overlay import instance_color


def detections(
    boxes: list[list[float]], size: tuple[int, int], *, masks: bool = True, name: str = "coin"
) -> Detections:
    count = len(boxes)
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.4, count, dtype=np.float32),
        labels=np.ones(count, np.int64),
        class_names=("__background__", name),
        image_size=size,
        mask_probs=np.ones((count, 28, 28), np.float32) if masks else None,
    )


TRIANGLE = KeypointRule(names=("left", "top", "right"), skeleton=((0, 1), (1, 2)))


def pointed(points: list[list[float]], scores: list[float], size: tuple[int, int]) -> Detections:
    """One detection of the whole image with three points."""
    plain = detections([[0, 0, size[1], size[0]]], size, masks=False)
    return replace(
        plain,
        keypoints=np.array([[[*point, 1] for point in points]], np.float32),
        keypoint_scores=np.array([scores], np.float32),
        keypoint_rule=TRIANGLE,
    )


def changed(image: np.ndarray, found: Detections, **options: object) -> np.ndarray:
    return (draw(image, found, **options) != image).any(axis=2)  # type: ignore[arg-type]


def test_the_image_itself_stays_as_it_is() -> None:
    image = np.full((200, 300, 3), 60, np.uint8)
    drawn = draw(image, detections([[50, 60, 150, 160]], (200, 300)))
    assert (image == 60).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8


def test_mask_box_and_label_are_drawn_and_nothing_else() -> None:
    image = np.full((400, 600, 3), 60, np.uint8)
    touched = changed(image, detections([[200, 150, 400, 300]], (400, 600)))
    assert touched[150:300, 200:400].all()
    assert touched[130:150, 202:230].any()  # the chip above the box
    assert not touched[310:].any()
    assert not touched[:, 410:].any()


def test_boxes_alone_leave_their_inside_alone() -> None:
    image = np.full((400, 600, 3), 60, np.uint8)
    touched = changed(image, detections([[200, 150, 400, 300]], (400, 600), masks=False))
    assert touched[150, 200:400].all()
    assert not touched[160:290, 210:390].any()


def test_masks_are_translucent() -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    inside = np.s_[80:150, 60:140]
    drawn = draw(image, detections([[50, 50, 150, 160]], (200, 200)), color="rgb")[inside]
    # 55 % of the picture and 45 % of one colour, cut to whole numbers.
    expected = image[inside] * 0.55 + np.array(instance_color(0)) * 0.45
    assert np.abs(drawn - expected).max() <= 1


def test_channel_order_is_that_of_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    found = detections([[20, 30, 70, 80]], (100, 120))
    turned = draw(np.ascontiguousarray(image[..., ::-1]), found)[..., ::-1]
    assert (draw(image, found, color="rgb") == turned).all()


POINTS: list[list[float]] = [[60, 300], [200, 100], [340, 300]]
# The middle of the line between the first two, that of the line between the last two, and of no line.
FIRST_LINE, SECOND_LINE, NO_LINE = np.s_[196:205, 126:135], np.s_[196:205, 266:275], np.s_[296:305, 196:205]


def test_sure_points_and_the_lines_between_them_are_drawn() -> None:
    image = np.full((400, 400, 3), 60, np.uint8)
    touched = changed(image, pointed(POINTS, [9, 9, 9], (400, 400)))
    assert all(touched[round(y), round(x)] for x, y in POINTS)
    assert touched[FIRST_LINE].any()
    assert touched[SECOND_LINE].any()
    assert not touched[NO_LINE].any()


def test_points_below_the_threshold_are_left_out_with_their_lines() -> None:
    image = np.full((400, 400, 3), 60, np.uint8)
    found = pointed(POINTS, [9, 9, 1.5], (400, 400))
    touched = changed(image, found)
    assert touched[FIRST_LINE].any()
    assert not touched[SECOND_LINE].any()
    assert not touched[290:310, 330:350].any()
    assert changed(image, found, min_point_score=1.0)[290:310, 330:350].any()


def test_points_have_the_colour_of_their_detection() -> None:
    image = np.full((400, 400, 3), 60, np.uint8)
    drawn = draw(image, pointed(POINTS, [9, 9, 9], (400, 400)), color="rgb")
    assert drawn[100, 200].tolist() == list(instance_color(0))


@pytest.mark.parametrize("far", [1e10, -1e30])
def test_points_far_outside_are_clipped(far: float) -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    found = pointed([[far, far], [20, far], [far, 20]], [9, 9, 9], (40, 40))
    assert draw(image, found).shape == image.shape


def test_min_score_leaves_out_the_rest() -> None:
    image = np.full((300, 300, 3), 60, np.uint8)
    found = detections([[20, 40, 80, 100], [200, 200, 280, 280]], (300, 300))
    touched = changed(image, found, min_score=0.5)
    assert touched[40:100, 20:80].all()
    assert not touched[150:, 150:].any()


def test_nothing_found_changes_nothing() -> None:
    image = np.full((30, 40, 3), 60, np.uint8)
    assert not changed(image, detections([], (30, 40))).any()


@pytest.mark.parametrize("size", [(1, 1), (8, 6), (1, 900), (900, 1), (3000, 40), (1200, 1600)])
@pytest.mark.parametrize("name", ["x", "a name that is much too long for a small image", "日本 ßé"])
def test_any_image_and_any_name(size: tuple[int, int], name: str) -> None:
    height, width = size
    boxes = [
        [0, 0, width, height],
        [-9, -9, width / 2, height / 2],
        [width - 1, height - 1, width + 5, height + 5],
    ]
    image = np.zeros((height, width, 3), np.uint8)
    assert draw(image, detections(boxes, size, name=name)).shape == image.shape


def test_the_chip_stays_inside_the_image() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    corner = detections([[390, 0, 400, 4]], (300, 400), masks=False)
    assert changed(image, corner)[5:15, 330:400].sum() > 300


def test_neighbouring_colours_differ_and_stay_the_same() -> None:
    hues = [colorsys.rgb_to_hsv(*(c / 255 for c in instance_color(index)))[0] for index in range(100)]
    assert min(min(abs(a - b), 1 - abs(a - b)) for a, b in pairwise(hues)) > 0.3
    assert len({instance_color(index) for index in range(100)}) == 100
    assert instance_color(5) == instance_color(5)


def test_detections_of_another_image_are_refused() -> None:
    with pytest.raises(MrcnnError, match=r"belong to an image of 40x30 pixels \(got 41x30\)"):
        draw(np.zeros((30, 41, 3), np.uint8), detections([[1, 1, 9, 9]], (30, 40)))


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("far", [1e10, 1e30])
def test_boxes_far_outside_are_clipped(far: float, masks: bool) -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    boxes = [[-far, 5, far, 20], [far, far, far, far], [5, -far, 20, -far]]
    assert draw(image, detections(boxes, (30, 40), masks=masks)).shape == image.shape
