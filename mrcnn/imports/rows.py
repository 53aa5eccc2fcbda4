"""What all codebases need: other names, and output channels in another order."""

import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from functools import partial

import torch
from torch import Tensor

from mrcnn.errors import MrcnnError

# A pattern of their names, and our name for what it has matched.
Names = Iterable[tuple[str, Callable[[re.Match[str]], str]]]

_CLS_SCORE = "roi_heads.box_predictor.cls_score.weight"


def rename(weights: Mapping[str, Tensor], names: Names, *, codebase: str) -> dict[str, Tensor]:
    """The weights under our names.

    Raises:
        MrcnnError: one has no counterpart here.
    """
    return {_renamed(name, names, codebase): tensor for name, tensor in weights.items()}


def _renamed(name: str, names: Names, codebase: str) -> str:
    for pattern, ours in names:
        if match := re.fullmatch(pattern, name):
            return ours(match)
    raise MrcnnError(
        f"the {codebase} weight {name!r} has no counterpart: Faster and Mask R-CNN on ResNet or ResNeXt, "
        "with C4 or FPN, are imported"
    )


def number_of_classes(state: Mapping[str, Tensor]) -> int:
    """Without the background.

    Raises:
        MrcnnError: there is no layer of class scores.
    """
    rows = state.get(_CLS_SCORE)
    if rows is None or rows.ndim != 2 or len(rows) < 2:
        raise MrcnnError(f"the weights have no counterpart of {_CLS_SCORE!r}, or not as a matrix")
    return len(rows) - 1


def background_to_the_front(state: MutableMapping[str, Tensor]) -> None:
    """The background is the last class of the scores, and is not among boxes and masks; here it is the first.

    Raises:
        MrcnnError: a head is missing, or is the same for all classes.
    """
    classes = number_of_classes(state)
    masks = any(name.startswith("roi_heads.mask_predictor.") for name in state)
    for kind in ("weight", "bias"):
        change(state, f"roi_heads.box_predictor.cls_score.{kind}", background_first)
        change(state, f"roi_heads.box_predictor.bbox_pred.{kind}", partial(_per_class, classes, 4))
        if masks:
            name = f"roi_heads.mask_predictor.mask_fcn_logits.{kind}"
            change(state, name, partial(_per_class, classes, 1))


def change(state: MutableMapping[str, Tensor], name: str, how: Callable[[Tensor], Tensor]) -> None:
    """Replaces a weight.

    Raises:
        MrcnnError: it is not there.
    """
    if name not in state:
        raise MrcnnError(f"the weights have no counterpart of {name!r}: are they a whole detector?")
    state[name] = how(state[name])


def _per_class(classes: int, per_class: int, rows: Tensor) -> Tensor:
    if len(rows) != classes * per_class:
        raise MrcnnError(
            f"class-agnostic heads are not supported: {classes} classes need {classes * per_class} rows, "
            f"but there are {len(rows)}"
        )
    return with_background(rows, per_class=per_class)


def background_first(scores: Tensor) -> Tensor:
    """Rows (C + 1, …), the background's last → the background's first."""
    return torch.cat([scores[-1:], scores[:-1]])


def with_background(rows: Tensor, *, per_class: int) -> Tensor:
    """Rows (C · per_class, …) of the classes → those of the background, all 0, before them.

    Deltas and masks of the background are never looked at.
    """
    return torch.cat([rows.new_zeros(per_class, *rows.shape[1:]), rows])


def ratios_first(rows: Tensor, *, sizes: int, ratios: int, per_anchor: int) -> Tensor:
    """Rows (sizes · ratios · per_anchor, …), sizes in the outer loop → ratios in it, as in torchvision."""
    if len(rows) != sizes * ratios * per_anchor:
        raise MrcnnError(
            f"an RPN of {len(rows) // per_anchor} anchors a place, where {sizes} sizes and {ratios} ratios "
            "are expected"
        )
    split = rows.reshape(sizes, ratios, per_anchor, *rows.shape[1:])
    return split.transpose(0, 1).reshape(rows.shape).contiguous()


def rgb_first(weight: Tensor) -> Tensor:
    """A first convolution (C, 3, h, w) for BGR → for RGB."""
    return weight.flip(1).contiguous()
