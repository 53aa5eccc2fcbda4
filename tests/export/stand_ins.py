"""A lowered graph whose plugins are replaced by standard operators of the same inputs, outputs and shapes.

The whole graph then passes ONNX's shape inference, and TensorRT for RTX builds it with its own inputs and
profiles, of dynamic size too. What it computes is meaningless.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from mrcnn.export.graph_builder import DOMAIN, GraphBuilder
from tests.export.opened import channels


def with_stand_ins(lowered: onnx.ModelProto, *, check: bool = True) -> onnx.ModelProto:
    """The graph with the types and shapes of all inner values noted in it.

    Every value of the lowered graph keeps its name; names of the stand-ins' own end with "stand_in/…".
    """
    model = onnx.ModelProto()
    model.CopyFrom(lowered)
    nodes: list[NodeProto] = []
    for node in lowered.graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        g = GraphBuilder(scope=f"{node.name}/stand_in/")
        attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        _STAND_INS[node.op_type](g, node, attributes, channels(lowered))
        nodes += g.nodes
        model.graph.initializer.extend(g.initializers.values())
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    if check:
        onnx.checker.check_model(model, full_check=True)
    return model


def _nms(g: GraphBuilder, node: NodeProto, attributes: dict[str, Any], _: int) -> None:
    """Boxes (B, N, 4), scores (B, N), group (B, N) → indices (B, K), count (B,), by top-k of the scores."""
    boxes, scores, group = node.input
    kept = attributes["max_output"]
    mixed = g.op("Add", g.op("Sub", scores, g.op("ReduceMin", boxes, [-1], keepdims=0)), _float(g, group))
    padded = g.op("Pad", mixed, [0, 0, 0, kept], np.array(-np.inf, np.float32))
    values, index = g.ops("TopK", padded, [kept], names=2, axis=1)
    last = g.op("Sub", g.op("Shape", scores, start=1, end=2), 1)
    indices, count = node.output
    g.op("Cast", g.op("Min", index, last), to=TensorProto.INT32, name=indices)
    exists = g.op("Cast", g.op("Greater", values, 0.0), to=TensorProto.INT32)
    g.op("ReduceSum", exists, [1], keepdims=0, name=count)


def _pool(g: GraphBuilder, node: NodeProto, attributes: dict[str, Any], depth: int) -> None:
    """L features (B, C, Hl, Wl) and RoIs (B, R, 4) → (B·R, C, S, S), by the features' means.

    As the plugin, it takes features of another type than the RoIs', and gives what the features are.
    """
    *features, rois = node.input
    mean = g.op("GlobalAveragePool", features[0])
    for feature in features[1:]:
        mean = g.op("Add", mean, g.op("GlobalAveragePool", feature))
    mean = _float(g, mean)
    per_roi = g.op("Unsqueeze", g.op("ReduceMin", rois, [-1], keepdims=0), [2, 3, 4])
    pooled = g.op("Mul", g.op("Unsqueeze", mean, [1]), per_roi)
    height, width = attributes.get("pooled_shape") or [attributes["output_size"]] * 2
    spread = g.op("Expand", pooled, [1, 1, depth, height, width])
    rows = g.op("Reshape", spread, [-1, depth, height, width])
    g.op("CastLike", rows, features[0], name=node.output[0])


def _float(g: GraphBuilder, value: str) -> str:
    return g.op("Cast", value, to=TensorProto.FLOAT)


_STAND_INS: dict[str, Callable[[GraphBuilder, NodeProto, dict[str, Any], int], None]] = {
    "MrcnnNMS": _nms,
    "MrcnnRoIAlign": _pool,
    "MrcnnRoIPool": _pool,
}
