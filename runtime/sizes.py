"""Which size an image gets in the network."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from mrcnn.description import LARGEST_SIDE, Deployment, ResizeRule
from mrcnn.errors import MrcnnError

Size = tuple[int, int]

# Of an image, before it is resized; what the resize on the GPU computes with holds no more.
MAX_SIDE = 1 << 24


class InputRange(NamedTuple):
    """Inputs that can be run at once, from `least` to `most`, each (batch, height, width)."""

    least: tuple[int, int, int]
    most: tuple[int, int, int]

    @property
    def fixed_size(self) -> Size | None:
        """(height, width) where there is only one."""
        return self.most[1:] if self.least[1:] == self.most[1:] else None


def check_sides(height: int, width: int) -> None:
    """Raises MrcnnError unless an image of this size can be resized."""
    if not 1 <= min(height, width) <= max(height, width) <= MAX_SIDE:
        raise MrcnnError(
            f"an image must be 1 to {MAX_SIDE} pixels high and wide (got {_shown(height)}x{_shown(width)})"
        )


def checked_image_size(size: Any) -> Size:
    """(height, width) as a caller gave it.

    Raises:
        MrcnnError: it is no such pair of whole numbers.
    """
    try:
        height, width = map(operator.index, size)
    except (TypeError, ValueError) as error:
        raise MrcnnError(
            f"an image's size must be (height, width) in whole pixels (got {_shown(size)})"
        ) from error
    check_sides(height, width)
    return height, width


def checked_ranges(ranges: Any) -> tuple[InputRange, ...]:
    """Ranges as a caller gave them.

    Raises:
        MrcnnError: there is none, or one is no pair of (batch, height, width), the lesser first.
    """
    if isinstance(ranges, InputRange):
        raise MrcnnError("ranges must be a list of ranges, not a single one")
    try:
        checked = tuple(_checked_range(entry) for entry in ranges)
    except (TypeError, ValueError) as error:
        raise MrcnnError(
            "ranges must be a list of pairs (least, most), each (batch, height, width) in whole numbers "
            f"(got {_shown(ranges)})"
        ) from error
    if not checked:
        raise MrcnnError("ranges must hold at least one range: leave it out to run at any size")
    return checked


def _checked_range(entry: Any) -> InputRange:
    least, most = entry
    (batch, *low), (most_batch, *high) = (tuple(map(operator.index, sizes)) for sizes in (least, most))
    (height, width), (most_height, most_width) = low, high
    if not (
        1 <= batch <= most_batch
        and 1 <= height <= most_height <= LARGEST_SIDE
        and 1 <= width <= most_width <= LARGEST_SIDE
    ):
        raise MrcnnError(
            f"a range must reach from at least 1 to at most {LARGEST_SIDE} pixels, the least first "
            f"(got {_shown(entry)})"
        )
    return InputRange((batch, height, width), (most_batch, most_height, most_width))


def _shown(value: object) -> str:
    """What somebody gave, in one short line."""
    try:
        line = " ".join(repr(value).split())
    except Exception:  # any object's, or a number of thousands of digits
        return type(value).__name__
    return line if len(line) <= 100 else f"{line[:100]}…"


def graph_range(deployment: Deployment, *, most_images: int) -> InputRange:
    """What the graph itself takes, in batches of up to `most_images` where their size is not fixed."""
    least, most = deployment.batch or 1, deployment.batch or most_images
    if deployment.height is None or deployment.width is None:
        return InputRange((least, 1, 1), (most, LARGEST_SIDE, LARGEST_SIDE))
    size = (deployment.height, deployment.width)
    return InputRange((least, *size), (most, *size))


def network_sizes(rule: ResizeRule, ranges: Sequence[InputRange], image_size: Size) -> tuple[Size, Size]:
    """The size to which an image is resized, and the size to which that is padded.

    An image that fits no range is shrunk. Of several ranges the one is taken in which the image is largest,
    and of these the one with the least padding.

    Args:
        image_size: (height, width) of the image in pixels.

    Returns:
        ((height, width) resized, (height, width) padded), in pixels of the network's input.
    """
    plans = [_fit(rule, entry, image_size) for entry in ranges]
    return max(plans, key=lambda plan: (_area(plan[0]), -_area(plan[1])))


def serving(ranges: Sequence[InputRange], padded: Size) -> InputRange:
    """Of the ranges that contain the size, the one that reaches the least far, for which less is reserved.

    Raises:
        MrcnnError: there is none.
    """
    fitting = [
        entry
        for entry in ranges
        if all(
            low <= side <= high
            for low, side, high in zip(entry.least[1:], padded, entry.most[1:], strict=True)
        )
    ]
    if not fitting:
        raise MrcnnError(f"the model was not built for inputs of {padded[0]}x{padded[1]} pixels")
    return min(fitting, key=lambda entry: _area(entry.most[1:]))


def _fit(rule: ResizeRule, entry: InputRange, image_size: Size) -> tuple[Size, Size]:
    resized = rule.output_size(*image_size, limit=entry.most[1:])
    height, width = rule.padded_size(*resized)
    return resized, (max(height, entry.least[1]), max(width, entry.least[2]))


def _area(size: Size) -> int:
    return size[0] * size[1]
