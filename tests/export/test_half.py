"""FP16 in graphs that are checked by hand: types, casts, and what it is bad for. Then see test_half_model."""

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mrcnn.errors import MrcnnError
from mrcnn.export.graph_builder import DOMAIN, GraphBuilder
from mrcnn.export.precision.half import HEADROOM, out_of_range, to_half
from tests.export.halves import casts, run, types

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def graph(
    nodes: list[NodeProto],
    inputs: Mapping[str, list[int]],
    outputs: Mapping[str, list[int]],
    constants: Mapping[str, np.ndarray],
) -> onnx.ModelProto:
    def values(named: Mapping[str, list[int]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in named.items()]

    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = helper.make_graph(nodes, "by_hand", values(inputs), values(outputs), tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def node(op_type: str, inputs: str, output: str, **attributes: object) -> NodeProto:
    """A node that is named after its output; inputs are separated by blanks."""
    return helper.make_node(op_type, inputs.split(" "), [output], name=output, **attributes)


def chain(weight: float = 0.5) -> onnx.ModelProto:
    """x → Conv → Relu → Conv → Softmax → y."""
    filters = np.full((2, 2, 1, 1), weight, np.float32)
    return graph(
        [
            node("Conv", "x w b", "first"),
            node("Relu", "first", "active"),
            node("Conv", "active v", "second"),
            node("Softmax", "second", "y", axis=1),
        ],
        {"x": [1, 2, 3, 3]},
        {"y": [1, 2, 3, 3]},
        {"w": filters, "v": np.full((2, 2, 1, 1), 0.5, np.float32), "b": np.zeros(2, np.float32)},
    )


def test_every_type_of_a_small_graph() -> None:
    assert types(to_half(chain())) == {
        "x": FLOAT,
        "x/half": HALF,
        **dict.fromkeys(("w/half", "b/half", "v/half", "first", "active", "second"), HALF),
        "second/float": FLOAT,
        "y": FLOAT,
    }


def test_a_node_that_is_kept_has_casts_around_it() -> None:
    kept = to_half(chain(), keep=["second"])
    assert casts(kept) == ["x/half", "active/float"]
    assert types(kept)["v"] == types(kept)["second"] == FLOAT
    assert casts(to_half(chain(), keep=["first"])) == ["first/half", "second/float"]
    assert casts(to_half(chain(), keep=["first", "active", "second"])) == []


def test_it_computes_the_same() -> None:
    feed = {"x": np.random.default_rng(0).normal(size=(1, 2, 3, 3)).astype(np.float32)}
    np.testing.assert_allclose(run(to_half(chain()), feed)["y"], run(chain(), feed)["y"], atol=1e-3)


def test_the_model_is_not_touched() -> None:
    model = chain()
    to_half(model)
    assert model == chain()


def test_a_result_of_the_graph_stays_float() -> None:
    model = chain()
    model.graph.output.append(helper.make_tensor_value_info("active", FLOAT, [1, 2, 3, 3]))
    half = to_half(model)
    assert (types(half)["active/half"], types(half)["active"]) == (HALF, FLOAT)
    (second,) = (n for n in half.graph.node if n.name == "second")
    assert list(second.input) == ["active/half", "v/half"], "not through float32"


def test_sums_and_moves_are_fp16_among_layers_only() -> None:
    """Coordinates are added too, and results are reshaped for those who read floats."""
    model = graph(
        [
            node("Add", "x x", "doubled"),
            node("Conv", "doubled w", "conv"),
            node("Add", "conv conv", "sum"),
            node("Reshape", "sum flat", "row"),
            node("Gemm", "row m", "product"),
            node("Reshape", "product flat", "last"),
            node("Sigmoid", "last", "y"),
        ],
        {"x": [1, 2, 3, 3]},
        {"y": [1, 4]},
        {
            "w": np.ones((2, 2, 1, 1), np.float32),
            "m": np.ones((18, 4), np.float32),
            "flat": np.array([1, -1], np.int64),
        },
    )
    found = types(to_half(model))
    assert {name for name in ("doubled", "conv", "sum", "row", "product", "last") if found[name] == HALF} == {
        *("conv", "sum", "row", "product")
    }
    assert casts(to_half(model)) == ["doubled/half", "product/float"]


def test_the_shape_of_a_value_needs_no_cast_and_sizes_keep_their_types() -> None:
    model = graph(
        [
            node("Conv", "x w", "conv"),
            node("Shape", "conv", "shape"),
            node("Resize", "conv  scales", "grown", mode="nearest"),
            node("Resize", "grown   shape", "back", mode="nearest"),
            node("Clip", "back low high", "clipped"),
            node("Softmax", "clipped", "y"),
        ],
        {"x": [1, 2, 3, 3]},
        {"y": [1, 2, 3, 3]},
        {
            "w": np.ones((2, 2, 1, 1), np.float32),
            "scales": np.array([1, 1, 2, 2], np.float32),
            "low": np.array(0, np.float32),
            "high": np.array(1e9, np.float32),
        },
    )
    half = to_half(model)
    assert casts(half) == ["x/half", "clipped/float"]
    assert types(half)["scales"] == FLOAT
    (high,) = (t for t in half.graph.initializer if t.name == "high/half")
    assert numpy_helper.to_array(high) == 65504, "no infinity"


def test_weights_that_are_gathered_are_fp16_before_they_are() -> None:
    model = graph(
        [
            node("Gather", "w rows", "chosen"),
            node("Gather", "anchors rows", "boxes"),
            node("MatMul", "x chosen", "product"),
            node("Mul", "product boxes", "y"),
        ],
        {"x": [2, 2]},
        {"y": [2, 2]},
        {
            "w": np.ones((5, 2), np.float32),
            "anchors": np.ones((5, 2), np.float32),
            "rows": np.array([1, 3], np.int64),
        },
    )
    half = to_half(model)
    assert casts(half) == ["x/half", "product/float"]
    assert types(half)["chosen"] == HALF
    assert types(half)["boxes"] == FLOAT
    assert casts(to_half(model, keep=["product"])) == []


def test_a_weight_that_both_read_is_there_in_both_types() -> None:
    model = graph(
        [node("Conv", "x w", "conv"), node("Mul", "conv w", "y")],
        {"x": [1, 1, 1, 1]},
        {"y": [1, 1, 1, 1]},
        {"w": np.ones((1, 1, 1, 1), np.float32)},
    )
    found = types(to_half(model))
    assert (found["w"], found["w/half"]) == (FLOAT, HALF)


def pooling(levels: int = 2, op: str = "MrcnnRoIAlign") -> onnx.ModelProto:
    """Two convolutions make the levels that RoIs are pooled from, without the body."""
    g = GraphBuilder()
    weight = g.parameter("w", np.ones((2, 2, 1, 1), np.float32))
    features = [g.op("Conv", f"x{i}", weight, name=f"level{i}") for i in range(levels)]
    pooled = g.ops(op, *features, "rois", names=["pooled"], domain=DOMAIN)[0]
    g.op("Conv", pooled, weight, name="last")
    g.op("Softmax", "last", name="y")
    ends = {f"x{i}": [1, 2, 3, 3] for i in range(levels)} | {"rois": [1, 1, 4]}
    return graph(g.nodes, ends, {"y": [1, 2, 7, 7]}, {"w": np.ones((2, 2, 1, 1), np.float32)})


def test_levels_are_of_one_type_and_rois_stay_float() -> None:
    def read(model: onnx.ModelProto) -> list[str]:
        return [str(name) for n in model.graph.node if n.domain == DOMAIN for name in n.input]

    assert read(to_half(pooling())) == ["level0", "level1", "rois"]
    assert read(to_half(pooling(1, op="MrcnnRoIPool"))) == ["level0", "rois"]
    kept = to_half(pooling(), keep=["level1"])
    assert read(kept) == ["level0", "level1/half", "rois"]
    assert casts(kept) == ["x0/half", "level1/half", "last/float"]
    assert read(to_half(pooling(), keep=["pooled"])) == ["level0/float", "level1/float", "rois"]


def quantised() -> onnx.ModelProto:
    """x → Q → DQ → Conv → Q → DQ → Conv → y, weights in INT8; scales from large to below float16's least."""
    scale = np.array([0.1, 1e-9], np.float32)
    nodes = []
    for name, source in (("first", "x"), ("y", "first")):
        nodes += [
            node("QuantizeLinear", f"{source} s zero", f"{source}/q"),
            node("DequantizeLinear", f"{source}/q s zero", f"{source}/dq"),
            node("DequantizeLinear", "w ws wz", f"{name}/w", axis=0),
            node("Conv", f"{source}/dq {name}/w", name),
        ]
    constants = {"s": np.array(0.0333, np.float32), "zero": np.array(0, np.int8), "ws": scale}
    constants |= {"w": np.full((2, 2, 1, 1), 100, np.int8), "wz": np.zeros(2, np.int8)}
    return graph(nodes, {"x": [1, 2, 3, 3]}, {"y": [1, 2, 3, 3]}, constants)


def test_what_is_rounded_from_and_to_int8_follows_the_layers() -> None:
    half = to_half(quantised())
    found = types(half)
    assert half.opset_import[0].version == 19
    assert (found["x"], found["x/dq"], found["first/w"], found["first"]) == (FLOAT, HALF, HALF, HALF)
    assert casts(half) == ["y"], "pixels need none before they are INT8"
    scales = {t.name: numpy_helper.to_array(t) for t in half.graph.initializer if t.name.startswith("s")}
    assert scales["s"] == scales["s/half"].astype(np.float32), "integers mean the same on both sides"
    (ws,) = (numpy_helper.to_array(t) for t in half.graph.initializer if t.name == "ws/half")
    assert (ws > 0).all(), "TensorRT refuses 0"
    feed = {"x": np.random.default_rng(0).normal(size=(1, 2, 3, 3)).astype(np.float32)}
    expected = run(quantised(), feed)["y"]
    np.testing.assert_allclose(run(half, feed)["y"], expected, atol=2e-3 * np.abs(expected).max())


def test_an_int8_layer_that_is_kept_has_all_in_float() -> None:
    kept = types(to_half(quantised(), keep=["first"]))
    assert {kept[name] for name in ("x/dq", "first/w", "first")} == {FLOAT}
    assert {kept[name] for name in ("first/dq", "y/w", "y/half")} == {HALF}


def test_the_opset_stays_without_int8() -> None:
    assert to_half(chain()).opset_import[0].version == 18


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(MrcnnError, match="no node 'frist' to keep in float32"):
        to_half(chain(), keep=["frist"])


# What FP16 is bad for.


def test_large_values_keep_those_who_read_and_write_them() -> None:
    found = out_of_range(chain(), {"active": (0.0, 1e5), "x": (-3.0, 3.0), "second": (-5.0, 5.0)})
    # The convolution before the ReLU makes values that are as large, though only those after it were seen.
    assert found.keys() == {"first", "active", "second"}
    assert "'first' reaches 1e+05" in found["active"]
    kept = types(to_half(chain(), keep=found))
    assert (kept["first"], kept["active"]) == (FLOAT, FLOAT)


@pytest.mark.parametrize(
    ("least", "largest", "bad"),
    [
        (0.0, 65504 / HEADROOM, False),
        (0.0, 65505 / HEADROOM, True),
        (-65505 / HEADROOM, 1.0, True),
        (0.0, np.nan, True),
    ],
)
def test_the_headroom(least: float, largest: float, bad: bool) -> None:
    assert ("first" in out_of_range(chain(), {"first": (least, largest)})) == bad


@pytest.mark.parametrize(
    ("weight", "reason"), [(1e-9, "moved by 1 "), (6e-5, None), (1.1e-7, "moved by"), (7e4, "reaches 7e+04")]
)
def test_weights_alone(weight: float, reason: str | None) -> None:
    found = out_of_range(chain(weight), {})
    assert found.keys() == ({"first"} if reason else set())
    assert reason is None or reason in found["first"]


def test_tiny_weights_beside_large_ones_do_no_harm() -> None:
    """As of channels that training has put out: they would add nothing in float32 either."""
    model = chain()
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            array = numpy_helper.to_array(tensor).copy()
            array[1] = 1e-9
            tensor.CopyFrom(numpy_helper.from_array(array, "w"))
    assert out_of_range(model, {}) == {}


def test_int8_weights_are_judged_by_their_scales() -> None:
    assert out_of_range(quantised(), {}) == {}
    model = quantised()
    (scale,) = (t for t in model.graph.initializer if t.name == "ws")
    scale.CopyFrom(numpy_helper.from_array(np.full(2, 1e-7, np.float32), "ws"))
    assert out_of_range(model, {}).keys() == {"first", "y"}
