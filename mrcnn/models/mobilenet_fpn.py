"""A compact Mask R-CNN for edge devices: MobileNetV2 trunk, 64-channel FPN, slim heads.

About 3 M parameters at width 1.0 and 1.6 M at 0.5, against 44 M of the ResNet-50 model. MobileNetV2
rather than V3, because its ReLU6 and plain convolutions quantise well where squeeze-and-excitation does not.
"""

from functools import partial

from torch import nn
from torchvision.models import mobilenet_v2
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from mrcnn.description import ModelDescription
from mrcnn.models.parts import PYRAMID, rcnn_arguments

FPN_CHANNELS = 64
BOX_CHANNELS = 256
MASK_LAYERS = (64, 64, 64, 64)

# The last block of MobileNetV2's `features` at strides 4, 8, 16 and 32.
_STAGE_ENDS = (3, 6, 13, 17)


def maskrcnn_mobilenet_v2_fpn(description: ModelDescription) -> MaskRCNN:
    arguments = rcnn_arguments(description, PYRAMID)
    num_classes = arguments.pop("num_classes")
    box_size = description.rois.box_size
    return MaskRCNN(
        _backbone(description),
        num_classes=None,
        box_head=TwoMLPHead(FPN_CHANNELS * box_size**2, BOX_CHANNELS),
        box_predictor=FastRCNNPredictor(BOX_CHANNELS, num_classes),
        mask_head=MaskRCNNHeads(FPN_CHANNELS, MASK_LAYERS, dilation=1),
        mask_predictor=MaskRCNNPredictor(MASK_LAYERS[-1], MASK_LAYERS[-1], num_classes),
        **arguments,
    )


def _backbone(description: ModelDescription) -> BackboneWithFPN:
    norm = FrozenBatchNorm2d if description.norm == "frozen" else nn.BatchNorm2d
    # Without its last 1x1 convolution to 1280 channels, which serves the classifier only.
    trunk = mobilenet_v2(
        weights=None, width_mult=description.width, norm_layer=partial(norm, eps=description.norm_eps)
    ).features[:-1]
    channels = [trunk[end].out_channels for end in _STAGE_ENDS]
    return_layers = {str(end): str(level) for level, end in enumerate(_STAGE_ENDS)}
    return BackboneWithFPN(trunk, return_layers, channels, FPN_CHANNELS)
