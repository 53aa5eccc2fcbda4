"""The graph for TensorRT: what it holds, what it does not, and that it computes the same."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mrcnn.checkpoint import Checkpoint
from mrcnn.export import ops
from mrcnn.export.graph_builder import DOMAIN
from mrcnn.export.lower import lower, plugin_nodes
from mrcnn.export.to_onnx import InputRule, build_graph
from mrcnn.families import describe
from mrcnn.models import build_model
from mrcnn.runtime.engine.tensorrt import PLUGINS
from tests.export import rules
from tests.export.stand_ins import with_stand_ins

COMPACT = "maskrcnn_mobilenet_v2_fpn"
STATIC = InputRule(size=(128, 192), batch=2)
DYNAMIC = InputRule()

# One of each kind: of `tests/family`, where all are lowered, too. The last one pools by RoIPool.
KINDS = (
    *("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "keypointrcnn_resnet50_fpn"),
    *("maskrcnn_resnet50_c4", "maskrcnn_mobilenet_v2", "fasterrcnn_vgg16"),
)
CASES = {
    "compact-static": (COMPACT, STATIC),
    "compact-dynamic": (COMPACT, DYNAMIC),
    "compact-static-uint8": (COMPACT, InputRule(size=(160, 160), batch=1, dtype="uint8")),
    **{f"{name}-static": (name, STATIC) for name in KINDS},
    **{f"{name}-dynamic": (name, DYNAMIC) for name in KINDS},
}
COMPACTS = [name for name in CASES if name.startswith("compact")]


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, compact_checkpoint: Checkpoint) -> onnx.ModelProto:
    architecture, inputs = CASES[request.param]
    if architecture == COMPACT:
        description, network = compact_checkpoint.description, compact_checkpoint.build()
    else:
        description = describe(architecture, ("__background__", "thing", "object"))
        if "vgg16" in architecture:
            description = replace(description, rois=replace(description.rois, mode="pool"))
        network = build_model(description).eval()
    model, _ = build_graph(network, description, inputs, "0" * 64)
    return model


@pytest.fixture(scope="module")
def lowered(exported: onnx.ModelProto) -> onnx.ModelProto:
    return lower(exported)


@pytest.fixture(scope="module")
def whole(lowered: onnx.ModelProto) -> onnx.ModelProto:
    """With operators in place of the plugins, so that ONNX knows the type and shape of every value."""
    return with_stand_ins(lowered)


def test_it_passes_the_checker(lowered: onnx.ModelProto) -> None:
    onnx.checker.check_model(lowered, full_check=True)


def test_only_what_tensorrt_knows_is_left(lowered: onnx.ModelProto) -> None:
    assert not rules.unsupported_operators(lowered, PLUGINS)


def test_every_type_is_one_that_tensorrt_takes_there(
    whole: onnx.ModelProto, lowered: onnx.ModelProto
) -> None:
    assert not rules.wrong_types(whole, lowered)


def test_top_k_is_a_constant_that_tensorrt_accepts(lowered: onnx.ModelProto) -> None:
    assert any(node.op_type == "TopK" for node in lowered.graph.node)
    assert not rules.large_top_k(lowered)


def test_no_shape_depends_on_data(whole: onnx.ModelProto, lowered: onnx.ModelProto) -> None:
    assert not rules.data_dependent_shapes(lowered, PLUGINS)
    if lowered.graph.input[0].type.tensor_type.shape.dim[1].HasField("dim_value"):
        assert not rules.unknown_dimensions(whole), "every dimension is a number"


def test_plugins_are_found_by_name_version_and_namespace(lowered: onnx.ModelProto) -> None:
    plugins = [node for node in lowered.graph.node if node.domain == DOMAIN]
    heads = 2 if {output.name for output in lowered.graph.output} & {"masks", "keypoints"} else 1
    pooling = "MrcnnRoIPool" if lowered.graph.name == "fasterrcnn_vgg16" else "MrcnnRoIAlign"
    assert sorted(plugin_nodes(lowered).values()) == ["MrcnnNMS"] * 2 + [pooling] * heads
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
        "MrcnnRoIPool": {"pooled_shape": list, "spatial_scale": float},
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


def test_the_exported_model_is_not_touched(exported: onnx.ModelProto) -> None:
    before = exported.SerializeToString(deterministic=True)
    lower(exported)
    assert exported.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("exported", COMPACTS, indirect=True)
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


# Faults, each planted into a lowered graph, and what must be said of it.


@pytest.fixture(scope="module")
def sound(compact_checkpoint: Checkpoint) -> onnx.ModelProto:
    model, _ = build_graph(
        compact_checkpoint.build(),
        compact_checkpoint.description,
        InputRule(size=(64, 64), batch=1),
        "0" * 64,
    )
    return model


def test_an_exported_graph_breaks_the_rules(sound: onnx.ModelProto) -> None:
    assert "function MrcnnNMS" in rules.unsupported_operators(sound, PLUGINS)
    assert "box/rois (MrcnnTrim) is no plugin" in rules.unsupported_operators(sound, PLUGINS)
    assert "box/rois (MrcnnTrim) may have any shape" in rules.data_dependent_shapes(sound, PLUGINS)


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "words"),
    [
        ("Erf", ["boxes"], {}, "fault (Erf) is not in TensorRT's support matrix"),
        ("NonZero", ["boxes"], {}, "fault (NonZero) is not in TensorRT's support matrix"),
        ("Resize", ["features.0", "", "scales"], {"mode": "cubic"}, "fault (Resize) has mode b'cubic'"),
        ("TopK", ["scores", "five"], {"sorted": 0}, "fault (TopK) has sorted 0"),
        ("Squeeze", ["boxes", "wide"], {}, "fault (Squeeze) has axes that are not constant"),
    ],
    ids=["unknown", "data-dependent", "attribute", "unsorted", "axes"],
)
def test_an_operator_that_tensorrt_lacks_is_found(
    sound: onnx.ModelProto, op_type: str, inputs: list[str], attributes: dict[str, Any], words: str
) -> None:
    faulty = with_fault(lower(sound), op_type, inputs, **attributes)
    assert rules.unsupported_operators(faulty, PLUGINS) == [words]


@pytest.mark.parametrize(
    ("op_type", "inputs", "words"),
    [
        ("Sigmoid", ["number"], "fault (Sigmoid) has 'number' as int32"),
        ("Softmax", ["wide"], "fault (Softmax) has 'wide' as int64"),
        ("MatMul", ["five", "wide"], "fault (MatMul) has 'five' as int64"),
        ("Pad", ["flag", "pads"], "fault (Pad) has 'flag' as bool"),
    ],
)
def test_a_type_that_tensorrt_refuses_is_found(
    sound: onnx.ModelProto, op_type: str, inputs: list[str], words: str
) -> None:
    assert words in types_found(with_fault(lower(sound), op_type, inputs))


def test_int64_at_the_ends_is_found(sound: onnx.ModelProto) -> None:
    faulty = lower(sound)
    faulty.graph.output.append(helper.make_tensor_value_info("wide", TensorProto.INT64, [1]))
    assert "wide is int64, at the graph's end" in types_found(with_fault(faulty, "Cast", ["wide"], to=1))


def test_int64_into_a_plugin_is_found(sound: onnx.ModelProto) -> None:
    faulty = with_fault(lower(sound), "Cast", ["wide"], to=1)
    nms = next(node for node in faulty.graph.node if node.op_type == "MrcnnNMS")
    group = nms.input[2]
    whole = with_stand_ins(faulty)
    for value in whole.graph.value_info:
        if value.name == group:
            value.type.tensor_type.elem_type = TensorProto.INT64
    assert f"{nms.name} (MrcnnNMS) has {group!r} as int64" in rules.wrong_types(whole, faulty)


@pytest.mark.parametrize("exported", ["compact-static-uint8"], indirect=True)
def test_the_shape_of_bytes_is_found(exported: onnx.ModelProto) -> None:
    """The exported graph asks for it; TensorRT's matrix has no uint8 there."""
    assert any(node.op_type == "Shape" and node.input[0] == "images" for node in exported.graph.node)
    faulty = lower(exported)
    shapes = [node for node in faulty.graph.node if node.op_type == "Shape"]
    assert not any(shape.input[0] == "images" for shape in shapes)
    shapes[0].input[0] = "images"
    assert types_found(faulty) == [f"{shapes[0].name} (Shape) has 'images' as uint8"]


@pytest.mark.parametrize("size", [3840, 4000])
def test_a_large_top_k_is_found(sound: onnx.ModelProto, size: int) -> None:
    lowered = lower(sound)
    lowered.graph.initializer.append(numpy_helper.from_array(np.array([size], np.int64), "many"))
    faulty = with_fault(lowered, "TopK", ["scores", "many"])
    assert rules.large_top_k(faulty) == [f"fault (TopK) has k = [{size}]"]


def test_a_top_k_that_is_no_constant_is_found(sound: onnx.ModelProto) -> None:
    assert rules.large_top_k(with_fault(lower(sound), "TopK", ["scores", "wide"])) == [
        "fault (TopK) has k = None"
    ]


@pytest.mark.parametrize(
    ("op_type", "inputs"),
    [
        ("Slice", ["boxes", "five", "wide"]),
        ("Expand", ["scores", "wide"]),
        ("Reshape", ["scores", "wide"]),
        ("TopK", ["scores", "wide"]),
        ("Range", ["zero", "number", "one"]),
    ],
)
def test_a_shape_that_depends_on_data_is_found(
    sound: onnx.ModelProto, op_type: str, inputs: list[str]
) -> None:
    """On the number of detections, here; even where it went through other operators."""
    found = rules.data_dependent_shapes(with_fault(lower(sound), op_type, inputs), PLUGINS)
    assert found == [f"fault ({op_type}) has a shape that depends on the values of 'num_detections'"]


def test_an_unknown_dimension_is_found(sound: onnx.ModelProto) -> None:
    whole = with_stand_ins(lower(sound))
    assert not rules.unknown_dimensions(whole)
    assert rules.unknown_dimensions(with_fault(whole, "Slice", ["boxes", "five", "wide", "one"]))


def with_fault(model: onnx.ModelProto, op_type: str, inputs: list[str], **attributes: Any) -> onnx.ModelProto:
    """With a node `fault` at the graph's end, and what such nodes take.

    `number` () int32 and `wide` (1,) int64 are the number of detections, `flag` (1,) bool whether there are
    any; the rest are constants.
    """
    faulty = onnx.ModelProto()
    faulty.CopyFrom(model)
    constants = {
        "five": np.array([5], np.int64),
        "one": np.array(1, np.int32) if op_type == "Range" else np.array([1], np.int64),
        "zero": np.array(0, np.int32),
        "none": np.array([0], np.int32),
        "batch": np.array([0], np.int64),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "pads": np.array([1, 1], np.int64),
    }
    faulty.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    faulty.graph.node.extend(
        [
            helper.make_node("Squeeze", ["num_detections", "batch"], ["number"], name="number"),
            helper.make_node("Cast", ["num_detections"], ["wide"], name="wide", to=TensorProto.INT64),
            helper.make_node("Greater", ["num_detections", "none"], ["flag"], name="flag"),
        ]
    )
    results = ["result", "second"] if op_type == "TopK" else ["result"]
    faulty.graph.node.append(helper.make_node(op_type, inputs, results, name="fault", **attributes))
    return faulty


def types_found(faulty: onnx.ModelProto) -> list[str]:
    return rules.wrong_types(with_stand_ins(faulty, check=False), faulty)
