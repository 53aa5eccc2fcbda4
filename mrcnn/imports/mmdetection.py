"""Checkpoints of mmdetection 2.x and 3.x.

What mmdetection does otherwise than torchvision, by its file:

* `models/backbones/resnet.py`: the stride of a stage in its first 1x1 convolution where `style='caffe'`.
* `models/task_modules/prior_generators/anchor_generator.py`: corners not rounded, strides powers of two.
* `models/roi_heads/roi_extractors/single_level_roi_extractor.py`: RoIAlign with the half pixel and as many
  samples as fit; levels by Eqn. 1 of the FPN paper, with 56 pixels at the finest.
* `models/roi_heads/bbox_heads/bbox_head.py`: the background is the last class.
* mmcv's `rescale_size`: sides of the resized image rounded to the nearest.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mrcnn.description import (
    BACKGROUND,
    AnchorRule,
    ModelDescription,
    Normalization,
    ProposalRule,
    ResizeRule,
    RoiRule,
)
from mrcnn.families import describe
from mrcnn.imports import Translated, Weights
from mrcnn.imports.given import Given, with_fields
from mrcnn.imports.literals import at, is_python
from mrcnn.imports.mmdetection_config import Settings, read_settings
from mrcnn.imports.renamed import Names, rename
from mrcnn.imports.rows import (
    background_to_the_front,
    change,
    check_anchors,
    number_of_classes,
    rgb_first,
    same_for_all,
    usual_rules,
)
from mrcnn.models.recognise import class_names_of, resnet_trunk, with_head

# Their names → ours.
_NAMES: Names = (
    (r"backbone\.((?:conv1|bn1|layer[1-4])\..+)", lambda m: f"backbone.body.{m[1]}"),
    (r"roi_head\.shared_head\.layer4\.(.+)", lambda m: f"roi_heads.box_head.layer4.{m[1]}"),
    (r"neck\.lateral_convs\.([0-3])\.conv\.(\w+)", lambda m: f"backbone.fpn.inner_blocks.{m[1]}.0.{m[2]}"),
    (r"neck\.fpn_convs\.([0-3])\.conv\.(\w+)", lambda m: f"backbone.fpn.layer_blocks.{m[1]}.0.{m[2]}"),
    (r"rpn_head\.rpn_conv\.(\w+)", lambda m: f"rpn.head.conv.0.0.{m[1]}"),
    (r"rpn_head\.rpn_cls\.(\w+)", lambda m: f"rpn.head.cls_logits.{m[1]}"),
    (r"rpn_head\.rpn_reg\.(\w+)", lambda m: f"rpn.head.bbox_pred.{m[1]}"),
    (
        r"roi_head\.bbox_head\.shared_fcs\.([01])\.(\w+)",
        lambda m: f"roi_heads.box_head.fc{int(m[1]) + 6}.{m[2]}",
    ),
    (r"roi_head\.bbox_head\.fc_cls\.(\w+)", lambda m: f"roi_heads.box_predictor.cls_score.{m[1]}"),
    (r"roi_head\.bbox_head\.fc_reg\.(\w+)", lambda m: f"roi_heads.box_predictor.bbox_pred.{m[1]}"),
    (r"roi_head\.mask_head\.convs\.([0-3])\.conv\.(\w+)", lambda m: f"roi_heads.mask_head.{m[1]}.0.{m[2]}"),
    (r"roi_head\.mask_head\.upsample\.(\w+)", lambda m: f"roi_heads.mask_predictor.conv5_mask.{m[1]}"),
    (
        r"roi_head\.mask_head\.conv_logits\.(\w+)",
        lambda m: f"roi_heads.mask_predictor.mask_fcn_logits.{m[1]}",
    ),
)

# In 0…255, RGB.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Models that start from Caffe's want BGR, and ResNets unscaled pixels.
_UNSCALED = (1.0, 1.0, 1.0)


def fits(weights: Weights) -> bool:
    """Whether the names are those of mmdetection's TwoStageDetector."""
    return any(name.startswith("rpn_head.rpn_") for name in weights)


def translate(weights: Weights, document: Mapping[Any, Any], given: Given) -> Translated:
    """A Faster or Mask R-CNN on a ResNet or ResNeXt, C4 or FPN.

    What the weights do not tell is taken from the config in the file's `meta`, or from the one that is given.

    Raises:
        MrcnnError: a key or a setting has no counterpart here; the line names it.
    """
    given.refuse_config_of_another("mmdetection")
    learnt = {name: tensor for name, tensor in weights.items() if not _is_copy(name)}
    state = rename(learnt, _NAMES, codebase="mmdetection")
    is_c4 = any(name.startswith("roi_heads.box_head.layer4.") for name in state)
    masks = "roi_heads.mask_predictor.mask_fcn_logits.weight" in state
    trunk = resnet_trunk(state)
    settings, assumptions = _settings(document, given, is_c4=is_c4)
    if len(learnt) < len(weights):
        assumptions.append("weights under their own names, where mmcv saves their moving average")
    classes = number_of_classes(state)
    class_names, line = _class_names(document, classes)
    if line and not {"class_names"} & (settings.fields.keys() | given.fields.keys()):
        assumptions.append(line)
    # Epochs are counted by batch norm; in a converted model it may be frozen.
    counted = any(name.endswith("num_batches_tracked") for name in state)
    usual = describe(
        f"{'maskrcnn' if masks else 'fasterrcnn'}_{trunk}_{'c4' if is_c4 else 'fpn'}",
        class_names,
        norm="batch" if counted else "frozen",
        norm_eps=1e-5,
        resize=ResizeRule(rounding="nearest"),
        **_rules(is_c4=is_c4),
    )
    bgr, usual = _with_style(usual, settings, given, assumptions)
    description = given.applied(with_fields(with_head(usual, state), settings.fields, where="the config"))
    if bgr:
        change(state, "backbone.body.conv1.weight", rgb_first)
    assumptions += same_for_all(state, classes=classes, background=False)
    background_to_the_front(state)
    check_anchors(state, description.anchors)
    assumptions.append("images are resized by torchvision's bilinear rule; mmdetection used OpenCV's")
    return Translated(description, state, tuple(assumptions))


def _is_copy(name: str) -> bool:
    """Of mmcv's EMAHook: buffers beside the weights, which hold those in training when a file is saved."""
    return name.startswith("ema_") and "." not in name


def _settings(document: Mapping[Any, Any], given: Given, *, is_c4: bool) -> tuple[Settings, list[str]]:
    """What the config says, and the lines to be told of it."""
    meta = document.get("meta")
    text = meta.get("cfg", meta.get("config")) if isinstance(meta, Mapping) else None
    usual = usual_rules("mmdetection", is_c4=is_c4)
    if given.mmdetection is not None:
        settings = read_settings(given.mmdetection, where="--config")
    elif isinstance(text, str) and is_python(text):
        settings = read_settings(text, where="the config in the checkpoint")
    elif isinstance(text, str):  # until 2.3, files and their names one after the other
        return Settings(), ["the config in the checkpoint is none that can be read", usual]
    else:
        return Settings(), [usual]
    return settings, settings.lines


def _with_style(
    description: ModelDescription, settings: Settings, given: Given, assumptions: list[str]
) -> tuple[bool, ModelDescription]:
    """Whether the network wants BGR, and the description with strides and pixels of models like this one."""
    said = {**settings.fields, **given.fields}.get("stride_in_1x1")
    # All C4 models of the zoo are of Caffe's style.
    caffe = description.architecture.endswith("_c4") if said is None else said is True
    caffe2 = description.trunk == "resnext101_32x8d"  # of the other style, and yet BGR
    bgr = settings.bgr if settings.bgr is not None else caffe or caffe2
    if said is None or settings.bgr is None:
        assumptions.append(
            f"style {'caffe' if caffe else 'pytorch'}: the stride in {'1x1' if caffe else '3x3'} layers, "
            f"and pixels in {'BGR' if bgr else 'RGB'}, as in mmdetection's own models of this kind"
        )
    std = _UNSCALED if caffe else _STD
    return bgr, replace(
        description,
        stride_in_1x1=caffe,
        normalization=Normalization(
            mean=tuple(value / 255 for value in _MEAN),  # type: ignore[arg-type]
            std=tuple(value / 255 for value in std),  # type: ignore[arg-type]
        ),
    )


def _rules(*, is_c4: bool) -> dict[str, Any]:
    """`configs/_base_/models/mask-rcnn_r50-caffe-c4.py` and `mask-rcnn_r50_fpn.py`."""
    if is_c4:
        return {
            "anchors": AnchorRule(
                sizes=((32, 64, 128, 256, 512),), aspect_ratios=((0.5, 1.0, 2.0),), exact=True
            ),
            # mmdetection takes 6000 before NMS, and TensorRT's TopK gives 3839 at most.
            "proposals": ProposalRule(pre_nms_top_n=3839, post_nms_top_n=1000, min_size=1e-6),
            "rois": RoiRule(box_size=14, mask_size=14, sampling_ratio=0, aligned=True),
        }
    return {
        "anchors": AnchorRule(exact=True),
        "proposals": ProposalRule(min_size=1e-6),
        "rois": RoiRule(sampling_ratio=0, aligned=True),
    }


def _class_names(document: Mapping[Any, Any], classes: int) -> tuple[tuple[str, ...], str | None]:
    """The names in the file, or usual ones and how they were decided."""
    meta = document.get("meta")
    for names in (
        at(meta, "dataset_meta", "classes"),
        at(meta, "dataset_meta", "CLASSES"),
        at(meta, "CLASSES"),  # 2.x
    ):
        if isinstance(names, list | tuple) and len(names) == classes:
            named = tuple(name for name in names if isinstance(name, str))
            if len(named) == classes:
                return (BACKGROUND, *named), None
    return class_names_of(classes)
