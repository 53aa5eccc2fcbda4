"""A small writer of ONNX graphs: values are names, operators are calls."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 10
DOMAIN = "mrcnn"

# The ops that pool regions: features of one type, of which the result is, and last the RoIs, float32.
POOLINGS = frozenset({"MrcnnRoIAlign", "MrcnnRoIPool"})

# A value's name, or a constant: Python ints become int64, floats float32.
Operand = str | int | float | Sequence[int] | np.ndarray | None


class GraphBuilder:
    """Collects nodes and constants of a graph or of a function body.

    Example::

        g = GraphBuilder()
        doubled = g.op("Mul", "x", 2.0)
    """

    def __init__(self, scope: str = "") -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.scope = scope
        self._count = 0
        self._layers: dict[str, int] = {}

    def op(self, op_type: str, *inputs: Operand, name: str | None = None, **attributes: Any) -> str:
        """Adds a node with one output and returns the output's name, which is `name` if given."""
        return self.ops(op_type, *inputs, names=[name or self._fresh(op_type)], **attributes)[0]

    def ops(
        self, op_type: str, *inputs: Operand, names: Sequence[str] | int, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Adds a node with several outputs; `names` are theirs, or their number."""
        outputs = [self._fresh(op_type) for _ in range(names)] if isinstance(names, int) else list(names)
        operands = [self.value(x) for x in inputs]
        node = helper.make_node(op_type, operands, outputs, name=outputs[0], domain=domain)
        for key, value in attributes.items():
            node.attribute.append(
                value if isinstance(value, AttributeProto) else helper.make_attribute(key, value)
            )
        self.nodes.append(node)
        return outputs

    def value(self, operand: Operand) -> str:
        """The name of an operand; constants are added to the graph, equal ones once."""
        if operand is None:
            return ""
        if isinstance(operand, str):
            return operand
        if isinstance(operand, np.ndarray):
            array = operand
        else:
            array = np.asarray(operand, np.float32 if isinstance(operand, float) else np.int64)
        for name, tensor in self.initializers.items():
            if (
                list(tensor.dims) == list(array.shape)
                and tensor.data_type == helper.np_dtype_to_tensor_dtype(array.dtype)
                and tensor.raw_data == array.tobytes()
            ):
                return name
        name = self._fresh("const")
        self.initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def parameter(self, name: str, array: np.ndarray) -> str:
        """Adds a named weight and returns its name."""
        self.initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def include(
        self, graph: onnx.GraphProto, inputs: Sequence[str], outputs: Sequence[str], *, scope: str
    ) -> None:
        """Adds the nodes of `graph`, its inputs bound to `inputs`, its outputs named `outputs`.

        Inner values get the prefix `scope`, parameters keep their names.
        """
        names = {i.name: ours for i, ours in zip(graph.input, inputs, strict=True)}
        names.update({o.name: ours for o, ours in zip(graph.output, outputs, strict=True)})
        for tensor in graph.initializer:
            name = tensor.name if "." in tensor.name else f"{scope}/{tensor.name}"
            names[tensor.name] = name
            self.initializers[name] = TensorProto()
            self.initializers[name].CopyFrom(tensor)
            self.initializers[name].name = name
        for node in graph.node:
            copy = NodeProto.FromString(node.SerializeToString())
            for values in (copy.input, copy.output):
                values[:] = [names.get(v, f"{scope}/{v}") if v else "" for v in values]
            copy.name = self._unique(_layer_name(copy, scope))
            # The tracer notes file names and stack traces there.
            del copy.metadata_props[:]
            copy.doc_string = ""
            self.nodes.append(copy)

    def function(
        self, name: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Sequence[str]
    ) -> FunctionProto:
        """A function of the domain `mrcnn`; constants become nodes, since functions hold no tensors."""
        constants = [
            helper.make_node("Constant", [], [tensor.name], value=tensor)
            for tensor in self.initializers.values()
        ]
        return helper.make_function(
            DOMAIN,
            name,
            inputs,
            outputs,
            [*constants, *self.nodes],
            [helper.make_opsetid("", OPSET)],
            attributes=attributes,
        )

    def _unique(self, name: str) -> str:
        """`name`, numbered from its second use on: the RPN head runs once per level."""
        uses = self._layers[name] = self._layers.get(name, 0) + 1
        return name if uses == 1 else f"{name}/{uses}"

    def _fresh(self, stem: str) -> str:
        self._count += 1
        return f"{self.scope}{stem.lower()}_{self._count}"


def attribute_reference(name: str, *, of: str, kind: AttributeProto.AttributeType) -> AttributeProto:
    """In a function body: the node's attribute `name` takes the value of the function's attribute `of`."""
    return AttributeProto(name=name, ref_attr_name=of, type=kind)


def _layer_name(node: NodeProto, scope: str) -> str:
    """The module path of a layer with weights (`backbone.body.layer1.0.conv1`), else a scoped name."""
    for value in node.input:
        if value.endswith(".weight"):
            return str(value).removesuffix(".weight")
    return f"{scope}/{node.name}"
