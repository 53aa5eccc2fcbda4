"""Which size an image gets in the network."""

from collections.abc import Sequence
from typing import NamedTuple

from mrcnn.description import LARGEST_SIDE, Deployment, ResizeRule
from mrcnn.errors import MrcnnError

Size = tuple[int, int]


class InputRange(NamedTuple):
    """Inputs that can be run at once, from `least` to `most`, each (batch, height, width)."""

    least: tuple[int, int, int]
    most: tuple[int, int, int]

    @property
    def fixed_size(self) -> Size | None:
        """(height, width) where there is only one."""
        return self.most[1:] if self.least[1:] == self.most[1:] else None


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
