"""Detection datasets in COCO's format: a folder of images and one JSON document.

https://cocodataset.org/#format-data
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from mrcnn.data.annotations import check_annotation
from mrcnn.data.keypoints import points_of, rule_of
from mrcnn.data.sample import DetectionDataset, Sample
from mrcnn.description import BACKGROUND, KeypointRule
from mrcnn.errors import MrcnnError
from mrcnn.files import read_regular
from mrcnn.runtime.images import MAX_PIXELS, read_image

Json = dict[str, Any]
Segmentation = Any  # Sequence[Sequence[float]] | Mapping[str, Any], as `check_annotation` lets it pass

# COCO's own of 118,000 images has 470 MB.
_LARGEST_DOCUMENT = 4 << 30
_LEAST_INT, _MOST_INT = -(2**63), 2**63 - 1  # of a tensor


class CocoDataset(DetectionDataset):
    """Images with the annotations of a COCO document.

    Categories become the labels 1…N in the order of their ids. Crowd regions are no objects to learn
    from, so `sample` leaves them out; `ground_truth` keeps them, since pycocotools treats them as regions
    to ignore. Annotations whose box is empty inside the image are dropped.

    Args:
        path: the JSON document.
        images: the folder of the images; by default `images/` beside the document, or else its own folder.
        masks: whether `sample` gives masks. Every annotation then needs a segmentation.
        keypoints: whether `sample` gives key points, those that the categories list, or COCO's 17 of persons.
            Every object then needs them.
        option: how a user names the folder, for the error that asks for it.

    Raises:
        MrcnnError: a file is missing, is no such document, or contradicts itself.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        images: Path | str | None = None,
        masks: bool = True,
        keypoints: bool = False,
        option: str = "--images",
    ) -> None:
        self._path, self._option = Path(path), option
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
        if keypoints:
            self.keypoint_rule = self._checked_keypoints()
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
        boxes, labels, masks, points = [], [], [], []
        rule = self.keypoint_rule
        for annotation in self._objects(record["id"]):
            box = _clipped_box(annotation, height, width)
            if box is None:
                continue
            if self._masks:
                mask = self._mask(annotation, height, width)
                if not mask.any():
                    continue
                masks.append(mask)
            if rule is not None:
                points.append(points_of(annotation, rule))
            boxes.append(box)
            labels.append(self._labels[annotation["category_id"]])
        return Sample(
            image=pixels,
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            labels=np.array(labels, np.int64),
            masks=np.array(masks, bool).reshape(-1, height, width) if self._masks else None,
            image_id=record["id"],
            keypoints=None if rule is None else np.array(points, np.float32).reshape(-1, len(rule), 3),
            keypoint_rule=rule,
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

    def _checked_keypoints(self) -> KeypointRule:
        """The points that every object was found to have."""
        try:
            rule = rule_of(self._categories)
        except MrcnnError as error:
            raise MrcnnError(f"{self._path}: {error}") from error
        for annotation in (a for image in self._images for a in self._objects(image["id"])):
            try:
                points_of(annotation, rule)
            except MrcnnError as error:
                raise MrcnnError(f"{self._path}: annotation {annotation['id']} {error}") from error
        return rule

    def _mask(self, annotation: Json, height: int, width: int) -> npt.NDArray[np.bool_]:
        if not annotation.get("segmentation"):
            where = f"{self._path}: annotation {annotation['id']}"
            raise MrcnnError(f"{where} has no segmentation, which a model with masks needs")
        return decode_segmentation(annotation["segmentation"], height, width)

    def _find_folder(self, images: Path | str | None) -> Path:
        beside = self._path.parent
        if images is not None:
            folder = Path(images)
        else:
            folder = beside / "images" if (beside / "images").is_dir() else beside
        # os.path says no where Path.is_file raises, as for a name of 300 characters.
        if not os.path.isdir(folder):  # noqa: PTH112
            raise MrcnnError(f"{folder}: no such folder of images")
        names = [record["file_name"] for record in self._images]
        missing = [name for name in names if not os.path.isfile(folder / name)]  # noqa: PTH113
        if missing:
            raise MrcnnError(
                f"{folder}: lacks {len(missing)} of the {len(self._images)} images of {self._path}, "
                f"the first is {missing[0]!a}; name their folder with {self._option}"
            )
        return folder


def read_document(path: Path) -> Json:
    """Reads a COCO document and checks what this project relies on.

    Raises:
        MrcnnError: no such file, not JSON, a key missing, an annotation of an unknown image or category, or
            one that `check_annotation` refuses.
    """
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a name of 300 characters
        raise MrcnnError(f"{path}: is a folder, where a COCO document (.json) is needed")
    try:
        document = json.loads(read_regular(path, most_bytes=_LARGEST_DOCUMENT))
    except FileNotFoundError as error:
        raise MrcnnError(f"{path}: no such file") from error
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
    _check_contents(path, document)
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
            if kind is int and not _LEAST_INT <= record[name] <= _MOST_INT:
                raise MrcnnError(f"{path}: {key}[{position}].{name} needs more than 64 bits")
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


def _check_contents(path: Path, document: Json) -> None:
    sizes = {}
    for image in document["images"]:
        height, width = sizes[image["id"]] = image["height"], image["width"]
        if min(height, width) < 1 or height * width > MAX_PIXELS:
            raise MrcnnError(
                f"{path}: image {image['id']} has {width}x{height} pixels, but 1 to {MAX_PIXELS} are possible"
            )
    for annotation in document["annotations"]:
        height, width = sizes[annotation["image_id"]]
        try:
            check_annotation(annotation, height=height, width=width)
        except MrcnnError as error:
            raise MrcnnError(f"{path}: annotation {annotation['id']} {error}") from error


def _clipped_box(annotation: Json, height: int, width: int) -> tuple[float, float, float, float] | None:
    """The annotation's box as xyxy inside the image, or None where nothing is left of it."""
    x, y, w, h = annotation["bbox"]
    x1, y1, x2, y2 = max(0.0, x), max(0.0, y), min(float(width), x + w), min(float(height), y + h)
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def decode_segmentation(segmentation: Segmentation, height: int, width: int) -> npt.NDArray[np.bool_]:
    """A COCO segmentation as a mask (height, width).

    Args:
        segmentation: polygons [[x1, y1, x2, y2, …], …], or run lengths {"size", "counts"}, where counts
            are a list of numbers or COCO's compressed text; of that size, as `check_annotation` ensures.
    """
    return coco_mask.decode(encode_segmentation(segmentation, height, width)).astype(bool)  # type: ignore[no-any-return]


def encode_segmentation(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """A COCO segmentation as compressed run lengths. Arguments as in `decode_segmentation`."""
    if not isinstance(segmentation, Mapping):
        return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
    if isinstance(segmentation["counts"], list):
        return dict(coco_mask.frPyObjects(dict(segmentation), height, width))
    return dict(segmentation)
