"""An opened graph in FP16 and in INT8, to see what NVIDIA's builder takes of either.

This belongs to the tests alone: it places types as TensorRT wants them, but chooses no layers by their
accuracy and calibrates on noise. The product's own conversion comes with a later change.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

# What is computed in FP16. All else is coordinates, scores and shapes, which keep their types.
_DENSE = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip", "MaxPool", "Resize"),
    *("QuantizeLinear", "DequantizeLinear"),
}
_QUANTIZED = ["Conv", "Gemm", "MatMul"]

# The first opset whose Q/DQ take FP16 scales.
_HALF_SCALES = 19


def to_half(opened: onnx.ModelProto) -> onnx.ModelProto:
    """The dense layers in FP16, everything else as it was, with casts in between.

    Features and pooled regions, which only plugins give and take, are FP16 at the graph's ends too.
    """
    model = onnx.ModelProto()
    model.CopyFrom(opened)
    model.opset_import[0].version = max(_HALF_SCALES, model.opset_import[0].version)
    graph = model.graph
    floats = {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    weights = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    dense = _dense_nodes(graph)
    halves: dict[str, str] = {}  # a FLOAT value → its FP16 twin
    for end in (*graph.input, *graph.output):
        if _is_of_plugins(end.name):
            end.type.tensor_type.elem_type = TensorProto.FLOAT16
            halves[end.name] = end.name
    nodes: list[NodeProto] = []
    whole: dict[str, str] = {}  # an FP16 value → its FLOAT twin, for readers that are not dense
    for node in graph.node:
        node = NodeProto.FromString(node.SerializeToString())
        is_dense = node.name in dense
        for place, name in enumerate(node.input):
            if is_dense and name in weights:
                node.input[place] = _half_weight(graph, weights[name], halves)
            elif is_dense and name in floats:
                if name not in halves:
                    halves[name] = f"{name}/half"
                    nodes.append(_cast(name, halves[name], TensorProto.FLOAT16))
                node.input[place] = halves[name]
            elif not is_dense and name in halves and name not in weights:
                if name not in whole and _is_of_plugins(name):
                    whole[name] = f"{name}/whole"
                    nodes.append(_cast(name, whole[name], TensorProto.FLOAT))
                node.input[place] = whole.get(name, name)
        nodes.append(node)
        if is_dense and node.op_type != "QuantizeLinear":
            (name,) = node.output
            if name not in halves:  # the FLOAT twin keeps the name; TensorRT drops it where nobody reads it
                halves[name] = node.output[0] = f"{name}/half"
                nodes.append(_cast(halves[name], name, TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(_used(nodes, {output.name for output in graph.output}))
    del graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def to_int8(opened: onnx.ModelProto, *, images: int = 2) -> onnx.ModelProto:
    """Convolutions and matrix products of INT8 values, by Q/DQ; biases and results stay FLOAT."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(opened, source)
        quantize_static(
            source,
            target,
            _Noise(opened, images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTIZED,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
        model = onnx.load(target)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Noise(CalibrationDataReader):  # type: ignore[misc]
    """Images and pooled features of noise; plugins found one object each."""

    def __init__(self, model: onnx.ModelProto, images: int) -> None:
        self._inputs = list(model.graph.input)
        self._rest: Iterator[int] = iter(range(images))

    def get_next(self) -> dict[str, np.ndarray] | None:
        seed = next(self._rest, None)
        if seed is None:
            return None
        generator = np.random.default_rng(seed)
        return {value.name: self._noise(value, generator) for value in self._inputs}

    def _noise(self, value: onnx.ValueInfoProto, generator: np.random.Generator) -> np.ndarray:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == TensorProto.INT32:
            return np.full(shape, 32 if value.name == "image_sizes" else 1, np.int32)
        if value.name == "images":
            return generator.uniform(0, 255, shape).astype(np.float32)
        return np.abs(generator.normal(0, 1, shape)).astype(np.float32)


def _dense_nodes(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes to be computed in FP16: dense layers, and sums of their results alone."""
    makers: dict[str, str] = {}
    dense: set[str] = set()
    for node in graph.node:
        summed = node.op_type == "Add" and all(makers.get(name) in dense for name in node.input)
        if node.op_type in _DENSE or summed:
            dense.add(node.name)
        makers.update(dict.fromkeys(node.output, node.name))
    return dense


def _is_of_plugins(name: str) -> bool:
    return name.startswith("features.") or name.endswith("/pooled")


def _half_weight(graph: onnx.GraphProto, weight: TensorProto, halves: dict[str, str]) -> str:
    if weight.name not in halves:
        halves[weight.name] = f"{weight.name}/half"
        array = numpy_helper.to_array(weight)
        if np.all(array > 0):  # such as scales, which TensorRT refuses where they are rounded to zero
            array = np.maximum(array, np.finfo(np.float16).smallest_subnormal)
        array = array.astype(np.float16)
        graph.initializer.append(numpy_helper.from_array(array, halves[weight.name]))
    return halves[weight.name]


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=kind)


def _used(nodes: list[NodeProto], wanted: set[str]) -> list[NodeProto]:
    """The nodes without casts that nobody reads."""
    kept: list[NodeProto] = []
    for node in reversed(nodes):
        if node.op_type != "Cast" or wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]


def quantization(model: onnx.ModelProto) -> list[tuple[NodeProto, Any, Any]]:
    """Every Q and DQ node with its scale and zero point, None where they are no constants."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return [
        (node, *(constants.get(name) for name in [*node.input, "", ""][1:3]))
        for node in model.graph.node
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}
    ]
