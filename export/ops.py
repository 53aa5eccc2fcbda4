"""The ops of the domain `mrcnn`, as nodes and as function bodies in standard ONNX operators.

ONNX Runtime runs the bodies. For TensorRT the bodies are dropped: `MrcnnRoIAlign`, `MrcnnRoIPool` and
`MrcnnNMS` are plugins, `MrcnnTrim` and `MrcnnUntrim` are nothing but a reshape, since its shapes are fixed.

Shapes below: B images, N candidates, K kept, R regions, C channels, L feature levels, S bins a side.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, TensorProto

from mrcnn.export.graph_builder import DOMAIN, GraphBuilder, attribute_reference

PLUGIN_VERSION = "1"
PLUGIN_NAMESPACE = "mrcnn"

# What TensorRT's parser looks a plugin up by; ONNX Runtime ignores both.
_PLUGIN: dict[str, Any] = {"plugin_version": PLUGIN_VERSION, "plugin_namespace": PLUGIN_NAMESPACE}

_INVALID = np.float32(-np.inf)


def roi_align(
    g: GraphBuilder,
    features: Sequence[str],
    rois: str,
    *,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
    mode: str,
    spatial_scales: Sequence[float],
    canonical_size: int,
    canonical_level: int,
    name: str,
) -> str:
    """`MrcnnRoIAlign`: L features (B, C, Hl, Wl) and rois (B, R, 4) xyxy pixels → (B·R, C, S, S).

    RoIs are float32; features are float32 or float16, and so is the result. Exactly
    `torchvision.ops.MultiScaleRoIAlign`, and detectron2's `ROIPooler` where `aligned`: the level of a RoI by
    Eqn. 1 of the FPN paper. `sampling_ratio` 0 is adaptive; `mode` is "avg" or "max" over the samples;
    `spatial_scales` are the levels' sizes relative to the image.
    """
    return g.ops(
        "MrcnnRoIAlign",
        *features,
        rois,
        names=[name],
        domain=DOMAIN,
        output_size=output_size,
        sampling_ratio=sampling_ratio,
        aligned=int(aligned),
        mode=mode,
        spatial_scales=list(map(float, spatial_scales)),
        canonical_size=float(canonical_size),
        canonical_level=canonical_level,
        **_PLUGIN,
    )[0]


def roi_pool(
    g: GraphBuilder, features: str, rois: str, *, output_size: int, spatial_scale: float, name: str
) -> str:
    """`MrcnnRoIPool`: features (B, C, H, W) and rois (B, R, 4) xyxy pixels → (B·R, C, S, S).

    Exactly `torchvision.ops.RoIPool` (Girshick, Fast R-CNN, section 2.1): corners and bins are rounded to
    pixels, of which the largest counts.
    """
    return g.ops(
        "MrcnnRoIPool",
        features,
        rois,
        names=[name],
        domain=DOMAIN,
        pooled_shape=[output_size, output_size],
        spatial_scale=float(spatial_scale),
        **_PLUGIN,
    )[0]


def roi_pool_function() -> FunctionProto:
    g = GraphBuilder()
    boxes, image, _ = _flat_rois(g)
    column = g.op("Cast", g.op("Unsqueeze", image, [1]), to=TensorProto.FLOAT)
    pooled = g.op(
        "MaxRoiPool",
        g.op("Cast", "features", to=TensorProto.FLOAT),
        g.op("Concat", column, boxes, axis=1),
        pooled_shape=attribute_reference("pooled_shape", of="pooled_shape", kind=AttributeProto.INTS),
        spatial_scale=attribute_reference("spatial_scale", of="spatial_scale", kind=AttributeProto.FLOAT),
    )
    g.op("CastLike", pooled, "features", name="pooled")
    return g.function(
        "MrcnnRoIPool", ["features", "rois"], ["pooled"], ["pooled_shape", "spatial_scale", *_PLUGIN]
    )


def roi_align_function(
    *,
    aligned: bool,
    samples: tuple[int, int] | None,
    spatial_scales: Sequence[float],
    canonical_size: int,
    canonical_level: int,
) -> FunctionProto:
    """The body of `MrcnnRoIAlign` for one set of levels: RoIs sorted by level, pooled, put back in order.

    RoIs are float32 and so is the arithmetic, while features, all of one type, may be float16, and what is
    pooled is of their type. ONNX's own RoiAlign wants one type for all; casts to the same type are removed.

    Args:
        aligned: as that of the nodes.
        samples: (output_size, sampling_ratio) of the only node, where its mode is "max"; None for "avg".
    """
    g = GraphBuilder()
    levels = len(spatial_scales)
    inputs = [f"features_{level}" for level in range(levels)]
    features = [g.op("Cast", name, to=TensorProto.FLOAT) for name in inputs]
    boxes, image, ramp = _flat_rois(g)

    def pool(feature: str, boxes: str, image: str, scale: float) -> str:
        mode = "half_pixel" if aligned else "output_half_pixel"
        return _pool(g, feature, boxes, image, scale=scale, coordinates=mode, samples=samples)

    if levels == 1:
        regions = pool(features[0], boxes, image, spatial_scales[0])
    else:
        pooled, order = [], []
        thresholds = level_thresholds(spatial_scales, canonical_size, canonical_level, aligned=aligned)
        level_of_roi = _level_of_roi(g, boxes, thresholds)
        for level, (feature, scale) in enumerate(zip(features, spatial_scales, strict=True)):
            here = g.op("Reshape", g.op("NonZero", g.op("Equal", level_of_roi, level)), [-1])
            order.append(here)
            pooled.append(pool(feature, g.op("Gather", boxes, here), g.op("Gather", image, here), scale))
        # inverse[order[i]] = i
        inverse = g.op("ScatterElements", ramp, g.op("Concat", *order, axis=0), ramp)
        regions = g.op("Gather", g.op("Concat", *pooled, axis=0), inverse)
    g.op("CastLike", regions, inputs[0], name="pooled")
    return g.function(
        "MrcnnRoIAlign",
        [*inputs, "rois"],
        ["pooled"],
        [
            "output_size",
            "sampling_ratio",
            "aligned",
            "mode",
            "spatial_scales",
            "canonical_size",
            "canonical_level",
            *_PLUGIN,
        ],
    )


def _flat_rois(g: GraphBuilder) -> tuple[str, str, str]:
    """`rois` (B, R, 4) as boxes (B·R, 4), with the image of each and its number, both (B·R,)."""
    boxes = g.op("Reshape", "rois", [-1, 4])
    count = g.op("Shape", boxes, start=0, end=1)
    ramp = g.op("Range", 0, g.op("Squeeze", count), 1)
    return boxes, g.op("Div", ramp, g.op("Shape", "rois", start=1, end=2)), ramp


def _pool(
    g: GraphBuilder,
    feature: str,
    boxes: str,
    image: str,
    *,
    scale: float,
    coordinates: str,
    samples: tuple[int, int] | None,
) -> str:
    def same(attribute: str, of: str, kind: AttributeProto.AttributeType) -> AttributeProto:
        return attribute_reference(attribute, of=of, kind=kind)

    sampling: dict[str, Any]
    if samples is None:
        sampling = {
            "mode": same("mode", "mode", AttributeProto.STRING),
            "output_height": same("output_height", "output_size", AttributeProto.INT),
            "output_width": same("output_width", "output_size", AttributeProto.INT),
            "sampling_ratio": same("sampling_ratio", "sampling_ratio", AttributeProto.INT),
        }
    else:
        # ONNX Runtime's "max" is, in some versions, that of the pixels before they are weighted. One sample
        # in each of ratio x ratio smaller bins lies where the samples of the bin lie.
        size, ratio = samples
        side = size * ratio
        sampling = {"mode": "avg", "output_height": side, "output_width": side, "sampling_ratio": 1}
    pooled = g.op(
        "RoiAlign",
        feature,
        boxes,
        image,
        spatial_scale=scale,
        coordinate_transformation_mode=coordinates,
        **sampling,
    )
    if samples is None:
        return pooled
    return g.op("MaxPool", pooled, kernel_shape=[ratio, ratio], strides=[ratio, ratio])


def _level_of_roi(g: GraphBuilder, boxes: str, thresholds: Sequence[np.float32]) -> str:
    x1, y1, x2, y2 = g.ops("Split", boxes, names=4, axis=1, num_outputs=4)
    area = g.op("Mul", g.op("Sub", x2, x1), g.op("Sub", y2, y1))
    side = g.op("Sqrt", area)  # (R, 1)
    above = g.op("Cast", g.op("GreaterOrEqual", side, np.array([thresholds], np.float32)), to=7)
    return g.op("ReduceSum", above, [1], keepdims=0)


def level_thresholds(
    spatial_scales: Sequence[float], canonical_size: int, canonical_level: int, *, aligned: bool
) -> list[np.float32]:
    """The least sqrt(area) of a RoI on each level but the first, in pixels.

    torchvision's rule is floor(k0 + log2(s / s0) + 1e-6) in float32 (Eqn. 1 of the FPN paper), detectron2's,
    where `aligned`, floor(k0 + log2(s / s0 + 1e-8)). Both grow with s, so that comparing s with the exact
    float where they step gives the same level without a logarithm.
    """
    first = round(-np.log2(spatial_scales[0]))

    def level(side: np.float32) -> float:
        ratio = side / np.float32(canonical_size)
        if aligned:
            ratio += np.float32(1e-8)
        # The logarithm in float64, rounded: NumPy's own in float32 differs between processors.
        exponent = np.float32(canonical_level) + np.float32(np.log2(float(ratio)))
        return float(np.floor(exponent if aligned else exponent + np.float32(1e-6)))

    thresholds = []
    for step in range(1, len(spatial_scales)):
        target = first + step
        side = np.float32(canonical_size * 2.0 ** (target - canonical_level) * (1 - 1e-5))
        while level(side) < target:
            side = np.nextafter(side, np.float32(np.inf))
        thresholds.append(side)
    return thresholds


def nms(
    g: GraphBuilder,
    boxes: str,
    scores: str,
    group: str,
    *,
    iou_threshold: float,
    score_threshold: float,
    max_output: int,
    names: Sequence[str],
) -> tuple[str, str]:
    """`MrcnnNMS`: boxes (B, N, 4), scores (B, N), group (B, N) int32 → indices (B, K), count (B,), int32.

    Exactly `torchvision.ops.batched_nms` per image, of the candidates with score > `score_threshold`:
    highest score first, ties by lower index, boxes of different groups never suppress each other.
    Indices past `count` are 0.
    """
    indices, count = g.ops(
        "MrcnnNMS",
        boxes,
        scores,
        group,
        names=names,
        domain=DOMAIN,
        iou_threshold=float(round_down(iou_threshold)),
        score_threshold=float(score_threshold),
        max_output=max_output,
        **_PLUGIN,
    )
    return indices, count


def round_down(threshold: float) -> np.float32:
    """The largest float32 not above `threshold`.

    torchvision compares a float32 IoU with a double threshold; `iou > round_down(t)` in float32 is the same.
    """
    nearest = np.float32(threshold)
    return nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf))


def nms_function() -> FunctionProto:
    """The body of `MrcnnNMS`: every (image, group) is one class of a single `NonMaxSuppression`."""
    g = GraphBuilder()
    threshold = g.op(
        "Constant",
        value_float=attribute_reference("value_float", of="score_threshold", kind=AttributeProto.FLOAT),
    )
    overlap = g.op(
        "Constant",
        value_float=attribute_reference("value_float", of="iou_threshold", kind=AttributeProto.FLOAT),
    )
    keep = g.op(
        "Constant", value_int=attribute_reference("value_int", of="max_output", kind=AttributeProto.INT)
    )
    keep = g.op("Reshape", keep, [1])

    candidate = g.op("NonZero", g.op("Greater", "scores", threshold))  # (2, M): image, index
    place = g.op("Transpose", candidate, perm=[1, 0])
    score = g.op("GatherND", "scores", place)
    image = g.op("Reshape", g.op("Slice", candidate, [0], [1]), [-1])
    group = g.op("Cast", g.op("GatherND", "group", place), to=7)
    groups = g.op("Add", g.op("ReduceMax", g.op("Concat", group, [0], axis=0), keepdims=0), 1)
    images = g.op("Squeeze", g.op("Shape", "scores", start=0, end=1))
    class_of = g.op("Add", g.op("Mul", image, groups), group)
    classes = g.op("Unsqueeze", g.op("Range", 0, g.op("Mul", images, groups), 1), [1])
    per_class = g.op("Where", g.op("Equal", classes, class_of), score, np.array(_INVALID))
    selected = g.op(
        "NonMaxSuppression",
        g.op("Unsqueeze", g.op("GatherND", "boxes", place), [0]),
        g.op("Unsqueeze", per_class, [0]),
        keep,
        g.op("Reshape", overlap, [1]),
        g.op("Reshape", threshold, [1]),
    )
    kept = g.op("Reshape", g.op("Slice", selected, [2], [3], [1]), [-1])

    # Only survivors keep their score; the rest is below every threshold. TopK breaks ties by lower index.
    survivors = g.op(
        "ScatterND",
        g.op("Expand", np.array(_INVALID), g.op("Shape", "scores")),
        g.op("Gather", place, kept),
        g.op("Gather", score, kept),
    )
    padded = g.op("Pad", survivors, g.op("Concat", [0, 0, 0], keep, axis=0), np.array(_INVALID))
    values, index = g.ops("TopK", padded, keep, names=2, axis=1)
    valid = g.op("Greater", values, threshold)
    g.op("Cast", g.op("Where", valid, index, 0), to=6, name="indices")
    g.op("ReduceSum", g.op("Cast", valid, to=6), [1], keepdims=0, name="count")
    return g.function(
        "MrcnnNMS",
        ["boxes", "scores", "group"],
        ["indices", "count"],
        ["iou_threshold", "score_threshold", "max_output", *_PLUGIN],
    )


def trim(g: GraphBuilder, rows: str, count: str, *, name: str) -> str:
    """`MrcnnTrim`: rows (B, K, …), count (B,) → (B, K', …), K' = the largest count, at least 1."""
    return g.ops("MrcnnTrim", rows, count, names=[name], domain=DOMAIN)[0]


def trim_function() -> FunctionProto:
    g = GraphBuilder()
    largest = g.op("Cast", g.op("ReduceMax", "count", keepdims=1), to=7)
    g.op("Slice", "rows", [0], g.op("Max", largest, [1]), [1], name="trimmed")
    return g.function("MrcnnTrim", ["rows", "count"], ["trimmed"], [])


def untrim(g: GraphBuilder, trimmed: str, count: str, *, rows: int, name: str) -> str:
    """`MrcnnUntrim`: trimmed (B·K', …), count (B,) → (B, K, …), K = `rows`; zero past the count."""
    return g.ops("MrcnnUntrim", trimmed, count, names=[name], domain=DOMAIN, rows=rows)[0]


def untrim_function() -> FunctionProto:
    g = GraphBuilder()
    rows = g.op("Constant", value_int=attribute_reference("value_int", of="rows", kind=AttributeProto.INT))
    images = g.op("Shape", "count")
    rows = g.op("Reshape", rows, [1])
    # Whatever a row holds, it is one axis while rows are multiplied and added.
    one_row = g.op("ReduceProd", g.op("Shape", "trimmed", start=1), keepdims=1)
    flat = g.op("Reshape", "trimmed", g.op("Concat", images, [-1], one_row, axis=0))
    present = g.op("Shape", flat, start=1, end=2)
    missing = g.op("Sub", rows, present)
    valid = g.op("Cast", valid_rows(g, "count", g.op("Squeeze", present)), to=1)
    masked = g.op("Mul", flat, g.op("Unsqueeze", valid, [2]))
    padded = g.op("Pad", masked, g.op("Concat", [0, 0, 0, 0], missing, [0], axis=0))
    whole = g.op("Concat", images, rows, g.op("Shape", "trimmed", start=1), axis=0)
    g.op("Reshape", padded, whole, name="untrimmed")
    return g.function("MrcnnUntrim", ["trimmed", "count"], ["untrimmed"], ["rows"])


def valid_rows(g: GraphBuilder, count: str, rows: str | int) -> str:
    """(B, rows) bool: which rows lie before each image's `count`."""
    ramp = g.op("Range", 0, rows, 1)
    return g.op("Less", g.op("Cast", ramp, to=6), g.op("Unsqueeze", count, [1]))
