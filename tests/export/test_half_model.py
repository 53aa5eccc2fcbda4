"""A whole model in FP16: which of it is, where casts stand, and that the same objects are found."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

from mrcnn.checkpoint import Checkpoint
from mrcnn.export.lower import lower
from mrcnn.export.metadata import read_deployment, write_deployment
from mrcnn.export.precision.half import half_nodes, to_half, typed_inputs
from mrcnn.export.precision.layers import view
from mrcnn.export.precision.quantize import Recipe, quantize
from mrcnn.export.to_onnx import InputRule, build_graph
from mrcnn.runtime.engine.tensorrt import PLUGINS
from mrcnn.sidecar import Profile
from tests.export import rules
from tests.export.halves import casts, run, types
from tests.export.ranges import everything_seen
from tests.export.rtx import build, needs_rtx, profile_options
from tests.export.stand_ins import with_stand_ins

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16

# float16 has 11 bits: a layer moves its result by some 2^-11 = 5e-4 of it, and dozens of layers follow
# each other. What comes of random weights has no clear winners, so that near-ties may change places.
TOLERANCES: Mapping[str, float] = {
    "boxes": 0.25,  # pixels of the network's input: 5e-4 of a box of 500
    "scores": 5e-3,  # ten steps of a logit of 2
    "masks": 2e-2,  # ten steps of a logit of 8, where the sigmoid is steepest
}
# Of the detections, how many must have a partner within the tolerances.
LEAST_MATCHED = 0.95

INPUTS = {
    "static": InputRule(size=(128, 192), batch=2),
    "dynamic": InputRule(),
    "uint8": InputRule(size=(160, 160), batch=1, dtype="uint8"),
}


@dataclass(frozen=True)
class Case:
    exported: onnx.ModelProto
    half: onnx.ModelProto
    feed: Mapping[str, np.ndarray]


@pytest.fixture(scope="module", params=INPUTS)
def case(request: pytest.FixtureRequest, compact_checkpoint: Checkpoint) -> Case:
    inputs = INPUTS[request.param]
    exported, _ = build_graph(
        compact_checkpoint.build(), compact_checkpoint.description, inputs, compact_checkpoint.weights_sha256
    )
    return Case(exported, to_half(exported), feed_of(inputs))


def feed_of(inputs: InputRule) -> dict[str, np.ndarray]:
    height, width = inputs.size or (96, 160)
    batch = inputs.batch or 3
    pixels = np.random.default_rng(0).uniform(0, 255, (batch, height, width, 3)).astype(inputs.dtype)
    return {
        "images": pixels,
        "image_sizes": np.array([[height - 8 * i, width - 16 * i] for i in range(batch)], np.int32),
    }


def matched(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """How many detections of both have a partner of the same label within `TOLERANCES`, and how many are."""
    partners = total = 0
    for i in range(len(expected["boxes"])):
        ours, theirs = (
            {name: v[i, : int(side["num_detections"][i])] for name, v in side.items() if v.ndim > 1}
            for side in (found, expected)
        )
        same = ours["labels"][:, None] == theirs["labels"][None]
        for name, tolerance in TOLERANCES.items():
            far = np.abs(ours[name][:, None] - theirs[name][None])
            same &= far.reshape(*same.shape, -1).max(-1, initial=0.0) <= tolerance
        partners += int(same.any(0).sum() + same.any(1).sum())
        total += sum(same.shape)
    return partners, total


def rounding(exported: onnx.ModelProto, chosen: set[str]) -> onnx.ModelProto:
    """The graph in float32, in which the results of the chosen nodes, and what they read, go through FP16.

    ONNX Runtime has no kernels in FP16 for the CPU: it computes in float32 and rounds where the graph says
    `Cast` and at some ends, but not between layers.
    """
    model = onnx.ModelProto()
    model.CopyFrom(exported)
    nodes: list[NodeProto] = []
    rounded: dict[str, str] = {}

    def through(name: str) -> str:
        if name not in rounded:
            rounded[name] = f"{name}/rounded"
            nodes.append(helper.make_node("Cast", [name], [f"{name}/fp16"], to=HALF))
            nodes.append(helper.make_node("Cast", [f"{name}/fp16"], [rounded[name]], to=FLOAT))
        return rounded[name]

    for old in exported.graph.node:
        new = NodeProto.FromString(old.SerializeToString())
        typed = set(typed_inputs(new)) if new.name in chosen else set()
        new.input[:] = [through(n) if n in typed else rounded.get(n, n) if n else n for n in new.input]
        nodes.append(new)
        if new.name in chosen:
            through(new.output[0])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def test_it_passes_the_checker_and_keeps_its_ends(case: Case) -> None:
    onnx.checker.check_model(case.half, full_check=True)
    assert case.half.graph.input == case.exported.graph.input
    assert case.half.graph.output == case.exported.graph.output


def test_it_finds_the_same_objects(case: Case) -> None:
    expected, found = run(case.exported, case.feed), run(case.half, case.feed)
    assert {k: (v.dtype, v.shape) for k, v in found.items()} == {
        k: (v.dtype, v.shape) for k, v in expected.items()
    }
    partners, total = matched(found, expected)
    assert total > 0
    assert partners >= LEAST_MATCHED * total


@pytest.mark.parametrize("case", ["dynamic", "static"], indirect=True)
def test_rounding_between_layers_loses_nothing(case: Case) -> None:
    expected = run(case.exported, case.feed)
    emulated = rounding(case.exported, half_nodes(case.exported.graph, ()))
    partners, total = matched(run(emulated, case.feed), expected)
    assert partners >= LEAST_MATCHED * total


def test_every_node_is_of_one_type(case: Case) -> None:
    """And of one that TensorRT takes; RoIs stay float32, what is pooled is FP16."""
    lowered = lower(case.half)
    whole = with_stand_ins(lowered)
    assert not rules.mixed_types(whole, lowered)
    assert not rules.wrong_types(whole, lowered)
    assert not rules.unsupported_operators(lowered, PLUGINS)
    found = types(whole)
    halves = ["features.0", "box/pooled", "mask_features", "class_logits", "logits.4"]
    floats = ["normalised", "proposals", "boxes", "scores", "masks"]
    assert [found[name] for name in (*halves, *floats)] == [HALF] * len(halves) + [FLOAT] * len(floats)


def test_all_that_is_dense_is_fp16(case: Case) -> None:
    found = types(with_stand_ins(lower(case.half)))
    for n in case.half.graph.node:
        if n.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip", "MaxPool", "Resize"}:
            assert found[n.output[0]] == HALF, n.name


def test_casts_are_few(case: Case) -> None:
    """Pixels into the backbone; logits and deltas of five levels, of the box head, and masks out of it."""
    places = ["normalised/half", "class_logits/float", "box_deltas/float"]
    places += [f"{kind}.{level}/float" for kind in ("logits", "deltas") for level in range(5)]
    (mask,) = set(casts(case.half)) - set(places)
    assert len(casts(case.half)) == len(places) + 1
    (reader,) = (n for n in case.half.graph.node if mask in n.input)
    assert reader.op_type == "Reshape", "that of the mask's logits"


def test_a_mixture_of_types_is_found(case: Case) -> None:
    faulty = lower(case.half)
    convolution = next(n for n in faulty.graph.node if n.op_type == "Conv")
    convolution.input[0] = "normalised"
    whole = with_stand_ins(lower(case.half))
    assert rules.mixed_types(whole, faulty) == [f"{convolution.name} (Conv) mixes float and float16"]


@pytest.mark.parametrize("case", ["dynamic"], indirect=True)
def test_each_dense_node_can_be_kept(case: Case) -> None:
    """Each alone, with casts on either side of it at most, and all of them."""
    dense = half_nodes(case.exported.graph, ())
    feed = feed_of(InputRule(size=(64, 64), batch=1))
    expected = run(case.exported, feed)
    for name in sorted(dense):
        half = to_half(case.exported, keep=[name])
        lowered = lower(half)
        assert not rules.mixed_types(with_stand_ins(lowered, check=False), lowered), name
        (kept,) = (n for n in half.graph.node if n.name == name)
        inputs = len(typed_inputs(kept))
        assert len(casts(half)) <= len(casts(case.half)) + inputs + 1, name
        partners, total = matched(run(half, feed, optimise=False), expected)
        assert partners >= LEAST_MATCHED * total, name
    assert casts(to_half(case.exported, keep=dense)) == []


def test_the_metadata_tells_the_precision(case: Case) -> None:
    before, after = read_deployment(case.exported), read_deployment(case.half)
    assert before is not None
    assert after is not None
    assert (before.precision, after.precision) == ("fp32", "fp16")
    int8 = onnx.ModelProto()
    int8.CopyFrom(case.exported)
    write_deployment(int8, replace(before, precision="int8", quantized_for="tensorrt"))
    assert read_deployment(to_half(int8)) == read_deployment(int8)


@pytest.mark.parametrize("case", ["static"], indirect=True)
def test_int8_among_fp16_runs(case: Case) -> None:
    """Functions follow to the opset of FP16 scales."""
    seen = view(case.exported)
    half = to_half(quantize(seen, Recipe(target="tensorrt", ranges=everything_seen(seen))).model)
    assert {e.version for f in half.functions for e in f.opset_import if not e.domain} == {19}
    onnx.checker.check_model(half, full_check=True)
    lowered = lower(half)
    assert not rules.mixed_types(with_stand_ins(lowered), lowered)
    assert "normalised/half" not in casts(half), "pixels need none before they are INT8"
    assert run(half, case.feed)["num_detections"].sum() > 0


@needs_rtx
@pytest.mark.parametrize("case", ["dynamic"], indirect=True)
def test_tensorrt_builds_all_but_the_plugins(case: Case, tmp_path: Path) -> None:
    profile = Profile(least=(1, 64, 64), best=(1, 128, 160), most=(2, 192, 192))
    answer = build(with_stand_ins(lower(case.half)), tmp_path, *profile_options([profile]))
    assert "error" not in answer, answer
    for kind in ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY"):
        assert answer["layers"][kind].keys() == {"HALF"}
    assert {answer["outputs"][name] for name in ("boxes", "scores", "masks")} == {"FLOAT"}
