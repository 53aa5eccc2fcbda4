"""Synthetic persons: coins with COCO's 17 points at fixed places, which a small network learns in seconds."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from torchvision.models.detection import KeypointRCNN
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

from mrcnn.data.sample import Sample
from mrcnn.data.synthetic import SyntheticDataset
from mrcnn.description import BACKGROUND, ModelDescription
from mrcnn.families import COCO_PERSON
from mrcnn.models.mobilenet_fpn import FPN_CHANNELS, _backbone
from mrcnn.models.parts import PYRAMID, rcnn_arguments

_CHANNELS = 64


def _place(index: int, name: str) -> tuple[float, float]:
    """(x, y) as fractions of the box: left and right mirror each other, pairs lie one below the other."""
    x = {"left": 0.3, "righ": 0.7}.get(name[:4], 0.5)
    return x, 0.1 + 0.8 * ((index + 1) // 2) / 8


_PLACES = np.array([_place(index, name) for index, name in enumerate(COCO_PERSON.names)], np.float32)


class Persons(SyntheticDataset):
    """`SyntheticDataset("coins")` as persons."""

    keypoint_rule = COCO_PERSON

    def __init__(self, *, length: int, size: tuple[int, int], split: str = "train") -> None:
        super().__init__("coins", length=length, size=size, split=split)
        self.class_names = (BACKGROUND, "person")

    def sample(self, index: int) -> Sample:
        plain = super().sample(index)
        return dataclasses.replace(plain, keypoints=_points(plain.boxes), keypoint_rule=COCO_PERSON)

    def ground_truth(self, indices: Iterable[int]) -> dict[str, Any]:
        document = super().ground_truth(indices)
        for annotation in document["annotations"]:
            x, y, width, height = annotation["bbox"]
            points = _points(np.array([[x, y, x + width, y + height]], np.float32))
            annotation.update(keypoints=points.ravel().tolist(), num_keypoints=len(COCO_PERSON))
        return document


def _points(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Boxes (N, 4) xyxy → visible points (N, 17, 3)."""
    corners, sides = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    visible = np.full((len(boxes), len(_PLACES), 1), 2, np.float32)
    return np.concatenate([corners + _PLACES * sides, visible], axis=2, dtype=np.float32)


def small_keypoint_rcnn(description: ModelDescription) -> KeypointRCNN:
    """The description's rules on the trunk of the smallest model, and a head of two layers, not eight."""
    arguments = rcnn_arguments(description, PYRAMID)
    arguments.pop("num_keypoints")
    return KeypointRCNN(
        _backbone(description),
        keypoint_head=KeypointRCNNHeads(FPN_CHANNELS, (_CHANNELS, _CHANNELS)),
        keypoint_predictor=KeypointRCNNPredictor(_CHANNELS, len(COCO_PERSON)),
        **arguments,
    )
