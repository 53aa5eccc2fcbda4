"""Coloured shapes on textured grounds: a small many-class problem with occlusion."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mrcnn.data.drawing import Array, Draws, Mask, coverage, offsets, radius_of, to_bytes

# A shape is its signed depth in pixels (positive inside) at points (v, u) of its own rotated frame.
Depth = Callable[[Array, Array, float], Array]


def disc(v: Array, u: Array, size: float) -> Array:
    return size - radius_of(v, u)


def ring(v: Array, u: Array, size: float) -> Array:
    return 0.28 * size - np.abs(radius_of(v, u) - 0.72 * size)


def square(v: Array, u: Array, size: float) -> Array:
    return 0.85 * size - np.maximum(np.abs(v), np.abs(u))


def triangle(v: Array, u: Array, size: float) -> Array:
    """Equilateral, its corners on the circle of radius `size`."""
    slanted = np.abs(u) * 0.8660254037844386 - v * 0.5
    return 0.5 * size - np.maximum(v, slanted)


def cross(v: Array, u: Array, size: float) -> Array:
    upright = np.minimum(size - np.abs(v), 0.32 * size - np.abs(u))
    lying = np.minimum(size - np.abs(u), 0.32 * size - np.abs(v))
    return np.maximum(upright, lying)


_SHAPES: dict[str, Depth] = {
    "disc": disc,
    "ring": ring,
    "square": square,
    "triangle": triangle,
    "cross": cross,
}
CLASSES = tuple(_SHAPES)

_SIZE = (0.07, 0.2)  # of the shorter image side
_VISIBLE = 0.3  # an object less visible than this is not annotated, nor left standing under another


def draw(draws: Draws, height: int, width: int) -> tuple[npt.NDArray[np.uint8], Mask, list[int]]:
    """An image (height, width, 3) uint8, the visible masks (N, height, width) of its shapes, their labels."""
    picture = _texture(draws, height, width, contrast=draws.uniform(0.05, 0.4))
    masks: list[Mask] = []
    labels: list[int] = []
    areas: list[int] = []
    for _ in range(draws.integer(1, 10)):
        label = draws.integer(1, len(CLASSES))
        size = draws.uniform(*_SIZE) * min(height, width)
        cy, cx = draws.uniform(0, height), draws.uniform(0, width)
        depth = rotated(_SHAPES[CLASSES[label - 1]], height, width, cy, cx, size, draws.unit_vector())
        mask = depth >= 0
        below = [other & ~mask for other in masks]
        hidden = any(m.sum() < _VISIBLE * area for m, area in zip(below, areas, strict=True))
        paint = _texture(draws, height, width, contrast=draws.uniform(0.0, 0.25))
        if hidden or mask.sum() < 40:
            continue
        alpha = coverage(depth)[:, :, None]
        picture = picture + (paint - picture) * alpha
        masks = [*below, mask]
        labels.append(label)
        areas.append(int(mask.sum()))
    picture = picture + draws.grain(height, width, 3) * draws.uniform(0.0, 0.04)
    stack = np.stack(masks) if masks else np.zeros((0, height, width), bool)
    return to_bytes(picture), stack, labels


def rotated(
    shape: Depth, height: int, width: int, cy: float, cx: float, size: float, direction: tuple[float, float]
) -> Array:
    """The depth of `shape`, (height, width): centred at (cy, cx), its u axis along `direction` (dy, dx)."""
    dy, dx = offsets(height, width, cy, cx)
    v = dy * direction[1] - dx * direction[0]
    u = dy * direction[0] + dx * direction[1]
    return shape(v, u, size)


def _texture(draws: Draws, height: int, width: int, *, contrast: float) -> Array:
    """A colour (height, width, 3) with cloudy variation."""
    colour = draws.array(3)
    coarse = draws.clouds(height, width, draws.uniform(4, 60))[:, :, None] - 0.5
    tint = draws.array(3) - 0.5
    return colour + coarse * contrast + coarse * tint * contrast
