"""Models of the R-CNN family, built from torchvision's own detection parts.

To add an architecture: write a builder in a file of this folder, name it in `_builders`, and teach
`mrcnn.models.recognise` its state-dict keys.
"""

from collections.abc import Callable

from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads

from mrcnn.description import ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.models.mobilenet_fpn import maskrcnn_mobilenet_v2_fpn
from mrcnn.models.resizing import NearestTransform
from mrcnn.models.resnet import TRUNKS
from mrcnn.models.resnet_c4 import resnet_c4
from mrcnn.models.resnet_fpn import resnet_fpn, resnet_fpn_v2
from mrcnn.models.single_level import mobilenet_v2_single, vgg16_single

Builder = Callable[[ModelDescription], GeneralizedRCNN]

_DETECTORS = ("fasterrcnn", "maskrcnn")
_builders: dict[str, Builder] = {
    **{f"{detector}_{trunk}_fpn": resnet_fpn for detector in _DETECTORS for trunk in TRUNKS},
    **{f"{detector}_resnet50_fpn_v2": resnet_fpn_v2 for detector in _DETECTORS},
    **{f"{d}_{trunk}_c4": resnet_c4 for d in _DETECTORS for trunk in ("resnet50", "resnet101")},
    **{f"{detector}_mobilenet_v2": mobilenet_v2_single for detector in _DETECTORS},
    **{f"keypointrcnn_{trunk}_fpn": resnet_fpn for trunk in ("resnet50", "resnet101")},
    "maskrcnn_mobilenet_v2_fpn": maskrcnn_mobilenet_v2_fpn,
    "fasterrcnn_vgg16": vgg16_single,
}


def architectures() -> tuple[str, ...]:
    """The names that `build_model` knows."""
    return tuple(_builders)


def build_model(description: ModelDescription) -> GeneralizedRCNN:
    """A torchvision detection model with random weights, in training mode.

    Its call is torchvision's: a list of float images (3, H, W), RGB in 0…1, and in training a list of
    targets; see `torchvision.models.detection.maskrcnn_resnet50_fpn`.

    Raises:
        MrcnnError: the description names an unknown architecture, or anchors that do not fit it.
    """
    builder = _builders.get(description.architecture)
    if builder is None:
        raise MrcnnError(
            f"unknown architecture {description.architecture!r} (known: {', '.join(architectures())})"
        )
    model = builder(description)
    if description.resize.rounding == "nearest":
        model.transform = NearestTransform(description)
    model.rpn.min_size = description.proposals.min_size  # torchvision's constructors do not take it
    _set_width(model.roi_heads, description)
    return model


def _set_width(heads: RoIHeads, description: ModelDescription) -> None:
    """Gives the fully connected layers of the box head their width, where it is not the usual one."""
    width = description.rois.head_width
    if isinstance(heads.box_head, TwoMLPHead) and width is not None:
        heads.box_head = TwoMLPHead(heads.box_head.fc6.in_features, width)
        heads.box_predictor = FastRCNNPredictor(width, description.num_classes)
