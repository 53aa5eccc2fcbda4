"""The graph for TensorRT: what it holds, what it does not, and that it computes the same."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from mrcnn.checkpoint import Checkpoint
from mrcnn.description import ModelDescription
from mrcnn.export import ops
from mrcnn.export.graph_builder import DOMAIN
from mrcnn.export.lower import PLUGINS, lower, plugin_nodes
from mrcnn.export.to_onnx import InputRule, build_graph
from mrcnn.models import architectures, build_model

# Of the operators that TensorRT's ONNX parser imports, those that the graph may use. Not among them are
# operators whose output's shape depends on data (NonZero, NonMaxSuppression, Unique, Compress).
# fmt: off
SUPPORTED = {
    "Add", "And", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "Div", "Exp", "Expand", "Gather",
    "GatherND", "Gemm", "Greater", "GreaterOrEqual", "Less", "MatMul", "Max", "MaxPool", "Min", "Mul",
    "Pad", "Range", "ReduceMin", "Relu", "Reshape", "Resize", "Shape", "Sigmoid", "Slice", "Softmax",
    "Squeeze", "Sub", "TopK", "Transpose", "Unsqueeze", "Where",
}
# fmt: on

# TensorRT refuses more, in every version from 10.0 on.
MOST_TOP_K = 3840

INPUTS = {
    "static": InputRule(size=(128, 192), batch=2),
    "dynamic": InputRule(),
    "static uint8": InputRule(size=(160, 160), batch=1, dtype="uint8"),
}


@pytest.fixture(scope="module", params=INPUTS)
def exported(request: pytest.FixtureRequest, compact_checkpoint: Checkpoint) -> onnx.ModelProto:
    model, _ = build_graph(
        compact_checkpoint.build(), compact_checkpoint.description, INPUTS[request.param], "0" * 64
    )
    return model


@pytest.fixture(scope="module")
def lowered(exported: onnx.ModelProto) -> onnx.ModelProto:
    return lower(exported)


def test_only_what_tensorrt_knows_is_left(lowered: onnx.ModelProto) -> None:
    onnx.checker.check_model(lowered, full_check=True)
    assert not lowered.functions
    assert {node.op_type for node in lowered.graph.node if not node.domain} <= SUPPORTED
    assert {node.op_type for node in lowered.graph.node if node.domain} == set(PLUGINS)


def test_plugins_are_found_by_name_version_and_namespace(lowered: onnx.ModelProto) -> None:
    plugins = [node for node in lowered.graph.node if node.domain == DOMAIN]
    assert sorted(plugin_nodes(lowered).values()) == ["MrcnnNMS"] * 2 + ["MrcnnRoIAlign"] * 2
    for node in plugins:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        assert attributes["plugin_version"] == ops.PLUGIN_VERSION.encode()
        assert attributes["plugin_namespace"] == ops.PLUGIN_NAMESPACE.encode()
        assert all(node.output), "every output has a name"


def test_a_plugin_gets_the_attributes_that_its_creator_asks_for(lowered: onnx.ModelProto) -> None:
    """In the types that the ONNX parser makes of them: floats stay floats, integers fit 32 bits."""
    wanted = {
        "MrcnnRoIAlign": {
            "output_size": int,
            "sampling_ratio": int,
            "aligned": int,
            "mode": bytes,
            "spatial_scales": list,
            "canonical_size": float,
            "canonical_level": int,
        },
        "MrcnnNMS": {"iou_threshold": float, "score_threshold": float, "max_output": int},
    }
    for node in lowered.graph.node:
        if node.domain != DOMAIN:
            continue
        found = {
            a.name: helper.get_attribute_value(a)
            for a in node.attribute
            if a.name not in {"plugin_version", "plugin_namespace"}
        }
        assert {name: type(value) for name, value in found.items()} == wanted[node.op_type]
        assert all(abs(value) < 2**31 for value in found.values() if isinstance(value, int))
        assert all(math.isfinite(value) for value in found.values() if isinstance(value, float))


def test_top_k_is_a_constant_that_tensorrt_accepts(lowered: onnx.ModelProto) -> None:
    constants = {t.name: numpy_helper.to_array(t) for t in lowered.graph.initializer}
    sizes = [constants[node.input[1]] for node in lowered.graph.node if node.op_type == "TopK"]
    assert sizes
    assert all(int(size.item()) < MOST_TOP_K for size in sizes)


def test_no_int64_where_tensorrt_has_none(exported: onnx.ModelProto, lowered: onnx.ModelProto) -> None:
    """Not at the graph's ends nor a plugin's, nor as data to sort or reduce; indices and shapes may be."""
    typed = onnx.shape_inference.infer_shapes(exported, data_prop=True)
    wide = {
        value.name
        for value in (*typed.graph.value_info, *typed.graph.input, *typed.graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.INT64
    } | {t.name for t in lowered.graph.initializer if t.data_type == onnx.TensorProto.INT64}
    assert wide
    assert not wide & {value.name for value in (*lowered.graph.input, *lowered.graph.output)}
    for node in lowered.graph.node:
        data = node.input if node.domain == DOMAIN else node.input[:1]
        if node.domain == DOMAIN or node.op_type in {"TopK", "ReduceMin", "Softmax", "Sigmoid", "Where"}:
            assert not wide & set(data), node.name


def test_the_exported_model_is_not_touched(exported: onnx.ModelProto) -> None:
    before = exported.SerializeToString(deterministic=True)
    lower(exported)
    assert exported.SerializeToString(deterministic=True) == before


def test_it_computes_what_the_exported_graph_computes(
    exported: onnx.ModelProto, lowered: onnx.ModelProto
) -> None:
    """The plugins' bodies stand in for the plugins; all rows are computed, those past the count are zero."""
    runnable = onnx.ModelProto()
    runnable.CopyFrom(lowered)
    runnable.functions.extend(f for f in exported.functions if f.name in PLUGINS)
    shape = [
        dim.dim_value or default
        for dim, default in zip(
            exported.graph.input[0].type.tensor_type.shape.dim, (2, 128, 192, 3), strict=True
        )
    ]
    pixel = exported.graph.input[0].type.tensor_type.elem_type
    images = np.random.default_rng(0).uniform(0, 255, shape).astype(helper.tensor_dtype_to_np_dtype(pixel))
    sizes = np.array([[shape[1] - 8 * i, shape[2] - 32 * i] for i in range(shape[0])], np.int32)
    feed = {"images": images, "image_sizes": sizes}
    expected, found = (run(model, feed) for model in (exported, runnable))
    assert expected["num_detections"].sum() > 0
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5, err_msg=name)


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


@pytest.mark.parametrize("architecture", [name for name in architectures() if "resnet" in name])
def test_every_architecture_lowers(architecture: str) -> None:
    description = ModelDescription(architecture=architecture, class_names=("__background__", "thing"))
    model, _ = build_graph(
        build_model(description).eval(), description, InputRule(size=(128, 160), batch=1), "0" * 64
    )
    lowered = lower(model)
    onnx.checker.check_model(lowered, full_check=True)
    assert {node.op_type for node in lowered.graph.node if not node.domain} <= SUPPORTED
    pooled = 2 if description.has_masks else 1
    assert sorted(plugin_nodes(lowered).values()) == ["MrcnnNMS"] * 2 + ["MrcnnRoIAlign"] * pooled
