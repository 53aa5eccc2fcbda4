"""Models of the R-CNN family, built from torchvision's own detection parts.

To add an architecture: write a builder in a file of this folder, name it in `_builders`, and teach
`mrcnn.models.recognise` its state-dict keys.
"""

from collections.abc import Callable

from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from mrcnn.description import ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.models import mobilenet_fpn, resnet_fpn

Builder = Callable[[ModelDescription], GeneralizedRCNN]

_builders: dict[str, Builder] = {
    "maskrcnn_resnet50_fpn": resnet_fpn.maskrcnn_resnet50_fpn,
    "maskrcnn_resnet50_fpn_v2": resnet_fpn.maskrcnn_resnet50_fpn_v2,
    "fasterrcnn_resnet50_fpn": resnet_fpn.fasterrcnn_resnet50_fpn,
    "fasterrcnn_resnet50_fpn_v2": resnet_fpn.fasterrcnn_resnet50_fpn_v2,
    "maskrcnn_mobilenet_v2_fpn": mobilenet_fpn.maskrcnn_mobilenet_v2_fpn,
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
    model.rpn.min_size = description.proposals.min_size  # torchvision's constructors do not take it
    return model
