"""Resizing with the sides rounded to the nearest, as detectron2 and mmdetection do."""

from typing import Any

from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from mrcnn.description import ModelDescription


class NearestTransform(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's own transform, which rounds sides down, with sides as `ResizeRule` gives them."""

    def __init__(self, description: ModelDescription) -> None:
        rule, colors = description.resize, description.normalization
        super().__init__(
            rule.min_size,
            rule.max_size,
            list(colors.mean),
            list(colors.std),
            size_divisible=rule.size_divisible,
        )
        self._rule = rule

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        height, width = self._rule.output_size(image.shape[-2], image.shape[-1])
        self.fixed_size = (width, height)
        resized: tuple[Tensor, Any] = super().resize(image, target)
        return resized
