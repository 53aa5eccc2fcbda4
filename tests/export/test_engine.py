"""The builder's code against NVIDIA's own parser and builder: TensorRT for RTX, which needs no GPU.

It is another product with the same interface, and it builds everything but plugins; so what passes here is
evidence for TensorRT, not proof.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from mrcnn.checkpoint import Checkpoint
from mrcnn.errors import MrcnnError
from mrcnn.export.cut import cut, with_shapes
from mrcnn.export.engine import Profile
from mrcnn.export.lower import lower
from mrcnn.export.to_onnx import InputRule, build_graph
from tests.conftest import REPOSITORY
from tests.export.opened import open_at_plugins

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed; pip install '.[dev]' brings it on x86-64",
)


def build(model: onnx.ModelProto, folder: Path, *options: str) -> dict[str, Any]:
    path = folder / "model.onnx"
    onnx.save(model, path)
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tests" / "export" / "rtx_build.py", path, *options],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def static(compact_checkpoint: Checkpoint) -> onnx.ModelProto:
    inputs = InputRule(size=(128, 192), batch=2)
    model, _ = build_graph(
        compact_checkpoint.build(), compact_checkpoint.description, inputs, compact_checkpoint.weights_sha256
    )
    return model


@pytest.fixture(scope="module")
def dynamic(compact_checkpoint: Checkpoint) -> onnx.ModelProto:
    """The dense part of the graph with any size: pixels to features."""
    model, _ = build_graph(compact_checkpoint.build(), compact_checkpoint.description, InputRule(), "0" * 64)
    return cut(with_shapes(model), ["images", "image_sizes"], ["features.0", "logits.0", "deltas.0"])


@needs_rtx
@pytest.mark.parametrize("gpu", ["SM86", "SM89", "SM120"])
def test_all_but_the_plugins_builds(static: onnx.ModelProto, tmp_path: Path, gpu: str) -> None:
    answer = build(open_at_plugins(lower(static)), tmp_path, "--gpu", gpu)
    assert answer.get("bytes", 0) > 100_000, answer
    assert answer["phases"], "progress was told"


@needs_rtx
def test_any_size_needs_a_profile(dynamic: onnx.ModelProto, tmp_path: Path) -> None:
    answer = build(dynamic, tmp_path)
    assert "input size is not fixed: name the sizes" in answer["error"]


@needs_rtx
def test_two_profiles(dynamic: onnx.ModelProto, tmp_path: Path) -> None:
    wide, high = ("1,128,192", "1,256,320", "2,256,512"), ("1,192,128", "1,320,256", "2,512,256")
    answer = build(dynamic, tmp_path, "--profile", *wide, "--profile", *high)
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
