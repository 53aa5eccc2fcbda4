"""Detectors on the last map of a classifier's trunk: Mask R-CNN on MobileNetV2, Faster R-CNN on VGG-16.

The backbone is the classifier's `features`, as in torchvision's tutorial, so that a checkpoint made with
`MaskRCNN(mobilenet_v2().features, ...)` has the same parameter names (`backbone.0.0.weight`).
"""

from functools import partial

from torch import nn
from torchvision.models import mobilenet_v2, vgg16
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import FrozenBatchNorm2d

from mrcnn.description import ModelDescription
from mrcnn.models.parts import DETECTORS, SINGLE, rcnn_arguments

_VGG_CHANNELS = 512
# conv1_1 … conv2_2 stay as pre-trained (Ren et al. 2015, section 3.3); of `features` those before index 10.
_VGG_FROZEN = 10


def mobilenet_v2_single(description: ModelDescription) -> GeneralizedRCNN:
    """One map of stride 32 with 1280 channels, torchvision's default heads on it."""
    norm = FrozenBatchNorm2d if description.norm == "frozen" else nn.BatchNorm2d
    features = mobilenet_v2(
        weights=None, width_mult=description.width, norm_layer=partial(norm, eps=description.norm_eps)
    ).features
    features.out_channels = features[-1].out_channels
    return DETECTORS[description.detector](features, **rcnn_arguments(description, SINGLE))


def vgg16_single(description: ModelDescription) -> GeneralizedRCNN:
    """One map of stride 16, without the last pooling."""
    features = vgg16(weights=None).features[:-1]
    features.out_channels = _VGG_CHANNELS
    if description.norm == "frozen":
        features[:_VGG_FROZEN].requires_grad_(False)
    return DETECTORS[description.detector](features, **rcnn_arguments(description, SINGLE))
