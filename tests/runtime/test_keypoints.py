"""Key points from heatmaps: by hand, and as torchvision decodes them."""

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints
from torchvision.models.detection.transform import resize_keypoints

from mrcnn.errors import MrcnnError
from mrcnn.runtime import keypoints as decoding
from mrcnn.runtime.keypoints import decode_heatmaps

SIDE = 56
# Both sum 16 float32 products in different orders; relative to the largest value.
ROUNDING = 3e-6
SAME = {"network_size": (400, 300), "image_size": (400, 300)}

Arrays = tuple[np.ndarray, np.ndarray]


def peaks(*cells: tuple[int, int], side: int = SIDE) -> np.ndarray:
    """One detection's heatmaps (1, P, side, side), each 0 but for one cell (x, y) of 1."""
    heatmaps = np.zeros((1, len(cells), side, side), np.float32)
    for point, (x, y) in enumerate(cells):
        heatmaps[0, point, y, x] = 1
    return heatmaps


def box(*sides: float) -> np.ndarray:
    return np.array([sides], np.float32)


def torchvisions(heatmaps: np.ndarray, boxes: np.ndarray) -> Arrays:
    points, scores = heatmaps_to_keypoints(torch.from_numpy(heatmaps), torch.from_numpy(boxes))
    return points.numpy(), scores.numpy()


def test_a_box_of_the_heatmaps_size_has_a_pixel_for_each_cell() -> None:
    """The point is in the middle of the cell's pixel."""
    points, scores = decode_heatmaps(peaks((0, 0), (55, 55), (20, 7)), box(100, 200, 156, 256), **SAME)
    assert points.tolist() == [[[100.5, 200.5, 1], [155.5, 255.5, 1], [120.5, 207.5, 1]]]
    assert scores.tolist() == [[1, 1, 1]]


def test_a_box_of_three_times_the_size() -> None:
    """The middle one of each cell's three pixels lies on the cell and has its value; others have less."""
    points, scores = decode_heatmaps(peaks((20, 7)), box(10, 20, 10 + 168, 20 + 168), **SAME)
    assert points.tolist() == [[[10 + 3 * 20 + 1.5, 20 + 3 * 7 + 1.5, 1]]]
    assert scores.tolist() == [[1]]


def test_a_broken_side_is_rounded_up_and_its_pixels_are_narrower() -> None:
    """55.5 pixels are 56 of 55.5 / 56 each."""
    points, _ = decode_heatmaps(peaks((55, 0)), box(10, 20, 65.5, 76), **SAME)
    assert points[0, 0].tolist() == [np.float32(10 + 55.5 * 55.5 / 56), 20.5, 1]


def test_a_box_without_size_is_one_pixel() -> None:
    points, scores = decode_heatmaps(np.ones((1, 1, SIDE, SIDE), np.float32), box(30, 40, 30, 40), **SAME)
    assert points.tolist() == [[[30.5, 40.5, 1]]]
    assert scores[0, 0] == pytest.approx(1, abs=ROUNDING)


def test_points_are_those_of_the_original_image() -> None:
    points, _ = decode_heatmaps(
        peaks((20, 7)), box(100, 200, 156, 256), network_size=(400, 300), image_size=(100, 600)
    )
    assert points.tolist() == [[[2 * 120.5, 207.5 / 4, 1]]]


def test_of_equal_pixels_the_first_is_taken() -> None:
    heatmaps = peaks((9, 4)) + peaks((3, 5)) + peaks((30, 4))
    points, _ = decode_heatmaps(heatmaps, box(0, 0, 56, 56), **SAME)
    assert points[0, 0].tolist() == [9.5, 4.5, 1]


def test_no_detection() -> None:
    points, scores = decode_heatmaps(
        np.zeros((0, 17, SIDE, SIDE), np.float32), np.zeros((0, 4), np.float32), **SAME
    )
    assert points.shape == (0, 17, 3)
    assert scores.shape == (0, 17)


@pytest.mark.parametrize("far", [np.nan, np.inf, 1e9])
def test_boxes_of_a_broken_model_are_refused(far: float) -> None:
    with pytest.raises(MrcnnError, match="are not those of an image"):
        decode_heatmaps(peaks((1, 1)), box(0, 0, far, 9), **SAME)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("width", [20, 250])
def test_heatmaps_of_a_broken_model_have_scores_that_are_no_numbers(value: float, width: int) -> None:
    """Which `Detections` refuses."""
    heatmaps = peaks((20, 7))
    heatmaps[0, 0, 30, 30] = value
    with np.errstate(invalid="ignore"):
        _, scores = decode_heatmaps(heatmaps, box(0, 0, width, 99), **SAME)
    assert not np.isfinite(scores).any()


def random_heatmaps(kind: str, rng: np.random.Generator, *, side: int = SIDE) -> np.ndarray:
    """(12, 5, side, side): bumps as trained models give them, or noise, where nearly everything may win."""
    if kind == "noise":
        return rng.normal(0, 1, (12, 5, side, side)).astype(np.float32)
    y, x = np.mgrid[:side, :side]
    centre_y, centre_x = rng.uniform(0, side, (2, 12, 5, 1, 1))
    width = rng.uniform(1.5, 6, (12, 5, 1, 1))
    bump = np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / (2 * width**2))
    return (18 * bump - 8 + rng.normal(0, 0.3, bump.shape)).astype(np.float32)


def random_boxes(rng: np.random.Generator, mean: tuple[int, int]) -> np.ndarray:
    corner = rng.uniform(0, 200, (12, 2))
    return np.concatenate([corner, corner + np.array(mean) * rng.uniform(0.5, 1.5, (12, 2))], axis=1).astype(
        np.float32
    )


def assert_same(ours: Arrays, theirs: Arrays, heatmaps: np.ndarray) -> None:
    """Equal places but for ties: a differing one has the largest value, too, to rounding."""
    rounding = ROUNDING * np.abs(heatmaps).max()
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=rounding)
    differ = np.abs(ours[0] - theirs[0]).max(axis=-1) > 0
    assert differ.mean() <= 0.02, "ties are rare"


@pytest.mark.parametrize("kind", ["bumps", "noise"])
@pytest.mark.parametrize("mean", [(3, 4), (30, 60), (300, 90), (120, 500)], ids=str)
def test_random_heatmaps_give_what_torchvision_gives(kind: str, mean: tuple[int, int]) -> None:
    rng = np.random.default_rng(mean[0])
    heatmaps, boxes = random_heatmaps(kind, rng), random_boxes(rng, mean)
    ours = decode_heatmaps(heatmaps, boxes, network_size=(768, 1000), image_size=(480, 625))
    points, scores = torchvisions(heatmaps, boxes)
    points = resize_keypoints(torch.from_numpy(points), (768, 1000), (480, 625)).numpy()
    assert_same(ours, (points, scores), heatmaps)


def test_heatmaps_of_another_size() -> None:
    rng = np.random.default_rng(3)
    heatmaps, boxes = random_heatmaps("bumps", rng, side=28), random_boxes(rng, (150, 250))
    assert_same(decode_heatmaps(heatmaps, boxes, **SAME), torchvisions(heatmaps, boxes), heatmaps)


@pytest.mark.parametrize("kind", ["bumps", "noise"])
def test_what_is_left_out_is_never_the_largest(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    heatmaps, boxes = random_heatmaps(kind, rng), random_boxes(rng, (200, 200))
    quick = decode_heatmaps(heatmaps, boxes, **SAME)
    monkeypatch.setattr(decoding, "_FEW_PIXELS", 1 << 30)
    whole = decode_heatmaps(heatmaps, boxes, **SAME)
    assert_same(quick, whole, heatmaps)


def test_most_pixels_of_a_trained_heatmap_are_left_out() -> None:
    """Of a single narrow bump: were the bound useless, everything would be possible."""
    y, x = np.mgrid[:SIDE, :SIDE]
    bump = 18 * np.exp(-((y - 20) ** 2 + (x - 30) ** 2) / 8) - 8
    rows, _ = decoding._interpolation(SIDE, 400)
    columns, _ = decoding._interpolation(SIDE, 200)
    possible = decoding._possible(bump[None].astype(np.float32), rows, columns)
    assert 0 < possible.sum() < 100
