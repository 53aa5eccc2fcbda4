"""An exported graph as quantisation sees it: layers with weights, and what lies between them.

All is read off the operators and their connections. Names serve to tell a user which layer is meant.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
ACTIVATIONS = {"Relu", "Clip"}
# Operators that hand on values of their input, so that what is quantised before is so after them.
MOVES = {"MaxPool", "Resize"}

# A block of a backbone is returned to higher precision as a whole: its layers are fused with each other.
_BLOCK = re.compile(r"backbone\.body\.(layer\d+\.\d+|\d+|\w+)")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or matrix product with constant weights.

    Attributes:
        name: of its node; the module's path in PyTorch, numbered where the module runs several times.
        group: what is given another precision at once: a block of the backbone, or a module of a head.
        source, result: the values that it reads and makes.
        weight, bias: names of the constants; no bias is None.
        axis: of the weight, along which its output channels lie.
    """

    name: str
    op: str
    group: str
    source: str
    result: str
    weight: str
    bias: str | None
    axis: int


@dataclass(frozen=True, kw_only=True)
class Sum:
    """An addition of two results of layers, with a shortcut of a residual block or of the FPN.

    Attributes:
        name: of the node.
        main: the operand that a layer makes for this sum alone, with which it can be fused.
        skip: the other operand.
    """

    name: str
    main: str
    skip: str
    result: str


@dataclass(frozen=True)
class GraphView:
    """A graph with its connections looked up once.

    Attributes:
        layers, sums: in the order of the graph.
        dense: the values that layers read and make, and all between them; what may be quantised.
    """

    model: onnx.ModelProto
    makers: Mapping[str, NodeProto]
    readers: Mapping[str, Sequence[NodeProto]]
    outputs: frozenset[str]
    weights: Mapping[str, onnx.TensorProto]
    layers: tuple[Layer, ...]
    sums: tuple[Sum, ...]
    dense: frozenset[str]

    def is_dense(self, node: NodeProto) -> bool:
        """Whether the node is a layer, or computes from nothing but results of layers."""
        return bool(node.output[0] in self.dense and node.op_type in WEIGHTED | ACTIVATIONS | MOVES | {"Add"})

    def weight(self, layer: Layer) -> np.ndarray:
        """The weights as they are stored."""
        return numpy_helper.to_array(self.weights[layer.weight])

    def channels(self, layer: Layer) -> int:
        """How many channels the layer's source has."""
        inner = next(d for axis, d in enumerate(self.weights[layer.weight].dims) if axis != layer.axis)
        groups = next((a.i for a in self.makers[layer.result].attribute if a.name == "group"), 1)
        return int(inner) * int(groups)

    def users(self, value: str) -> Sequence[NodeProto]:
        """The nodes that read the value's elements, not only its shape."""
        return _users(self.readers.get(value, ()))

    def activated(self, value: str) -> str:
        """The result of the activation that alone reads `value`; `value` itself where there is none."""
        readers = self.users(value)
        if len(readers) == 1 and readers[0].op_type in ACTIVATIONS and value not in self.outputs:
            return str(readers[0].output[0])
        return value

    def leaves(self, value: str) -> bool:
        """Whether nothing dense reads the value: it is a score, a delta, or a mask's feature."""
        return not any(set(reader.output) & self.dense for reader in self.users(value))


def view(model: onnx.ModelProto) -> GraphView:
    """Looks up layers and connections of a graph in float32."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output if name}
    readers: defaultdict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            readers[name].append(node)
    layers = tuple(_layers(graph.node, weights))
    dense = _dense(graph.node, layers)
    sums = tuple(_sums(graph.node, layers, dense, readers))
    outputs = frozenset(output.name for output in graph.output)
    return GraphView(model, makers, readers, outputs, weights, layers, sums, dense)


def _users(readers: Iterable[NodeProto]) -> list[NodeProto]:
    return [node for node in readers if node.op_type != "Shape"]


def _layers(nodes: Iterable[NodeProto], weights: Mapping[str, onnx.TensorProto]) -> Iterable[Layer]:
    for node in nodes:
        if node.domain or node.op_type not in WEIGHTED or node.input[1] not in weights:
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        axis = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if transposed else 1}.get(
            node.op_type, len(weights[node.input[1]].dims) - 1
        )
        yield Layer(
            name=node.name,
            op=node.op_type,
            group=_group(node.name),
            source=node.input[0],
            result=node.output[0],
            weight=node.input[1],
            bias=node.input[2] if len(node.input) > 2 and node.input[2] else None,
            axis=axis,
        )


def _group(name: str) -> str:
    """`backbone.body.layer1.0.conv2` → `backbone.body.layer1.0`, `rpn.head.conv.0.0/3` → `rpn.head.conv`."""
    block = _BLOCK.match(name)
    return block[0] if block else ".".join(name.partition("/")[0].split(".")[:3])


def _dense(nodes: Iterable[NodeProto], layers: Sequence[Layer]) -> frozenset[str]:
    dense = {name for layer in layers for name in (layer.source, layer.result)}
    for node in nodes:
        summed = node.op_type == "Add" and all(name in dense for name in node.input)
        if summed or (node.op_type in ACTIVATIONS | MOVES and node.input[0] in dense):
            dense.update(node.output)
    return frozenset(dense)


def _sums(
    nodes: Iterable[NodeProto],
    layers: Sequence[Layer],
    dense: frozenset[str],
    readers: Mapping[str, Sequence[NodeProto]],
) -> Iterable[Sum]:
    results = {layer.result for layer in layers}
    for node in nodes:
        if node.op_type != "Add" or node.output[0] not in dense or node.input[0] == node.input[1]:
            continue
        alone = [name for name in node.input if name in results and len(_users(readers[name])) == 1]
        if alone:
            (skip,) = (name for name in node.input if name != alone[0])
            yield Sum(name=node.name, main=alone[0], skip=skip, result=node.output[0])
