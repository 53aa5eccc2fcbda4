"""An image of any size into the network's input, and boxes back, as torchvision's GeneralizedRCNNTransform.

torchvision normalises first and resizes then. Interpolation commutes with an affine map of the values,
so the resized image here keeps its range 0…255, and the graph normalises.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mrcnn.runtime.sizes import Size

if TYPE_CHECKING:
    from mrcnn.plugins.kernels import Kernels

FloatArray = NDArray[np.float32]

# Output rows that are blended at a time: few enough to stay in the cache, enough to hide NumPy's overhead.
_ROWS = 16


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
    values: NDArray[Any] = np.empty((batch, *padded, 3), dtype)
    sizes: NDArray[np.int32] = np.tile(np.array(padded, np.int32), (batch, 1))
    for index, (image, size) in enumerate(zip(images, resized, strict=True)):
        resize_and_pad(image, size=size, out=values[index])
        sizes[index] = size
    values[len(images) :] = 0
    return values, sizes


def resize_and_pad(image: NDArray[np.uint8], *, size: Size, out: NDArray[Any]) -> None:
    """Resizes `image` (h, w, 3) into the upper left of `out` (H, W, 3), float32 or uint8; the rest is zero.

    The native kernel, where it was built, does it several times as fast as NumPy, and equal to the last bit.
    """
    kernels = _kernels()
    if kernels is not None and _resize_natively(kernels, image, size, out):
        return
    height, width = size
    values: FloatArray = np.zeros(out.shape, np.float32)
    resize_bilinear(image, out=values[:height, :width])
    out[...] = np.rint(values, out=values) if out.dtype == np.uint8 else values


def _resize_natively(kernels: "Kernels", image: NDArray[np.uint8], size: Size, out: NDArray[Any]) -> bool:
    """Whether the kernel did it; it refuses sizes that the runtime takes in principle."""
    from mrcnn.plugins.kernels import KernelError, resize_params

    image = image if image.strides[1:] == (3, 1) and image.strides[0] > 0 else np.ascontiguousarray(image)
    try:
        params = resize_params(
            shape=image.shape,
            pitch=image.strides[0],
            target=size,
            padded=(out.shape[0], out.shape[1]),
            dtype=out.dtype.name,
        )
        kernels.resize_cpu(params, image.ctypes.data, out.ctypes.data)
    except KernelError:
        return False
    return True


@lru_cache(maxsize=1)
def _kernels() -> "Kernels | None":
    from mrcnn.errors import MissingRequirementError
    from mrcnn.plugins.kernels import installed_kernels

    try:
        return installed_kernels()
    except MissingRequirementError:
        return None


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

    Both sizes are (height, width).
    """
    ratios = np.tile(pixel_ratios(network_size=network_size, image_size=image_size), 2)
    return (boxes * ratios).astype(np.float32, copy=False)


def pixel_ratios(*, network_size: Size, image_size: Size) -> FloatArray:
    """Pixels of the original image per pixel of the resized one, (2,) float32: along x, along y.

    As in torchvision's `resize_boxes` and `resize_keypoints`; both sizes are (height, width).
    """
    original, resized = np.array([image_size, network_size], np.float32)
    ratios: FloatArray = np.divide(original, resized)
    return ratios[::-1]
