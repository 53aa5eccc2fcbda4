"""What lies between the dense parts of an R-CNN, written in ONNX operators: images in, objects out.

Each function continues torchvision's code named in its docstring, on fixed-size, padded rows with counts.
Values that bound a stage get the names below, by which `mrcnn.export.cut` finds them.

Shapes: B images, A anchors per place, L levels, N candidates, R proposals, K detections.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator

from mrcnn.description import ModelDescription
from mrcnn.export import ops
from mrcnn.export.graph_builder import GraphBuilder

INT32, INT64, FLOAT = 6, 7, 1

# torchvision's BoxCoder: a box grows at most from 16 to 1000 pixels.
_MAX_LOG_SCALE = float(np.log(1000.0 / 16))

# torchvision's own constant in `postprocess_detections`: the least side of a detection, in pixels.
_LEAST_DETECTION = 1e-2

# A score that no candidate can have and every threshold refuses.
_REFUSED = -1.0


def normalise(g: GraphBuilder, description: ModelDescription, *, input_dtype: str) -> str:
    """`images` (B, H, W, 3), 0…255 → `normalised` (B, 3, H, W), zero in the padding.

    As `GeneralizedRCNNTransform.normalize` and `batch_images`, with the division by 255 taken in.
    """
    images = "images" if input_dtype == "float32" else g.op("Cast", "images", to=FLOAT)
    mean = np.array(description.normalization.mean, np.float64)
    std = np.array(description.normalization.std, np.float64)
    scaled = g.op("Mul", images, (1 / (255 * std)).astype(np.float32))
    shifted = g.op("Add", scaled, (-mean / std).astype(np.float32))
    inside = []
    for axis, trailing in ((1, [2]), (2, [1])):  # rows (B, H, 1), columns (B, 1, W)
        size = g.op("Squeeze", g.op("Shape", "images", start=axis, end=axis + 1))
        valid = ops.valid_rows(g, g.op("Gather", "image_sizes", axis - 1, axis=1), size)
        inside.append(g.op("Unsqueeze", valid, trailing))
    mask = g.op("Unsqueeze", g.op("Cast", g.op("And", *inside), to=FLOAT), [3])
    return g.op("Transpose", g.op("Mul", shifted, mask), perm=[0, 3, 1, 2], name="normalised")


def proposals(
    g: GraphBuilder,
    description: ModelDescription,
    *,
    logits: Sequence[str],
    deltas: Sequence[str],
    anchors: AnchorGenerator,
    strides: Sequence[int],
    places: Sequence[int] | None,
) -> tuple[str, str]:
    """RPN logits (B, A, h, w), deltas (B, 4A, h, w) per level → `proposals` (B, R, 4), `num_proposals` (B,).

    As `RegionProposalNetwork.filter_proposals`: top-k per level, decode, clip, drop the tiny, NMS per level,
    top-k over all levels.

    Args:
        strides: of the levels, where anchors are exact.
        places: number of anchors of each level where the input size is fixed; None where it is dynamic.
    """
    rule = description.proposals
    parts: dict[str, list[str]] = {"logits": [], "deltas": [], "anchors": [], "valid": []}
    levels: list[int] = []
    for level, (logit, delta, cell) in enumerate(zip(logits, deltas, anchors.cell_anchors, strict=True)):
        known = None if places is None else places[level]
        # Levels of unknown size are padded, so that the number of candidates is the same for every image.
        top = rule.pre_nms_top_n if known is None else min(known, rule.pre_nms_top_n)
        stride = strides[level] if description.anchors.exact else None
        values, chosen, boxes = _top_anchors(g, logit, delta, cell, stride=stride, top=top, pad=known is None)
        parts["logits"].append(values)
        parts["deltas"].append(chosen)
        parts["anchors"].append(boxes)
        levels += [level] * top
    scores, all_deltas, all_anchors = (
        g.op("Concat", *parts[key], axis=1) for key in ("logits", "deltas", "anchors")
    )
    boxes = _clip(g, _decode(g, all_deltas, all_anchors, (1.0, 1.0, 1.0, 1.0)), rank=3)
    exists = g.op("Greater", scores, np.array(-np.inf, np.float32))
    valid = g.op("And", exists, _large_enough(g, boxes, rule.min_size))
    usable = g.op("Where", valid, g.op("Sigmoid", scores), _REFUSED)
    shape = g.op("Shape", usable)
    indices, count = ops.nms(
        g,
        boxes,
        usable,
        g.op("Expand", np.array(levels, np.int32), shape),
        iou_threshold=rule.nms_threshold,
        score_threshold=_at_least(rule.score_threshold),
        max_output=rule.post_nms_top_n,
        names=["proposals/indices", "num_proposals"],
    )
    kept = _take(g, boxes, indices)
    return _zero_past(g, kept, count, rows=rule.post_nms_top_n, rank=3, name="proposals"), count


def _at_least(threshold: float) -> float:
    """`MrcnnNMS` asks for score > t where torchvision's RPN asks for score >= t, both in float32."""
    if threshold <= 0:
        return _REFUSED / 2  # probabilities are never negative
    return float(np.nextafter(np.float32(threshold), np.float32(0)))


def _top_anchors(
    g: GraphBuilder, logit: str, delta: str, cell: torch.Tensor, *, stride: int | None, top: int, pad: bool
) -> tuple[str, str, str]:
    """The `top` anchors of a level by logit: logits (B, k), deltas (B, k, 4) and anchors (B, k, 4) xyxy.

    Anchors are numbered (y, x, anchor), as torchvision's `permute_and_flatten` does; the anchor of a number
    is computed instead of looked up, since a table would be as large as the feature map. `stride` None is
    torchvision's: the rounded-down quotient of sizes, not a power of two: 800 // 13 = 61 on P6.
    """
    per_place = int(cell.shape[0])
    flat = g.op("Reshape", g.op("Transpose", logit, perm=[0, 2, 3, 1]), [0, -1])
    total = g.op("Shape", flat, start=1, end=2)
    if pad:
        flat = g.op("Pad", flat, [0, 0, 0, top], np.array(-np.inf, np.float32))
    values, index = g.ops("TopK", flat, [top], names=2, axis=1)
    if pad:
        index = g.op("Min", index, g.op("Sub", total, 1))
    height, width = (g.op("Shape", logit, start=axis, end=axis + 1) for axis in (2, 3))

    rows = g.op("Reshape", delta, g.op("Concat", [0, per_place, 4], height, width, axis=0))
    rows = g.op("Reshape", g.op("Transpose", rows, perm=[0, 3, 4, 1, 2]), [0, -1, 4])
    chosen = g.op("GatherND", rows, g.op("Unsqueeze", index, [2]), batch_dims=1)

    place = g.op("Div", index, per_place)
    kind = g.op("Sub", index, g.op("Mul", place, per_place))
    y = g.op("Div", place, width)
    x = g.op("Sub", place, g.op("Mul", y, width))

    def step(axis: int, cells: str) -> str | int:
        return stride or g.op("Div", g.op("Shape", "images", start=axis, end=axis + 1), cells)

    x, y = g.op("Mul", x, step(2, width)), g.op("Mul", y, step(1, height))
    x, y = (g.op("Unsqueeze", g.op("Cast", shift, to=FLOAT), [2]) for shift in (x, y))
    shift = g.op("Concat", x, y, x, y, axis=2)
    anchors = g.op("Add", g.op("Gather", cell.numpy().astype(np.float32), kind), shift)
    return values, chosen, anchors


def detections(
    g: GraphBuilder,
    description: ModelDescription,
    *,
    logits: str,
    deltas: str,
    proposals: str,
    count: str,
) -> tuple[str, str, str, str]:
    """Class logits (B·R, C), deltas (B·R, 4C) → `boxes` (B, K, 4), `scores`, `labels`, `num_detections`.

    As `RoIHeads.postprocess_detections`: every class of every proposal is a candidate of its own.
    """
    rule = description.detections
    classes = description.num_classes - 1
    shape = g.op("Concat", g.op("Shape", proposals, start=0, end=2), [classes + 1], axis=0)
    probabilities = g.op("Reshape", g.op("Softmax", logits, axis=-1), shape)
    scores = g.op("Slice", probabilities, [1], [classes + 1], [2])
    per_class = g.op("Reshape", deltas, g.op("Concat", shape, [4], axis=0))
    foreground = g.op("Slice", per_class, [1], [classes + 1], [2])
    boxes = _decode(g, foreground, g.op("Unsqueeze", proposals, [2]), rule.delta_weights)
    boxes = _clip(g, boxes, rank=4)
    rows = g.op("Squeeze", g.op("Shape", proposals, start=1, end=2))
    exists = g.op("Unsqueeze", ops.valid_rows(g, count, rows), [2])
    valid = g.op("And", exists, _large_enough(g, boxes, _LEAST_DETECTION))
    usable = g.op("Where", valid, scores, _REFUSED)
    group = g.op("Expand", np.arange(classes, dtype=np.int32), g.op("Shape", usable))

    flat_boxes = g.op("Reshape", boxes, [0, -1, 4])
    flat_scores, flat_group = (g.op("Reshape", value, [0, -1]) for value in (usable, group))
    indices, number = ops.nms(
        g,
        flat_boxes,
        flat_scores,
        flat_group,
        iou_threshold=rule.nms_threshold,
        score_threshold=float(np.float32(rule.score_threshold)),
        max_output=rule.detections_per_image,
        names=["detections/indices", "num_detections"],
    )
    limit = rule.detections_per_image
    label = g.op("Add", _take(g, flat_group, indices), np.array(1, np.int32))
    return (
        _zero_past(g, _take(g, flat_boxes, indices), number, rows=limit, rank=3, name="boxes"),
        _zero_past(g, _take(g, flat_scores, indices), number, rows=limit, rank=2, name="scores"),
        _zero_past(g, label, number, rows=limit, rank=2, name="labels"),
        number,
    )


def masks(
    g: GraphBuilder,
    description: ModelDescription,
    *,
    features: str,
    labels: str,
    count: str,
    weight: str,
    bias: str,
) -> str:
    """Mask features (B·K', C, M, M) → `masks` (B, K, M, M), the probability of the predicted class.

    As `maskrcnn_inference`, but the last 1×1 convolution is computed for one class per detection only.
    """
    label = g.op("Reshape", ops.trim(g, labels, count, name="masks/labels"), [-1])
    matrix = g.op("Squeeze", weight, [2, 3])
    row = g.op("Unsqueeze", g.op("Gather", matrix, label), [1])
    size = g.op("Shape", features, start=2)
    columns = g.op("Reshape", features, [0, 0, -1])
    logits = g.op(
        "Add", g.op("MatMul", row, columns), g.op("Reshape", g.op("Gather", bias, label), [-1, 1, 1])
    )
    square = g.op("Reshape", logits, g.op("Concat", [-1], size, axis=0))
    return ops.untrim(
        g,
        g.op("Sigmoid", square),
        count,
        rows=description.detections.detections_per_image,
        name="masks",
    )


def keypoints(g: GraphBuilder, description: ModelDescription, *, heatmaps: str, count: str) -> str:
    """Heatmaps (B·K', P, H, H) → `keypoints` (B, K, P, H, H), as `RoIHeads` has them before it decodes them.

    Where a point lies follows from a resize to the size of its box, which is different for each: that is
    left to the runtime.
    """
    rows = description.detections.detections_per_image
    return ops.untrim(g, heatmaps, count, rows=rows, name="keypoints")


def _decode(g: GraphBuilder, deltas: str, boxes: str, weights: Sequence[float]) -> str:
    """Deltas (…, 4) as (dx, dy, dw, dh) applied to boxes (…, 4) xyxy, as `BoxCoder.decode_single`."""
    corner, opposite = (g.op("Slice", boxes, [start], [start + 2], [-1]) for start in (0, 2))
    size = g.op("Sub", opposite, corner)
    centre = g.op("Add", corner, g.op("Mul", size, 0.5))
    scaled = deltas if set(weights) == {1.0} else g.op("Div", deltas, np.array(weights, np.float32))
    move = g.op("Slice", scaled, [0], [2], [-1])
    grow = g.op("Min", g.op("Slice", scaled, [2], [4], [-1]), _MAX_LOG_SCALE)
    new_centre = g.op("Add", g.op("Mul", move, size), centre)
    half = g.op("Mul", g.op("Mul", g.op("Exp", grow), size), 0.5)
    return g.op("Concat", g.op("Sub", new_centre, half), g.op("Add", new_centre, half), axis=-1)


def _clip(g: GraphBuilder, boxes: str, *, rank: int) -> str:
    """Boxes (B, …, 4) xyxy clipped to the valid part of each image, as `clip_boxes_to_image`."""
    sizes = g.op("Cast", "image_sizes", to=FLOAT)
    limits = g.op("Gather", sizes, np.array([1, 0, 1, 0]), axis=1)  # (height, width) -> xyxy
    limits = g.op("Unsqueeze", limits, list(range(1, rank - 1)))
    return g.op("Min", g.op("Max", boxes, 0.0), limits)


def _large_enough(g: GraphBuilder, boxes: str, least: float) -> str:
    """Boxes (…, 4) xyxy → (…) bool, as `remove_small_boxes`."""
    corner, opposite = (g.op("Slice", boxes, [start], [start + 2], [-1]) for start in (0, 2))
    smaller = g.op("ReduceMin", g.op("Sub", opposite, corner), [-1], keepdims=0)
    return g.op("GreaterOrEqual", smaller, least)


def _take(g: GraphBuilder, rows: str, indices: str) -> str:
    """Rows (B, N, …) at indices (B, K) → (B, K, …)."""
    chosen = g.op("Unsqueeze", g.op("Cast", indices, to=INT64), [2])
    return g.op("GatherND", rows, chosen, batch_dims=1)


def _zero_past(g: GraphBuilder, values: str, count: str, *, rows: int, rank: int, name: str) -> str:
    """Values (B, rows, …) with the rows past each image's count set to zero."""
    valid = ops.valid_rows(g, count, rows)
    if rank > 2:
        valid = g.op("Unsqueeze", valid, list(range(2, rank)))
    zero = np.array(0, np.int32 if name == "labels" else np.float32)
    return g.op("Where", valid, values, zero, name=name)
