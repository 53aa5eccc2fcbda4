"""A PyTorch model behind the runtime's call, for evaluation and as the reference of parity."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.transform import resize_boxes, resize_keypoints

from mrcnn.description import ModelDescription
from mrcnn.models.features import feature_maps
from mrcnn.runtime.images import ImageLike, to_rgb
from mrcnn.runtime.result import Detections


class TorchPredictor:
    """Runs a torchvision detection model with the call and the result of `mrcnn.runtime.Runtime`.

    Resizing, normalisation and everything else is torchvision's own code. Not thread-safe.

    Args:
        model: in eval mode; moved to `device`.
        description: of that model.
        device: "cpu", "cuda", …
    """

    def __init__(self, model: GeneralizedRCNN, description: ModelDescription, device: str = "cpu") -> None:
        self._model = model.to(device)
        self._description = description
        self._device = torch.device(device)
        _settle_strides(self._model, self._device)

    @torch.inference_mode()
    def infer(self, image: ImageLike, *, color: str = "bgr") -> Detections:
        """Finds the objects in one image.

        Args:
            image: a path, a PIL image, or a uint8 array (H, W, 3).
            color: the order of an array's channels, "bgr" or "rgb".
        """
        pixels = to_rgb(image, color=color)
        height, width = pixels.shape[:2]
        # What GeneralizedRCNN.forward does, up to the pasting of the masks into the whole image.
        images, _ = self._model.transform([self._tensor(pixels)])
        features = feature_maps(self._model, images.tensors)
        proposals, _ = self._model.rpn(images, features)
        (found,), _ = self._model.roi_heads(features, proposals, images.image_sizes)
        boxes = resize_boxes(found["boxes"], images.image_sizes[0], (height, width))
        points: Tensor | None = None
        if "keypoints" in found:
            points = resize_keypoints(found["keypoints"], images.image_sizes[0], (height, width))
        return Detections(
            boxes=boxes.cpu().numpy(),
            scores=found["scores"].cpu().numpy(),
            labels=found["labels"].cpu().numpy(),
            class_names=self._description.class_names,
            image_size=(height, width),
            mask_probs=found["masks"][:, 0].cpu().numpy() if "masks" in found else None,
            keypoints=None if points is None else points.cpu().numpy(),
            keypoint_scores=None if points is None else found["keypoints_scores"].cpu().numpy(),
            keypoint_rule=self._description.keypoints,
        )

    @torch.inference_mode()
    def reference(self, image: ImageLike, *, color: str = "bgr") -> dict[str, npt.NDArray[Any]]:
        """torchvision's own output for one image, masks pasted: (N, 1, H, W) probabilities."""
        (found,) = self._model([self._tensor(to_rgb(image, color=color))])
        return {name: value.cpu().numpy() for name, value in found.items()}

    def _tensor(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        chw = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return chw.to(self._device).float() / 255


@torch.inference_mode()
def _settle_strides(model: GeneralizedRCNN, device: torch.device) -> None:
    """Lets torchvision's RoI pooling see an image without padding first.

    `MultiScaleRoIAlign` infers the strides of its feature maps from the height of the first image, unpadded,
    and keeps them. Where that image is mostly padding the strides are wrong, for all images that follow.
    """
    side = 256
    features = feature_maps(model, torch.zeros(1, 3, side, side, device=device))
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]], device=device)
    heads = model.roi_heads
    for pool in (heads.box_roi_pool, heads.mask_roi_pool, heads.keypoint_roi_pool):
        if pool is not None:
            pool(features, [box], [(side, side)])
