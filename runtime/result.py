"""What `Runtime.infer` returns: the detections of one image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mrcnn.description import KeypointRule
from mrcnn.errors import MrcnnError, missing_package
from mrcnn.runtime.masks import BoolArray, CocoRle, FloatArray, RunLengths, paste_masks

Polygon = NDArray[np.int32]


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in one image, best score first.

    Masks are kept as the network gave them and brought to the image's size when they are asked for.

    Attributes:
        boxes: (n, 4) float32, xyxy in pixels of the original image.
        scores: (n,) float32, 0…1.
        labels: (n,) int64, 1-based as in torchvision (0 is the background).
        class_names: name of each label, the background's first.
        image_size: (height, width) of the original image in pixels.
        mask_probs: (n, M, M) float32, probability of the object inside its box; None without masks.
        keypoints: (n, P, 3) float32, x, y in pixels of the original image and the visibility, 1, of P points.
            This and the next two are None without key points.
        keypoint_scores: (n, P) float32, the heatmaps' values there: logits, without bounds.
        keypoint_rule: the names of the points, and the lines between them.

    Raises:
        MrcnnError: types or shapes disagree, a value is not finite, or a label has no name.
    """

    boxes: FloatArray
    scores: FloatArray
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    mask_probs: FloatArray | None = None
    keypoints: FloatArray | None = None
    keypoint_scores: FloatArray | None = None
    keypoint_rule: KeypointRule | None = None

    def __post_init__(self) -> None:
        self._convert()
        count = len(self.boxes)
        arrays: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
            "boxes": (self.boxes, (count, 4)),
            "scores": (self.scores, (count,)),
            "labels": (self.labels, (count,)),
        }
        if self.mask_probs is not None:
            arrays["mask_probs"] = (self.mask_probs, (count, *self.mask_probs.shape[-1:] * 2))
        arrays |= self._keypoint_arrays()
        for name, (array, shape) in arrays.items():
            if array.shape != shape:
                raise MrcnnError(f"detections: {name} must have shape {shape} (got {array.shape})")
            if not np.isfinite(array).all():
                raise MrcnnError(f"detections: {name} has values that are not finite")
        if count and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise MrcnnError(
                f"detections: labels must be 0…{len(self.class_names) - 1}, one per class name "
                f"(got {self.labels.min()}…{self.labels.max()})"
            )

    def _keypoint_arrays(self) -> dict[str, tuple[NDArray[Any], tuple[int, ...]]]:
        """The arrays of the key points with the shapes that they must have."""
        points, scores, rule = self.keypoints, self.keypoint_scores, self.keypoint_rule
        if points is None and scores is None and rule is None:
            return {}
        if points is None or scores is None or rule is None:
            raise MrcnnError("detections: keypoints, keypoint_scores and keypoint_rule come together")
        shape = (len(self.boxes), len(rule))
        return {"keypoints": (points, (*shape, 3)), "keypoint_scores": (scores, shape)}

    def _convert(self) -> None:
        """Lists become arrays, and each array gets its documented type."""
        optional = ("mask_probs", "keypoints", "keypoint_scores")
        for name in ("boxes", "scores", "labels", *optional):
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            try:
                array = np.asarray(value)
            except ValueError as error:
                raise MrcnnError(f"detections: {name} is no array ({error})") from error
            kinds = "iu" if name == "labels" else "iuf"
            if array.ndim == 0 or (array.size and array.dtype.kind not in kinds):
                wanted = "whole numbers" if name == "labels" else "numbers"
                raise MrcnnError(f"detections: {name} must be an array of {wanted} (got {array.dtype})")
            dtype = np.int64 if name == "labels" else np.float32
            object.__setattr__(self, name, array.astype(dtype, copy=False))
        size = tuple(self.image_size) if isinstance(self.image_size, tuple | list) else ()
        if len(size) != 2 or not all(isinstance(side, int | np.integer) and side > 0 for side in size):
            raise MrcnnError(
                f"detections: image_size must be (height, width) in pixels (got {self.image_size!r})"
            )
        object.__setattr__(self, "image_size", (int(size[0]), int(size[1])))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int | slice | NDArray[Any]) -> "Detections":
        """One detection (as `Detections` of length 1), or those of a slice, NumPy index or bool mask."""
        if isinstance(index, int | np.integer):
            position = range(len(self))[index]  # raises IndexError, and counts negative ones from the end
            index = slice(position, position + 1)
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            **{
                name: value[index]
                for name in ("mask_probs", "keypoints", "keypoint_scores")
                if (value := getattr(self, name)) is not None
            },
        )

    def __iter__(self) -> Iterator["Detections"]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        height, width = self.image_size
        shown = [f"{name} {score:.2f}" for name, score in zip(self.names[:5], self.scores[:5], strict=True)]
        if len(self) > len(shown):
            shown.append("…")
        return f"Detections({len(self)} in {height}x{width}: {', '.join(shown)})"

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.class_names[label] for label in self.labels]

    @cached_property
    def run_lengths(self) -> RunLengths:
        """The masks at the image's size, as run lengths.

        Raises:
            MrcnnError: the model gives boxes only.
        """
        if self.mask_probs is None:
            raise MrcnnError("these detections have no masks: the model gives boxes only")
        return paste_masks(self.mask_probs, self.boxes, self.image_size)

    @cached_property
    def masks(self) -> BoolArray:
        """The masks painted, (n, height, width) bool: n times the image's pixels in bytes.

        Raises:
            MrcnnError: the model gives boxes only.
        """
        return self.run_lengths.bitmaps()

    @cached_property
    def rles(self) -> list[CocoRle]:
        """The masks as COCO RLE dictionaries, `{"size": [height, width], "counts": str}`.

        Raises:
            MrcnnError: the model gives boxes only.
        """
        return self.run_lengths.to_coco()

    @cached_property
    def polygons(self) -> list[list[Polygon]]:
        """Each mask's outlines: one int32 array (points, 2) of x, y per connected part, holes left out.

        The points are the mask's outermost pixels, as `cv2.findContours` gives them.

        Raises:
            MrcnnError: the model gives boxes only.
        """
        return [self._outlines(index) for index in range(len(self))]

    def _outlines(self, index: int) -> list[Polygon]:
        left, top, crop = self.run_lengths.crop(index)
        if crop.size == 0:
            return []
        bitmap = np.ascontiguousarray(crop, np.uint8)
        contours, _ = cv2.findContours(bitmap, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
        return [contour.reshape(-1, 2).astype(np.int32, copy=False) for contour in contours]

    def to_coco(self, image_id: int, category_ids: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
        """The detections as entries of a COCO results file, which `pycocotools` loads with `loadRes`.

        Args:
            image_id: goes into each entry.
            category_ids: label to COCO category id, where they differ.

        Returns:
            per detection `image_id`, `category_id`, `bbox` (x, y, width, height in pixels), `score`, and
            with masks `segmentation` (RLE), with key points `keypoints` (x, y, visibility of each in turn).

        Raises:
            MrcnnError: a label is missing in `category_ids`.
        """
        if category_ids is not None and (missing := set(self.labels.tolist()) - set(category_ids)):
            raise MrcnnError(f"category_ids has no entry for label {min(missing)}")
        sides = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        found = zip(self.labels.tolist(), sides.tolist(), self.scores.tolist(), strict=True)
        results: list[dict[str, Any]] = [
            {
                "image_id": image_id,
                "category_id": label if category_ids is None else category_ids[label],
                "bbox": box,
                "score": score,
            }
            for label, box, score in found
        ]
        if self.mask_probs is not None:
            for result, rle in zip(results, self.rles, strict=True):
                result["segmentation"] = rle
        if self.keypoints is not None:
            rows = self.keypoints.reshape(len(self), 3 * self.keypoints.shape[1])
            for result, points in zip(results, rows.tolist(), strict=True):
                result["keypoints"] = points
        return results

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, with the class names under `data["class_name"]`.

        Raises:
            MissingRequirementError: the package supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise missing_package(error) from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            mask=None if self.mask_probs is None else self.masks.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.copy(),
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )
