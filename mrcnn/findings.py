"""What a program has found in an image, as far as it is compared with another program."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.errors import MrcnnError

if TYPE_CHECKING:
    from mrcnn.runtime import Detections


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What one program found in one image, as far as it is compared.

    Attributes:
        boxes: float32 (N, 4), xyxy in pixels of the original image.
        scores: float32 (N,), 0…1.
        labels: int (N,), 1-based as in torchvision.
        rles: N masks of the image's size in COCO's run-length encoding; None for a model without masks.
        keypoints: float32 (N, P, 3), x, y and visibility of P points, in pixels of the original image; None
            for a model without key points.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.integer[Any]]
    rles: tuple[dict[str, Any], ...] | None = None
    keypoints: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        count = len(self.scores)
        parts = (self.boxes, self.labels, self.rles, self.keypoints)
        lengths = [len(part) for part in parts if part is not None]
        if self.boxes.shape[1:] != (4,) or any(length != count for length in lengths):
            raise MrcnnError(
                f"findings: boxes (N, 4), labels, masks and key points must fit {count} scores "
                f"(got {self.boxes.shape} boxes, {lengths[1:]} labels, masks and key points)"
            )

    def __len__(self) -> int:
        return len(self.scores)


def findings_of(detections: "Detections") -> Findings:
    """What the runtime found."""
    return Findings(
        boxes=detections.boxes,
        scores=detections.scores,
        labels=detections.labels,
        rles=None if detections.mask_probs is None else tuple(dict(rle) for rle in detections.rles),
        keypoints=detections.keypoints,
    )
