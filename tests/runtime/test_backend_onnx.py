"""Files that are no model of ours are refused in one line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.runtime.backend_onnx import OnnxBackend

TinyModel = Callable[..., Path]


def open_model(path: Path, device: str = "cpu") -> OnnxBackend:
    return OnnxBackend(path, device=device, threads=1)


def refusal(path: Path) -> str:
    with pytest.raises(MrcnnError) as caught:
        open_model(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


def test_a_good_model_opens(tiny_model: TinyModel) -> None:
    backend = open_model(tiny_model(batch=2))
    assert backend.device == "cpu"
    assert backend.deployment.batch == 2
    outputs = backend.run(np.zeros((2, 32, 64, 3), np.float32), np.full((2, 2), 32, np.int32))
    assert set(outputs) == {"num_detections", "boxes", "scores", "labels", "masks"}


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    assert refusal(tmp_path / "missing.onnx") == "No such file or directory"
    assert refusal(tmp_path / "empty.onnx") == "the file is empty"
    assert refusal(tmp_path) == "Is a directory"


def test_damaged_files(tiny_model: TinyModel, tmp_path: Path) -> None:
    data = tiny_model().read_bytes()
    (tmp_path / "text.onnx").write_text("this is no model\n" * 20)
    (tmp_path / "zip.onnx").write_bytes(b"PK\x03\x04" + bytes(200))
    assert "not a complete ONNX model" in refusal(tmp_path / "text.onnx")
    assert "not a complete ONNX model" in refusal(tmp_path / "zip.onnx")
    for share in (0.1, 0.5, 0.9, 0.999):
        path = tmp_path / "cut.onnx"
        path.write_bytes(data[: int(len(data) * share)])
        assert "ONNX model" in refusal(path)


def test_a_model_of_somebody_else(tiny_model: TinyModel, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", [value], [])
    graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]))
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10),
        tmp_path / "a.onnx",
    )
    assert refusal(tmp_path / "a.onnx") == "an ONNX model, but not one that `mrcnn export` wrote"
    assert "not one that `mrcnn export` wrote" in refusal(tiny_model(metadata=None))


def test_metadata_that_does_not_fit(tiny_model: TinyModel) -> None:
    good = json.loads(open_model(tiny_model()).deployment.to_json())
    assert "not JSON" in refusal(tiny_model(metadata="{"))
    assert "export the model again" in refusal(tiny_model(metadata=json.dumps(good | {"format_version": 2})))
    assert "unknown key 'colour'" in refusal(tiny_model(metadata=json.dumps(good | {"colour": 1})))


@pytest.mark.parametrize("renamed", ["images", "image_sizes", "boxes"])
def test_inputs_and_outputs_must_be_those_of_the_contract(tiny_model: TinyModel, renamed: str) -> None:
    assert "inputs or outputs are not those" in refusal(tiny_model(rename=(renamed, "other")))


def test_metadata_must_tell_the_truth(tiny_model: TinyModel) -> None:
    good = json.loads(open_model(tiny_model()).deployment.to_json())
    wrong_type = tiny_model(metadata=json.dumps(good | {"input_dtype": "uint8"}))
    wrong_masks = tiny_model(masks=False, metadata=json.dumps(good))
    assert "inputs or outputs are not those" in refusal(wrong_type)
    assert "inputs or outputs are not those" in refusal(wrong_masks)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
def test_cuda_where_there_is_none(tiny_model: TinyModel) -> None:
    with pytest.raises(
        MissingRequirementError, match=": pip install --force-reinstall --no-deps onnxruntime-gpu, or"
    ):
        open_model(tiny_model(), device="cuda")
    assert open_model(tiny_model(), device="auto").device == "cpu"


def changed(path: Path, source: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(source)
    change(model)
    onnx.save(model, path)
    return path


def constant(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    (old,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    old.CopyFrom(numpy_helper.from_array(value, name))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", np.array([-1], np.int32)),
        ("count", np.array([5], np.int32)),
        ("falling", np.full(4, np.nan, np.float32)),
        ("mask_row", np.zeros((4, 28, 29), np.float32)),
        ("label_row", np.ones(1, np.int32)),
    ],
)
def test_outputs_that_break_the_contract(
    tiny_model: TinyModel, tmp_path: Path, name: str, value: np.ndarray
) -> None:
    def change(model: onnx.ModelProto) -> None:
        constant(model, name, value)
        if name == "mask_row":
            constant(model, "mask_shape", np.array(value.shape))
        if name == "label_row":
            constant(model, "slots", np.array([3]))
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")

    backend = open_model(changed(tmp_path / "a.onnx", tiny_model(), change))
    with pytest.raises(MrcnnError, match=r"a\.onnx: the graph's inputs or outputs are not those"):
        backend.run(np.ones((1, 32, 64, 3), np.float32), np.full((1, 2), 32, np.int32))


def test_a_graph_that_fails_is_one_line(tiny_model: TinyModel) -> None:
    backend = open_model(tiny_model(batch=2))
    with pytest.raises(MrcnnError, match=r"\.onnx: ONNX Runtime cannot run it \(.+\)$") as caught:
        backend.run(np.ones((1, 32, 64, 3), np.float32), np.full((1, 2), 32, np.int32))
    assert "\n" not in str(caught.value)


def test_weights_in_another_file_are_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    onnx.save(
        onnx.load(tiny_model()), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    assert (tmp_path / "weights.bin").exists()
    assert refusal(path) == "its weights lie in another file: export it again"


def test_nothing_is_sent_or_written_about_the_user(tiny_model: TinyModel, tmp_path: Path) -> None:
    program = "import sys; from mrcnn.runtime import Runtime; Runtime(sys.argv[1]).warm_up()"
    homes = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", program, tiny_model()],
        env=environment | homes,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_damaged_metadata_is_one_line(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    content = tiny_model().read_bytes()
    (tmp_path / "damaged.onnx").write_bytes(
        content.replace(b"maskrcnn_resnet50_fpn", b"maskrcnn\xff\xferesnet50fpn")
    )
    with pytest.raises(MrcnnError, match=r"damaged\.onnx: its metadata is damaged"):
        open_model(tmp_path / "damaged.onnx")


def test_an_input_of_other_rank_is_no_model_of_ours(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = onnx.load(tiny_model())
    del model.graph.input[0].type.tensor_type.shape.dim[3]
    onnx.save(model, tmp_path / "flat.onnx")
    with pytest.raises(MrcnnError, match=r"not those that its metadata tells|not a complete ONNX model"):
        open_model(tmp_path / "flat.onnx")


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(MrcnnError, match="not a regular file"):
        open_model(tmp_path / "pipe.onnx")
