"""The graph as TensorRT is to see it: our ops as plugins, no function bodies, only fixed numbers of rows.

In the exported file every op of ours has a body in standard operators, which ONNX Runtime runs. TensorRT
up to 10.6 prefers such a body to a plugin of the same name, and later versions may, so the bodies go.
`MrcnnTrim` and `MrcnnUntrim` leave out rows that do not exist; in TensorRT shapes must not depend on the
data, so all rows are computed, and those past the count are set to zero. Of uint8 pixels TensorRT documents
nothing but the cast, so their shape is taken from that.

Needs neither torch nor onnxscript: a Jetson lowers the file that a workstation exported.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mrcnn.export.graph_builder import DOMAIN


def lower(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an exported model for TensorRT's parser; inputs, outputs, metadata and weights stay.

    Every plugin node carries `plugin_version` and `plugin_namespace`, by which the parser finds it.
    """
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    del lowered.functions[:]
    renamed: dict[str, str] = {}
    cast = _casts_of_bytes(lowered.graph)
    nodes: list[NodeProto] = []
    for node in lowered.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.domain == DOMAIN and node.op_type == "MrcnnTrim":
            renamed[node.output[0]] = node.input[0]
        elif node.domain == DOMAIN and node.op_type == "MrcnnUntrim":
            nodes += _untrim(node, lowered.graph)
        else:
            if node.op_type == "Shape":
                node.input[0] = cast.get(node.input[0], node.input[0])
            nodes.append(node)
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del lowered.graph.node[:]
    lowered.graph.node.extend(kept)
    return lowered


def plugin_nodes(model: onnx.ModelProto) -> Mapping[str, str]:
    """The nodes of a lowered model that must become plugin layers: name → op."""
    return {node.name: node.op_type for node in model.graph.node if node.domain == DOMAIN}


def _casts_of_bytes(graph: onnx.GraphProto) -> Mapping[str, str]:
    """The uint8 inputs, each with the value of another type that the graph begins with."""
    inputs = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8}
    return {
        node.input[0]: node.output[0]
        for node in graph.node
        if node.op_type == "Cast" and node.input[0] in inputs
    }


def _untrim(node: NodeProto, graph: onnx.GraphProto) -> list[NodeProto]:
    """Trimmed (B·K, …), count (B,) → (B, K, …), zero past each image's count."""
    trimmed, count = node.input
    rows = next(attribute.i for attribute in node.attribute if attribute.name == "rows")
    name = node.output[0]
    row = _dims(graph, name)[2:]
    assert row, f"{name} is an output of the graph whose rows have a shape"
    assert all(side > 0 for side in row), f"the shape of the rows of {name} is fixed"
    constants = {
        "shape": np.array([-1, rows, *row], np.int64),
        "ramp": np.arange(rows, dtype=np.int32)[None],
        "column": np.array([1], np.int64),
        "row": np.arange(2, 2 + len(row), dtype=np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(v, f"{name}/{k}") for k, v in constants.items())

    def op(op_type: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        # A layer is named after its output, as everywhere in the graph.
        return helper.make_node(op_type, inputs, [output], name=output, **attributes)

    return [
        op("Reshape", [trimmed, f"{name}/shape"], f"{name}/all"),
        op("Unsqueeze", [count, f"{name}/column"], f"{name}/count"),
        op("Less", [f"{name}/ramp", f"{name}/count"], f"{name}/exists"),
        op("Cast", [f"{name}/exists"], f"{name}/one", to=TensorProto.FLOAT),
        op("Unsqueeze", [f"{name}/one", f"{name}/row"], f"{name}/mask"),
        op("Mul", [f"{name}/all", f"{name}/mask"], name),
    ]


def _dims(graph: onnx.GraphProto, name: str) -> list[int]:
    """The declared dimensions of a graph output; 0 where one is not fixed."""
    output = next(output for output in graph.output if output.name == name)
    return [dim.dim_value for dim in output.type.tensor_type.shape.dim]
