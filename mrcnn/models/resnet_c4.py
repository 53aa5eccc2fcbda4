"""Faster and Mask R-CNN on conv4 of a ResNet, whose conv5 is the head (He et al. 2017, figure 4, left).

Regions are pooled from the one map of stride 16. Each goes through conv5, called `layer4` in torchvision, of
which box and mask branch share the weights: the box branch takes the mean over all places, the mask branch
doubles the side. torchvision has no such model; its parts keep their names, and conv5 is
`roi_heads.box_head.layer4`.
"""

from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

from mrcnn.description import ModelDescription
from mrcnn.models.parts import DETECTORS, SINGLE, rcnn_arguments
from mrcnn.models.resnet import STAGE_CHANNELS, trunk

_MASK_CHANNELS = 256


class C4Backbone(nn.Module):
    """Images (B, 3, H, W) → one map (B, 1024, H/16, W/16)."""

    out_channels = STAGE_CHANNELS[2]

    def __init__(self, description: ModelDescription) -> None:
        super().__init__()
        self.body = IntermediateLayerGetter(trunk(description), {"layer3": "0"})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = self.body(images)
        return maps


class C4BoxHead(nn.Module):
    """Pooled maps (R, 1024, S, S) → (R, 2048)."""

    def __init__(self, layer4: nn.Module) -> None:
        super().__init__()
        self.layer4 = layer4

    def forward(self, pooled: Tensor) -> Tensor:
        features: Tensor = self.layer4(pooled)
        return features.mean((2, 3))


class C4MaskHead(nn.Module):
    """Pooled maps (R, 1024, S, S) → (R, 2048, S', S'), by the layers of the box head."""

    def __init__(self, box_head: C4BoxHead) -> None:
        super().__init__()
        # Not registered as a module of this one: the weights are the box head's, and are stored once.
        self.__dict__["box_head"] = box_head

    def forward(self, pooled: Tensor) -> Tensor:
        shared: Tensor = self.__dict__["box_head"].layer4(pooled)
        return shared


def resnet_c4(description: ModelDescription) -> GeneralizedRCNN:
    layer4 = trunk(description).layer4
    if description.rois.head_stride == 1:
        first = layer4[0]
        first.conv1.stride = first.conv2.stride = first.downsample[0].stride = (1, 1)
    box_head = C4BoxHead(layer4)
    channels = STAGE_CHANNELS[3]
    arguments = rcnn_arguments(description, SINGLE)
    num_classes = arguments.pop("num_classes")
    if description.has_masks:
        arguments["mask_head"] = C4MaskHead(box_head)
        arguments["mask_predictor"] = MaskRCNNPredictor(channels, _MASK_CHANNELS, num_classes)
    return DETECTORS[description.detector](
        C4Backbone(description),
        num_classes=None,
        box_head=box_head,
        box_predictor=FastRCNNPredictor(channels, num_classes),
        **arguments,
    )
