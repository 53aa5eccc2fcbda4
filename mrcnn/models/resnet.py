"""ResNet and ResNeXt trunks with torchvision's parameter names (He et al. 2015, Xie et al. 2016)."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn
from torchvision import models
from torchvision.models.resnet import ResNet
from torchvision.ops import FrozenBatchNorm2d

from mrcnn.description import ModelDescription

# By the name that an architecture has between its detector and its neck: `maskrcnn_resnet50_fpn`.
TRUNKS: Mapping[str, Callable[..., ResNet]] = {
    "resnet50": models.resnet50,
    "resnet101": models.resnet101,
    "resnext101_32x8d": models.resnext101_32x8d,
    "resnext101_64x4d": models.resnext101_64x4d,
}

# Of conv2_x … conv5_x.
STAGE_CHANNELS = (256, 512, 1024, 2048)


def trunk(description: ModelDescription) -> ResNet:
    """The classifier's network with random weights and the description's norm layers."""
    frozen = description.norm == "frozen"
    norm = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
    resnet = TRUNKS[description.trunk](weights=None, norm_layer=partial(norm, eps=description.norm_eps))
    if description.stride_in_1x1:
        for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, (1, 1)
    if frozen:
        # Stem and first stage stay as pre-trained, as in the paper's code and torchvision's default.
        for part in (resnet.conv1, resnet.layer1):
            part.requires_grad_(False)
    return resnet
