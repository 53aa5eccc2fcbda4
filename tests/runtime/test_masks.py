"""Run lengths against torchvision's pasted masks and pycocotools' encoding."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from mrcnn.errors import MrcnnError
from mrcnn.runtime.masks import RunLengths, decode_rle, paste_masks

# A value that differs in its last bits lies on either side of 0.5: four products and three sums of values
# up to 1, each rounded by 2^-24, in another order than torch's.
HALF_TOLERANCE = 5e-7
# Where exact values meet 0.5 exactly, whole rows of pixels do; they are at most this share of all.
DIFFERING_SHARE = 1e-5


def assert_equals_torchvision(probs: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> RunLengths:
    runs = paste_masks(probs, boxes, size)
    pasted = paste_masks_in_image(torch.from_numpy(probs)[:, None], torch.from_numpy(boxes), size)[
        :, 0
    ].numpy()
    bitmaps = runs.bitmaps()
    assert bitmaps.shape == pasted.shape
    differing = bitmaps != (pasted > 0.5)
    assert np.abs(pasted[differing] - 0.5).max(initial=0) <= HALF_TOLERANCE
    assert differing.sum() <= max(1, DIFFERING_SHARE * differing.size)
    assert_equals_pycocotools(runs, bitmaps)
    return runs


def assert_equals_pycocotools(runs: RunLengths, bitmaps: np.ndarray) -> None:
    expected = coco_mask.encode(np.asfortranarray(bitmaps.transpose(1, 2, 0), np.uint8))
    rles = runs.to_coco()
    assert [rle["counts"] for rle in rles] == [rle["counts"].decode() for rle in expected]
    assert [rle["size"] for rle in rles] == [list(rle["size"]) for rle in expected]


def smooth(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Blobs with one wavy outline, as a mask head gives them."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    angle = np.arctan2(y, x)
    waves, phase, radius = rng.integers(1, 6, count), rng.uniform(0, 6, count), rng.uniform(0.1, 0.6, count)
    outline = radius[:, None, None] * (1 + 0.3 * np.sin(waves[:, None, None] * angle + phase[:, None, None]))
    return (1 / (1 + np.exp(-25 * (outline - np.hypot(x, y))))).astype(np.float32)


def probabilities(kind: str, count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "smooth":
        return smooth(count, side, rng)
    if kind == "noise":
        return rng.random((count, side, side), dtype=np.float32)
    if kind == "binary":
        return (rng.random((count, side, side)) > 0.5).astype(np.float32)
    return np.full((count, side, side), {"ones": 1, "zeros": 0}[kind], np.float32)


def random_boxes(kind: str, count: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(count, 4) xyxy. Each reaches into the image, since torchvision cannot paste others."""
    extent = np.array(size[::-1], np.float64)
    if kind == "full":
        return np.tile(np.float32([0, 0, *extent]), (count, 1))
    sides = extent * rng.uniform(0.02, 1, (count, 2)) ** 2
    if kind == "tiny":
        sides = rng.uniform(0.01, 3, (count, 2))
    low = rng.uniform(0, 1, (count, 2)) * (extent - sides)
    if kind == "over":
        low = np.clip(rng.uniform(-0.3, 1.1, (count, 2)) * extent, 2 - sides, extent - 2)
    return np.concatenate([low, low + sides], axis=1).astype(np.float32)


@pytest.mark.parametrize("boxes", ["mixed", "over", "tiny", "full"])
@pytest.mark.parametrize("kind", ["smooth", "noise", "binary", "ones", "zeros"])
def test_equals_torchvision(kind: str, boxes: str) -> None:
    rng = np.random.default_rng(7)
    size = (360, 501)
    assert_equals_torchvision(probabilities(kind, 8, 28, rng), random_boxes(boxes, 8, size, rng), size)


@pytest.mark.parametrize("side", [1, 2, 7, 14, 56])
def test_equals_torchvision_for_masks_of_any_size(side: int) -> None:
    rng = np.random.default_rng(side)
    probs = probabilities("noise", 8, side, rng)
    assert_equals_torchvision(probs, random_boxes("mixed", 8, (240, 320), rng), (240, 320))


def test_equals_torchvision_on_a_large_image() -> None:
    rng = np.random.default_rng(1)
    size = (1080, 1920)
    probs = np.concatenate([probabilities(kind, 8, 28, rng) for kind in ("smooth", "noise")])
    assert_equals_torchvision(probs, random_boxes("mixed", 16, size, rng), size)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    corners=st.tuples(*[st.floats(-20, 60, width=32)] * 4),
    seed=st.integers(0, 2**16),
    side=st.integers(1, 6),
)
def test_equals_torchvision_wherever_torchvision_can_paste(
    size: tuple[int, int], corners: tuple[float, float, float, float], seed: int, side: int
) -> None:
    x1, x2 = sorted(corners[:2])
    y1, y2 = sorted(corners[2:])
    boxes = np.array([[x1, y1, x2, y2]], np.float32)
    probs = np.random.default_rng(seed).random((1, side, side), dtype=np.float32)
    # torchvision fails where a box lies outside the image.
    if x2 >= 0 and y2 >= 0 and x1 <= size[1] - 1 and y1 <= size[0] - 1:
        assert_equals_torchvision(probs, boxes, size)
    else:
        assert len(paste_masks(probs, boxes, size)) == 1


def test_a_mask_of_ones_by_hand() -> None:
    # Four knots a side, 0 1 1 0, over a window of four pixels, since the box grows by (2 + 2) / 2 about its
    # centre to 0…3 and counts both ends: each pixel is one knot.
    runs = paste_masks(np.ones((1, 2, 2), np.float32), np.float32([[0.75, 0.75, 2.25, 2.25]]), (5, 6))
    assert runs.counts.tolist() == [6, 2, 3, 2, 17]
    assert runs.bitmaps()[0].astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_a_box_far_outside_gives_an_empty_mask() -> None:
    boxes = np.float32([[-50, -50, -20, -20], [100, 5, 140, 15], [2, 200, 4, 300]])
    runs = paste_masks(np.ones((3, 28, 28), np.float32), boxes, (20, 30))
    assert not runs.bitmaps().any()
    assert [runs[i].tolist() for i in range(3)] == [[600]] * 3


def test_a_mask_over_the_whole_image_begins_with_an_empty_run_and_ends_without_one() -> None:
    boxes = np.float32([[-500, -500, 500, 500], [-500, -500, 500, 500]])
    runs = paste_masks(np.ones((2, 28, 28), np.float32), boxes, (20, 30))
    assert [runs[i].tolist() for i in range(2)] == [[0, 600]] * 2
    assert runs.bitmaps().all()


def test_no_masks() -> None:
    runs = paste_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (20, 30))
    assert len(runs) == 0
    assert runs.to_coco() == []
    assert runs.bitmaps().shape == (0, 20, 30)


def test_crop_is_the_bounding_box() -> None:
    bitmap = np.zeros((7, 9), bool)
    bitmap[2, 3:6] = bitmap[4, 5] = True
    left, top, crop = runs_of(bitmap).crop(0)
    assert (left, top) == (3, 2)
    assert crop.astype(int).tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 1]]


def runs_of(bitmap: np.ndarray) -> RunLengths:
    flat = bitmap.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False)) if flat.any() else np.zeros(0, int)
    counts = np.diff([0, *edges, flat.size])
    if counts[-1] == 0:
        counts = counts[:-1]
    return RunLengths(counts=counts, offsets=np.array([0, len(counts)]), size=bitmap.shape)


@pytest.mark.parametrize("density", [0.0, 0.001, 0.02, 0.5, 1.0])
def test_rle_text_equals_pycocotools_both_ways(density: float) -> None:
    bitmap = np.random.default_rng(0).random((211, 307)) < density
    bitmap[150:] = bitmap[150:] & (density == 1)  # runs of many lengths
    runs = runs_of(bitmap)
    assert_equals_pycocotools(runs, bitmap[None])
    assert (decode_rle(runs.to_coco()[0]) == bitmap).all()


def test_rle_text_of_long_runs() -> None:
    # 5 bits a character: lengths of one to six characters, and differences of both signs.
    counts = np.array([3, 100_000_000, 15, 16, 600, 20_000, 5, 1_000_000, 40_000_000, 1, 2, 99_999_999])
    height = int(counts.sum())
    runs = RunLengths(counts=counts, offsets=np.array([0, len(counts)]), size=(height, 1))
    (rle,) = runs.to_coco()
    plain = {"size": [height, 1], "counts": counts.tolist()}
    (expected,) = coco_mask.frPyObjects([plain], height, 1)
    assert rle["counts"] == expected["counts"].decode()


@pytest.mark.parametrize("text", ["", "0", "~~~", "!", "é", "h4]"])
def test_text_that_is_no_rle_is_refused(text: str) -> None:
    with pytest.raises(MrcnnError, match="does not describe a mask of 20x30 pixels"):
        decode_rle({"size": [20, 30], "counts": text})


@pytest.mark.parametrize(
    "rle",
    [
        None,
        {},
        [],
        {"size": [20, 30]},
        {"size": [20, 30], "counts": [600]},
        {"size": [20, 30], "counts": b"h4"},
        {"size": [20.0, 30], "counts": "h4"},
        {"size": [-20, -30], "counts": "h4"},
        {"size": [20, 30, 1], "counts": "h4"},
        {"size": 600, "counts": "h4"},
        {"size": [1 << 16, 1 << 16], "counts": "h4"},
        {"size": [20, 30], "counts": "o" * 40 + "0"},
        {"size": [20, 30], "counts": "ooooooooooooo0" * 3},
    ],
)
def test_what_is_no_rle_is_refused(rle: Any) -> None:
    with pytest.raises(MrcnnError, match="RLE"):
        decode_rle(rle)
