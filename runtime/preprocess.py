"""An image of any size into the network's input, and boxes back, as torchvision's GeneralizedRCNNTransform.

torchvision normalises first and resizes then. Interpolation commutes with an affine map of the values,
so the resized image here keeps its range 0…255, and the graph normalises.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mrcnn.description import Deployment

FloatArray = NDArray[np.float32]
Size = tuple[int, int]

# Output rows that are blended at a time: few enough to stay in the cache, enough to hide NumPy's overhead.
_ROWS = 16


def network_sizes(deployment: Deployment, image_size: Size) -> tuple[Size, Size]:
    """The size to which an image is resized, and the size to which that is padded.

    Args:
        image_size: (height, width) of the image in pixels.

    Returns:
        ((height, width) resized, (height, width) padded), in pixels of the network's input. A graph of
        fixed size takes any image: it is shrunk until it fits.
    """
    rule = deployment.description.resize
    if deployment.height is None or deployment.width is None:
        resized = rule.output_size(*image_size)
        return resized, rule.padded_size(*resized)
    padded = (deployment.height, deployment.width)
    return rule.output_size(*image_size, limit=padded), padded


def make_batch(
    images: Sequence[NDArray[np.uint8]],
    *,
    resized: Sequence[Size],
    padded: Size,
    batch: int,
    dtype: str = "float32",
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """The graph's inputs for images that share one padded size.

    Args:
        images: at most `batch` images, (h, w, 3) uint8 RGB.
        resized: for each image, its (height, width) inside the padding.
        padded: (height, width) of the network's input.
        batch: rows of the result; those without an image are black.
        dtype: "float32", or "uint8" for graphs exported with rounded inputs.

    Returns:
        `images` (batch, H, W, 3) of `dtype`, RGB, 0…255, zero in the padding, and `image_sizes`
        (batch, 2) int32, the valid (height, width).
    """
    values: FloatArray = np.zeros((batch, *padded, 3), np.float32)
    sizes: NDArray[np.int32] = np.tile(np.array(padded, np.int32), (batch, 1))
    for index, (image, (height, width)) in enumerate(zip(images, resized, strict=True)):
        resize_bilinear(image, out=values[index, :height, :width])
        sizes[index] = height, width
    if dtype == "uint8":
        return np.rint(values, out=values).astype(np.uint8), sizes
    return values, sizes


def resize_bilinear(image: NDArray[np.uint8], *, out: FloatArray) -> None:
    """Resizes `image` (h, w, 3) into `out` (H, W, 3), without rounding and without antialiasing.

    Equal to `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` to float32
    rounding. (`cv2.resize` computes the sampling positions in another precision than torch and differs
    by up to 0.05 of 255 on a large photograph.) Rows that are not sampled are not touched, so that a
    photograph of 12 megapixels never exists as floats.
    """
    height, width = out.shape[:2]
    above, below, weight = _sampling(image.shape[0], height)
    rows, where = np.unique(np.concatenate([above, below]), return_inverse=True)
    # Whole rows are blended both times, because strided access along columns is several times slower.
    columns: FloatArray = np.empty((width, len(rows), 3), np.float32)
    _blend(cv2.transpose(image[rows]), *_sampling(image.shape[1], width), out=columns)
    _blend(cv2.transpose(columns), where[:height], where[height:], weight, out=out)


def _sampling(source: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
    """For each of `target` pixels the two source pixels that it lies between, and the second one's weight.

    In float32 throughout, since torch's positions are float32, too (ATen, `area_pixel_compute_source_index`).
    """
    scale = np.float32(source) / np.float32(target)
    half = np.float32(0.5)
    position = np.maximum(scale * (np.arange(target, dtype=np.float32) + half) - half, np.float32(0))
    first = np.minimum(position.astype(np.intp), source - 1)
    second = np.minimum(first + 1, source - 1)
    return first, second, np.minimum(position - first.astype(np.float32), np.float32(1))


def _blend(
    source: NDArray[Any],
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    weight: FloatArray,
    *,
    out: FloatArray,
) -> None:
    """out[i] = (1 - weight[i]) * source[first[i]] + weight[i] * source[second[i]], rows of (n, 3)."""
    weight = weight[:, None, None]
    rest = 1 - weight
    for start in range(0, len(out), _ROWS):
        part = slice(start, start + _ROWS)
        np.multiply(source[first[part]], rest[part], out=out[part])
        out[part] += source[second[part]] * weight[part]


def rescale_boxes(boxes: FloatArray, *, network_size: Size, image_size: Size) -> FloatArray:
    """Boxes (n, 4) xyxy from pixels of the resized image to pixels of the original one.

    The float32 ratios are those of torchvision's `resize_boxes`; both sizes are (height, width).
    """
    ratio_height, ratio_width = np.array(image_size, np.float32) / np.array(network_size, np.float32)
    ratios = np.array([ratio_width, ratio_height] * 2, np.float32)
    return (boxes * ratios).astype(np.float32, copy=False)
