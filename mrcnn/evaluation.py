"""COCO average precision of boxes, masks and key points, computed by pycocotools."""

import contextlib
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from mrcnn.data.coco import encode_segmentation, read_document
from mrcnn.data.keypoints import points_of
from mrcnn.data.sample import DetectionDataset
from mrcnn.description import ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.families import COCO_PERSON

Json = dict[str, Any]

# Names of labels that mean nothing: torchvision's COCO models keep the gaps of COCO's ids.
_UNUSED = ("N/A",)


class Predictor(Protocol):
    """What finds objects: `mrcnn.runtime.Runtime` and `mrcnn.predictor.TorchPredictor`."""

    def infer(self, image: Any, *, color: str = "bgr") -> Any: ...


class Classes(Protocol):
    """Numbered and named classes, the background first: of a `DetectionDataset`, for example."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def category_ids(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's summary in points of 100. None where the ground truth has no object to measure it on.

    Attributes:
        AP: mean over IoU thresholds 0.50, 0.55, … 0.95. AP50, AP75: at one threshold. Of key points, over
            thresholds of the object key point similarity (https://cocodataset.org/#keypoints-eval).
        APs, APm, APl: of objects smaller than 32² pixels, up to 96², and larger. COCO gives none for the key
            points of small ones.
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    APs: float | None
    APm: float | None
    APl: float | None


@dataclass(frozen=True)
class Evaluation:
    """Average precision of boxes, and of masks and key points where there are any."""

    box: AveragePrecision
    mask: AveragePrecision | None
    keypoint: AveragePrecision | None = None

    @property
    def finest(self) -> AveragePrecision:
        """That of masks or key points where there are any: they depend on the boxes, too."""
        return self.mask or self.keypoint or self.box


def evaluate_detections(
    ground_truth: Mapping[str, Any] | Path | str,
    results: Sequence[Json],
    *,
    iou_types: Sequence[str] = ("bbox", "segm"),
) -> Evaluation:
    """COCO AP of detections, all in points of 100.

    Args:
        ground_truth: a COCO document or its path. All its images count, with detections or without.
        results: COCO results {"image_id", "category_id", "score", "bbox" [x, y, width, height], and for
            masks "segmentation", for key points "keypoints"}.
        iou_types: "bbox", and "segm" or "keypoints". The latter are COCO's 17 of persons; an object of the
            ground truth without them counts as one whose points are not known.

    Raises:
        MrcnnError: the path holds no COCO document, masks are asked for and it lacks some, or key points and
            an object has other ones.
    """
    if not isinstance(ground_truth, Mapping):
        ground_truth = read_document(Path(ground_truth))
    truth = _complete(ground_truth)
    summaries = {kind: _summarise(truth, results, kind) for kind in iou_types}
    return Evaluation(box=summaries["bbox"], mask=summaries.get("segm"), keypoint=summaries.get("keypoints"))


def average_precision(truth: Json, results: Sequence[Json], *, description: ModelDescription) -> Evaluation:
    """As `evaluate_detections`, of the masks or key points that model finds, where the ground truth has some.

    Args:
        description: of the model that the results come from.
    """
    kinds = [kind for kind, key in found_kinds(description).items() if _any_has(truth, key)]
    return evaluate_detections(truth, results, iou_types=("bbox", *kinds))


def found_kinds(description: ModelDescription) -> dict[str, str]:
    """What a model finds beside boxes that AP can be measured of: COCO's kind → key of an annotation.

    For key points that are not COCO's 17 nobody knows how exact they have to be, and there is no AP.
    """
    kinds = {"segm": "segmentation"} if description.has_masks else {}
    return kinds | ({"keypoints": "keypoints"} if description.keypoints == COCO_PERSON else {})


def _any_has(truth: Mapping[str, Any], key: str) -> bool:
    return any(annotation.get(key) for annotation in truth["annotations"])


def map_labels(
    class_names: Sequence[str], dataset: Classes, *, of: str = "the data"
) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """The dataset's category id of each of a model's labels (None: has none), by the names of the classes.

    Args:
        of: how the lines call the dataset.

    Returns:
        The ids, with None for the background, and what had to be assumed, one line each.

    Raises:
        MrcnnError: no name fits, and the numbers of classes differ.
    """
    by_name = dict(zip(dataset.class_names[1:], dataset.category_ids[1:], strict=True))
    ids = (None, *(by_name.get(name) for name in class_names[1:]))
    named = [name for name in class_names[1:] if name in by_name]
    if not named:
        if len(class_names) != len(dataset.class_names):
            raise MrcnnError(
                f"the model's classes ({_listed(class_names[1:])}) and those of {of} "
                f"({_listed(dataset.class_names[1:])}) have no name in common"
            )
        line = (
            f"no class name is common to the model and {of} "
            f"({class_names[1]!r}, {dataset.class_names[1]!r}, …): "
            "label n is taken for the n-th category in the order of the ids"
        )
        return (None, *dataset.category_ids[1:]), (line,)
    assumptions = []
    unknown = [name for name in by_name if name not in (*class_names, *_UNUSED)]
    surplus = [name for name in class_names[1:] if name not in by_name and name not in _UNUSED]
    if unknown:
        assumptions.append(f"the model does not know {_listed(unknown)} of {of}: these count as missed")
    if surplus:
        assumptions.append(f"no category of {of} is {_listed(surplus)}: such detections are left out")
    return ids, tuple(assumptions)


def detect(
    predictor: Predictor,
    dataset: DetectionDataset,
    indices: Sequence[int],
    category_ids: Sequence[int | None],
    *,
    progress: bool = True,
) -> tuple[list[Json], float]:
    """COCO results of the images `indices`, and the seconds that the predictor took for all of them.

    Args:
        category_ids: as `map_labels` gives them.
    """
    results: list[Json] = []
    seconds = 0.0
    for index in tqdm(indices, desc="evaluating", unit="image", disable=not progress, leave=False):
        image = dataset.image(index)
        started = time.perf_counter()
        found = predictor.infer(image, color="rgb").to_coco(dataset.image_id(index))
        seconds += time.perf_counter() - started
        results += with_categories(found, category_ids)
    return results, seconds


def with_categories(results: Sequence[Json], category_ids: Sequence[int | None]) -> list[Json]:
    """COCO results with the dataset's categories instead of a model's labels; those of no category left out.

    Args:
        category_ids: as `map_labels` gives them.
    """
    categories = [category_ids[result["category_id"]] for result in results]
    return [
        {**result, "category_id": category}
        for result, category in zip(results, categories, strict=True)
        if category is not None
    ]


def _summarise(truth: Json, results: Sequence[Json], kind: str) -> AveragePrecision:
    if kind == "segm" and not all(annotation.get("segmentation") for annotation in truth["annotations"]):
        raise MrcnnError("the ground truth has annotations without segmentation: mask AP needs them all")
    if kind == "keypoints":
        truth = {**truth, "annotations": [_with_keypoints(annotation) for annotation in truth["annotations"]]}
    # pycocotools takes an object's size from its mask or key points only where there is no box.
    measured = {"bbox": _box_records, "segm": _mask_records, "keypoints": _keypoint_records}[kind]
    found = {**truth, "annotations": measured(results)}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_indexed(truth), _indexed(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # -1 stands for "no such object".
    figures = [None if value < 0 else 100 * float(value) for value in evaluation.stats[:6]]
    if kind == "keypoints":  # of which there are none of small objects; what follows is recall
        figures[3:] = [None, *figures[3:5]]
    return AveragePrecision(*figures)


def _complete(ground_truth: Mapping[str, Any]) -> Json:
    """The document with what pycocotools needs and COCO's format leaves open.

    Annotation ids are counted from 1, since pycocotools takes a match with the id 0 for none.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    annotations = []
    for number, annotation in enumerate(ground_truth["annotations"], start=1):
        annotation = {"iscrowd": 0, **annotation, "id": number}
        if "area" not in annotation:
            segmentation = annotation.get("segmentation")
            if segmentation:
                size = sizes[annotation["image_id"]]
                annotation["area"] = float(coco_mask.area(encode_segmentation(segmentation, *size)))
            else:
                annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        annotations.append(annotation)
    return {**ground_truth, "annotations": annotations}


def _box_records(results: Sequence[Json]) -> list[Json]:
    return [
        {
            "id": number,
            **{key: result[key] for key in ("image_id", "category_id", "score", "bbox")},
            "area": result["bbox"][2] * result["bbox"][3],
            "iscrowd": 0,
        }
        for number, result in enumerate(results, start=1)
    ]


def _mask_records(results: Sequence[Json]) -> list[Json]:
    return [
        {
            "id": number,
            **{key: result[key] for key in ("image_id", "category_id", "score", "segmentation")},
            "area": float(coco_mask.area(result["segmentation"])),
            "iscrowd": 0,
        }
        for number, result in enumerate(results, start=1)
    ]


def _with_keypoints(annotation: Json) -> Json:
    """An annotation of the ground truth with as many key points as pycocotools expects, and their number."""
    if not annotation.get("keypoints"):
        return {**annotation, "keypoints": [0] * 3 * len(COCO_PERSON), "num_keypoints": 0}
    try:
        points = points_of(annotation, COCO_PERSON)
    except MrcnnError as error:
        raise MrcnnError(f"the ground truth: annotation {annotation['id']} {error}") from error
    return {"num_keypoints": int((points[:, 2] > 0).sum()), **annotation}


def _keypoint_records(results: Sequence[Json]) -> list[Json]:
    """With the area around the points, as pycocotools' `loadRes` computes it."""
    return [
        {
            "id": number,
            **{key: result[key] for key in ("image_id", "category_id", "score", "bbox", "keypoints")},
            "area": _extent(result["keypoints"][0::3]) * _extent(result["keypoints"][1::3]),
            "iscrowd": 0,
        }
        for number, result in enumerate(results, start=1)
    ]


def _extent(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _indexed(document: Json) -> COCO:
    coco = COCO()
    coco.dataset = document
    coco.createIndex()
    return coco


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
