"""How good a variant of a model is on the pictures that it was calibrated with, and how fast it is."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn.export.precision.images import CalibrationImages
from mrcnn.families import COCO_PERSON
from mrcnn.findings import findings_of
from mrcnn.parity_ap import parity_ap
from mrcnn.runtime import Detections, Runtime

OnPart = Callable[[str, int, int], None]

# An AP so low, in points, is that of a model without a clue: what it loses says nothing.
MEANINGLESS = 1.0

# Pictures for a comparison of speeds.
_TIMED = 5


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Of one variant on some pictures, in points of 100.

    Attributes:
        parity_box, parity_mask: AP with the float32 model's detections as the truth; the masks' is None for
            models without.
        box, mask, keypoint: COCO AP, where the pictures are annotated.
    """

    parity_box: float | None
    parity_mask: float | None
    box: float | None = None
    mask: float | None = None
    keypoint: float | None = None

    @property
    def aps(self) -> tuple[float | None, ...]:
        """COCO AP of all kinds."""
        return self.box, self.mask, self.keypoint

    @property
    def parity(self) -> float:
        """The lower of the two; 100 where the float32 model finds nothing."""
        return min(value for value in (self.parity_box, self.parity_mask, 100.0) if value is not None)

    def to_dict(self) -> dict[str, float | None]:
        return {name: None if value is None else round(value, 4) for name, value in asdict(self).items()}


def detect(
    model: Path, images: CalibrationImages, places: Sequence[int], *, title: str, on_progress: OnPart
) -> list[Detections]:
    """What a model finds in the pictures at `places`."""
    found = []
    with Runtime(model, device="cpu") as runtime:
        for done, place in enumerate(places):
            on_progress(title, done, len(places))
            found.append(runtime.infer(images.read(place), color="rgb"))
    return found


def alternate(models: Sequence[Path], images: CalibrationImages, *, on_progress: OnPart) -> list[float]:
    """Median milliseconds of each model on a few pictures, which they take by turns after a first one."""
    pictures = [images.read(place) for place in images.some(_TIMED)]
    seconds: list[list[float]] = [[] for _ in models]
    with ExitStack() as stack:
        runtimes = [stack.enter_context(Runtime(model, device="cpu")) for model in models]
        for runtime in runtimes:
            runtime.infer(pictures[0], color="rgb")
        for done, picture in enumerate(pictures):
            on_progress("taking the time", done, len(pictures))
            for runtime, own in zip(runtimes, seconds, strict=True):
                start = time.perf_counter()
                runtime.infer(picture, color="rgb")
                own.append(time.perf_counter() - start)
    return [1e3 * float(np.median(own)) for own in seconds]


class Judge:
    """Compares variants with the float32 model.

    Args:
        float32: what it finds in each of the pictures.
        images: the pictures.
        on_progress: called with a title, how many pictures are done, and of how many.

    Attributes:
        has_masks: whether the model gives masks.
        reference: the float32 model itself.
        notes: what a user should know of the annotations, one line each.
    """

    def __init__(
        self, float32: Sequence[Detections], images: CalibrationImages, *, on_progress: OnPart
    ) -> None:
        self._images = images
        self._tell = on_progress
        self._dataset = images.dataset
        self._keypoints = float32[0].keypoint_rule
        self._reference = [findings_of(one) for one in float32]
        self._category_ids: Sequence[int | None] = ()
        self.notes: tuple[str, ...] = ()
        if self._dataset is not None:
            from mrcnn.evaluation import map_labels

            names = float32[0].class_names
            self._category_ids, self.notes = map_labels(names, self._dataset, of="the annotations")
        self.has_masks = any(one.rles is not None for one in self._reference)
        self.reference = self._accuracy(float32, range(len(images)))
        self.notes += tuple(self._doubts())

    @property
    def is_annotated(self) -> bool:
        """Whether AP can be measured: there are annotations, with objects of the model's classes."""
        return self.reference.box is not None

    @property
    def least(self) -> float:
        """The lowest AP of the float32 model, of boxes, masks and key points."""
        return min((value for value in self.reference.aps if value is not None), default=0.0)

    def accuracy(self, model: Path, *, places: Sequence[int] | None = None, title: str) -> Accuracy:
        """Runs a variant on the pictures at `places`, or on all."""
        places = range(len(self._images)) if places is None else places
        found = detect(model, self._images, places, title=title, on_progress=self._tell)
        return self._accuracy(found, places)

    def drop(self, accuracy: Accuracy) -> float:
        """The points that it loses on all pictures: of COCO's AP, or of parity AP without annotations.

        The greatest loss of boxes, masks and key points; 0 where all gain.
        """
        if not self.is_annotated:
            return 100 - accuracy.parity
        pairs = zip(self.reference.aps, accuracy.aps, strict=True)
        # What was not measured has lost everything: no limit is reached by not looking.
        return max([0.0, *(before - (after or 0.0) for before, after in pairs if before is not None)])

    def _doubts(self) -> Iterator[str]:
        """What keeps AP from telling much, one line each."""
        if self._dataset is None:
            return
        if not self.is_annotated:
            yield "no annotation of these pictures counts (there are none, or crowds alone): no AP"
            return
        if self.has_masks and self.reference.mask is None:
            yield "mask AP is not measured: there are annotations without segmentation"
        if self._keypoints is not None and self.reference.keypoint is None:
            yield "key point AP is not measured: only COCO's 17 points of persons have one"
        if (least := self.least) < MEANINGLESS:
            yield f"float32 has an AP of {least:.2f}: the annotations are not those of this model's classes"

    def _results(self, detections: Detections, place: int) -> list[dict[str, Any]]:
        """COCO results with the categories of the annotations; none without annotations."""
        if self._dataset is None:
            return []
        from mrcnn.evaluation import with_categories

        image_id = self._dataset.image_id(self._images.indices[place])
        return with_categories(detections.to_coco(image_id), self._category_ids)

    def _accuracy(self, detections: Sequence[Detections], places: Sequence[int]) -> Accuracy:
        reference = [self._reference[place] for place in places]
        found = [findings_of(one) for one in detections]
        pairs = zip(detections, places, strict=True)
        results = [result for pair in pairs for result in self._results(*pair)]
        box, mask, keypoint = self._coco(results, places)
        return Accuracy(
            parity_box=parity_ap(reference, found, kind="bbox"),
            parity_mask=parity_ap(reference, found, kind="segm") if self.has_masks else None,
            box=box,
            mask=mask,
            keypoint=keypoint,
        )

    def _coco(self, results: Sequence[dict[str, Any]], places: Sequence[int]) -> tuple[float | None, ...]:
        """COCO's AP of boxes, of masks and of key points."""
        if self._dataset is None:
            return None, None, None
        from mrcnn.evaluation import evaluate_detections

        truth = self._dataset.ground_truth([self._images.indices[place] for place in places])
        evaluation = evaluate_detections(truth, results, iou_types=("bbox", *self._kinds(truth)))
        scores = (evaluation.box, evaluation.mask, evaluation.keypoint)
        return tuple(None if one is None else one.AP for one in scores)

    def _kinds(self, truth: dict[str, Any]) -> list[str]:
        """What AP can be measured of beside boxes."""
        annotations = truth["annotations"]
        segmented = [bool(annotation.get("segmentation")) for annotation in annotations]
        kinds = ["segm"] if self.has_masks and segmented and all(segmented) else []
        pointed = self._keypoints == COCO_PERSON and any(one.get("keypoints") for one in annotations)
        return kinds + (["keypoints"] if pointed else [])
