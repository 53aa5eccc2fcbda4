"""Key points: from the network's heatmaps to places in the image, as torchvision decodes them.

torchvision resizes each heatmap to the size of its box by bicubic interpolation and takes the largest pixel.
Interpolation along rows and along columns is a product with a matrix each. What makes it fast is that few
of the pixels can be the largest: a pixel is a weighted sum of 4x4 cells, so it is at most as large as their
maximum and a share of their spread. Only the rectangle of those that may beat a known pixel is computed.
"""

import numpy as np
from numpy.typing import NDArray

from mrcnn.description import LARGEST_SIDE
from mrcnn.errors import MrcnnError
from mrcnn.runtime.masks import HALF, FloatArray
from mrcnn.runtime.preprocess import pixel_ratios
from mrcnn.runtime.sizes import Size

_ONE = np.float32(1)
# Of the bicubic kernel, as torch and OpenCV have it (Keys 1981 has -0.5).
_A = np.float32(-0.75)
# A pixel's weights along one axis add up to 1, the negative ones to -0.1875 at most, half way between cells.
# Of both axes the negative ones are 2 · 0.1875 · 1.1875 at most, and the positive ones that much above 1.
_OVERSHOOT = 2 * 0.1875 * 1.1875
# Rounding of a sum of 16 products, relative to the largest value: what bounds it must leave that room.
_ROUNDING = np.float32(1e-5)
# Below this many pixels all are computed sooner than it is found out which may be left out.
_FEW_PIXELS = 1 << 13


def decode_heatmaps(
    heatmaps: FloatArray, boxes: FloatArray, *, network_size: Size, image_size: Size
) -> tuple[FloatArray, FloatArray]:
    """The place of each point: the largest pixel of its heatmap, resized to the box.

    As torchvision's `heatmaps_to_keypoints` and `resize_keypoints`, to float32 rounding: where two pixels
    of a resized heatmap are equal but for rounding, either may be taken.

    Args:
        heatmaps: (n, P, H, H), the network's output for P points of n detections.
        boxes: (n, 4) xyxy, in pixels of the network's input.
        network_size: (height, width) of the resized image, without padding.
        image_size: (height, width) of the original image.

    Returns:
        points (n, P, 3) float32: x and y in pixels of the original image, and the visibility 1; scores
        (n, P) float32: the heatmap's value there, a logit without bounds.

    Raises:
        MrcnnError: a box is no box of an image.
    """
    if not np.abs(boxes).max(initial=0) <= LARGEST_SIDE:
        raise MrcnnError("the network's boxes are not those of an image: export the model again")
    corners, sides = boxes[:, :2], np.maximum(boxes[:, 2:] - boxes[:, :2], _ONE)
    pixels = np.ceil(sides).astype(np.int64)
    points: FloatArray = np.ones((*heatmaps.shape[:2], 3), np.float32)
    scores: FloatArray = np.empty(heatmaps.shape[:2], np.float32)
    for index, (width, height) in enumerate(pixels.tolist()):
        found, scores[index] = _peaks(heatmaps[index], height, width)
        scale = sides[index] / pixels[index].astype(np.float32)
        points[index, :, :2] = (found.astype(np.float32) + HALF) * scale + corners[index]
    points[:, :, :2] *= pixel_ratios(network_size=network_size, image_size=image_size)
    return points, scores


def _peaks(heatmaps: FloatArray, height: int, width: int) -> tuple[NDArray[np.int64], FloatArray]:
    """The first largest pixels (P, 2) x, y of heatmaps (P, H, H) resized to (P, height, width); values."""
    side = heatmaps.shape[-1]
    (rows, row_cells), (columns, column_cells) = (_interpolation(side, pixels) for pixels in (height, width))
    if height * width > _FEW_PIXELS:
        possible = _possible(heatmaps, rows, columns)
    else:
        possible = np.ones((len(heatmaps), side + 1, side + 1), np.bool_)
    places = np.empty((len(heatmaps), 2), np.int64)
    values: FloatArray = np.empty(len(heatmaps), np.float32)
    for point, heatmap in enumerate(heatmaps):
        top, bottom = _pixels(row_cells, possible[point].any(axis=1))
        left, right = _pixels(column_cells, possible[point].any(axis=0))
        resized = rows[top:bottom] @ heatmap @ columns[left:right].T
        place = int(resized.argmax())
        y, x = divmod(place, right - left)
        places[point] = left + x, top + y
        values[point] = resized[y, x]
    return places, values


def _interpolation(side: int, pixels: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Weights (pixels, side) of the cells in each pixel, and the cell (pixels,) before each pixel, from -1.

    As ATen's `upsample_bicubic2d` with align_corners=False, in float32; outside are the cells at the border.
    """
    scale = np.float32(side) / np.float32(pixels)
    position = scale * (np.arange(pixels, dtype=np.float32) + HALF) - HALF
    cell = np.floor(position)
    t = position - cell
    taps = np.stack([_far(t + 1), _near(t), _near(1 - t), _far(2 - t)], axis=1)
    before = cell.astype(np.int64)
    weights: FloatArray = np.zeros((pixels, side), np.float32)
    every = np.arange(pixels)
    for tap in range(4):
        weights[every, np.clip(before + tap - 1, 0, side - 1)] += taps[:, tap]
    return weights, before


def _near(x: FloatArray) -> FloatArray:
    """The kernel at a distance of 0…1 cells."""
    near: FloatArray = ((_A + 2) * x - (_A + 3)) * x * x + 1
    return near


def _far(x: FloatArray) -> FloatArray:
    """The kernel at a distance of 1…2 cells."""
    far: FloatArray = ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
    return far


def _possible(heatmaps: FloatArray, rows: FloatArray, columns: FloatArray) -> NDArray[np.bool_]:
    """Between which cells the largest pixel may lie: (P, H + 1, H + 1) for heatmaps (P, H, H).

    Entry i is for the pixels behind cell i - 1.
    """
    side = heatmaps.shape[-1]
    cell = heatmaps.reshape(len(heatmaps), -1).argmax(axis=1)
    # The pixel over the middle of the largest cell: the largest pixel is no less.
    y = (2 * (cell // side) + 1) * len(rows) // (2 * side)
    x = (2 * (cell % side) + 1) * len(columns) // (2 * side)
    known = np.einsum("pj,pj->p", np.einsum("pi,pij->pj", rows[y], heatmaps), columns[x])
    largest, least = _neighbourhoods(heatmaps)
    bound = largest + np.float32(_OVERSHOOT) * (largest - least)
    room = _ROUNDING * np.abs(heatmaps).max(axis=(1, 2))
    # Of what is no number everything is possible.
    possible: NDArray[np.bool_] = ~(bound < (known - room)[:, None, None])
    return possible


def _neighbourhoods(heatmaps: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The largest and the least of the 4x4 cells around each place between cells, (P, H + 1, H + 1) each."""
    border = np.pad(heatmaps, ((0, 0), (2, 2), (2, 2)), mode="edge")
    return _of_four_by_four(border, np.maximum), _of_four_by_four(border, np.minimum)


def _of_four_by_four(cells: FloatArray, better: np.ufunc) -> FloatArray:
    rows = better(cells[:, :-1], cells[:, 1:])
    rows = better(rows[:, :-2], rows[:, 2:])
    both = better(rows[..., :-1], rows[..., 1:])
    best: FloatArray = better(both[..., :-2], both[..., 2:])
    return best


def _pixels(cells: NDArray[np.int64], possible: NDArray[np.bool_]) -> tuple[int, int]:
    """The range of pixels whose cell (rising, from -1 on) lies between the first and last possible entry."""
    entries = np.flatnonzero(possible)
    first, last = np.searchsorted(cells, [entries[0] - 1, entries[-1]])
    return int(first), int(last)
