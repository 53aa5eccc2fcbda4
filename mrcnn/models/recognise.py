"""Reads a model's description off a bare torchvision state dict: its keys and shapes say what it is."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from mrcnn.description import BACKGROUND, KeypointRule, ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.families import COCO_PERSON, describe

Weights = Mapping[str, Tensor]

_CLS_SCORE = "roi_heads.box_predictor.cls_score.weight"
_BBOX_PRED = "roi_heads.box_predictor.bbox_pred.weight"
_FC6 = "roi_heads.box_head.fc6.weight"
_V2_NORM = "roi_heads.box_head.0.1"
_USUAL_WIDTH = 1024
_HEATMAPS = "roi_heads.keypoint_predictor.kps_score_lowres.weight"

_PERSON = ((BACKGROUND, "person"), "class name: person, since there are 2 classes and 17 key points")

# In a C4 model the last stage is the head.
_BLOCK = re.compile(r"(?:backbone\.body|roi_heads\.box_head)\.layer([1-4])\.(\d+)\.")
# Blocks per stage; output channels of the first 3x3 convolution and its inputs per group → the trunk.
_RESNETS: Mapping[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((3, 4, 6, 3), (64, 64)): "resnet50",
    ((3, 4, 23, 3), (64, 64)): "resnet101",
    ((3, 4, 23, 3), (256, 8)): "resnext101_32x8d",
    ((3, 4, 23, 3), (256, 4)): "resnext101_64x4d",
}


def recognise(state_dict: Weights) -> tuple[ModelDescription, tuple[str, ...]]:
    """The description of a torchvision Faster, Mask or Keypoint R-CNN, and what had to be assumed.

    A state dict holds no thresholds, image sizes, class names or epsilons; the defaults of torchvision, and
    those of `mrcnn.families`, are taken, and each such guess that can matter is returned as one line.

    Raises:
        MrcnnError: the keys are not those of a model that this version builds; the line names it.
    """
    if _CLS_SCORE not in state_dict:
        raise MrcnnError(
            "this is not a torchvision R-CNN, nor one of detectron2 or mmdetection: the state dict has no "
            f"key {_CLS_SCORE!r} (its first is {next(iter(state_dict), None)!r})"
        )
    num_classes = _shape(state_dict, _CLS_SCORE)[0]
    _shape(state_dict, _BBOX_PRED)
    if num_classes < 2:
        raise MrcnnError(f"the box head has {num_classes} class, but background and one class are the least")
    trunk = _trunk(state_dict)
    detector = _detector(state_dict)
    architecture = f"{detector}_{trunk}{_neck(state_dict, trunk)}"
    norm, norm_eps, assumptions = _norm(state_dict, trunk)
    fields = _shapes(state_dict, trunk)
    if architecture.endswith("_fpn_v2") and f"{_V2_NORM}.running_mean" not in state_dict:
        fields["head_norm"] = "group"
        assumptions.append("32 groups in the group norm of pyramid and heads")
    assumptions.append("image size, thresholds and anchors: torchvision's defaults, where nothing is given")
    if detector == "keypointrcnn":
        fields["keypoints"], named = key_points(state_dict)
        assumptions.append(named)
    class_names, named = _class_names(num_classes, of_persons=fields.get("keypoints") == COCO_PERSON)
    assumptions.append(named)
    description = describe(architecture, class_names, norm=norm, norm_eps=norm_eps, **fields)
    return with_head(description, state_dict), tuple(assumptions)


def _detector(state_dict: Weights) -> str:
    masks, points = (
        any(key.startswith(f"roi_heads.{kind}_") for key in state_dict) for kind in ("mask", "keypoint")
    )
    if masks and points:
        raise MrcnnError("models with both masks and key points are not supported")
    return "maskrcnn" if masks else "keypointrcnn" if points else "fasterrcnn"


def _neck(state_dict: Weights, trunk: str) -> str:
    if trunk.startswith(("vgg", "mobilenet")):
        return ""
    if any(key.startswith("roi_heads.box_head.layer4.") for key in state_dict):
        return "_c4"
    if not any(key.startswith("backbone.fpn.") for key in state_dict):
        raise MrcnnError(f"{trunk} has neither a feature pyramid (backbone.fpn.*) nor conv5 as its head")
    # Only the v2 models have a second convolution in the RPN head.
    return "_fpn_v2" if "rpn.head.conv.1.0.weight" in state_dict else "_fpn"


def _trunk(state_dict: Weights) -> str:
    if any(map(_BLOCK.match, state_dict)):
        return resnet_trunk(state_dict)
    if "backbone.18.0.weight" in state_dict and "backbone.1.conv.0.0.weight" in state_dict:
        return "mobilenet_v2"
    if "backbone.28.weight" in state_dict and "backbone.0.weight" in state_dict:
        return "vgg16"
    if any(key.startswith(("backbone.features.", "backbone.body.")) for key in state_dict):
        raise MrcnnError("the trunk is none that is supported: ResNet, ResNeXt, MobileNetV2, VGG-16")
    raise MrcnnError(
        "the state dict has no backbone that torchvision's detection models use (backbone.body.*)"
    )


def resnet_trunk(state_dict: Weights) -> str:
    """The name of the ResNet or ResNeXt whose blocks these are, under torchvision's names.

    Raises:
        MrcnnError: it is none that is known.
    """
    blocks: defaultdict[str, set[str]] = defaultdict(set)
    for match in filter(None, map(_BLOCK.match, state_dict)):
        blocks[match[1]].add(match[2])
    counts = tuple(len(blocks[stage]) for stage in "1234")
    first = state_dict.get("backbone.body.layer1.0.conv2.weight")
    shape = tuple(first.shape[:2]) if first is not None else ()
    bottleneck = "backbone.body.layer1.0.conv3.weight" in state_dict
    name = _RESNETS.get((counts, shape)) if bottleneck else None
    if name is None:
        raise MrcnnError(
            f"a ResNet with blocks {counts} of width {shape} is not supported "
            f"(known: {', '.join(_RESNETS.values())})"
        )
    return name


def _shapes(state_dict: Weights, trunk: str) -> dict[str, Any]:
    """What the shapes of weights tell beside the architecture."""
    if trunk != "mobilenet_v2":
        return {}
    return {"width": round(_shape(state_dict, "backbone.0.0.weight")[0] / 32, 4)}


def with_head(description: ModelDescription, state_dict: Weights) -> ModelDescription:
    """With the size to which regions are pooled, and the width of the head, where fc6 tells."""
    if _FC6 not in state_dict:
        return description
    shape = _shape(state_dict, _FC6)
    channels = {"mobilenet_v2": 1280, "vgg16": 512}.get(description.trunk, 256)
    size = math.isqrt(shape[1] // channels) if len(shape) == 2 else 0
    if not size or shape[1] != channels * size**2:
        return description  # which building the model will refuse
    rois = replace(description.rois, box_size=size)
    if shape[0] != (rois.head_width or _USUAL_WIDTH):
        rois = replace(rois, head_width=shape[0])
    return replace(description, rois=rois)


def _norm(state_dict: Weights, trunk: str) -> tuple[str, float, list[str]]:
    """(norm, epsilon, assumptions) of the trunk: only trainable batch norm counts its batches."""
    if trunk == "vgg16" or any(
        key.startswith("backbone.") and key.endswith("num_batches_tracked") for key in state_dict
    ):
        return "batch", 1e-5, []
    return (
        "frozen",
        0.0,
        [
            "frozen batch norm with epsilon 0.0, as in models that start from weights='DEFAULT'; "
            "--norm-eps 1e-5 if training started from weights_backbone alone"
        ],
    )


def key_points(state_dict: Weights) -> tuple[KeypointRule, str]:
    """Which points the heatmaps are of, and how that was decided."""
    shape = _shape(state_dict, _HEATMAPS)
    count = shape[1] if len(shape) == 4 else 0
    if count == len(COCO_PERSON):
        return COCO_PERSON, f"key points: those of COCO's persons, since there are {count}"
    names = tuple(f"point_{number}" for number in range(1, count + 1))
    return KeypointRule(names=names), "key points: numbers only, without left and right, and no skeleton"


def _class_names(num_classes: int, *, of_persons: bool) -> tuple[tuple[str, ...], str]:
    if num_classes == 2 and of_persons:
        return _PERSON
    names = coco_names()
    if num_classes == len(names):
        return names, "class names: COCO's, since there are 91 classes"
    return _numbered_names(num_classes - 1)


def class_names_of(classes: int, *, of_persons: bool = False) -> tuple[tuple[str, ...], str]:
    """The class names of a codebase that counts COCO's 80 classes without gaps, and how they were decided."""
    if classes == 1 and of_persons:
        return _PERSON
    names = tuple(name for name in coco_names() if name != "N/A")
    if classes == len(names) - 1:
        return names, "class names: COCO's, since there are 80 classes"
    return _numbered_names(classes)


def _numbered_names(classes: int) -> tuple[tuple[str, ...], str]:
    names = (BACKGROUND, *(f"class_{label}" for label in range(1, classes + 1)))
    return names, "class names: numbers only (--class-names FILE gives them, one a line)"


def coco_names() -> tuple[str, ...]:
    """The 91 that torchvision counts: COCO's 80, the background, and "N/A" where COCO has left one out."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    return tuple(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])


def _shape(state_dict: Weights, key: str) -> tuple[int, ...]:
    if key not in state_dict:
        raise MrcnnError(f"the state dict has no key {key!r}: it is not a whole torchvision R-CNN")
    shape = tuple(state_dict[key].shape)
    if not shape:
        raise MrcnnError(f"the state dict's {key!r} is a scalar: it is not a torchvision R-CNN")
    return shape
