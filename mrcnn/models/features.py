"""The feature maps of a model, whatever its backbone gives."""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

# Divisible by every stride, so that a map's side tells its stride.
_SIDE = 256


def feature_maps(model: GeneralizedRCNN, images: Tensor) -> Mapping[str, Tensor]:
    """Normalised images (B, 3, H, W) → maps (B, C, h, w) by name, as `GeneralizedRCNN.forward` has them."""
    maps: Tensor | Mapping[str, Tensor] = model.backbone(images)
    return OrderedDict([("0", maps)]) if isinstance(maps, Tensor) else maps


@torch.inference_mode()
def map_strides(model: GeneralizedRCNN) -> Mapping[str, int]:
    """By the map's name, how many of the image's pixels its cells are apart: 4, 8, …

    `model` is in eval mode, and on the CPU.
    """
    maps = feature_maps(model, torch.zeros(1, 3, _SIDE, _SIDE))
    return {name: _SIDE // features.shape[-1] for name, features in maps.items()}
