"""Start weights from another checkpoint, whatever its classes."""

from collections.abc import Mapping

from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from mrcnn.errors import MrcnnError


def initialize(model: GeneralizedRCNN, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Copies into `model` all weights that fit in name and shape.

    Returns:
        The parts of the model that keep their random weights because the shapes differ, for example
        "roi_heads.box_predictor.cls_score" where the numbers of classes differ.

    Raises:
        MrcnnError: the trunk does not fit, so that these are the weights of another architecture.
    """
    own = model.state_dict()
    fitting = {name: t for name, t in weights.items() if name in own and own[name].shape == t.shape}
    if not any(name.startswith("backbone.") for name in fitting):
        raise MrcnnError(
            "the start weights have another trunk than the model: choose the same --architecture"
        )
    model.load_state_dict(fitting, strict=False)
    random = dict.fromkeys(name.rpartition(".")[0] for name in own if name not in fitting)
    return tuple(random)
