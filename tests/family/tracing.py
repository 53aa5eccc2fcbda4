"""Traces that models of one structure share: PyTorch's tracer is slow, and looks at modules, not weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from torch import Tensor, nn

from mrcnn.export.trace import fold_batch_norm, trace


class SharedTraces:
    """For `mrcnn.export.trace.trace`: traces each structure once, and puts each model's weights in.

    A weight that the tracer had changed on its way into the graph would stay that of the first model, and
    the parity of the others would fail.
    """

    def __init__(self) -> None:
        self._graphs: dict[str, onnx.GraphProto] = {}

    def __call__(
        self, segment: nn.Module, example: Tensor, *, dynamic: Mapping[int, Any], outputs: Sequence[str]
    ) -> onnx.GraphProto:
        folded = fold_batch_norm(segment)
        weights = {name: tensor.numpy() for name, tensor in folded.state_dict().items()}
        key = repr((type(segment), folded, example.shape, sorted(map(str, dynamic.items())), list(outputs)))
        if key not in self._graphs:
            self._graphs[key] = _without(weights, trace(segment, example, dynamic=dynamic, outputs=outputs))
        graph = onnx.GraphProto()
        graph.CopyFrom(self._graphs[key])
        for tensor in graph.initializer:
            if not tensor.raw_data:
                tensor.raw_data = weights[tensor.name].tobytes()
        return graph


def _without(weights: Mapping[str, np.ndarray], graph: onnx.GraphProto) -> onnx.GraphProto:
    for tensor in graph.initializer:
        if tensor.name in weights and tensor.raw_data == weights[tensor.name].tobytes():
            tensor.ClearField("raw_data")
    return graph
