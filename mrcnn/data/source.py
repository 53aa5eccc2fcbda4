"""From the `--data` of a command line to a dataset."""

import os

from mrcnn.data.coco import CocoDataset
from mrcnn.data.sample import DetectionDataset
from mrcnn.data.synthetic import KINDS, SyntheticDataset
from mrcnn.errors import MrcnnError

_SYNTHETIC_IMAGES = 100  # to evaluate on, where no number is given


def open_dataset(
    source: str,
    *,
    images: str | None = None,
    masks: bool = True,
    keypoints: bool = False,
    split: str = "train",
    length: int = 1000,
    size: tuple[int, int] = (256, 320),
    seed: int = 0,
) -> DetectionDataset:
    """The dataset that `source` names: "coins" or "shapes" (synthetic), or the path of a COCO document.

    Args:
        images, masks, keypoints: for a COCO document, see `CocoDataset`. Synthetic data have no key points.
        split, length, size, seed: for a synthetic dataset, see `SyntheticDataset`.

    Raises:
        MrcnnError: the source is neither, or not usable.
    """
    if source in KINDS:
        if images is not None:
            raise MrcnnError(f"--images {images} has no meaning for the synthetic data {source!r}")
        if keypoints:
            raise MrcnnError(f"the synthetic data {source!r} have no key points: give a COCO document")
        return SyntheticDataset(source, length=length, size=size, split=split, seed=seed)
    if not os.path.exists(source):  # noqa: PTH110 - Path.exists raises for a name of 300 characters
        raise MrcnnError(f"--data {source}: neither a file nor one of {', '.join(KINDS)}")
    return CocoDataset(source, images=images, masks=masks, keypoints=keypoints)


def open_for_evaluation(
    source: str, *, images: str | None, limit: int | None
) -> tuple[DetectionDataset, range]:
    """The dataset that `source` names, and the indices of the images to evaluate a model on.

    Args:
        source, images: as for `open_dataset`.
        limit: the first so many images; None for all, of synthetic ones 100.

    Raises:
        MrcnnError: as `open_dataset`.
    """
    length = limit or _SYNTHETIC_IMAGES
    dataset = open_dataset(source, images=images, masks=False, split="val", length=length)
    return dataset, range(len(dataset))[:limit]
