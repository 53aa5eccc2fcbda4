"""All of a Mask R-CNN but its plugins builds in FP32, FP16 and INT8, for GPUs of three generations.

With TensorRT for RTX: see test_engine.py. What each precision costs in accuracy is another question.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from mrcnn.description import ModelDescription
from mrcnn.export.lower import lower
from mrcnn.export.precision.half import to_half
from mrcnn.export.precision.layers import view
from mrcnn.export.precision.quantize import Recipe, quantize
from mrcnn.export.to_onnx import InputRule, build_graph
from mrcnn.models import build_model
from tests.export.opened import open_at_plugins
from tests.export.ranges import everything_seen
from tests.export.rtx import build, build_each, needs_rtx

GPUS = ("SM86", "SM89", "SM120")

POOLED = ("box/pooled", "mask/pooled")
FLOATS = ("images", "proposals", "boxes", "scores", "masks")

# Code and constants in a plan besides weights: 10 to 20 MB as found, more with more kinds of kernels.
MOST_CODE = 30e6


@pytest.fixture(scope="module")
def exported() -> onnx.ModelProto:
    """ResNet-50-FPN: large enough for its weights, 176 MB, to outweigh the code in a plan."""
    description = ModelDescription(
        architecture="maskrcnn_resnet50_fpn", class_names=("__background__", "thing")
    )
    inputs = InputRule(size=(128, 160), batch=1)
    model, _ = build_graph(build_model(description).eval(), description, inputs, "0" * 64)
    return model


@pytest.fixture(scope="module")
def fp32(exported: onnx.ModelProto) -> onnx.ModelProto:
    return open_at_plugins(lower(exported))


@pytest.fixture(scope="module")
def exported_int8(exported: onnx.ModelProto) -> onnx.ModelProto:
    seen = view(exported)
    return quantize(seen, Recipe(target="tensorrt", ranges=everything_seen(seen))).model


@pytest.fixture(scope="module")
def int8(exported_int8: onnx.ModelProto) -> onnx.ModelProto:
    return open_at_plugins(lower(exported_int8))


@pytest.fixture(scope="module")
def plan_bytes(fp32: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The size of the FP32 plan for each GPU."""
    answers = build_each(fp32, tmp_path_factory.mktemp("fp32"), *gpu_options())
    for answer in answers:
        assert set(dense_types(answer)) == {"FLOAT"}, answer
    return {gpu: answer["bytes"] for gpu, answer in zip(GPUS, answers, strict=True)}


def gpu_options() -> list[str]:
    return [option for gpu in GPUS for option in ("--gpu", gpu)]


def dense_types(answer: dict[str, Any]) -> Counter[str]:
    """Types of the results of convolutions and matrix products, as TensorRT parsed them."""
    assert "error" not in answer, answer
    kinds = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
    return sum((Counter(answer["layers"][kind]) for kind in kinds), Counter[str]())


def weight_bytes(model: onnx.ModelProto) -> int:
    return 4 * sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)


@needs_rtx
def test_fp32(fp32: onnx.ModelProto, plan_bytes: dict[str, int]) -> None:
    for size in plan_bytes.values():
        assert weight_bytes(fp32) < size < weight_bytes(fp32) + MOST_CODE


@needs_rtx
def test_fp16(
    exported: onnx.ModelProto, fp32: onnx.ModelProto, plan_bytes: dict[str, int], tmp_path: Path
) -> None:
    half = open_at_plugins(lower(to_half(exported)))
    for gpu, answer in zip(GPUS, build_each(half, tmp_path, *gpu_options()), strict=True):
        assert set(dense_types(answer)) == {"HALF"}
        # Pixels, coordinates and results keep their types; what is pooled need not.
        ends = {**answer["inputs"], **answer["outputs"]}
        features = {f"features.{level}" for level in range(4)}
        assert {name for name, kind in ends.items() if kind == "HALF"} == {*features, *POOLED}
        assert {name: ends[name] for name in FLOATS} == dict.fromkeys(FLOATS, "FLOAT")
        assert weight_bytes(fp32) / 2 < answer["bytes"] < weight_bytes(fp32) / 2 + MOST_CODE
        assert answer["bytes"] < 0.6 * plan_bytes[gpu]


@needs_rtx
def test_int8(
    fp32: onnx.ModelProto, int8: onnx.ModelProto, plan_bytes: dict[str, int], tmp_path: Path
) -> None:
    for gpu, answer in zip(GPUS, build_each(int8, tmp_path, *gpu_options()), strict=True):
        assert answer["layers"]["QUANTIZE"].keys() == {"INT8"}
        assert set(dense_types(answer)) == {"FLOAT"}, "results are what scales are"
        assert weight_bytes(fp32) / 4 < answer["bytes"] < weight_bytes(fp32) / 4 + MOST_CODE
        assert answer["bytes"] < 0.4 * plan_bytes[gpu]


@needs_rtx
def test_int8_among_fp16(fp32: onnx.ModelProto, exported_int8: onnx.ModelProto, tmp_path: Path) -> None:
    answer = build(open_at_plugins(lower(to_half(exported_int8))), tmp_path)
    assert answer["layers"]["QUANTIZE"].keys() == {"INT8"}
    assert answer["layers"]["DEQUANTIZE"].keys() == {"HALF"}
    assert set(dense_types(answer)) == {"HALF"}
    assert weight_bytes(fp32) / 4 < answer["bytes"] < weight_bytes(fp32) / 4 + MOST_CODE
