"""What the tests of FP16 ask of a graph."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime


def types(model: onnx.ModelProto) -> dict[str, int]:
    """The type of every value and constant; nodes have names of their own, which ONNX Runtime asks for."""
    onnx.checker.check_model(model, full_check=True)
    assert len({n.name for n in model.graph.node}) == len(model.graph.node)
    noted = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*noted.input, *noted.output, *noted.value_info)}
    return found | {t.name: t.data_type for t in noted.initializer}


def casts(model: onnx.ModelProto) -> list[str]:
    """The results of the casts between float32 and float16 that were put in."""
    return [
        n.output[0]
        for n in model.graph.node
        if n.op_type == "Cast" and any(v.endswith(("/half", "/float")) for v in (*n.input, *n.output))
    ]


def run(
    model: onnx.ModelProto, feed: Mapping[str, np.ndarray], *, optimise: bool = True
) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimise:  # which takes longer than to run a small image
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))
