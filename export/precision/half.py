"""FP16 written into a graph: dense layers compute in float16, all else in float32, with casts in between.

Converters that exist do not take our graph. onnxconverter-common 1.16 leaves the bounds of Clip in float32,
so that neither ONNX's checker nor ONNX Runtime accepts the result; ONNX Runtime's own `float16` puts casts
out of order, and 357 of them where 14 do; ModelOpt's AutoCast fails at nodes of another domain where there
is no TensorRT. None knows that RoIs stay float32 among features in float16.

ONNX Runtime's CPU has no kernels in float16: it runs the result, but between layers it keeps float32. So it
shows what the rounded weights do, and no overflow; `out_of_range` is to find that.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from mrcnn.errors import MrcnnError
from mrcnn.export.graph_builder import POOLINGS
from mrcnn.export.metadata import read_deployment, write_deployment
from mrcnn.export.precision.layers import ACTIVATIONS, MOVES, WEIGHTED

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT

_LARGEST = float(np.finfo(np.float16).max)  # 65504
_LEAST_SCALE = np.finfo(np.float16).smallest_subnormal

# Calibration sees few images: others may make values this many times as large.
HEADROOM = 4.0
# Rounding in float16's normal range moves no weight by more than 2^-11 of it. Twice that says that weights
# which matter lie below this range, where fewer bits are left.
MOST_ROUNDED = 2.0**-10

# What computes in FP16 between the results of layers with weights.
_FOLLOWERS = ACTIVATIONS | MOVES | {"Add"}
# These compute nothing: their readers decide.
_MOVES = {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Gather"}
_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
# These read a value of any type for its shape.
_SHAPES = {"Shape", "Size"}

# The first opset whose Q/DQ take scales in FP16.
_HALF_SCALES = 19


def to_half(model: onnx.ModelProto, *, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of `model` (exported, in float32 or with Q/DQ nodes) whose dense layers compute in float16.

    Dense are layers with weights, and activations, sums, pooling and resizing between their results. Pixels,
    coordinates, scores, shapes and the graph's inputs and outputs keep their types. What INT8 is rounded from
    and to follows the layers. Values keep their names; the other side of a cast is `NAME/half` or
    `NAME/float`. Weights beyond float16's range become its largest value.

    Args:
        keep: names of nodes that stay in float32; see `out_of_range`.

    Raises:
        MrcnnError: `keep` names a node that is not there.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    missing = set(keep) - {node.name for node in half.graph.node}
    if missing:
        raise MrcnnError(f"the graph has no node {min(missing)!r} to keep in float32")
    chosen = half_nodes(half.graph, keep)
    scales = [node.input[1] for node in half.graph.node if node.name in chosen and node.op_type in {_Q, _DQ}]
    _round_scales(half.graph, scales)
    _Writer(half.graph, chosen).write()
    if scales:
        _raise_opset(half)
    _tell(half)
    return half


def out_of_range(model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    """The nodes of `model` that FP16 is bad for, as `to_half` takes them to keep; name → reason.

    A node is bad for FP16 if a value that it reads or writes comes within a factor of `HEADROOM` of the
    largest float16, if a constant of it is larger than that, or if its weights are rounded by more than
    `MOST_ROUNDED`: |w16 - w| / |w|, both norms over all weights of the layer. Where inputs are of like
    size and independent, that is the relative error of what the layer makes. So a tiny weight counts by
    what it adds to a result: a layer may have many beside larger ones, as pruned or dead channels are, but
    not be made of them. Weights in INT8 are judged by their scales.

    Args:
        ranges: (least, largest) of values, as seen on calibration images. Where one is not known, the
            weights alone decide.
    """
    constants = _constants_behind(model.graph)
    makers = {name: node for node in model.graph.node for name in node.output}
    ranges = _spread(model.graph, ranges)
    candidates = _candidates(model.graph)
    found: dict[str, str] = {}
    for node in model.graph.node:
        if node.name not in candidates or node.op_type in {_Q, _DQ}:
            continue
        reasons = [*_large_values(node, ranges), *_unfit_constants(node, constants, makers)]
        if reasons:
            found[node.name] = reasons[0]
    return found


def _spread(
    graph: GraphProto, ranges: Mapping[str, tuple[float, float]]
) -> Mapping[str, tuple[float, float]]:
    """The ranges, and those that follow from them.

    What is moved or rounded keeps its range. What an activation alone reads was not looked at, but is at
    least as large as what it lets through.
    """
    known = dict(ranges)
    same = _MOVES | {_Q, _DQ, "MaxPool", "Resize"}
    for node in graph.node:
        if node.op_type in same and node.input[0] in known:
            known.setdefault(node.output[0], known[node.input[0]])
    for node in reversed(graph.node):
        if node.op_type in {"Relu", "Clip", *_MOVES} and node.output[0] in known:
            known.setdefault(node.input[0], known[node.output[0]])
    return known


def _large_values(node: NodeProto, ranges: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    for name in (*typed_inputs(node), *node.output):
        if name in ranges:
            largest = float(np.abs(ranges[name]).max())
            if not largest <= _LARGEST / HEADROOM:
                yield f"{name!r} reaches {largest:.3g}, and float16 ends at {_LARGEST:.0f}"


def _unfit_constants(
    node: NodeProto, constants: Mapping[str, TensorProto], makers: Mapping[str, NodeProto]
) -> Iterator[str]:
    for place, name in enumerate(typed_inputs(node)):
        maker = makers.get(name)
        if maker is not None and maker.op_type == _DQ:
            name = maker.input[1]
        if name not in constants:
            continue
        values = numpy_helper.to_array(constants[name]).astype(np.float64)
        largest = float(np.abs(values).max(initial=0.0))
        # A bound of Clip beyond the range is no bound.
        if node.op_type != "Clip" and not largest <= _LARGEST:
            yield f"{name!r} reaches {largest:.3g}, and float16 ends at {_LARGEST:.0f}"
        # What is added, such as a bias, is rounded by an absolute 2^-25 at most.
        if node.op_type in WEIGHTED and place < 2 and largest:
            moved = np.linalg.norm(_in_half(values) - values) / np.linalg.norm(values)
            if moved > MOST_ROUNDED:
                yield f"{name!r} is moved by {moved:.2g} of its size, as float16 rounds small values"


def typed_inputs(node: NodeProto) -> list[str]:
    """The inputs that have the node's own floating-point type: no shapes, indices, RoIs or INT8 values."""
    if node.op_type in _MOVES or node.op_type == "Resize":
        places = node.input[:1]
    elif node.op_type == _DQ:
        places = node.input[1:2]
    elif node.op_type == _Q:
        places = node.input[:2]
    elif node.op_type in POOLINGS:
        places = node.input[:-1]
    else:
        places = node.input[:]
    return [str(name) for name in places if name]


def _float_constants(graph: GraphProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == FLOAT}


def _constants_behind(graph: GraphProto) -> dict[str, TensorProto]:
    """Value → the constant that it is, or is gathered from, as the last weights of the mask head are."""
    behind = _float_constants(graph)
    for node in graph.node:
        if node.op_type in _MOVES and node.input[0] in behind:
            behind.update(dict.fromkeys(node.output, behind[node.input[0]]))
    return behind


def _candidates(graph: GraphProto) -> set[str]:
    """Names of the nodes that may compute in FP16, by operators and connections alone."""
    constants = _constants_behind(graph)
    dense: set[str] = set()  # values
    found: set[str] = set()
    for node in graph.node:
        read = typed_inputs(node)
        among = [name in dense for name in read]
        if (
            node.op_type in WEIGHTED | {_DQ}
            or (node.op_type in POOLINGS | {_Q} and any(among))
            or (
                node.op_type in _FOLLOWERS | _MOVES
                and any(among)
                and all(name in dense or name in constants for name in read)
            )
        ):
            found.add(node.name)
            dense.update(node.output)
        elif node.output[0] in constants:
            found.add(node.name)
    return found


def half_nodes(graph: GraphProto, keep: Collection[str]) -> set[str]:
    """Names of the nodes that compute in FP16, such that there are few casts.

    What a layer reads through a DQ or a move has the layer's type; a Q, or a move, has that of its input.
    """
    candidates = _candidates(graph).difference(keep)
    chosen: set[str] = set()
    wanted: set[str] = set()  # values that something reads in FP16
    for node in reversed(graph.node):
        for_readers = node.op_type in _MOVES | {_DQ}
        if node.name in candidates and not (for_readers and wanted.isdisjoint(node.output)):
            chosen.add(node.name)
            wanted.update(typed_inputs(node))
    halves = set(_float_constants(graph))
    for node in graph.node:
        if node.op_type in _MOVES | {_Q} and node.input[0] not in halves:
            chosen.discard(node.name)
        if node.name in chosen:
            halves.update(node.output)
    return chosen


class _Writer:
    """Gives the chosen nodes of a graph their types, and the values between them and others casts."""

    def __init__(self, graph: GraphProto, chosen: Collection[str]) -> None:
        self._graph, self._chosen = graph, chosen
        self._constants = _float_constants(graph)
        self._outputs = {output.name for output in graph.output}
        self._halves: set[str] = set()  # values of nodes, in FP16
        self._twins: dict[tuple[str, int], str] = {}  # (value, type) → the same in this type
        self._nodes: list[NodeProto] = []
        self._added: list[TensorProto] = []

    def write(self) -> None:
        for node in self._graph.node:
            node = NodeProto.FromString(node.SerializeToString())
            typed = set(typed_inputs(node)) if node.name in self._chosen else set()
            if typed or node.op_type not in _SHAPES:
                node.input[:] = [self._as(name, HALF if name in typed else FLOAT) for name in node.input]
            self._nodes.append(node)
            if node.name in self._chosen and node.op_type != _Q:
                self._give(node)
        read = {name for node in self._nodes for name in node.input} | self._outputs
        kept = [TensorProto.FromString(t.SerializeToString()) for t in self._graph.initializer]
        del self._graph.node[:], self._graph.initializer[:], self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(t for t in (*kept, *self._added) if t.name in read)

    def _give(self, node: NodeProto) -> None:
        """Notes that the node's result is in FP16, unless it is the graph's."""
        name = node.output[0]
        if name in self._outputs:
            self._twins[name, HALF] = node.output[0] = f"{name}/half"
            cast = _cast(f"{name}/half", name, FLOAT)
            cast.name = f"{name}/float"  # the node itself may be named after the result
            self._nodes.append(cast)
        else:
            self._halves.add(name)

    def _as(self, name: str, kind: int) -> str:
        """The value `name` in the type `kind`, HALF or FLOAT; what has neither type is asked for as FLOAT."""
        if kind == (HALF if name in self._halves else FLOAT):
            return name
        if (name, kind) not in self._twins:
            twin = self._twins[name, kind] = f"{name}/{'half' if kind == HALF else 'float'}"
            if name in self._constants:
                array = _in_half(numpy_helper.to_array(self._constants[name]))
                self._added.append(numpy_helper.from_array(array, twin))
            else:
                self._nodes.append(_cast(name, twin, kind))
        return self._twins[name, kind]


def _in_half(array: NDArray[np.floating]) -> NDArray[np.float16]:
    rounded: NDArray[np.float16] = np.clip(array, -_LARGEST, _LARGEST).astype(np.float16)
    return rounded


def _round_scales(graph: GraphProto, names: Iterable[str]) -> None:
    """Scales become floats that float16 has, so that a Q and its DQ agree also where their types differ.

    None becomes zero, which TensorRT refuses.
    """
    constants = _float_constants(graph)
    for name in set(names) & set(constants):
        rounded = np.maximum(_in_half(numpy_helper.to_array(constants[name])), _LEAST_SCALE)
        constants[name].CopyFrom(numpy_helper.from_array(rounded.astype(np.float32), name))


def _cast(source: str, target: str, kind: int) -> NodeProto:
    # A layer is named after its output, as everywhere in the graph.
    return helper.make_node("Cast", [source], [target], name=target, to=kind)


def _raise_opset(model: onnx.ModelProto) -> None:
    """To the first with scales in FP16. A function may not ask for other operators than its model does."""
    imports: list[Sequence[onnx.OperatorSetIdProto]] = [model.opset_import]
    imports += [function.opset_import for function in model.functions]
    for entry in (entry for each in imports for entry in each if not entry.domain):
        entry.version = max(entry.version, _HALF_SCALES)


def _tell(model: onnx.ModelProto) -> None:
    """Writes into the metadata that the graph computes in FP16; INT8 is narrower."""
    deployment = read_deployment(model)
    if deployment is not None and deployment.precision == "fp32":
        write_deployment(model, replace(deployment, precision="fp16"))
