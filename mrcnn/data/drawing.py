"""Tools of the synthetic generators: reproducible draws, noise, and discs with soft edges.

An index must give the same bytes on every machine. So everything here is made of operations that IEEE 754
rounds exactly (+ - × ÷ √, comparisons), one NumPy call each: no sin, exp, power, sums or matrix products,
whose last bit depends on the processor, and no `Generator.uniform` or `normal`, which compilers may fuse.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
T = TypeVar("T")


class Draws:
    """Random draws from one seeded stream."""

    def __init__(self, *key: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._rng.random())

    def integer(self, low: int, high: int) -> int:
        """An integer in low…high, both included."""
        return int(self._rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return float(self._rng.random()) < probability

    def choice(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]

    def unit_vector(self) -> tuple[float, float]:
        """A direction (dy, dx), all equally likely."""
        while True:
            dy, dx = self.uniform(-1, 1), self.uniform(-1, 1)
            square = dy * dy + dx * dx
            if 0.01 < square <= 1:
                length = math.sqrt(square)
                return dy / length, dx / length

    def array(self, *shape: int) -> Array:
        """Uniform values in 0…1."""
        return self._rng.random(shape)

    def grain(self, *shape: int) -> Array:
        """Bell-shaped noise, mean 0, standard deviation 1: the sum of three uniform values."""
        return (self.array(*shape) + self.array(*shape) + self.array(*shape) - 1.5) * 2.0

    def clouds(self, height: int, width: int, cell: float) -> Array:
        """Smooth noise (height, width) in 0…1: random values `cell` pixels apart, interpolated."""
        rows = np.arange(height) / cell + float(self._rng.random())
        columns = np.arange(width) / cell + float(self._rng.random())
        grid = self.array(int(rows[-1]) + 2, int(columns[-1]) + 2)
        top, left = rows.astype(int), columns.astype(int)
        down, right = smoothstep(rows - top)[:, None], smoothstep(columns - left)[None, :]
        along = grid[top] + (grid[top + 1] - grid[top]) * down
        smooth: Array = along[:, left] + (along[:, left + 1] - along[:, left]) * right
        return smooth


def smoothstep(x: Array) -> Array:
    """0 below 0, 1 above 1, and a smooth S between."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def coverage(inside: Array) -> Array:
    """How much of each pixel a shape covers (0…1), from the pixel centre's distance inside its edge."""
    return np.clip(inside + 0.5, 0.0, 1.0)


def offsets(height: int, width: int, cy: float, cx: float) -> tuple[Array, Array]:
    """(dy, dx), shapes (height, 1) and (1, width): pixel centres relative to the point (cy, cx).

    Pixel (0, 0) covers the square from (0, 0) to (1, 1), so that its centre is (0.5, 0.5).
    """
    rows, columns = np.arange(height, dtype=np.float64), np.arange(width, dtype=np.float64)
    return (rows + (0.5 - cy))[:, None], (columns + (0.5 - cx))[None, :]


def radius_of(dy: Array, dx: Array) -> Array:
    return np.sqrt(dy * dy + dx * dx)


def soften(picture: Array, strength: float) -> Array:
    """A 3×3 binomial blur, mixed with the picture by `strength` in 0…1."""
    padded = np.pad(picture, [(1, 1), (1, 1)] + [(0, 0)] * (picture.ndim - 2), mode="edge")
    rows = padded[:-2] + 2.0 * padded[1:-1] + padded[2:]
    blurred = (rows[:, :-2] + 2.0 * rows[:, 1:-1] + rows[:, 2:]) / 16.0
    return picture + (blurred - picture) * strength


def slope(surface: Array, direction: tuple[float, float]) -> Array:
    """The derivative of a height field (H, W) along (dy, dx), per pixel."""
    padded = np.pad(surface, 1, mode="edge")
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) * 0.5
    right = (padded[1:-1, 2:] - padded[1:-1, :-2]) * 0.5
    return down * direction[0] + right * direction[1]


def to_bytes(picture: Array) -> npt.NDArray[np.uint8]:
    """Brightness 0…1 as 0…255."""
    return np.floor(np.clip(picture, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
