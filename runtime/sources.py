"""Where a stream takes its images from."""

import os
from collections.abc import Iterable, Iterator

import numpy as np

from mrcnn.errors import MrcnnError
from mrcnn.runtime.images import ImageLike


def check_source(source: object) -> None:
    """Raises MrcnnError unless images can be taken from it."""
    image = isinstance(source, str | bytes | os.PathLike) or (
        isinstance(source, np.ndarray) and source.ndim < 4 and source.dtype != object
    )
    if image or not (hasattr(type(source), "__iter__") or hasattr(type(source), "__getitem__")):
        raise MrcnnError(f"stream takes several images: give a list of them (got {type(source).__name__})")


def groups(source: Iterable[ImageLike], size: int) -> Iterator[list[ImageLike]]:
    """Lists of `size` images, the last one shorter; also where the source fails, which is raised after it."""
    images, failure = iter(source), None
    more = True
    while more:
        group: list[ImageLike] = []
        try:
            while len(group) < size:
                group.append(next(images))
        except StopIteration:
            more = False
        except Exception as error:
            more, failure = False, error
        if group:
            yield group
    if failure is not None:
        raise failure
