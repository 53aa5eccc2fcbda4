"""torchvision's model on the very network input that an exported model with a fixed input shape gets."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from mrcnn.description import ModelDescription
from mrcnn.runtime.sizes import Size


class FixedInputTransform(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's own transform, with size and padding as the exported model has them.

    Where torchvision pads an image to the next multiple of 32, a fixed input is larger, and convolutions see
    more padding; an image that would not fit is shrunk further. Both change what PyTorch finds.

    Args:
        description: of the model.
        network_sizes: of an image's (height, width), the sizes that it is resized and padded to
            (`Runtime.network_sizes`).
    """

    def __init__(
        self, description: ModelDescription, network_sizes: Callable[[Size], tuple[Size, Size]]
    ) -> None:
        rule, colors = description.resize, description.normalization
        super().__init__(rule.min_size, rule.max_size, list(colors.mean), list(colors.std))
        self._network_sizes = network_sizes
        self._padded: Size = (0, 0)

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        (height, width), self._padded = self._network_sizes((image.shape[-2], image.shape[-1]))
        self.fixed_size = (width, height)
        resized: tuple[Tensor, Any] = super().resize(image, target)
        return resized

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:  # noqa: ARG002
        batch = images[0].new_zeros(len(images), 3, *self._padded)
        for canvas, image in zip(batch, images, strict=True):
            canvas[:, : image.shape[1], : image.shape[2]] = image
        return batch
