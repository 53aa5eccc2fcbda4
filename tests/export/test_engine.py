"""The builder's code against NVIDIA's own parser and builder: TensorRT for RTX, which needs no GPU.

It is another product with the same interface, and it builds everything but plugins; so what passes here is
evidence for TensorRT, not proof.
"""

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from mrcnn.checkpoint import Checkpoint
from mrcnn.description import DetectionRule
from mrcnn.errors import MrcnnError
from mrcnn.export.cut import cut, with_shapes
from mrcnn.export.lower import lower
from mrcnn.export.profiles import default_profiles
from mrcnn.export.to_onnx import InputRule, build_graph
from mrcnn.families import describe
from mrcnn.models import build_model
from mrcnn.sidecar import Profile
from tests.export.opened import open_at_plugins
from tests.export.rtx import build, needs_rtx, profile_options
from tests.export.stand_ins import with_stand_ins


@pytest.fixture(scope="module")
def static(compact_checkpoint: Checkpoint) -> onnx.ModelProto:
    inputs = InputRule(size=(128, 192), batch=2)
    model, _ = build_graph(
        compact_checkpoint.build(), compact_checkpoint.description, inputs, compact_checkpoint.weights_sha256
    )
    return model


@pytest.fixture(scope="module")
def dynamic(compact_checkpoint: Checkpoint) -> onnx.ModelProto:
    """The whole graph with any size and batch."""
    model, _ = build_graph(compact_checkpoint.build(), compact_checkpoint.description, InputRule(), "0" * 64)
    return with_stand_ins(lower(model))


@needs_rtx
@pytest.mark.parametrize("gpu", ["SM86", "SM89", "SM120"])
def test_all_but_the_plugins_builds(static: onnx.ModelProto, tmp_path: Path, gpu: str) -> None:
    answer = build(open_at_plugins(lower(static)), tmp_path, "--gpu", gpu)
    assert answer.get("bytes", 0) > 100_000, answer
    assert answer["phases"], "progress was told"


@needs_rtx
def test_the_key_point_branch_builds(tmp_path: Path) -> None:
    """From pooled regions to heatmaps in five dimensions, rows past the count set to zero."""
    description = describe(
        "keypointrcnn_resnet50_fpn",
        ("__background__", "person"),
        detections=DetectionRule(detections_per_image=20),
    )
    inputs = InputRule(size=(128, 192), batch=2)
    model, _ = build_graph(build_model(description).eval(), description, inputs, "0" * 64)
    whole = with_shapes(with_stand_ins(lower(model)))
    answer = build(cut(whole, ["keypoint/pooled", "num_detections"], ["keypoints"]), tmp_path)
    assert answer.get("bytes", 0) > 100_000, answer


@needs_rtx
def test_any_size_needs_a_profile(dynamic: onnx.ModelProto, tmp_path: Path) -> None:
    answer = build(dynamic, tmp_path)
    assert "input size is not fixed: name the sizes" in answer["error"]


@needs_rtx
def test_the_graph_of_any_size_builds_for_every_image(
    dynamic: onnx.ModelProto, compact_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """With the profiles that `mrcnn export` chooses where none are named."""
    profiles = default_profiles(compact_checkpoint.description.resize, batch=1)
    assert len(profiles) == 2
    answer = build(dynamic, tmp_path, *profile_options(profiles))
    assert answer.get("bytes", 0) > 100_000, answer


@needs_rtx
def test_a_profile_may_cover_several_batches(dynamic: onnx.ModelProto, tmp_path: Path) -> None:
    profiles = [
        Profile(least=(1, 128, 192), best=(1, 256, 320), most=(2, 256, 512)),
        Profile(least=(1, 192, 128), best=(1, 320, 256), most=(2, 512, 256)),
    ]
    answer = build(dynamic, tmp_path, *profile_options(profiles))
    assert answer.get("bytes", 0) > 100_000, answer


@needs_rtx
def test_a_profile_must_fit_the_fixed_dimensions(static: onnx.ModelProto, tmp_path: Path) -> None:
    part = cut(with_shapes(static), ["images", "image_sizes"], ["features.0"])
    answer = build(part, tmp_path, "--profile", "1,128,192", "1,128,192", "2,128,192")
    assert "'images' has the fixed shape (2, 128, 192, 3)" in answer["error"]


@needs_rtx
def test_ctrl_c_ends_the_build(static: onnx.ModelProto, tmp_path: Path) -> None:
    assert build(open_at_plugins(lower(static)), tmp_path, "--interrupt") == {"interrupted": True}


def one_node(op_type: str, kinds: list[int], **attributes: Any) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(len(kinds))]
    graph = helper.make_graph(
        [helper.make_node(op_type, names, ["y"], name=f"the {op_type}", **attributes)],
        "one",
        [helper.make_tensor_value_info(name, kind, [2, 3]) for name, kind in zip(names, kinds, strict=True)],
        [helper.make_empty_tensor_value_info("y")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@needs_rtx
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (one_node("Det", [TensorProto.FLOAT]), "cannot import node 'the Det' (Det): "),
        (one_node("Add", [TensorProto.FLOAT, TensorProto.FLOAT16]), "cannot import node 'the Add' (Add): "),
    ],
    ids=["unknown operator", "mixed types"],
)
def test_a_refused_node_is_named(model: onnx.ModelProto, words: str, tmp_path: Path) -> None:
    error = build(model, tmp_path)["error"]
    assert words in error
    assert "\n" not in error


def test_the_sizes_of_a_profile_grow() -> None:
    with pytest.raises(MrcnnError, match="must grow from least to best to most"):
        Profile(least=(1, 256, 256), best=(1, 128, 256), most=(1, 512, 512))
