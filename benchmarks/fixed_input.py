"""torchvision's model on the very network input that an exported model with a fixed input shape gets."""

from typing import Any

from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from mrcnn.description import Deployment
from mrcnn.runtime.preprocess import network_sizes


class FixedInputTransform(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's own transform, with size and padding as the exported model has them.

    Where torchvision pads an image to the next multiple of 32, a fixed input is larger, and convolutions see
    more padding; an image that would not fit is shrunk further. Both change what PyTorch finds.

    Args:
        deployment: of a model with a fixed input.
        size: its height and width in pixels.
    """

    def __init__(self, deployment: Deployment, size: tuple[int, int]) -> None:
        rule, colors = deployment.description.resize, deployment.description.normalization
        super().__init__(rule.min_size, rule.max_size, list(colors.mean), list(colors.std))
        self._deployment = deployment
        self._size = size

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        height, width = network_sizes(self._deployment, (image.shape[-2], image.shape[-1]))[0]
        self.fixed_size = (width, height)
        resized: tuple[Tensor, Any] = super().resize(image, target)
        return resized

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:  # noqa: ARG002
        batch = images[0].new_zeros(len(images), 3, *self._size)
        for canvas, image in zip(batch, images, strict=True):
            canvas[:, : image.shape[1], : image.shape[2]] = image
        return batch
