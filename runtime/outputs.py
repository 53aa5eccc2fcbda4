"""What every engine's outputs must be; ARCHITECTURE.md says what they mean."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mrcnn.description import Deployment

Shape = tuple[int, ...]


def expected_outputs(
    deployment: Deployment, *, rows: int, slots: int
) -> "dict[str, tuple[np.dtype[Any], Shape]]":
    """Name → (type, shape) of the graph's outputs.

    Args:
        rows: images in the batch.
        slots: detections per image, those that do not exist included.
    """
    expected: dict[str, tuple[np.dtype[Any], Shape]] = {
        "num_detections": (np.dtype(np.int32), (rows,)),
        "boxes": (np.dtype(np.float32), (rows, slots, 4)),
        "scores": (np.dtype(np.float32), (rows, slots)),
        "labels": (np.dtype(np.int32), (rows, slots)),
    }
    if deployment.mask_size is not None:
        side = deployment.mask_size
        expected["masks"] = (np.dtype(np.float32), (rows, slots, side, side))
    keypoints = deployment.description.keypoints
    if keypoints is not None:
        side = deployment.description.heatmap_side
        expected["keypoints"] = (np.dtype(np.float32), (rows, slots, len(keypoints), side, side))
    return expected


def keep_contract(outputs: Mapping[str, Any], *, rows: int, deployment: Deployment) -> bool:
    """Whether types, shapes and counts are those of the contract, and the scores are numbers."""
    scores = outputs["scores"]
    if not isinstance(scores, np.ndarray) or scores.ndim != 2:
        return False
    slots = scores.shape[1]
    for name, (dtype, shape) in expected_outputs(deployment, rows=rows, slots=slots).items():
        value = outputs[name]
        if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
            return False
    count = outputs["num_detections"]
    within = bool(((count >= 0) & (count <= slots)).all())
    return within and bool(np.isfinite(scores).all())
