"""The feature maps of a model, whatever its backbone gives."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

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
def pooled_scales(model: GeneralizedRCNN) -> Sequence[float]:
    """How large the maps that the heads pool from are, relative to the image: 1/4, 1/8, …

    `model` is in eval mode, and on the CPU.
    """
    maps = feature_maps(model, torch.zeros(1, 3, _SIDE, _SIDE))
    names = model.roi_heads.box_roi_pool.featmap_names
    return [2.0 ** round(math.log2(maps[name].shape[-1] / _SIDE)) for name in names]
