"""Synthetic detection data: an endless, deterministic supply of annotated images without a download."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from mrcnn.data import coins, shapes
from mrcnn.data.drawing import Draws
from mrcnn.data.sample import DetectionDataset, Sample, boxes_around
from mrcnn.description import BACKGROUND
from mrcnn.errors import MrcnnError

_KINDS = {"coins": coins, "shapes": shapes}
KINDS = tuple(_KINDS)

# Streams of random numbers: images of one split never occur in another.
_SPLITS = {"train": 0, "val": 1}

_LEAST_SIDE = 32


class SyntheticDataset(DetectionDataset):
    """`length` images of one kind. The same (kind, split, seed, size, index) is the same image anywhere.

    Args:
        kind: "coins" (one class) or "shapes" (five classes).
        split: "train" or "val".
        size: (height, width) of the images in pixels.

    Raises:
        MrcnnError: an unknown kind or split, no images, or images too small to draw in.
    """

    def __init__(
        self,
        kind: str,
        *,
        length: int,
        size: tuple[int, int] = (256, 320),
        split: str = "train",
        seed: int = 0,
    ) -> None:
        if kind not in _KINDS:
            raise MrcnnError(f"unknown kind of synthetic data {kind!r} (known: {', '.join(KINDS)})")
        if split not in _SPLITS:
            raise MrcnnError(f"unknown split {split!r} (known: {', '.join(_SPLITS)})")
        if length < 1:
            raise MrcnnError(f"a synthetic dataset needs at least one image (got {length})")
        if min(size) < _LEAST_SIDE:
            raise MrcnnError(
                f"synthetic images need sides of at least {_LEAST_SIDE} pixels (got {size[0]}x{size[1]})"
            )
        self._kind = kind
        self._key = (KINDS.index(kind), _SPLITS[split], seed)
        self._size = size
        self._length = length
        self.class_names = (BACKGROUND, *_KINDS[kind].CLASSES)
        self.category_ids = tuple(range(len(self.class_names)))

    def __len__(self) -> int:
        return self._length

    def sample(self, index: int) -> Sample:
        image, masks, labels = _KINDS[self._kind].draw(Draws(*self._key, index), *self._size)
        return Sample(
            image=image,
            boxes=boxes_around(masks),
            labels=np.array(labels, np.int64),
            masks=masks,
            image_id=self.image_id(index),
        )

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        return self.sample(index).image

    def image_id(self, index: int) -> int:
        return index + 1  # pycocotools takes 0 for "no match"

    def ground_truth(self, indices: Iterable[int]) -> dict[str, Any]:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in indices:
            sample = self.sample(index)
            assert sample.masks is not None
            height, width = sample.image.shape[:2]
            images.append({"id": sample.image_id, "height": height, "width": width})
            for box, label, mask in zip(sample.boxes.tolist(), sample.labels, sample.masks, strict=True):
                rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": sample.image_id,
                        "category_id": int(label),
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
                    }
                )
        categories = [{"id": label, "name": name} for label, name in enumerate(self.class_names) if label]
        return {"images": images, "annotations": annotations, "categories": categories}
