"""Anchors and input sizes that a user asks for, in place of those of the model's family."""

from collections.abc import Sequence
from dataclasses import replace

from mrcnn.description import AnchorRule, ResizeRule
from mrcnn.errors import MrcnnError

_LARGEST_STRIDE = 32


def change_anchors(
    rule: AnchorRule, *, sizes: Sequence[int] | None = None, ratios: Sequence[float] | None = None
) -> AnchorRule:
    """The rule with other sizes, other aspect ratios, or both.

    Args:
        sizes: in pixels. One per feature level, the finest first (FPN, section 4.1); or, where there is one
            level, all of them on it (Faster R-CNN, section 3.1).
        ratios: height / width, the same on every level.

    Raises:
        MrcnnError: the number of sizes is not that of the levels, or a value is out of range.
    """
    levels = len(rule.sizes)
    if sizes is not None:
        if levels > 1 and len(sizes) != levels:
            raise MrcnnError(
                f"--anchor-sizes needs one size for each of the {levels} feature levels, the finest first "
                f"(got {len(sizes)})"
            )
        rule = replace(rule, sizes=tuple((size,) for size in sizes) if levels > 1 else (tuple(sizes),))
    if ratios is not None:
        rule = replace(rule, aspect_ratios=(tuple(ratios),) * levels)
    return rule


def resized(
    rule: ResizeRule, *, min_size: int | None = None, max_size: int | None = None, square: int | None = None
) -> ResizeRule:
    """The rule with other sizes. A shorter side that is longer than the longest makes that as long.

    Args:
        square: see `square_input`; not with `max_size`.

    Raises:
        MrcnnError: sizes contradict each other or are out of range.
    """
    if square is not None:
        if max_size is not None:
            raise MrcnnError("--square is the longest side already: leave out --max-size")
        return square_input(rule, square, min_size=min_size)
    shorter = rule.min_size if min_size is None else min_size
    longer = max(shorter, rule.max_size) if max_size is None else max_size
    return replace(rule, min_size=shorter, max_size=longer)


def square_input(rule: ResizeRule, side: int, *, min_size: int | None = None) -> ResizeRule:
    """Matterport's rule: the longer side at most `side`, and zeros around it up to `side` x `side` pixels.

    Their square is filled evenly on both sides; here the image is at the top left, as in all of torchvision.

    Args:
        min_size: of the shorter side where the longer one allows it; by default 800, but at most `side`.

    Raises:
        MrcnnError: `side` is not a multiple of 32, or sizes are out of range.
    """
    if side < 1 or side % _LARGEST_STRIDE:
        nearest = max(1, round(side / _LARGEST_STRIDE)) * _LARGEST_STRIDE
        raise MrcnnError(f"--square must be a multiple of {_LARGEST_STRIDE}, as {nearest} (got {side})")
    shorter = min(ResizeRule().min_size, side) if min_size is None else min_size
    return replace(rule, min_size=shorter, max_size=side, size_divisible=side)
