"""COCO average precision of one program's detections with another's taken as the ground truth."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mrcnn.findings import Findings


def parity_ap(
    reference: Sequence[Findings], exported: Sequence[Findings], *, kind: Literal["bbox", "segm"]
) -> float | None:
    """AP over IoU 0.5…0.95 and labels, in percent; 100 for equal results, None without reference detections.

    Every detection of the reference is ground truth and every one of the exported model is judged: no score
    is cut off and no number per image, unlike COCO's usual 100, so that ties at a cut cannot cost anything.
    The order of detections with equal scores does not matter either: each finds its equal, with IoU 1,
    whatever came before it. Masks (boxes) without area have no IoU, not even with their equals; they are
    left out on both sides, so that one that is empty on one side only is missed or wrong on the other.

    Args:
        reference, exported: per image, in the same order.
    """
    truth = _annotations(reference, kind)
    if not truth:
        return None
    found = _annotations(exported, kind)
    if not found:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        precision = _precision(truth, found, images=len(reference), kind=kind)
    # A single true positive is 1 / (1 + epsilon) to pycocotools.
    return round(100 * float(precision[precision > -1].mean()), 6)


def _annotations(images: Sequence[Findings], kind: str) -> list[dict[str, Any]]:
    from pycocotools import mask as coco_mask

    annotations = []
    for image_id, findings in enumerate(images, start=1):
        for i in range(len(findings)):
            x1, y1, x2, y2 = map(float, findings.boxes[i])
            shape: dict[str, Any] = {"bbox": [x1, y1, x2 - x1, y2 - y1]}
            area = (x2 - x1) * (y2 - y1)
            if kind == "segm" and findings.rles is not None:
                shape = {"segmentation": findings.rles[i]}
                area = float(coco_mask.area(findings.rles[i]))
            if area > 0:
                facts = {"image_id": image_id, "category_id": int(findings.labels[i]), "area": area}
                annotations.append(shape | facts | {"score": float(findings.scores[i]), "iscrowd": 0})
    return annotations


def _precision(
    truth: list[dict[str, Any]], found: list[dict[str, Any]], *, images: int, kind: str
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Interpolated precision by IoU threshold, recall and label; -1 where there is no ground truth."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO()
    coco.dataset = {
        "info": {},
        # pycocotools asks for the size, but does not use it for boxes and run-length encoded masks
        "images": [{"id": i, "height": 1, "width": 1} for i in range(1, images + 1)],
        "categories": [{"id": i} for i in sorted({one["category_id"] for one in truth + found})],
        # ids start at 1: pycocotools takes a match with annotation 0 for no match
        "annotations": [{**one, "id": i} for i, one in enumerate(truth, start=1)],
    }
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(found), kind)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [len(found)]
    evaluation.evaluate()
    evaluation.accumulate()
    result: np.ndarray[Any, np.dtype[np.float64]] = evaluation.eval["precision"][:, :, :, 0, 0]
    return result
