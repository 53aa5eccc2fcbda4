"""One annotated image, and what every detection dataset offers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mrcnn.description import KeypointRule

if TYPE_CHECKING:
    from torch import Tensor

Target: TypeAlias = "dict[str, Tensor]"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image with its objects.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        boxes: (N, 4) float32, xyxy in pixels; the right and bottom edges lie outside the last pixel.
        labels: (N,) int64, 1…number of classes.
        masks: (N, H, W) bool, or None where only boxes are known.
        image_id: the image's id in the COCO document.
        keypoints: (N, P, 3) float32: x, y in pixels, and the visibility (0 unknown, 1 hidden, 2 visible) of P
            points; None where only boxes are known.
        keypoint_rule: which points these are.
    """

    image: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    masks: npt.NDArray[np.bool_] | None
    image_id: int
    keypoints: npt.NDArray[np.float32] | None = None
    keypoint_rule: KeypointRule | None = None

    def mirrored(self) -> "Sample":
        """The same sample, left and right exchanged."""
        width = self.image.shape[1]
        x1, y1, x2, y2 = self.boxes.T
        return Sample(
            image=self.image[:, ::-1],
            boxes=np.stack([width - x2, y1, width - x1, y2], axis=1),
            labels=self.labels,
            masks=None if self.masks is None else self.masks[:, :, ::-1],
            image_id=self.image_id,
            keypoints=self._mirrored_keypoints(),
            keypoint_rule=self.keypoint_rule,
        )

    def _mirrored_keypoints(self) -> npt.NDArray[np.float32] | None:
        """As in torchvision's reference training: a left hand becomes a right one, unknown points are 0."""
        if self.keypoints is None or self.keypoint_rule is None:
            return None
        points = self.keypoints[:, list(self.keypoint_rule.mirror_order)]
        points[..., 0] = self.image.shape[1] - points[..., 0]
        points[points[..., 2] == 0] = 0
        return points

    def tensors(self) -> "tuple[Tensor, Target]":
        """What torchvision's detection models take: image (3, H, W) float32 in 0…1, and the target."""
        import torch  # here, since evaluation does without it

        image = torch.from_numpy(np.ascontiguousarray(self.image.transpose(2, 0, 1))).float().div_(255)
        target = {
            "boxes": torch.from_numpy(np.ascontiguousarray(self.boxes)),
            "labels": torch.from_numpy(self.labels),
            "image_id": torch.tensor(self.image_id),
        }
        if self.masks is not None:
            target["masks"] = torch.from_numpy(np.ascontiguousarray(self.masks, dtype=np.uint8))
        if self.keypoints is not None:
            target["keypoints"] = torch.from_numpy(self.keypoints)
        return image, target


class DetectionDataset(ABC):
    """Images with boxes, labels, and masks or key points, by index.

    Attributes:
        class_names: the name of each label; index 0 is the background.
        category_ids: the COCO category id of each label; index 0 has no meaning.
        keypoint_rule: which key points `sample` gives; None for none.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    keypoint_rule: KeypointRule | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """Image `index` with the objects to learn from."""

    @abstractmethod
    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Image `index` alone, (H, W, 3) uint8, RGB."""

    @abstractmethod
    def image_id(self, index: int) -> int:
        """The id of image `index` in `ground_truth`."""

    @abstractmethod
    def ground_truth(self, indices: Iterable[int]) -> dict[str, Any]:
        """The COCO document of these images, complete enough for pycocotools, crowd regions included."""

    def training_indices(self) -> list[int]:
        """The images to train on."""
        return list(range(len(self)))

    def __getitem__(self, index: int) -> "tuple[Tensor, Target]":
        return self.sample(index).tensors()


def boxes_around(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """The tight box (N, 4) xyxy around each mask (N, H, W); no mask may be empty."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows = np.flatnonzero(mask.any(axis=1))
        columns = np.flatnonzero(mask.any(axis=0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
