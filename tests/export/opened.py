"""A lowered graph cut open at its plugins: all the rest, in one model that TensorRT for RTX can build.

`tests.export.stand_ins` keeps the graph whole instead, for inputs of any size.
"""

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import NodeProto, TensorProto, helper

from mrcnn.description import Deployment
from mrcnn.export.graph_builder import DOMAIN
from mrcnn.export.metadata import read_deployment

INT32, FLOAT = TensorProto.INT32, TensorProto.FLOAT


def open_at_plugins(lowered: onnx.ModelProto) -> onnx.ModelProto:
    """What the plugins take becomes outputs, what they give becomes inputs; for graphs of fixed size.

    Features and what is pooled of them have the type that they have in the graph. The result passes the
    checker, shapes of all values included.
    """
    model = onnx.ModelProto()
    model.CopyFrom(lowered)
    graph = model.graph
    deployment = read_deployment(model)
    assert deployment is not None
    # No plugin comes before the features, so that their type is known without any.
    noted = onnx.shape_inference.infer_shapes(lowered).graph.value_info
    types = {value.name: value.type.tensor_type.elem_type for value in noted}
    given = {value.name for value in (*graph.input, *graph.initializer, *graph.output)}
    kept: list[NodeProto] = []
    for node in graph.node:
        if node.domain != DOMAIN:
            kept.append(NodeProto.FromString(node.SerializeToString()))
            continue
        for place, name in enumerate(node.input):
            if name not in given:
                kind = INT32 if node.op_type == "MrcnnNMS" and place == 2 else types.get(name, FLOAT)
                graph.output.append(helper.make_tensor_value_info(name, kind, None))
                given.add(name)
        for name, (kind, shape) in _results(node, model, deployment, types).items():
            for output in [output for output in graph.output if output.name == name]:
                graph.output.remove(output)
            graph.input.append(helper.make_tensor_value_info(name, kind, shape))
            given.add(name)
    del graph.node[:]
    graph.node.extend(kept)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def channels(model: onnx.ModelProto) -> int:
    """Channels of the feature levels: those of the last convolution that makes level 0."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers["features.0"]
    while node.op_type != "Conv":  # an activation or a sum, whose first part is a convolution's
        node = makers[node.input[0]]
    name = node.input[1]
    name = makers[name].input[0] if name in makers else name  # weights in INT8
    weight = next(t for t in model.graph.initializer if t.name == name)
    return int(weight.dims[0])


def _results(
    node: NodeProto, model: onnx.ModelProto, deployment: Deployment, types: Mapping[str, int]
) -> Mapping[str, tuple[int, list[int]]]:
    """Output → (type, shape) of a plugin."""
    assert deployment.batch is not None
    attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "MrcnnNMS":
        indices, count = node.output
        rows = attributes["max_output"]
        return {indices: (INT32, [deployment.batch, rows]), count: (INT32, [deployment.batch])}
    rule = deployment.description
    per_image = rule.detections.detections_per_image
    if node.name == "box/pooled":
        per_image = rule.proposals.post_nms_top_n
    height, width = attributes.get("pooled_shape") or [attributes["output_size"]] * 2
    shape = [deployment.batch * per_image, channels(model), height, width]
    return {node.output[0]: (types[node.input[0]], shape)}
