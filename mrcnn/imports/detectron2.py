"""Checkpoints of detectron2: `.pkl` of its model zoo, and `.pth` of its trainer.

What detectron2 does otherwise than torchvision, by its file:

* `modeling/backbone/resnet.py`: the stride of a stage in its first 1x1 convolution, in models that start from
  Caffe's ResNets; epsilon 1e-5 in frozen batch norm.
* `modeling/meta_arch/rcnn.py`: BGR, and mean and deviation in 0…255 (here: of RGB in 0…1, the channels of the
  first convolution exchanged).
* `modeling/anchor_generator.py`: corners not rounded, strides powers of two, sizes in the outer loop.
* `modeling/poolers.py`: RoIAlign with the half pixel and an adaptive number of samples.
* `modeling/roi_heads/fast_rcnn.py`: the background is the last class.
* `data/transforms/augmentation_impl.py`: sides of the resized image rounded to the nearest.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from typing import Any

from torch import Tensor

from mrcnn.description import (
    LARGEST_SIDE,
    AnchorRule,
    Normalization,
    ProposalRule,
    ResizeRule,
    RoiRule,
)
from mrcnn.errors import MrcnnError
from mrcnn.families import COCO_PERSON, describe
from mrcnn.imports import Translated, Weights
from mrcnn.imports.detectron2_config import Seen, Settings, read_settings
from mrcnn.imports.given import Given, with_fields
from mrcnn.imports.renamed import Names, rename
from mrcnn.imports.rows import (
    background_to_the_front,
    change,
    check_anchors,
    number_of_classes,
    ratios_first,
    rgb_first,
    same_for_all,
    usual_rules,
)
from mrcnn.models.recognise import class_names_of, key_points, resnet_trunk, with_head

_SIZES, _RATIOS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)
# BGR in 0…255, of the models of the zoo: the ResNets come from Caffe, where pixels are not scaled.
_MEAN = (103.53, 116.28, 123.675)
_CAFFE_STD, _RESNEXT_STD = (1.0, 1.0, 1.0), (57.375, 57.12, 58.395)

# Their names → ours. Blocks of `res3` are in `layer2`, level 2 of the pyramid is the first.
_NAMES: Names = (
    (r"backbone\.(?:bottom_up\.)?stem\.conv1\.weight", lambda _: "backbone.body.conv1.weight"),
    (r"backbone\.(?:bottom_up\.)?stem\.conv1\.norm\.(\w+)", lambda m: f"backbone.body.bn1.{m[1]}"),
    (
        r"backbone\.(?:bottom_up\.)?res([2-5])\.(\d+)\.(.+)",
        lambda m: f"backbone.body.layer{int(m[1]) - 1}.{m[2]}.{_of_block(m[3])}",
    ),
    (r"roi_heads\.res5\.(\d+)\.(.+)", lambda m: f"roi_heads.box_head.layer4.{m[1]}.{_of_block(m[2])}"),
    (
        r"backbone\.fpn_lateral([2-5])\.(\w+)",
        lambda m: f"backbone.fpn.inner_blocks.{int(m[1]) - 2}.0.{m[2]}",
    ),
    (
        r"backbone\.fpn_output([2-5])\.(\w+)",
        lambda m: f"backbone.fpn.layer_blocks.{int(m[1]) - 2}.0.{m[2]}",
    ),
    (r"proposal_generator\.rpn_head\.conv\.(\w+)", lambda m: f"rpn.head.conv.0.0.{m[1]}"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(\w+)", lambda m: f"rpn.head.cls_logits.{m[1]}"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(\w+)", lambda m: f"rpn.head.bbox_pred.{m[1]}"),
    (r"roi_heads\.box_head\.fc([12])\.(\w+)", lambda m: f"roi_heads.box_head.fc{int(m[1]) + 5}.{m[2]}"),
    (r"roi_heads\.box_predictor\.(?:cls_score|bbox_pred)\.\w+", lambda m: m[0]),
    (
        r"roi_heads\.mask_head\.mask_fcn([1-4])\.(\w+)",
        lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0.{m[2]}",
    ),
    (r"roi_heads\.mask_head\.deconv\.(\w+)", lambda m: f"roi_heads.mask_predictor.conv5_mask.{m[1]}"),
    (
        r"roi_heads\.mask_head\.predictor\.(\w+)",
        lambda m: f"roi_heads.mask_predictor.mask_fcn_logits.{m[1]}",
    ),
    # torchvision counts the ReLUs between the convolutions too.
    (
        r"roi_heads\.keypoint_head\.conv_fcn([1-8])\.(\w+)",
        lambda m: f"roi_heads.keypoint_head.{2 * (int(m[1]) - 1)}.{m[2]}",
    ),
    (
        r"roi_heads\.keypoint_head\.score_lowres\.(\w+)",
        lambda m: f"roi_heads.keypoint_predictor.kps_score_lowres.{m[1]}",
    ),
)
# Constants that detectron2 stores beside the weights; since 2021 without the anchors.
_CELLS = "proposal_generator.anchor_generator.cell_anchors"
_CONSTANTS = re.compile(rf"pixel_(mean|std)|{re.escape(_CELLS)}\.\d+")


def fits(weights: Weights) -> bool:
    """Whether the names are those of detectron2's GeneralizedRCNN."""
    return any(name.startswith("proposal_generator.") for name in weights)


def translate(weights: Weights, document: Mapping[Any, Any], given: Given) -> Translated:  # noqa: ARG001
    """A Faster, Mask or Keypoint R-CNN on a ResNet or ResNeXt, C4 or FPN.

    Raises:
        MrcnnError: a key or a setting has no counterpart here; the line names it.
    """
    given.refuse_config_of_another("detectron2")
    learnt = {name: tensor for name, tensor in weights.items() if not _CONSTANTS.fullmatch(name)}
    state = rename(learnt, _NAMES, codebase="detectron2")
    trunk = resnet_trunk(state)
    is_c4 = any(name.startswith("roi_heads.box_head.layer4.") for name in state)
    fields: dict[str, Any] = {}
    assumptions: list[str] = []
    detector = "maskrcnn" if "roi_heads.mask_predictor.mask_fcn_logits.weight" in state else "fasterrcnn"
    if any(name.startswith("roi_heads.keypoint_") for name in state):
        if detector == "maskrcnn":
            raise MrcnnError("models with both masks and key points are not supported")
        detector = "keypointrcnn"
        fields["keypoints"], line = key_points(state)
        assumptions.append(line)
    classes = number_of_classes(state)
    seen = Seen(
        trunk=trunk,
        is_c4=is_c4,
        masks=detector == "maskrcnn",
        key_points=len(fields.get("keypoints", ())),
        classes=classes,
    )
    settings = Settings() if given.detectron2 is None else read_settings(given.detectron2, seen)
    # MODEL.RESNETS.NORM "BN" or "SyncBN" counts its batches, "FrozenBN" does not.
    fields["norm"] = "batch" if any(name.endswith("num_batches_tracked") for name in state) else "frozen"
    fields |= _conventions(weights, trunk, settings, assumptions)
    rules = _rules(is_c4=is_c4)
    if stored := _stored_anchors(weights):
        rules["anchors"] = stored
    class_names, line = class_names_of(classes, of_persons=fields.get("keypoints") == COCO_PERSON)
    usual = describe(f"{detector}_{trunk}_{'c4' if is_c4 else 'fpn'}", class_names, **fields, **rules)
    description = given.applied(with_fields(with_head(usual, state), settings.fields, where="--config"))
    assumptions += [] if "class_names" in given.fields else [line]
    assumptions += same_for_all(state, classes=classes, background=False)
    _arrange(state, description.anchors, bgr=settings.bgr)
    assumptions += settings.lines if given.detectron2 else [usual_rules("detectron2", is_c4=is_c4)]
    assumptions.append("images are resized by torchvision's bilinear rule; detectron2 used Pillow's")
    return Translated(description, state, tuple(assumptions))


def _conventions(weights: Weights, trunk: str, settings: Settings, assumptions: list[str]) -> dict[str, Any]:
    """The fields that say how the trunk was made and what pixels it wants."""
    mean, std = _pixel_constants(weights, trunk, settings, assumptions)
    stride_in_1x1 = std == _CAFFE_STD
    if "stride_in_1x1" not in settings.fields:
        assumptions.append(
            "the stride of a stage in its "
            + ("1x1 convolution, as in ResNets of Caffe" if stride_in_1x1 else "3x3 convolution")
            + ", by the deviation of the pixels: STRIDE_IN_1X1 is not in the weights"
        )
    order = slice(None, None, -1 if settings.bgr else 1)
    return {
        "norm_eps": 1e-5,
        "stride_in_1x1": stride_in_1x1,
        "normalization": Normalization(
            mean=tuple(value / 255 for value in mean[order]),  # type: ignore[arg-type]
            std=tuple(value / 255 for value in std[order]),  # type: ignore[arg-type]
        ),
        "resize": ResizeRule(rounding="nearest"),
    }


def _rules(*, is_c4: bool) -> dict[str, Any]:
    """What differs between `Base-RCNN-C4.yaml` and `Base-RCNN-FPN.yaml`."""
    # detectron2 drops proposals without area.
    if is_c4:
        return {
            "anchors": AnchorRule(sizes=(_SIZES,), aspect_ratios=(_RATIOS,), exact=True),
            # detectron2 takes 6000 before NMS, and TensorRT's TopK gives 3839 at most.
            "proposals": ProposalRule(pre_nms_top_n=3839, post_nms_top_n=1000, min_size=1e-6),
            "rois": RoiRule(box_size=14, mask_size=14, sampling_ratio=0, aligned=True),
        }
    return {
        "anchors": AnchorRule(exact=True),
        "proposals": ProposalRule(min_size=1e-6),
        "rois": RoiRule(sampling_ratio=0, aligned=True),
    }


def _stored_anchors(weights: Weights) -> AnchorRule | None:
    """The anchors of each level, where the file holds them: all sizes, and of each all ratios."""
    cells = [weights[f"{_CELLS}.{level}"] for level in range(5) if f"{_CELLS}.{level}" in weights]
    sizes, ratios = [], []
    for boxes in cells:
        sides = (boxes[:, 2:] - boxes[:, :2]).double() if boxes.ndim == 2 and boxes.shape[1] == 4 else None
        if sides is None or not bool(((sides > 0) & (sides <= LARGEST_SIDE)).all()):
            raise MrcnnError(f"'{_CELLS}' are no boxes")
        sizes.append(tuple(dict.fromkeys(round(side) for side in sides.prod(1).sqrt().tolist())))
        shapes = (sides[:, 1] / sides[:, 0]).tolist()
        # 0.3333 is a third, also where it was stored in half precision.
        ratios.append(tuple(dict.fromkeys(float(Fraction(r).limit_denominator(20)) for r in shapes)))
        if len(sizes[-1]) * len(ratios[-1]) != len(boxes):
            raise MrcnnError(f"'{_CELLS}' are not every size with every ratio, which has no counterpart")
    return AnchorRule(sizes=tuple(sizes), aspect_ratios=tuple(ratios), exact=True) if cells else None


def _of_block(name: str) -> str:
    for pattern, ours in ((r"shortcut\.norm\.", "downsample.1."), (r"shortcut\.", "downsample.0.")):
        name = re.sub(pattern, ours, name)
    return re.sub(r"conv([1-3])\.norm\.", r"bn\1.", name)


def _pixel_constants(
    weights: Weights, trunk: str, settings: Settings, assumptions: list[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the channels in 0…255, in the network's order: of the config, else the weights.

    Raises:
        MrcnnError: there are not three, or the weights have others than the config.
    """
    usual = (_MEAN, _RESNEXT_STD if trunk.startswith("resnext") else _CAFFE_STD)
    found = []
    for name, said, default in zip(("mean", "std"), (settings.mean, settings.std), usual, strict=True):
        stored = weights.get(f"pixel_{name}")
        values = None if stored is None else tuple(stored.flatten().tolist())
        if values is not None and len(values) != 3:
            raise MrcnnError("pixel_mean and pixel_std must have three channels")
        # Half precision has three digits.
        if said and values and any(abs(a - b) > 1e-3 * abs(a) for a, b in zip(said, values, strict=True)):
            raise MrcnnError(
                f"--config: MODEL.PIXEL_{name.upper()} {list(said)}, but the weights hold {list(values)}: "
                "is it of another model?"
            )
        if said is None and values is None:
            assumptions.append(
                f"{'mean' if name == 'mean' else 'deviation'} of the pixels: that of detectron2's own {trunk}"
            )
        found.append(said or values or default)
    return found[0], found[1]


def _arrange(state: dict[str, Tensor], anchors: AnchorRule, *, bgr: bool) -> None:
    """Rows and channels in our order."""
    if bgr:
        change(state, "backbone.body.conv1.weight", rgb_first)
    background_to_the_front(state)
    check_anchors(state, anchors)
    sizes, ratios = len(anchors.sizes[0]), len(anchors.aspect_ratios[0])
    for head, per_anchor in (("cls_logits", 1), ("bbox_pred", 4)):
        order = partial(ratios_first, sizes=sizes, ratios=ratios, per_anchor=per_anchor)
        for kind in ("weight", "bias"):
            change(state, f"rpn.head.{head}.{kind}", order)
