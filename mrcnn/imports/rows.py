"""What all codebases need: other names, and output channels in another order."""

from collections.abc import Callable, Mapping, MutableMapping
from functools import partial

import torch
from torch import Tensor

from mrcnn.description import AnchorRule
from mrcnn.errors import MrcnnError
from mrcnn.imports.renamed import spelled

_CLS_SCORE = "roi_heads.box_predictor.cls_score"
_BBOX_PRED = "roi_heads.box_predictor.bbox_pred"
_MASK_LOGITS = "roi_heads.mask_predictor.mask_fcn_logits"
_OBJECTNESS = "rpn.head.cls_logits.weight"
# Layers with rows for every class: how many a class has, and what they give.
_PER_CLASS = ((_BBOX_PRED, 4, "box regression"), (_MASK_LOGITS, 1, "masks"))


def usual_rules(codebase: str, *, is_c4: bool) -> str:
    """The line of what the weights do not tell."""
    line = f"anchors, thresholds and image size: {codebase}'s defaults, where --config gives no others"
    return line + ("; 3839 proposals before NMS, not 6000: TensorRT sorts no more" if is_c4 else "")


def number_of_classes(state: Mapping[str, Tensor]) -> int:
    """Without the background.

    Raises:
        MrcnnError: there is no layer of class scores.
    """
    rows = state.get(f"{_CLS_SCORE}.weight")
    if rows is None or rows.ndim != 2 or len(rows) < 2:
        shown = spelled(state, f"{_CLS_SCORE}.weight")
        raise MrcnnError(f"the weights lack {shown}, or have it not as a matrix of two rows or more")
    return len(rows) - 1


def background_to_the_front(state: MutableMapping[str, Tensor]) -> None:
    """The background is the last class of the scores, and is not among boxes and masks; here it is the first.

    Its own deltas and masks, which are never looked at, are 0.

    Raises:
        MrcnnError: a head is missing.
    """
    for kind in ("weight", "bias"):
        change(state, f"{_CLS_SCORE}.{kind}", background_first)
        for layer, per_class, _ in _PER_CLASS:
            if layer == _BBOX_PRED or f"{layer}.weight" in state:
                change(state, f"{layer}.{kind}", partial(with_background, per_class=per_class))


def same_for_all(state: MutableMapping[str, Tensor], *, classes: int, background: bool) -> list[str]:
    """Heads that know no classes become heads of every class, with the same rows; a line for each.

    Args:
        classes: how many the layers should have rows for.
        background: whether the first of them is the background. Then rows for two are also the same for all,
            those of the second, as in maskrcnn-benchmark.

    Raises:
        MrcnnError: the number of rows is that of neither.
    """
    lines = []
    for layer, per_class, what in _PER_CLASS:
        rows = state.get(f"{layer}.weight")
        count = len(rows) if rows is not None and rows.ndim else 0
        if rows is None or count == classes * per_class:
            continue
        if count != per_class and not (background and count == 2 * per_class):
            raise MrcnnError(
                f"{spelled(state, f'{layer}.weight')} has {count} rows, where {per_class} for each of "
                f"{classes} classes, or {per_class} for all (class-agnostic), are expected"
            )
        for kind in ("weight", "bias"):
            change(state, f"{layer}.{kind}", partial(_repeated, per_class=per_class, times=classes))
        lines.append(f"class-agnostic {what}: every class gets the same rows, which changes no result")
    return lines


def _repeated(rows: Tensor, *, per_class: int, times: int) -> Tensor:
    return torch.cat([rows[-per_class:]] * times)


def change(state: MutableMapping[str, Tensor], name: str, how: Callable[[Tensor], Tensor]) -> None:
    """Replaces a weight.

    Raises:
        MrcnnError: it is not there, or of another shape.
    """
    if name not in state:
        raise MrcnnError(f"the weights lack {spelled(state, name)}: are they a whole detector?")
    try:
        state[name] = how(state[name])
    except (IndexError, RuntimeError, TypeError) as error:  # of a tensor with too few dimensions
        shape = tuple(state[name].shape)
        raise MrcnnError(
            f"the weight {spelled(state, name)} has shape {shape}, which is no such layer's"
        ) from error


def background_first(scores: Tensor) -> Tensor:
    """Rows (C + 1, …), the background's last → the background's first."""
    return torch.cat([scores[-1:], scores[:-1]])


def with_background(rows: Tensor, *, per_class: int) -> Tensor:
    """Rows (C · per_class, …) of the classes → those of the background, all 0, before them."""
    return torch.cat([rows.new_zeros(per_class, *rows.shape[1:]), rows])


def check_anchors(state: Mapping[str, Tensor], anchors: AnchorRule) -> None:
    """Whether the RPN has as many anchors at a place as the rule; their sizes are not in the weights.

    Raises:
        MrcnnError: it has another number.
    """
    rows = state.get(_OBJECTNESS)
    if rows is None or not rows.ndim:
        return  # which building the model will say
    sizes, ratios = len(anchors.sizes[0]), len(anchors.aspect_ratios[0])
    if len(rows) != sizes * ratios:
        levels = ", …" if len(anchors.sizes) > 1 else ""
        raise MrcnnError(
            f"the RPN has {len(rows)} anchors a place, not {sizes * ratios} ({sizes} sizes, {ratios} ratios)"
            f": give the field 'anchors' in --config FILE, as {{"
            f'"anchors": {{"sizes": [[32, 64]{levels}], "aspect_ratios": [[0.5, 1.0, 2.0]{levels}]}}}}'
        )


def ratios_first(rows: Tensor, *, sizes: int, ratios: int, per_anchor: int) -> Tensor:
    """Rows (sizes · ratios · per_anchor, …), sizes in the outer loop → ratios in it, as in torchvision.

    Raises:
        MrcnnError: there are not so many rows.
    """
    if len(rows) != sizes * ratios * per_anchor:
        raise MrcnnError(
            f"the RPN has {len(rows)} rows of {per_anchor} an anchor, but {sizes} sizes and {ratios} ratios"
        )
    split = rows.reshape(sizes, ratios, per_anchor, *rows.shape[1:])
    return split.transpose(0, 1).reshape(rows.shape).contiguous()


def rgb_first(weight: Tensor) -> Tensor:
    """A first convolution (C, 3, h, w) for BGR → for RGB."""
    return weight.flip(1).contiguous()
