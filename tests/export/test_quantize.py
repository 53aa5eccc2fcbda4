"""Where Q/DQ nodes stand, what they hold, and that NVIDIA's builder and ONNX Runtime take them as meant."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mrcnn.checkpoint import Checkpoint
from mrcnn.description import ModelDescription
from mrcnn.export.lower import lower
from mrcnn.export.metadata import read_deployment
from mrcnn.export.precision.layers import GraphView, view
from mrcnn.export.precision.quantize import Recipe, groups, quantize, weight_scale
from mrcnn.export.precision.statistics import BINS, Statistics
from mrcnn.export.to_onnx import InputRule, build_graph
from mrcnn.models import build_model
from tests.export.opened import open_at_plugins
from tests.export.ranges import everything_seen
from tests.export.rtx import build, needs_rtx


def constant(name: str, array: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(array.astype(np.float32), name)


def chain() -> GraphView:
    """x → a (conv, relu) → b (conv) → + x → relu → c (conv), whose result is the graph's."""
    weight = np.random.default_rng(0).normal(0, 1, (3, 2, 2, 1, 1))
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Conv", ["x", "a.weight", "a.bias"], ["a"], name="a"),
            node("Relu", ["a"], ["ra"], name="ra"),
            node("Conv", ["ra", "b.weight"], ["b"], name="b"),
            node("Add", ["b", "x"], ["sum"], name="sum"),
            node("Relu", ["sum"], ["rs"], name="rs"),
            node("Conv", ["rs", "c.weight"], ["c"], name="c"),
        ],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1, 2, 4, 4])],
        [constant(f"{n}.weight", w) for n, w in zip("abc", weight, strict=True)]
        + [constant("a.bias", np.array([0.5, -0.25]))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return view(model)


RANGES = {
    "x": (-1.0, 1.0),
    "ra": (0.0, 2.0),
    "b": (-3.0, 1.0),
    "sum": (-4.0, 2.0),
    "rs": (0.0, 2.0),
    "c": (-1.0, 1.0),
}


def run(model: onnx.ModelProto, **feed: np.ndarray) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def rounded_values(model: onnx.ModelProto) -> set[str]:
    return {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}


def test_for_tensorrt_layers_and_shortcuts_read_rounded_values_and_make_floats() -> None:
    made = quantize(chain(), Recipe(target="tensorrt", ranges=RANGES))
    onnx.checker.check_model(made.model, full_check=True)
    assert made.layers == ("a", "b", "c")
    assert rounded_values(made.model) == {"x", "ra", "rs"}
    nodes = {node.name: node for node in made.model.graph.node}
    assert list(nodes["sum"].input) == ["b", "x/rounded"]  # the convolution's branch is fused, as it is
    assert list(nodes["ra"].input) == ["a"]
    constants = {t.name: numpy_helper.to_array(t) for t in made.model.graph.initializer}
    assert constants["x/scale"] == np.float32(1 / 127)
    assert constants["a.weight/quantized"].dtype == np.int8
    assert constants["a.bias"].dtype == np.float32
    zeros = [value for name, value in constants.items() if name.endswith("/zero")]
    assert len(zeros) == 6
    assert all(value.dtype == np.int8 and not value.any() for value in zeros)


def test_for_the_cpu_integers_go_from_kernel_to_kernel_and_the_last_convolution_stays_float() -> None:
    made = quantize(chain(), Recipe(target="cpu", ranges=RANGES))
    onnx.checker.check_model(made.model, full_check=True)
    assert (made.layers, made.kept) == (("a", "b"), ("c",))
    assert rounded_values(made.model) == {"x", "ra/exact", "b/exact", "rs/exact"}
    constants = {t.name: numpy_helper.to_array(t) for t in made.model.graph.initializer}
    assert (constants["x/zero"].dtype, int(constants["x/zero"])) == (np.uint8, 128)
    assert int(constants["ra/zero"]) == 0  # what a ReLU makes needs no negative numbers
    assert constants["a.bias/quantized"].dtype == np.int32
    assert constants["a.bias/quantized"] * constants["a.bias/scale"] == pytest.approx([0.5, -0.25], abs=1e-3)


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_the_result_is_what_rounding_by_hand_gives(target: str) -> None:
    """One convolution of 1x1, whose integers a few lines of NumPy give exactly."""
    seen = chain()
    keep = frozenset({"b", "c"})
    made = quantize(seen, Recipe(target=target, ranges=RANGES, keep=keep)).model
    result = "ra" if target == "tensorrt" else "ra/exact"
    made.graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, None))
    x = np.random.default_rng(1).uniform(-1.2, 1.2, (1, 2, 4, 4)).astype(np.float32)
    weight = numpy_helper.to_array(seen.weights["a.weight"])[:, :, 0, 0]
    scale = np.abs(weight).max(1) / 127
    weight = np.clip(np.rint(weight / scale[:, None]), -127, 127) * scale[:, None]
    if target == "tensorrt":
        rounded = np.clip(np.rint(x * 127), -128, 127) / 127
    else:
        rounded = (np.clip(np.rint(x * 255 / 2) + 128, 0, 255) - 128) * 2 / 255
    expected = np.einsum("oi,nihw->nohw", weight, rounded) + np.array([0.5, -0.25]).reshape(1, 2, 1, 1)
    assert np.abs(run(made, x=x)[1] - np.maximum(expected, 0)).max() < 1e-3


def test_groups_that_are_kept_are_as_before() -> None:
    made = quantize(chain(), Recipe(target="tensorrt", ranges=RANGES, keep=frozenset({"a", "b", "c"})))
    assert made.layers == ()
    assert rounded_values(made.model) == set()
    assert {t.name for t in made.model.graph.initializer} == {"a.weight", "a.bias", "b.weight", "c.weight"}


def test_a_value_that_was_never_seen_leaves_its_layer_as_it_is() -> None:
    ranges = {name: extent for name, extent in RANGES.items() if name != "ra"}
    assert quantize(chain(), Recipe(target="tensorrt", ranges=ranges)).kept == ("b",)


def test_the_bias_takes_back_the_shift_of_rounded_weights() -> None:
    seen = chain()
    means = np.array([3.0, -2.0], np.float32)
    known = Statistics(low=-9, high=9, counts=np.zeros(BINS, np.int64), elements=32.0, means=means)
    made = quantize(seen, Recipe(target="tensorrt", ranges=RANGES, statistics={"x": known})).model
    weight = numpy_helper.to_array(seen.weights["a.weight"])
    scale = weight_scale(weight, 0).reshape(2, 1, 1, 1)
    error = (np.rint(weight / scale) * scale - weight)[:, :, 0, 0]
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    assert np.abs(error).max() > 1e-4  # or there would be nothing to take back
    assert constants["a.bias/corrected"] == pytest.approx(np.array([0.5, -0.25]) - error @ means, abs=1e-6)


def test_a_dead_channel_and_a_large_bias_break_no_integer() -> None:
    seen = chain()
    seen.weights["a.weight"].CopyFrom(constant("a.weight", np.zeros((2, 2, 1, 1))))
    seen.weights["a.bias"].CopyFrom(constant("a.bias", np.array([1e6, 0])))
    made = quantize(seen, Recipe(target="cpu", ranges=RANGES)).model
    made.graph.output.append(helper.make_tensor_value_info("a.bias/rounded", TensorProto.FLOAT, None))
    assert run(made, x=np.zeros((1, 2, 4, 4), np.float32))[1] == pytest.approx([1e6, 0], rel=1e-6)


@pytest.fixture(scope="module", params=["maskrcnn_mobilenet_v2_fpn", "maskrcnn_resnet50_fpn"])
def whole(request: pytest.FixtureRequest, make_compact: Callable[..., Checkpoint]) -> GraphView:
    """A whole model of fixed size, as it is exported."""
    if request.param == "maskrcnn_mobilenet_v2_fpn":
        checkpoint = make_compact()
        model, description = checkpoint.build(), checkpoint.description
    else:
        description = ModelDescription(architecture=request.param, class_names=("__background__", "thing"))
        model = build_model(description).eval()
    return view(build_graph(model, description, InputRule(size=(96, 128), batch=1), "0" * 64)[0])


def test_for_tensorrt_every_convolution_is_in_int8(
    whole: GraphView, capsys: pytest.CaptureFixture[str]
) -> None:
    made = quantize(whole, Recipe(target="tensorrt", ranges=everything_seen(whole)))
    assert made.kept == ()
    rounded = {
        output
        for node in made.model.graph.node
        if node.op_type == "DequantizeLinear"
        for output in node.output
    }
    counts: Counter[str] = Counter()
    for node in made.model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            in_int8 = set(node.input[:2]) <= rounded
            counts[f"{node.op_type}, {'INT8' if in_int8 else 'float'}"] += 1
            print(f"{node.op_type:<14}{'INT8' if in_int8 else 'float':<6}{node.name}")
    print(dict(counts))
    convolutions = sum(layer.op == "Conv" for layer in whole.layers)
    assert counts == {"Conv, INT8": convolutions, "ConvTranspose, INT8": 1, "Gemm, INT8": 4}
    assert capsys.readouterr().out.count("INT8") == convolutions + 5 + 3


def test_for_tensorrt_zero_points_are_zero_and_scales_positive(whole: GraphView) -> None:
    """A missing zero point would be uint8, which TensorRT takes for int8."""
    made = quantize(whole, Recipe(target="tensorrt", ranges=everything_seen(whole))).model
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    checked = 0
    for node in made.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero = (constants[name] for name in node.input[1:3])
        assert zero.dtype == np.int8, node.name
        assert not zero.any(), node.name
        assert (scale > 0).all(), node.name
        # Scales per channel are for weights alone.
        assert scale.size == 1 or node.input[0] in constants, node.name
        checked += 1
    assert checked > 100


@needs_rtx
def test_nvidias_builder_takes_it(whole: GraphView, tmp_path: Path) -> None:
    made = quantize(whole, Recipe(target="tensorrt", ranges=everything_seen(whole))).model
    answer = build(open_at_plugins(lower(made)), tmp_path)
    assert "error" not in answer, answer
    assert answer["layers"]["QUANTIZE"].keys() == {"INT8"}
    floats = 4 * sum(int(np.prod(whole.weights[layer.weight].dims)) for layer in whole.layers)
    if floats > 100e6:  # or the code in a plan outweighs the weights
        assert answer["bytes"] < 0.5 * floats


def test_for_the_cpu_onnx_runtime_has_integer_kernels_for_all_of_it(whole: GraphView, tmp_path: Path) -> None:
    made = quantize(whole, Recipe(target="cpu", ranges=everything_seen(whole)))
    onnx.checker.check_model(made.model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(made.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kernels = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    in_int8 = {layer.name: layer.op for layer in whole.layers if layer.name in made.layers}
    expected = Counter(in_int8.values())
    assert kernels["QLinearConv"] == expected["Conv"]
    assert kernels["QGemm"] == expected["Gemm"] == 4
    assert kernels["QLinearAdd"] == len(whole.sums)


def test_the_metadata_tell_the_precision(whole: GraphView) -> None:
    for target in ("cpu", "tensorrt"):
        made = quantize(whole, Recipe(target=target, ranges=everything_seen(whole))).model
        deployment = read_deployment(made)
        assert deployment is not None
        assert (deployment.precision, deployment.quantized_for) == ("int8", target)


def test_blocks_and_modules_are_the_groups(whole: GraphView) -> None:
    names = groups(whole, "tensorrt")
    assert len(names) == len(set(names)) < len(whole.layers) / 2
    assert {"rpn.head.conv", "roi_heads.box_head.fc6", "backbone.fpn.inner_blocks"} <= set(names)
    assert "rpn.head.cls_logits" not in groups(whole, "cpu")
