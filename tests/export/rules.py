"""What TensorRT's ONNX parser and builder ask of a graph, as checks: each names the nodes that break a rule.

The table is the support matrix of the parser of TensorRT 10.1 (onnx-tensorrt, docs/operators.md), for the
operators that our graphs may hold; 10.3 is the oldest that we build with, and later versions only add to it.
"""

from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx_ir
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxscript import optimizer

from mrcnn.export.graph_builder import DOMAIN, POOLINGS

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_NUMBERS = _FLOATS | {TensorProto.INT32, TensorProto.INT64}
_ALL = _NUMBERS | {TensorProto.BOOL}

# Operator → the types that it takes. Those whose output's shape depends on data are left out on purpose
# (NonZero, NonMaxSuppression, Unique, Compress), and so are Loop, If and Scan.
SUPPORTED: Mapping[str, frozenset[int]] = {
    "And": frozenset({TensorProto.BOOL}),
    "Cast": _ALL | {TensorProto.UINT8},
    **dict.fromkeys(("Clip", "Conv", "ConvTranspose", "Exp", "Gemm", "InstanceNormalization"), _FLOATS),
    **dict.fromkeys(("MatMul", "MaxPool", "Resize", "Sigmoid", "Softmax"), _FLOATS),
    **dict.fromkeys(
        ("Add", "Div", "Greater", "GreaterOrEqual", "Less", "Max", "Min", "Mul", "Sub", "Pad", "Range"),
        _NUMBERS,
    ),
    "DequantizeLinear": frozenset({TensorProto.INT8}),
    "QuantizeLinear": _FLOATS,
    **dict.fromkeys(("ReduceMean", "ReduceMin", "Relu", "TopK"), _NUMBERS),
    **dict.fromkeys(("Concat", "Expand", "Gather", "GatherND", "Reshape", "Shape", "Slice"), _ALL),
    **dict.fromkeys(("Squeeze", "Transpose", "Unsqueeze", "Where"), _ALL),
}

# Our plugins' own rule, and the one for the graph's ends: no int64.
_PLUGIN_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32})
_END_TYPES = _PLUGIN_TYPES | {TensorProto.UINT8}

# TensorRT's TopK sorts no more.
LEAST_REFUSED_TOP_K = 3840

# Operator → places of the inputs whose values decide the output's shape.
_SHAPING: Mapping[str, tuple[int, ...]] = {
    "Expand": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Squeeze": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}

# Operator → attribute → what it may be.
_ATTRIBUTES: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "MaxPool": {"dilations": ([1, 1],), "storage_order": (0,)},
    "Resize": {
        "antialias": (0,),
        "coordinate_transformation_mode": (
            *(b"half_pixel", b"pytorch_half_pixel", b"tf_half_pixel_for_nn"),
            *(b"asymmetric", b"align_corners"),
        ),
        "exclude_outside": (0,),
        "keep_aspect_ratio_policy": (b"stretch",),
        "mode": (b"nearest", b"linear"),
        "nearest_mode": (b"floor", b"ceil", b"round_prefer_floor", b"round_prefer_ceil"),
    },
    "TopK": {"sorted": (1,)},
}


def unsupported_operators(lowered: onnx.ModelProto, plugins: Sequence[str]) -> list[str]:
    """Nodes that are neither in the table nor plugins, and attributes and inputs that the table excludes."""
    constants = {t.name for t in lowered.graph.initializer}
    found = [f"function {function.name}" for function in lowered.functions]
    for node in lowered.graph.node:
        if node.domain == DOMAIN:
            if node.op_type not in plugins:
                found.append(_says(node, "is no plugin"))
            continue
        if node.domain or node.op_type not in SUPPORTED:
            found.append(_says(node, "is not in TensorRT's support matrix"))
            continue
        allowed = _ATTRIBUTES.get(node.op_type, {})
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            if attribute.name in allowed and value not in allowed[attribute.name]:
                found.append(_says(node, f"has {attribute.name} {value!r}"))
        if node.op_type == "MaxPool" and len(node.output) > 1:
            found.append(_says(node, "has a second output"))
        for name, formal in _formal_inputs(node):
            if formal.name == "axes" and name not in constants:
                found.append(_says(node, "has axes that are not constant"))
    return found


def wrong_types(whole: onnx.ModelProto, lowered: onnx.ModelProto) -> list[str]:
    """Values of a type that their reader or writer does not take; int64 among them.

    Args:
        whole: the graph with stand-ins for its plugins, in which every value's type is noted.
    """
    types = _types(whole)
    found = []
    for value in (*lowered.graph.input, *lowered.graph.output):
        if types[value.name] not in _END_TYPES:
            found.append(f"{value.name} is {_type_name(types[value.name])}, at the graph's end")
    for node in lowered.graph.node:
        if node.domain == DOMAIN:
            values = [*node.input, *node.output]
            allowed = _PLUGIN_TYPES
        else:
            # Not those that ONNX gives a type of their own: shapes, axes, indices and conditions.
            values = [name for name, formal in _formal_inputs(node) if formal.type_str in {"T", "T1"}]
            values += [node.output[0]] if node.op_type == "Cast" else []
            allowed = SUPPORTED[node.op_type]
        found += [
            _says(node, f"has {name!r} as {_type_name(types[name])}")
            for name in values
            if types[name] not in allowed
        ]
    return found


def mixed_types(whole: onnx.ModelProto, lowered: onnx.ModelProto) -> list[str]:
    """Nodes whose values should be of one type and are not: strongly typed networks refuse them.

    Args:
        whole: the graph with stand-ins for its plugins, in which every value's type is noted.
    """
    types = _types(whole)
    opset = next(entry.version for entry in lowered.opset_import if not entry.domain)
    found = []
    for node in lowered.graph.node:
        for names in _of_one_type(node, opset):
            kinds = sorted({_type_name(types[name]) for name in names})
            if len(kinds) > 1:
                found.append(_says(node, f"mixes {' and '.join(kinds)}"))
    return found


def large_top_k(lowered: onnx.ModelProto) -> list[str]:
    """TopK of more than TensorRT sorts, or of a number that is no constant."""
    constants = {t.name: numpy_helper.to_array(t) for t in lowered.graph.initializer}
    found = []
    for node in lowered.graph.node:
        if node.op_type != "TopK":
            continue
        size = constants.get(node.input[1])
        if size is None or not 0 < int(size.item()) < LEAST_REFUSED_TOP_K:
            found.append(_says(node, f"has k = {size}"))
    return found


def data_dependent_shapes(lowered: onnx.ModelProto, plugins: Sequence[str]) -> list[str]:
    """Nodes whose output's shape depends on values: not on constants and the inputs' shapes alone.

    A plugin's does not: its `getOutputShapes` sees no values.
    """
    makers = {name: node for node in lowered.graph.node for name in node.output}
    constants = {t.name for t in lowered.graph.initializer} | {""}
    known: dict[str, str | None] = {}

    def data_behind(name: str) -> str | None:
        """A value that `name` is computed from and that is no shape; None if there is none."""
        if name not in known:
            node = makers.get(name)
            if name in constants or (node is not None and node.op_type == "Shape" and not node.domain):
                known[name] = None
            elif node is None or node.domain == DOMAIN:
                known[name] = name
            else:
                known[name] = next(filter(None, map(data_behind, node.input)), None)
        return known[name]

    found = []
    for node in lowered.graph.node:
        if node.domain == DOMAIN and node.op_type in plugins:
            continue
        if node.domain or node.op_type not in SUPPORTED:
            found.append(_says(node, "may have any shape"))
            continue
        for place in _SHAPING.get(node.op_type, ()):
            data = data_behind(node.input[place]) if place < len(node.input) else None
            if data is not None:
                found.append(_says(node, f"has a shape that depends on the values of {data!r}"))
    return found


def unknown_dimensions(whole: onnx.ModelProto) -> list[str]:
    """Values of which a dimension is not a number, after constants were folded; for graphs of fixed size.

    Args:
        whole: the graph with stand-ins for its plugins.
    """
    folded = onnx_ir.from_proto(whole)
    optimizer.fold_constants(folded, onnx_shape_inference=True)
    model = onnx_ir.to_proto(folded)
    del model.graph.value_info[:]
    model = onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)
    values = {v.name: v.type.tensor_type for v in (*model.graph.value_info, *model.graph.output)}
    found = []
    for name in (name for node in model.graph.node for name in node.output):
        value = values.get(name)
        if value is None or not value.HasField("shape"):
            found.append(f"{name} has no shape")
        elif not all(dim.HasField("dim_value") for dim in value.shape.dim):
            found.append(
                f"{name} has the shape {[dim.dim_value or dim.dim_param for dim in value.shape.dim]}"
            )
    return found


def _of_one_type(node: NodeProto, opset: int) -> Iterator[list[str]]:
    """Sets of values that share a type by ONNX's, or the plugin's, definition of the operator."""
    if node.op_type in POOLINGS:
        yield [*node.input[:-1], *node.output]
    elif node.op_type == "MrcnnNMS":
        yield [*node.input[:2]]
    elif node.op_type != "Cast":
        schema = onnx.defs.get_schema(node.op_type, opset)
        values = [(name, formal.type_str) for name, formal in _formal_inputs(node, opset)]
        values += [(n, f.type_str) for n, f in zip(node.output, schema.outputs, strict=False)]
        for kind in sorted({kind for _, kind in values}):
            yield [name for name, other in values if other == kind]


def _types(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    return types | {t.name: t.data_type for t in graph.initializer}


def _type_name(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)).lower()


def _formal_inputs(
    node: NodeProto, opset: int = 18
) -> Iterator[tuple[str, onnx.defs.OpSchema.FormalParameter]]:
    """The inputs that are given, each with ONNX's description of it; the last one may stand for many."""
    formal = onnx.defs.get_schema(node.op_type, opset).inputs
    for place, name in enumerate(node.input):
        if name:
            yield name, formal[min(place, len(formal) - 1)]


def _says(node: NodeProto, what: str) -> str:
    return f"{node.name} ({node.op_type}) {what}"
