"""INT8 by Q/DQ nodes: which values are rounded, with which scales, for TensorRT or for ONNX Runtime's CPU.

ONNX Runtime's `quantize_static` knows no placement but its own, and ModelOpt no operators but those of ONNX
and TensorRT, so the nodes are placed here.

|                   | "tensorrt"                                  | "cpu" (ONNX Runtime, OpenVINO)          |
|-------------------|---------------------------------------------|-----------------------------------------|
| activations       | int8, symmetric, zero point 0               | uint8, asymmetric                       |
| weights           | int8, one scale per output channel          | the same                                |
| bias              | float                                       | int32                                   |
| rounded           | what layers read, the shortcuts of sums:    | also what layers and sums make, so that |
|                   | convolution, sum and ReLU become one kernel | integers go from kernel to kernel       |
| transposed conv.  | INT8                                        | float: there is no such integer kernel  |
| scores and deltas | come out of INT8 kernels in float           | convolutions that make them stay float  |
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mrcnn.export.metadata import read_deployment, write_deployment
from mrcnn.export.precision.layers import MOVES, GraphView, Layer
from mrcnn.export.precision.observers import Range
from mrcnn.export.precision.statistics import Statistics

_LEAST_SCALE = 1e-12
# Of an int32 bias, with room for the sum that it begins.
_LARGEST_BIAS = 2**30


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a graph is to be quantised.

    Attributes:
        target: one of `options.TARGETS`.
        ranges: of values, as an observer chose them. What has none stays as it is.
        keep: groups of layers that stay in floating point.
        statistics: of values, for the correction of biases; None for none.
    """

    target: str
    ranges: Mapping[str, Range]
    keep: frozenset[str] = frozenset()
    statistics: Mapping[str, Statistics] | None = None


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A graph with Q/DQ nodes, and the names of the layers that compute in INT8 and of those that do not."""

    model: onnx.ModelProto
    layers: tuple[str, ...]
    kept: tuple[str, ...]


def quantize(view: GraphView, recipe: Recipe) -> Quantized:
    """A copy of the graph whose layers compute in INT8, but those of the groups to keep."""
    layers = [layer for layer in view.layers if _can(view, layer, recipe)]
    names = {layer.name for layer in layers}
    writer = _Writer(view, recipe)
    if recipe.target == "cpu":
        _round_for_cpu(view, layers, writer)
    else:
        _round_for_tensorrt(view, recipe, layers, writer)
    for layer in layers:
        writer.weight(layer)
    return Quantized(
        model=writer.result(),
        layers=tuple(layer.name for layer in layers),
        kept=tuple(layer.name for layer in view.layers if layer.name not in names),
    )


def groups(view: GraphView, target: str) -> list[str]:
    """The groups with layers that the target can compute in INT8, in the order of the graph."""
    recipe = Recipe(target=target, ranges=dict.fromkeys(view.dense, (0.0, 1.0)))
    return list(dict.fromkeys(layer.group for layer in view.layers if _can(view, layer, recipe)))


def work(view: GraphView, statistics: Mapping[str, Statistics], target: str) -> dict[str, float]:
    """Each of the `groups`' share of all layers' multiplications on an average image, 0…1."""
    macs: dict[str, float] = {}
    for layer in view.layers:
        made = statistics.get(view.activated(layer.result))
        weight = view.weights[layer.weight].dims
        macs[layer.group] = macs.get(layer.group, 0) + (
            0 if made is None else made.elements * float(np.prod(weight)) / weight[layer.axis]
        )
    total = sum(macs.values()) or 1.0
    return {group: macs[group] / total for group in groups(view, target)}


def _can(view: GraphView, layer: Layer, recipe: Recipe) -> bool:
    if layer.group in recipe.keep or layer.source not in recipe.ranges:
        return False
    if recipe.target == "tensorrt":
        return True
    # ONNX Runtime has no integer ConvTranspose, and its integer Conv makes nothing but 8 bits: too few for
    # scores, of which thousands are to be put in order. Its integer Gemm makes floats.
    leaves = view.leaves(view.activated(layer.result))
    return layer.op != "ConvTranspose" and not (layer.op == "Conv" and leaves)


def _round_for_tensorrt(view: GraphView, recipe: Recipe, layers: list[Layer], writer: "_Writer") -> None:
    names = {layer.name for layer in layers}
    for layer in layers:
        writer.round(layer.source, readers={layer.name})
    makers = {layer.result: layer for layer in layers}
    for total in view.sums:
        # What is fused with a convolution in INT8 reads INT8 itself.
        if total.main in makers and makers[total.main].name in names and total.skip in recipe.ranges:
            writer.round(total.skip, readers={total.name})


def _round_for_cpu(view: GraphView, layers: list[Layer], writer: "_Writer") -> None:
    """Everything between two layers in INT8: results, sums, and what only moves values."""
    for layer in layers:
        writer.round(layer.source)
        result = view.activated(layer.result)
        if not view.leaves(result):
            writer.round(result)
    for total in view.sums:
        if writer.rounds(total.main) and (writer.rounds(total.skip) or _moved(view, total.skip, writer)):
            writer.round(view.activated(total.result))
    for node in view.model.graph.node:
        # Values that are only moved keep their steps, or they would have to be computed.
        if node.op_type in MOVES and not node.domain and writer.rounds(node.input[0]):
            writer.round(node.output[0], like=node.input[0])


def _moved(view: GraphView, value: str, writer: "_Writer") -> bool:
    maker = view.makers.get(value)
    return maker is not None and maker.op_type in MOVES and writer.rounds(maker.input[0])


class _Writer:
    """Collects what is to be rounded, then writes the graph."""

    def __init__(self, view: GraphView, recipe: Recipe) -> None:
        self._view, self._recipe = view, recipe
        self._symmetric = recipe.target == "tensorrt"
        self._like: dict[str, str] = {}  # a value → that whose scale it has
        self._readers: dict[str, set[str] | None] = {}  # a value → the nodes that read it rounded; None: all
        self._weights: list[Layer] = []

    def rounds(self, value: str) -> bool:
        return value in self._readers

    def round(self, value: str, *, readers: set[str] | None = None, like: str | None = None) -> None:
        """The value, as `readers` read it, or everything, is to have 8 bits."""
        if value not in self._recipe.ranges and like is None:
            return
        known = self._readers.get(value, set())
        self._readers[value] = None if readers is None or known is None else known | readers
        if like is not None:
            self._like[value] = self._like.get(like, like)

    def weight(self, layer: Layer) -> None:
        """The layer's weights are to have 8 bits."""
        self._weights.append(layer)

    def result(self) -> onnx.ModelProto:
        view = self._view
        model = onnx.ModelProto()
        model.CopyFrom(view.model)
        graph = model.graph
        replaced: dict[tuple[str, str], str] = {}  # (node, value) → what it reads instead
        constants: dict[str, NDArray[np.generic]] = {}
        after: dict[str, list[NodeProto]] = {}  # a value → nodes to follow the one that makes it
        exact: dict[str, str] = {}  # a value → its name before it is rounded
        made = {name for name in view.dense if name in view.makers and view.is_dense(view.makers[name])}
        for value, readers in self._readers.items():
            scale, zero = self._scale(value)
            constants |= {f"{value}/scale": scale, f"{value}/zero": zero}
            if readers is None and value in made:
                # Everybody reads the rounded value, so it takes the name, by which parts of a graph are cut.
                exact[value] = f"{value}/exact"
                after[value] = [_q(exact[value], value), _dq(f"{value}/quantized", value, value)]
                continue
            after[value] = [_q(value, value), _dq(f"{value}/quantized", value, f"{value}/rounded")]
            for node in view.readers.get(value, ()):
                if readers is None or node.name in readers:
                    replaced[node.name, value] = f"{value}/rounded"
        first: list[NodeProto] = []
        for layer in self._weights:
            rounded, nodes, own = self._rounded_weight(layer)
            constants |= own
            first += [node for node in nodes if node.name not in {other.name for other in first}]
            replaced |= {(layer.name, name): new for name, new in rounded.items()}
        nodes = first + [node for value in after if value not in view.makers for node in after[value]]
        for node in graph.node:
            node.input[:] = [replaced.get((node.name, name), name) for name in node.input]
            nodes.append(node)
            nodes += [other for name in node.output for other in after.get(name, ())]
            node.output[:] = [exact.get(name, name) for name in node.output]
        _rewrite(model, nodes, constants)
        _tell(model, self._recipe.target)
        return model

    def _scale(self, value: str) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
        low, high = self._recipe.ranges[self._like.get(value, value)]
        low, high = min(low, 0.0), max(high, 0.0)
        if self._symmetric:
            return np.array(max(max(-low, high) / 127, _LEAST_SCALE), np.float32), np.array(0, np.int8)
        scale = max((high - low) / 255, _LEAST_SCALE)
        return np.array(scale, np.float32), np.array(np.clip(round(-low / scale), 0, 255), np.uint8)

    def _rounded_weight(
        self, layer: Layer
    ) -> tuple[dict[str, str], list[NodeProto], dict[str, NDArray[np.generic]]]:
        """What the layer reads instead of its weight and bias, the nodes that make it, and their constants.

        A layer that runs several times, as the RPN's head, has one weight; its bias depends on the run.
        """
        weight = self._view.weight(layer)
        bias = None if layer.bias is None else numpy_helper.to_array(self._view.weights[layer.bias])
        scale = weight_scale(weight, layer.axis)
        if self._recipe.target == "cpu" and bias is not None:
            source = self._source_scale(layer)
            scale = np.maximum(scale, np.abs(bias) / (source * _LARGEST_BIAS)).astype(np.float32)
        shape = [-1 if axis == layer.axis else 1 for axis in range(weight.ndim)]
        integers = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
        name = layer.weight
        if self._recipe.target == "cpu" and layer.name.partition("/")[2]:
            name = f"{layer.weight}/{layer.name.partition('/')[2]}"  # its scale may depend on the run
        constants: dict[str, NDArray[np.generic]] = {
            f"{name}/quantized": integers,
            f"{name}/scale": scale,
            f"{name}/zero": np.zeros(len(scale), np.int8),
        }
        replaced = {layer.weight: f"{name}/rounded"}
        nodes = [_dq(f"{name}/quantized", name, f"{name}/rounded", axis=layer.axis)]
        if bias is not None and layer.bias is not None:
            shift = self._shift(layer, integers * scale.reshape(shape) - weight)
            bias = (bias - shift).astype(np.float32)
            own = f"{layer.name}.bias"
            if self._recipe.target == "cpu":
                steps = (self._source_scale(layer) * scale).astype(np.float32)
                constants |= {
                    f"{own}/quantized": np.rint(bias / steps).astype(np.int32),
                    f"{own}/scale": steps,
                    f"{own}/zero": np.zeros(len(steps), np.int32),
                }
                nodes.append(_dq(f"{own}/quantized", own, f"{own}/rounded", axis=0))
                replaced[layer.bias] = f"{own}/rounded"
            elif np.any(shift):
                constants[f"{own}/corrected"] = bias
                replaced[layer.bias] = f"{own}/corrected"
        return replaced, nodes, constants

    def _source_scale(self, layer: Layer) -> np.float32:
        return np.float32(self._scale(layer.source)[0])

    def _shift(self, layer: Layer, error: NDArray[np.float32]) -> NDArray[np.float32]:
        """By how much the rounded weights move the mean of each output channel.

        E[(W' - W) x] = (W' - W) E[x], of which images tell E[x] (Nagel et al., Data-Free Quantization Through
        Weight Equalization and Bias Correction, 2019, eq. 14). Borders are taken for more of the same.
        """
        known = (self._recipe.statistics or {}).get(layer.source)
        if known is None or known.means is None:
            return np.zeros(error.shape[layer.axis], np.float32)
        channels = np.moveaxis(error, layer.axis, 0)  # (out, in, …)
        flat = channels.reshape(*channels.shape[:2], -1).sum(-1)
        # In groups, each output channel reads its own part of the input.
        means = known.means.reshape(-1, flat.shape[1])
        shift: NDArray[np.float32] = (flat * np.repeat(means, len(flat) // len(means), axis=0)).sum(1)
        return shift.astype(np.float32)


def weight_scale(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Per output channel the step with which the largest magnitude becomes 127; (channels,)."""
    others = tuple(other for other in range(weight.ndim) if other != axis)
    scale: NDArray[np.float32] = np.maximum(np.abs(weight).max(others) / 127, _LEAST_SCALE)
    return scale.astype(np.float32)


def _q(value: str, name: str) -> NodeProto:
    return helper.make_node(
        "QuantizeLinear",
        [value, f"{name}/scale", f"{name}/zero"],
        [f"{name}/quantized"],
        name=f"{name}/quantize",
    )


def _dq(value: str, name: str, output: str, *, axis: int | None = None) -> NodeProto:
    inputs = [value, f"{name}/scale", f"{name}/zero"]
    node = helper.make_node("DequantizeLinear", inputs, [output], name=f"{output}/dequantize")
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node


def _rewrite(
    model: onnx.ModelProto, nodes: Collection[NodeProto], constants: Mapping[str, NDArray[np.generic]]
) -> None:
    """Gives the graph its nodes, and the constants that they read and no others."""
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    read = {name for node in copies for name in node.input}
    kept = [TensorProto.FromString(t.SerializeToString()) for t in model.graph.initializer if t.name in read]
    kept += [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(copies)
    model.graph.initializer.extend(kept)


def _tell(model: onnx.ModelProto, target: str) -> None:
    """Writes into the metadata that the graph computes in INT8."""
    deployment = read_deployment(model)
    if deployment is not None:
        write_deployment(model, replace(deployment, precision="int8", quantized_for=target))
