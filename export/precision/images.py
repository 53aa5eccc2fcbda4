"""The pictures that a model is calibrated on."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrcnn.errors import MrcnnError
from mrcnn.export.precision.options import DEFAULT_IMAGES
from mrcnn.runtime.images import RgbArray, UnreadableError, image_files, read_image

if TYPE_CHECKING:
    from mrcnn.data.coco import CocoDataset

# Fewer say little about what other images will be like.
_FEW = 16


@dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """Pictures that can be read and show something.

    Attributes:
        paths: of the pictures.
        digest: SHA-256 over their contents, in order.
        dataset, indices: the annotated images that they are, where there are annotations.
        notes: what a user should know of them, one line each.
    """

    paths: tuple[Path, ...]
    digest: str
    dataset: "CocoDataset | None" = None
    indices: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, place: int) -> RgbArray:
        """A picture as (h, w, 3) uint8 RGB."""
        return read_image(self.paths[place])

    def truth(self) -> object:
        """The annotations of the pictures; None without."""
        return None if self.dataset is None else self.dataset.ground_truth(self.indices)

    def some(self, number: int) -> list[int]:
        """The places of so many pictures, spread evenly."""
        return spread(len(self), number)


def open_images(source: Path, *, folder: Path | None, limit: int) -> CalibrationImages:
    """Looks through pictures and takes `limit` of those that are usable, spread evenly.

    Args:
        source: a folder of pictures, a picture, or a COCO document.
        folder: where the pictures of a COCO document lie; None: images/ beside it.

    Raises:
        MrcnnError: there are none, or none that shows anything, or pictures of the document are missing.
    """
    dataset = None
    if source.suffix.lower() == ".json":
        from mrcnn.data.coco import CocoDataset

        dataset = CocoDataset(source, images=folder, masks=False, option="--calib-images")
        candidates = [dataset.image_path(index) for index in range(len(dataset))]
    elif folder is not None:
        raise MrcnnError(f"--calib-images {folder}: is for a COCO document, but --calib {source} is none")
    else:
        candidates = image_files([source])
    chosen: list[int] = []
    blank = 0
    evenly = spread(len(candidates), limit)
    instead = sorted(set(range(len(candidates))) - set(evenly))  # of those that are no use
    for index in (*evenly, *instead):
        if len(chosen) == limit:
            break
        try:
            image = dataset.image(index) if dataset else read_image(candidates[index])
        except UnreadableError as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        if (image == image[0, 0]).all():
            blank += 1
        else:
            chosen.append(index)
    if not chosen:
        seen = "are all of one colour" if blank else "cannot be read"
        raise MrcnnError(f"--calib {source}: the pictures {seen}: give some as the model will see them")
    notes = [f"left out, since of one colour: {_pictures(blank)}"] if blank else []
    if len(chosen) < _FEW:
        notes.append(
            f"ranges come from {_pictures(len(chosen))}: others may exceed them; "
            f"{DEFAULT_IMAGES['int8']} are a good number"
        )
    chosen.sort()
    digest = hashlib.sha256()
    for index in chosen:
        digest.update(hashlib.sha256(candidates[index].read_bytes()).digest())
    return CalibrationImages(
        paths=tuple(candidates[index] for index in chosen),
        digest=digest.hexdigest(),
        dataset=dataset,
        indices=tuple(chosen) if dataset else (),
        notes=tuple(notes),
    )


def _pictures(number: int) -> str:
    return "1 picture" if number == 1 else f"{number} pictures"


def spread(total: int, number: int) -> list[int]:
    """At most `number` of 0 … total - 1, spread evenly."""
    if number >= total:
        return list(range(total))
    return [int(place) for place in np.linspace(0, total - 1, number)]
