"""The images that a benchmark runs on."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mrcnn.errors import MrcnnError

if TYPE_CHECKING:
    from mrcnn.runtime.images import RgbArray


def read_images(
    paths: Sequence[Path], skipped: list[dict[str, str]], *, progress: str
) -> Iterator[tuple[Path, "RgbArray"]]:
    """Reads one image after the other under a progress bar, and goes on past those that cannot be read.

    Args:
        skipped: takes an entry with `image` and `reason` for each of these; a line tells the user at once.
        progress: title of the bar.

    Raises:
        MrcnnError: at the end, if no image could be read.
    """
    from tqdm import tqdm

    from mrcnn.runtime import read_image

    for path in tqdm(paths, desc=progress, unit="image", leave=False, disable=None):
        try:
            pixels = read_image(path)
        except MrcnnError as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            skipped.append({"image": str(path), "reason": str(error)})
            continue
        yield path, pixels
    if len(skipped) == len(paths):
        raise MrcnnError("none of the images can be read")
