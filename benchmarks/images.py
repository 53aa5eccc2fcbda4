"""The images that a benchmark runs on."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mrcnn.errors import MrcnnError

if TYPE_CHECKING:
    from mrcnn.runtime.images import RgbArray


Item = TypeVar("Item")


def read_images(
    paths: Sequence[Path], skipped: list[dict[str, str]], *, progress: str
) -> Iterator[tuple[Path, "RgbArray"]]:
    """Reads one image file after the other, as `read_each`."""
    from mrcnn.runtime import read_image

    yield from read_each(paths, read_image, skipped, progress=progress)


def read_each(
    items: Sequence[Item],
    read: "Callable[[Item], RgbArray]",
    skipped: list[dict[str, str]],
    *,
    name: Callable[[Item], str] = str,
    progress: str,
) -> Iterator[tuple[Item, "RgbArray"]]:
    """Reads one image after the other under a progress bar, and goes on past those that cannot be read.

    Args:
        read: gives the image that an item stands for, or raises MrcnnError.
        skipped: takes an entry with `image` and `reason` for each of these; a line tells the user at once.
        name: of an item, for that entry.
        progress: title of the bar.

    Raises:
        MrcnnError: at the end, if no image could be read.
    """
    from tqdm import tqdm

    for item in tqdm(items, desc=progress, unit="image", leave=False, disable=None):
        try:
            pixels = read(item)
        except MrcnnError as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            skipped.append({"image": name(item), "reason": str(error)})
            continue
        yield item, pixels
    if len(skipped) == len(items):
        raise MrcnnError("none of the images can be read")
