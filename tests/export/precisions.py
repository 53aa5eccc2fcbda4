"""An exported graph in INT8, to see what NVIDIA's builder takes of it.

This belongs to the tests alone: it places Q/DQ as TensorRT wants them, but chooses no layers by their
accuracy and calibrates on noise.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

_QUANTIZED = ["Conv", "Gemm", "MatMul"]


def to_int8(exported: onnx.ModelProto, *, images: int = 2) -> onnx.ModelProto:
    """Convolutions and matrix products of INT8 values, by Q/DQ; biases and results stay FLOAT."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(exported, source)
        quantize_static(
            source,
            target,
            _Noise(exported, images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTIZED,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
        model = onnx.load(target)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Noise(CalibrationDataReader):  # type: ignore[misc]
    """Images of noise, for graphs of fixed size."""

    def __init__(self, model: onnx.ModelProto, images: int) -> None:
        self._shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
        self._rest: Iterator[int] = iter(range(images))

    def get_next(self) -> dict[str, np.ndarray] | None:
        seed = next(self._rest, None)
        if seed is None:
            return None
        pixels = np.random.default_rng(seed).uniform(0, 255, self._shape).astype(np.float32)
        sizes = np.array([self._shape[1:3]] * self._shape[0], np.int32)
        return {"images": pixels, "image_sizes": sizes}


def quantization(model: onnx.ModelProto) -> list[tuple[NodeProto, Any, Any]]:
    """Every Q and DQ node with its scale and zero point, None where they are no constants."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return [
        (node, *(constants.get(name) for name in [*node.input, "", ""][1:3]))
        for node in model.graph.node
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}
    ]
