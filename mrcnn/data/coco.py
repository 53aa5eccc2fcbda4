"""Detection datasets in COCO's format: a folder of images and one JSON document.

https://cocodataset.org/#format-data
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from mrcnn.data.sample import DetectionDataset, Sample
from mrcnn.description import BACKGROUND
from mrcnn.errors import MrcnnError
from mrcnn.runtime.images import read_image

Json = dict[str, Any]
Segmentation = Any  # Sequence[Sequence[float]] | Mapping[str, Any], as the document has it


class CocoDataset(DetectionDataset):
    """Images with the annotations of a COCO document.

    Categories become the labels 1…N in the order of their ids. Crowd regions are no objects to learn
    from, so `sample` leaves them out; `ground_truth` keeps them, since pycocotools treats them as regions
    to ignore. Annotations whose box is empty inside the image are dropped.

    Args:
        path: the JSON document.
        images: the folder of the images; by default `images/` beside the document, or else its own folder.
        masks: whether `sample` gives masks. Every annotation then needs a segmentation.

    Raises:
        MrcnnError: a file is missing, is no such document, or contradicts itself.
    """

    def __init__(self, path: Path | str, *, images: Path | str | None = None, masks: bool = True) -> None:
        self._path = Path(path)
        document = read_document(self._path)
        categories = sorted(document["categories"], key=lambda category: category["id"])
        self.category_ids = (0, *(category["id"] for category in categories))
        self.class_names = (BACKGROUND, *(category["name"] for category in categories))
        self._labels = {category: label for label, category in enumerate(self.category_ids) if label}
        self._categories = categories
        self._images: list[Json] = document["images"]
        self._masks = masks
        self._annotations: dict[int, list[Json]] = defaultdict(list)
        for annotation in document["annotations"]:
            self._annotations[annotation["image_id"]].append(annotation)
        self._folder = self._find_folder(images)

    def __len__(self) -> int:
        return len(self._images)

    def image_id(self, index: int) -> int:
        return int(self._images[index]["id"])

    def image_path(self, index: int) -> Path:
        return self._folder / str(self._images[index]["file_name"])

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        path, record = self.image_path(index), self._images[index]
        pixels = read_image(path)
        if pixels.shape[:2] != (record["height"], record["width"]):
            raise MrcnnError(
                f"{path}: has {pixels.shape[1]}x{pixels.shape[0]} pixels, but {self._path} says "
                f"{record['width']}x{record['height']}"
            )
        return pixels

    def sample(self, index: int) -> Sample:
        pixels, record = self.image(index), self._images[index]
        height, width = pixels.shape[:2]
        boxes, labels, masks = [], [], []
        for annotation in self._objects(record["id"]):
            box = _clipped_box(annotation, height, width)
            if box is None:
                continue
            if self._masks:
                mask = self._mask(annotation, height, width)
                if not mask.any():
                    continue
                masks.append(mask)
            boxes.append(box)
            labels.append(self._labels[annotation["category_id"]])
        return Sample(
            image=pixels,
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            labels=np.array(labels, np.int64),
            masks=np.array(masks, bool).reshape(-1, height, width) if self._masks else None,
            image_id=record["id"],
        )

    def training_indices(self) -> list[int]:
        """All images but those that show nothing but crowds: without them they would pass for empty."""
        return [
            index
            for index, record in enumerate(self._images)
            if self._objects(record["id"]) or record["id"] not in self._annotations
        ]

    def ground_truth(self, indices: Iterable[int]) -> Json:
        images = [self._images[index] for index in indices]
        annotations = [
            annotation for image in images for annotation in self._annotations.get(image["id"], ())
        ]
        return {"images": images, "annotations": annotations, "categories": self._categories}

    def _objects(self, image_id: int) -> list[Json]:
        return [a for a in self._annotations.get(image_id, ()) if not a.get("iscrowd", 0)]

    def _mask(self, annotation: Json, height: int, width: int) -> npt.NDArray[np.bool_]:
        where = f"{self._path}: annotation {annotation['id']}"
        if not annotation.get("segmentation"):
            raise MrcnnError(f"{where} has no segmentation, which a model with masks needs")
        try:
            return decode_segmentation(annotation["segmentation"], height, width)
        except (ValueError, TypeError, KeyError) as error:
            raise MrcnnError(f"{where} has a segmentation that cannot be read: {error}") from error

    def _find_folder(self, images: Path | str | None) -> Path:
        beside = self._path.parent
        if images is not None:
            folder = Path(images)
        else:
            folder = beside / "images" if (beside / "images").is_dir() else beside
        if not folder.is_dir():
            raise MrcnnError(f"{folder}: no such folder of images")
        missing = [r["file_name"] for r in self._images if not (folder / r["file_name"]).is_file()]
        if missing:
            raise MrcnnError(
                f"{folder}: lacks {len(missing)} of the {len(self._images)} images of {self._path}, "
                f"the first is {missing[0]}; name their folder with --images"
            )
        return folder


def read_document(path: Path) -> Json:
    """Reads a COCO document and checks what this project relies on.

    Raises:
        MrcnnError: no such file, not JSON, a key missing, or an annotation of an unknown image or category.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MrcnnError(f"{path}: no such file") from error
    except OSError as error:
        raise MrcnnError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise MrcnnError(f"{path}: is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise MrcnnError(f"{path}: is not a COCO document: an object is needed at the top")
    _check_records(path, document, "categories", {"id": int, "name": str})
    _check_records(path, document, "images", {"id": int, "file_name": str, "height": int, "width": int})
    _check_records(
        path, document, "annotations", {"id": int, "image_id": int, "category_id": int, "bbox": list}
    )
    for key in ("categories", "images"):
        if not document[key]:
            raise MrcnnError(f"{path}: has no {key}")
    _check_references(path, document)
    return document


def _check_records(path: Path, document: Json, key: str, fields: Mapping[str, type]) -> None:
    records = document.get(key)
    if not isinstance(records, list):
        raise MrcnnError(f"{path}: is not a COCO document: the list {key!r} is missing")
    seen = set()
    for position, record in enumerate(records):
        if not isinstance(record, dict):
            raise MrcnnError(f"{path}: {key}[{position}] is not an object")
        for name, kind in fields.items():
            if name not in record:
                raise MrcnnError(f"{path}: {key}[{position}] lacks {name!r}")
            if type(record[name]) is not kind:
                raise MrcnnError(f"{path}: {key}[{position}].{name} is not of type {kind.__name__}")
        if record["id"] in seen:
            raise MrcnnError(f"{path}: {key} has the id {record['id']} twice")
        seen.add(record["id"])


def _check_references(path: Path, document: Json) -> None:
    images = {image["id"] for image in document["images"]}
    categories = {category["id"] for category in document["categories"]}
    if len({category["name"] for category in document["categories"]}) < len(categories):
        raise MrcnnError(f"{path}: two categories have the same name")
    for annotation in document["annotations"]:
        where = f"{path}: annotation {annotation['id']}"
        if annotation["image_id"] not in images:
            raise MrcnnError(f"{where} is of image {annotation['image_id']}, which is not in the list")
        if annotation["category_id"] not in categories:
            raise MrcnnError(f"{where} has the unknown category {annotation['category_id']}")
        box = annotation["bbox"]
        if len(box) != 4 or not all(isinstance(number, int | float) for number in box):
            raise MrcnnError(f"{where} has a bbox that is not [x, y, width, height]: {box}")


def _clipped_box(annotation: Json, height: int, width: int) -> tuple[float, float, float, float] | None:
    """The annotation's box as xyxy inside the image, or None where nothing is left of it."""
    x, y, w, h = annotation["bbox"]
    x1, y1, x2, y2 = max(0.0, x), max(0.0, y), min(float(width), x + w), min(float(height), y + h)
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def decode_segmentation(segmentation: Segmentation, height: int, width: int) -> npt.NDArray[np.bool_]:
    """A COCO segmentation as a mask (height, width).

    Args:
        segmentation: polygons [[x1, y1, x2, y2, …], …], or run lengths {"size", "counts"}, where counts
            are a list of numbers or COCO's compressed text.

    Raises:
        ValueError, TypeError, KeyError: the segmentation is malformed or of another size.
    """
    return coco_mask.decode(encode_segmentation(segmentation, height, width)).astype(bool)  # type: ignore[no-any-return]


def encode_segmentation(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """A COCO segmentation as compressed run lengths. Arguments and errors as in `decode_segmentation`."""
    if isinstance(segmentation, str):
        raise TypeError("run lengths need their size")
    if not isinstance(segmentation, Mapping):
        # Fewer than three points enclose nothing; pycocotools would take two of them for a box.
        polygons = [[float(number) for number in polygon] for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            return dict(coco_mask.encode(np.zeros((height, width), np.uint8, order="F")))
        return dict(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"it is for an image of {segmentation['size']}, not {[height, width]}")
    counts = segmentation["counts"]
    if isinstance(counts, list):
        if sum(counts) != height * width or min(counts) < 0:
            raise ValueError(f"its run lengths do not add up to {height} x {width} pixels")
        return dict(coco_mask.frPyObjects(dict(segmentation), height, width))
    return {"size": [height, width], "counts": counts}
