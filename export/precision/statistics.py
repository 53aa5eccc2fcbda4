"""What the values inside of a graph are like on images: ranges, histograms, means of channels.

A graph is run as it is, by ONNX Runtime, with a few more outputs. They are reduced inside of it: of each
value come its extremes, exactly, and a few thousand of its elements, so that an image costs little more than
its inference.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mrcnn.errors import MrcnnError
from mrcnn.export.graph_builder import POOLINGS
from mrcnn.export.precision.layers import GraphView

Floats = NDArray[np.float32]
Values = Mapping[str, NDArray[Any]]

BINS = 8192

# Elements of a value that are kept of each image: with 64 images, the 99.99th percentile has 26 beyond it.
_KEPT = 4096


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """One value's elements over all images.

    Attributes:
        low, high: the extremes, of all elements.
        counts: how many of the elements that were kept lie in each of `BINS` equal bins between -`limit` and
            `limit`, the largest magnitude.
        elements: how many it has in a run, on average.
        means: per channel; None where the value is read by no layer.
    """

    low: float
    high: float
    counts: NDArray[np.int64]
    elements: float
    means: Floats | None = None

    @property
    def limit(self) -> float:
        return max(abs(self.low), abs(self.high))

    @property
    def centres(self) -> NDArray[Any]:
        """The middle of each bin."""
        centres: NDArray[Any] = (np.arange(BINS) + 0.5) * (2 * self.limit / BINS) - self.limit
        return centres


class Collector:
    """Gathers statistics of every dense value over runs of a graph.

    What heads see counts only in runs where there is something for them to see.

    Attributes:
        model: the graph with more outputs, to be run by ONNX Runtime.
        outputs: the names of these.

    Raises:
        MrcnnError: a weight is not finite.
    """

    def __init__(self, view: GraphView) -> None:
        check_weights(view)
        self._regions = _behind_pooling(view)
        self._seen = {name: _Running() for name in observed(view)}
        counts = {count for counts in self._regions.values() for count in counts}
        self.model = _instrumented(view, list(self._seen), counts)
        self.outputs = frozenset(output.name for output in self.model.graph.output) - view.outputs

    def add(self, values: Values) -> None:
        """Takes the outputs of a run of `model`, by name.

        Raises:
            MrcnnError: a value is not finite.
        """
        for name, running in self._seen.items():
            if all(values[count].sum() for count in self._regions.get(name, ())):
                running.add(values, name)
                # ONNX Runtime's extremes leave NaN out.
                parts = [values[f"{name}/{kind}"] for kind in ("low", "high", "kept")]
                if not all(np.isfinite(part).all() for part in parts):
                    raise MrcnnError(
                        f"{name!r} is not finite on the calibration images: are the weights good?"
                    )

    def result(self) -> dict[str, Statistics]:
        """Of each value that was ever seen."""
        return {name: running.result() for name, running in self._seen.items() if running.runs}


def observed(view: GraphView) -> list[str]:
    """The values that may be rounded. What an activation alone reads is not: it is fused with its maker."""
    return sorted(name for name in view.dense if view.activated(name) == name)


def check_weights(view: GraphView) -> None:
    """Raises MrcnnError for weights that are not finite."""
    for layer in view.layers:
        for name in filter(None, (layer.weight, layer.bias)):
            if not np.isfinite(numpy_helper.to_array(view.weights[name])).all():
                raise MrcnnError(f"the weights {name!r} hold values that are not finite: train again")


class _Running:
    """What is known of a value so far."""

    def __init__(self) -> None:
        self.low, self.high, self.runs = np.inf, -np.inf, 0
        self._kept: list[Floats] = []
        self._elements = 0
        self._means: NDArray[np.float64] | None = None

    def add(self, values: Values, name: str) -> None:
        """The outputs of a run of the instrumented graph."""
        self.low = float(np.minimum(self.low, values[f"{name}/low"]))
        self.high = float(np.maximum(self.high, values[f"{name}/high"]))
        self.runs += 1
        self._kept.append(values[f"{name}/kept"])
        self._elements += int(values[f"{name}/size"].sum())
        means = values.get(f"{name}/means")
        if means is not None:
            self._means = means.astype(np.float64) + (0 if self._means is None else self._means)

    def result(self) -> Statistics:
        limit = max(abs(self.low), abs(self.high), 1e-30)
        kept = np.concatenate(self._kept)
        counts, _ = np.histogram(kept, BINS, (-limit, limit))
        means = None if self._means is None else (self._means / self.runs).astype(np.float32)
        return Statistics(
            low=self.low,
            high=self.high,
            counts=counts.astype(np.int64),
            elements=self._elements / self.runs,
            means=means,
        )


def _instrumented(view: GraphView, names: Sequence[str], counts: Iterable[str]) -> onnx.ModelProto:
    """The graph with outputs `V/low`, `V/high`, `V/kept`, `V/size`; `V/means` where a layer reads V.

    Args:
        names: of the values V.
        counts: values that become outputs themselves.
    """
    model = onnx.ModelProto()
    model.CopyFrom(view.model)
    graph = model.graph
    constants = {"flat": [-1], "zero": [0], "one": [1], "two": [2], "kept": [_KEPT], "end": [2**62]}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), f"observed/{key}")
        for key, value in constants.items()
    )
    axes = {layer.source: [0] if layer.op in ("Gemm", "MatMul") else [0, 2, 3] for layer in view.layers}
    for name in names:
        nodes = _observers(name)
        if name in axes:
            axis = f"{name}/axes"
            graph.initializer.append(numpy_helper.from_array(np.array(axes[name], np.int64), axis))
            nodes.append(helper.make_node("ReduceMean", [name, axis], [f"{name}/means"], keepdims=0))
            graph.output.append(helper.make_tensor_value_info(f"{name}/means", TensorProto.FLOAT, [None]))
        graph.node.extend(nodes)
        for kind, shape in (("low", []), ("high", []), ("kept", [None])):
            graph.output.append(helper.make_tensor_value_info(f"{name}/{kind}", TensorProto.FLOAT, shape))
        graph.output.append(helper.make_tensor_value_info(f"{name}/size", TensorProto.INT64, [1]))
    for count in sorted(set(counts) - view.outputs):
        graph.output.append(helper.make_tensor_value_info(count, TensorProto.INT32, [None]))
    return model


def _observers(name: str) -> list[onnx.NodeProto]:
    """Every n-th element, n odd so that it does not fall on the same columns of an image over and over."""

    def op(op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op_type, inputs, [f"{name}/{output}"], **attributes)

    constant = "observed/{}".format
    return [
        op("Reshape", [name, constant("flat")], "flat"),
        op("ReduceMin", [f"{name}/flat"], "low", keepdims=0),
        op("ReduceMax", [f"{name}/flat"], "high", keepdims=0),
        op("Shape", [f"{name}/flat"], "size"),
        op("Div", [f"{name}/size", constant("kept")], "fewer"),
        op("Div", [f"{name}/fewer", constant("two")], "half"),
        op("Mul", [f"{name}/half", constant("two")], "even"),
        op("Add", [f"{name}/even", constant("one")], "step"),
        op(
            "Slice",
            [f"{name}/flat", constant("zero"), constant("end"), constant("zero"), f"{name}/step"],
            "kept",
        ),
    ]


def _behind_pooling(view: GraphView) -> dict[str, tuple[str, ...]]:
    """Values that come of pooled regions, with the counts of these regions: without any they mean nothing."""
    counts: dict[str, tuple[str, ...]] = {}
    for node in view.model.graph.node:
        if node.op_type == "MrcnnTrim":
            counts[node.output[0]] = (node.input[1],)
        elif node.op_type in POOLINGS:
            counts[node.output[0]] = counts.get(node.input[-1], ())
        elif node.output[0] in view.dense or node.op_type in ("Reshape", "Flatten"):
            inherited = {count for name in node.input if name in counts for count in counts[name]}
            if inherited:
                counts.update(dict.fromkeys(node.output, tuple(sorted(inherited))))
    return {name: found for name, found in counts.items() if name in view.dense}
