"""Which image files a benchmark runs on."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mrcnn.errors import MrcnnError

if TYPE_CHECKING:
    from mrcnn.runtime.images import RgbArray


def image_files(paths: Sequence[Path], *, limit: int | None = None) -> list[Path]:
    """The given files, and the pictures (by suffix) in the given folders and those below, sorted by path.

    Args:
        limit: at most so many, the first.

    Raises:
        MrcnnError: a path does not exist, or a folder holds no picture.
    """
    from mrcnn.runtime.images import SUFFIXES

    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not found:
                raise MrcnnError(f"{path}: no pictures in this folder ({', '.join(sorted(SUFFIXES))})")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise MrcnnError(f"{path}: no such file or folder")
    return files[:limit]


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
