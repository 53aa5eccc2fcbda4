"""What counts as equal, with the reasons, and lines that say what was not."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Features are about N(0, 1). The GPU fuses multiplications with additions, which moves the last bits of a
# mean of such values by a few 1e-7; a wrong pixel or weight moves it by 1e-2.
TOLERANCE = 1e-5

# Both round the same mean, known to TOLERANCE, to float16: where it lies close to the middle between two of
# them, to neighbours. One unit more is slack.
HALF_UNITS = 2


def tolerance_of(expected: "NDArray[Any]", tolerance: float = TOLERANCE) -> "NDArray[np.float32]":
    """How far each value may be off, by the type of `expected`."""
    if expected.dtype != np.float16:
        return np.full(expected.shape, tolerance, np.float32)
    # |x| lies in 2^(e-1) … 2^e, where float16 has 10 bits after the first; subnormals share a unit.
    size = np.where(np.isfinite(expected), np.abs(expected), 0).astype(np.float32)
    _, exponent = np.frexp(np.maximum(size, np.float32(2**-14)))
    unit = np.ldexp(np.float32(1), exponent - 11)
    return np.asarray(np.float32(tolerance) + HALF_UNITS * unit, np.float32)


def unequal_values(
    got: "NDArray[Any]", expected: "NDArray[Any]", *, axes: str, tolerance: float = TOLERANCE
) -> tuple[str | None, float]:
    """Compares two arrays of one shape and type; NaN equals NaN, an infinity itself.

    Args:
        axes: names of the axes for the message, as "roi channel y x".

    Returns:
        a line or None, and the largest difference among finite values.
    """
    if got.size == 0:
        return None, 0.0
    a, b = got.astype(np.float32), expected.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(a - b)
        suspect = ~(error <= tolerance_of(expected, tolerance))  # a NaN is one
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    wrong = suspect & ~same
    worst = float(np.max(error, initial=0.0, where=np.isfinite(error)))
    if not wrong.any():
        return None, worst
    error = np.where(wrong, np.where(np.isnan(error), np.inf, error), -1.0)
    place = np.unravel_index(np.argmax(error), error.shape)
    names = ", ".join(f"{name} {int(index)}" for name, index in zip(axes.split(), place, strict=True))
    share = f"{np.count_nonzero(wrong)} of {wrong.size} values are wrong"
    return f"{share}, the worst at {names}: {got[place]} instead of {expected[place]}", worst


def unequal_kept(
    indices: "NDArray[Any]", count: "NDArray[Any]", expected: "NDArray[Any]", expected_count: "NDArray[Any]"
) -> str | None:
    """Compares the output of NMS, (batch, max_output) and (batch,), to the last entry; a line, or None."""
    wrong = np.flatnonzero(count != expected_count)
    if wrong.size:
        image = int(wrong[0])
        counts = f"{count[image]} boxes kept instead of {expected_count[image]}"
        return f"image {image}: {counts}; {_first_difference(indices[image], expected[image])}"
    for image in range(len(indices)):
        if not np.array_equal(indices[image], expected[image]):
            return f"image {image}: {_first_difference(indices[image], expected[image])}"
    return None


def _first_difference(got: "NDArray[Any]", expected: "NDArray[Any]") -> str:
    wrong = np.flatnonzero(got != expected)
    if not wrong.size:
        return "the same indices"
    place = int(wrong[0])
    return (
        f"{wrong.size} of {got.size} indices are wrong, the first at {place}: "
        f"{got[place]} instead of {expected[place]}"
    )
