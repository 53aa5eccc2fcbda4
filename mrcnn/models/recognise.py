"""Reads a model's description off a bare torchvision state dict: its keys and shapes say what it is."""

from collections.abc import Mapping

from torch import Tensor

from mrcnn.description import BACKGROUND, ModelDescription
from mrcnn.errors import MrcnnError

_CLS_SCORE = "roi_heads.box_predictor.cls_score.weight"
_BBOX_PRED = "roi_heads.box_predictor.bbox_pred.weight"
_RESNET_BLOCKS: dict[tuple[int, ...], str] = {
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
}
_COCO_CLASSES = 91


def recognise(state_dict: Mapping[str, Tensor]) -> tuple[ModelDescription, tuple[str, ...]]:
    """The description of a torchvision Mask R-CNN or Faster R-CNN, and what had to be assumed.

    A state dict holds no thresholds, image sizes, class names or epsilons; torchvision's defaults are
    taken, and each such guess that can matter is returned as one line.

    Raises:
        MrcnnError: the keys are not those of a model that this version builds; the line names it.
    """
    if _CLS_SCORE not in state_dict:
        raise MrcnnError(
            "this is not a torchvision R-CNN: the state dict has no key "
            f"{_CLS_SCORE!r} (its first is {next(iter(state_dict), None)!r})"
        )
    num_classes = _first_dimension(state_dict, _CLS_SCORE)
    if _first_dimension(state_dict, _BBOX_PRED) != 4 * num_classes:
        raise MrcnnError(
            "class-agnostic box regression is not supported: bbox_pred must have 4 rows per class"
        )
    if num_classes < 2:
        raise MrcnnError(f"the box head has {num_classes} class, but background and one class are the least")
    architecture = _architecture(state_dict)
    norm, norm_eps, assumptions = _norm(state_dict)
    class_names, named = _class_names(num_classes)
    assumptions.append("image size, thresholds and anchors: torchvision's defaults")
    assumptions.append(named)
    description = ModelDescription(
        architecture=architecture, class_names=class_names, norm=norm, norm_eps=norm_eps
    )
    return description, tuple(assumptions)


def _architecture(state_dict: Mapping[str, Tensor]) -> str:
    if any(key.startswith("roi_heads.keypoint_") for key in state_dict):
        raise MrcnnError("Keypoint R-CNN checkpoints are not supported yet")
    trunk = _trunk(state_dict)
    if not any(key.startswith("backbone.fpn.") for key in state_dict):
        raise MrcnnError(
            f"the {trunk} trunk has no feature pyramid (backbone.fpn.*): only FPN models are supported"
        )
    if trunk != "resnet50":
        raise MrcnnError(f"a {trunk} trunk is not supported yet, only resnet50")
    detector = (
        "maskrcnn" if any(key.startswith("roi_heads.mask_head.") for key in state_dict) else "fasterrcnn"
    )
    # Only the v2 models have a second convolution in the RPN head.
    version = "_v2" if "rpn.head.conv.1.0.weight" in state_dict else ""
    return f"{detector}_{trunk}_fpn{version}"


def _trunk(state_dict: Mapping[str, Tensor]) -> str:
    blocks = tuple(
        len({key.split(".")[3] for key in state_dict if key.startswith(f"backbone.body.layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    if any(blocks):
        bottleneck = state_dict.get("backbone.body.layer1.0.conv2.weight")
        grouped = bottleneck is not None and len(set(bottleneck.shape[:2])) == 2
        has_third = "backbone.body.layer1.0.conv3.weight" in state_dict
        name = _RESNET_BLOCKS.get(blocks) if has_third else None
        if name is not None:
            return name.replace("resnet", "resnext") if grouped else name
        return f"ResNet with blocks {blocks}"
    if any(key.startswith(("backbone.features.", "backbone.body.")) for key in state_dict):
        return "non-ResNet"
    raise MrcnnError(
        "the state dict has no backbone that torchvision's detection models use (backbone.body.*)"
    )


def _norm(state_dict: Mapping[str, Tensor]) -> tuple[str, float, list[str]]:
    """(norm, epsilon, assumptions) of the trunk: only trainable batch norm counts its batches."""
    if "backbone.body.bn1.num_batches_tracked" in state_dict:
        return "batch", 1e-5, []
    return (
        "frozen",
        0.0,
        [
            "frozen batch norm with epsilon 0.0, as in models that start from weights='DEFAULT'; "
            "--norm-eps 1e-5 if training started from weights_backbone alone"
        ],
    )


def _class_names(num_classes: int) -> tuple[tuple[str, ...], str]:
    if num_classes == _COCO_CLASSES:
        from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

        categories = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
        return tuple(categories), "class names: COCO's, since there are 91 classes"
    names = (BACKGROUND, *(f"class_{label}" for label in range(1, num_classes)))
    return names, "class names: numbers only (--class-names FILE gives them, one a line)"


def _first_dimension(state_dict: Mapping[str, Tensor], key: str) -> int:
    if key not in state_dict:
        raise MrcnnError(f"the state dict has no key {key!r}: it is not a whole torchvision R-CNN")
    shape = state_dict[key].shape
    if len(shape) == 0:
        raise MrcnnError(f"the state dict's {key!r} is a scalar: it is not a torchvision R-CNN")
    return int(shape[0])
