"""`mrcnn export` to an engine, and the engine in the runtime, on a simulated TensorRT and GPU."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from mrcnn.cli import main
from mrcnn.errors import MrcnnError
from mrcnn.export.verify import draw_images
from mrcnn.plugins import toolchain
from mrcnn.runtime import Runtime
from mrcnn.sidecar import Profile, Sidecar
from tests.conftest import REPOSITORY
from tests.export import simulated_builder
from tests.export.photographs import make_photographs
from tests.export.simulated_builder import BuilderFlag, SimulatedBuilding
from tests.test_packaging import BLOCKER

SMALL = ["--min-size", "96", "--max-size", "160"]


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimulatedBuilding]:
    monkeypatch.setitem(sys.modules, "tensorrt", sys)  # restored afterwards
    trt = simulated_builder.install(monkeypatch.setattr, tmp_path / "plugins.so")
    yield trt
    trt.device.assert_nothing_left()


@pytest.fixture
def model(compact_onnx: Path, tmp_path: Path) -> Path:
    path = tmp_path / "here" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(compact_onnx.read_bytes())
    return path


def read_sidecar(engine: Path) -> Sidecar:
    return Sidecar.from_json(engine.with_name(engine.name + ".json").read_text())


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.usefixtures("trt")
def test_from_checkpoint_to_detections(
    compact_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert main(["export", str(compact_file), "--output", str(folder), *SMALL, "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["built"] is True
    assert report["equal"] is True
    assert files(folder) == {
        "model.onnx",
        "model.engine",
        "model.engine.json",
        "model.engine.timing",
        "model.parity.onnx.json",
        "model.parity.pytorch.json",
    }
    for path in report["parity"]:
        figures = json.loads(Path(path).read_text())
        assert figures["matched_share"] == 1
        assert figures["reference_detections"] > 20
    sidecar = read_sidecar(folder / "model.engine")
    assert [profile.most for profile in sidecar.profiles] == [(1, 96, 160), (1, 160, 96)]
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    with Runtime(folder / "model.engine") as engine, Runtime(folder / "model.onnx") as reference:
        assert engine.device == "cuda"
        assert engine.memory_bytes["weights"] == (folder / "model.engine").stat().st_size
        found, expected = engine.infer(image), reference.infer(image)
        assert [len(one) for one in engine.stream([image] * 5)] == [len(expected)] * 5
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    assert found.rles == expected.rles


@pytest.mark.usefixtures("trt")
def test_an_onnx_file_is_built_beside_itself(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(model)]) == 0
    out = capsys.readouterr().out
    assert f"{model.parent}/model.engine (" in out
    assert "1x32x32 to 1x96x160 and 1x32x32 to 1x160x96" in out
    assert "equal within the tolerances" in out
    assert files(model.parent) == {
        "model.onnx",
        "model.engine",
        "model.engine.json",
        "model.engine.timing",
        "model.parity.onnx.json",
    }


def test_options_reach_the_builder(trt: SimulatedBuilding, model: Path, tmp_path: Path) -> None:
    options = (
        "--no-verify --bucket 96x160 --bucket 160x96 --batch 2 --workspace 100 --effort 4 --tf32 --refit "
        "--version-compatible --hardware-compatible --embed-plugins --timing-cache"
    )
    assert main(["export", str(model), *options.split(), str(tmp_path / "t.cache")]) == 0
    (config,) = trt.configs
    assert config.flags == {BuilderFlag.TF32, BuilderFlag.REFIT, BuilderFlag.VERSION_COMPATIBLE}
    assert config.hardware_compatibility_level is trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert list(config.limits.values()) == [100 << 20]
    assert config.builder_optimization_level == 4
    assert config.plugins_to_serialize == [str(tmp_path / "plugins.so")]
    assert (tmp_path / "t.cache").is_file()
    sidecar = read_sidecar(model.with_suffix(".engine"))
    assert sidecar.profiles == (Profile.fixed(2, 96, 160), Profile.fixed(2, 160, 96))
    assert sidecar.plugins_embedded
    assert sidecar.version_compatible
    assert sidecar.hardware_compatible
    assert sidecar.refit
    with Runtime(model.with_suffix(".engine")) as runtime:
        assert runtime.network_sizes((480, 640)) == ((96, 128), (96, 160))
        assert runtime.network_sizes((640, 480)) == ((128, 96), (160, 96))
        assert len(list(runtime.stream([np.zeros((9, 9, 3), np.uint8)] * 3))) == 3


def test_float32_is_exact_unless_asked_otherwise(trt: SimulatedBuilding, model: Path) -> None:
    assert main(["export", str(model), "--no-verify"]) == 0
    assert trt.configs[0].flags == set()


@pytest.mark.usefixtures("trt")
def test_fixed_sizes_are_compared_on_the_same_input(model: Path) -> None:
    assert main(["export", str(model), "--shape", "128x192"]) == 0
    report = json.loads(model.with_name("model.parity.onnx.json").read_text())
    assert report["same_input"] is True
    assert report["matched_share"] == 1


def test_an_engine_that_brings_the_plugins_is_inspected_and_compared(
    trt: SimulatedBuilding, model: Path
) -> None:
    """In one process with the library that it was built with, which TensorRT does not take twice."""
    assert main(["export", str(model), "--embed-plugins", "--inspect"]) == 0
    assert json.loads(model.with_name("model.parity.onnx.json").read_text())["matched_share"] == 1
    assert trt.registry.creators == set()


@pytest.mark.usefixtures("trt")
def test_own_images(model: Path, coco_mini: Path) -> None:
    assert main(["export", str(model), "--images", str(coco_mini / "images")]) == 0
    assert json.loads(model.with_name("model.parity.onnx.json").read_text())["images"] == 16


def test_the_same_again_is_skipped(
    trt: SimulatedBuilding, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = ["export", str(model), "--no-verify"]
    engine = model.with_suffix(".engine")
    assert main(build) == 0
    assert main(build) == 0
    assert len(trt.configs) == 1
    assert "up to date (--force builds it again)" in capsys.readouterr().out
    for changed in (
        ["--force"],
        ["--bucket", "96x160"],
        ["--bucket", "96x160", "--tf32"],
        ["--bucket", "96x160", "--tf32", "--inspect"],
    ):
        before = len(trt.configs)
        assert main([*build, *changed]) == 0
        assert len(trt.configs) == before + 1, changed
    assert json.loads(model.with_name("model.layers.json").read_text()) == {"Layers": ["JSON"]}
    assert main(build) == 0
    before = len(trt.configs)
    engine.write_bytes(engine.read_bytes()[:-1])
    assert main(build) == 0
    assert len(trt.configs) == before + 1, "a damaged engine is built again"
    engine.with_name("model.engine.json").unlink()
    assert main(build) == 0
    assert len(trt.configs) == before + 2, "so is one without its sidecar"
    changed_model = onnx.load(model)
    changed_model.doc_string = "another"
    onnx.save(changed_model, model)
    assert main(build) == 0
    assert len(trt.configs) == before + 3, "so is another graph"
    trt.__version__ = "10.13.4.0"
    assert main(build) == 0
    assert len(trt.configs) == before + 4, "so is one of another TensorRT"


@pytest.mark.usefixtures("trt")
def test_a_timing_cache_is_used_and_grows(model: Path) -> None:
    build = ["export", str(model), "--no-verify", "--force"]
    cache = model.with_name("model.engine.timing")
    assert main(build) == 0
    assert cache.read_bytes() == simulated_builder.CACHE + b"|"
    assert main(build) == 0
    assert cache.read_bytes() == simulated_builder.CACHE + b"||"
    cache.write_bytes(b"of another GPU")
    assert main(build) == 0
    assert cache.read_bytes() == simulated_builder.CACHE + b"|"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--images", "nowhere"], "nowhere: no such file or folder"),
        (["--images", "{folder}"], "no pictures in this folder"),
        (["--timing-cache", "{model}"], "--timing-cache and the model would be one file"),
        (["--json", "{model}"], "is there and no report, so it is not replaced"),
        (["--json", "{engine}"], "--json and the engine would be one file"),
        (["--json", "{folder}"], "it is a folder"),
        (["--timing-cache", "{folder}"], "it is a folder"),
        (["--timing-cache", "/dev/zero"], "not a regular file"),
        (["--output", "{model}"], "model.onnx is not a folder"),
        (["--batch", "0"], "batch must be in 1…1024"),
        (["--batch", "5000"], "batch must be in 1…1024"),
        (["--shape", "0x0"], "multiples of 32"),
        (["--max-shape", "16x16", "--opt-shape", "16x16"], "multiples of 32"),
    ],
)
def test_what_would_fail_after_the_build_is_told_before(
    trt: SimulatedBuilding,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    (tmp_path / "empty").mkdir()
    before = model.read_bytes()
    names = {"model": model, "engine": model.with_suffix(".engine"), "folder": tmp_path / "empty"}
    assert main(["export", str(model), *(a.format(**names) for a in arguments)]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert trt.configs == []
    assert model.read_bytes() == before
    assert files(model.parent) == {"model.onnx"}


def test_a_folder_in_the_place_of_the_engine(trt: SimulatedBuilding, model: Path) -> None:
    model.with_suffix(".engine").mkdir()
    assert main(["export", str(model)]) == 2
    assert trt.configs == []
    assert files(model.parent) == {"model.onnx", "model.engine"}


@pytest.mark.usefixtures("trt")
def test_a_pipe_in_the_place_of_the_description_is_built_over_or_refused(model: Path) -> None:
    os.mkfifo(model.with_name("model.engine.json"))
    assert main(["export", str(model), "--no-verify"]) == 2


@pytest.mark.usefixtures("trt")
def test_an_unreadable_picture_is_no_difference(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "-pictures"
    folder.mkdir()
    draw_images(folder)
    (folder / "broken.png").write_text("hello")
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(model), "--images=-pictures"]) == 0
    assert json.loads(model.with_name("model.parity.onnx.json").read_text())["skipped"]


@pytest.mark.usefixtures("trt")
def test_a_range_below_the_resize_rule_is_compared_on_the_same_input(model: Path) -> None:
    assert main(["export", str(model), "--opt-shape", "64x64", "--max-shape", "64x64"]) == 0


@pytest.mark.usefixtures("trt")
def test_finding_nothing_in_drawn_shapes_is_no_difference(
    compact_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blind = ["--score-threshold", "0.99", "--output", str(tmp_path / "blind"), *SMALL]
    assert main(["export", str(compact_file), *blind]) == 0
    assert "not compared: nothing is found in drawn shapes" in capsys.readouterr().out


def test_an_engine_is_not_exported(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(model.with_suffix(".engine"))]) == 2
    assert "an engine already: give the .onnx file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA initialization failure"), TypeError("factory returned nullptr")]
)
def test_what_tensorrt_raises_is_one_line(
    trt: SimulatedBuilding, model: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def raising(*_: object) -> None:
        raise error

    trt.Builder = raising
    assert main(["export", str(model)]) == 2
    assert f"TensorRT 10.13.3.9 fails: {error}" in capsys.readouterr().err
    assert files(model.parent) == {"model.onnx"}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError("libcublas.so.12: cannot open"),
            "is installed here and does not load (libcublas.so.12: cannot",
        ),
        (RuntimeError("no CUDA"), "is installed here and does not load (no CUDA)"),
    ],
)
def test_a_tensorrt_that_does_not_load(
    model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    words: str,
) -> None:
    def raising(_: str) -> None:
        raise error

    monkeypatch.setattr("mrcnn.export.build.importlib", SimpleNamespace(import_module=raising))
    assert main(["export", str(model)]) == 3
    assert words in capsys.readouterr().err


def test_a_driver_that_does_not_answer(
    trt: SimulatedBuilding, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hanging(*_: object) -> None:
        raise toolchain.ToolError("it does not answer within 10 s")

    monkeypatch.setattr(toolchain, "probe", hanging)
    assert main(["export", str(model)]) == 3
    assert "the NVIDIA driver does not answer (it does not answer within 10 s)" in capsys.readouterr().err
    assert trt.configs == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("parse", "cannot import node '"),
        (
            "build",
            "could not build the engine: [simulated.cpp::here::1] Error Code 1: Internal Error (Could not",
        ),
    ],
)
def test_a_failing_build_is_one_line_and_leaves_nothing(
    trt: SimulatedBuilding, model: Path, capsys: pytest.CaptureFixture[str], kind: str, words: str
) -> None:
    trt.fail[kind] = lambda _: True
    assert main(["export", str(model)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("mrcnn export: error: TensorRT 10.13.3.9 ")
    assert words in last
    assert files(model.parent) == {"model.onnx"}


def test_a_failing_build_keeps_the_engine_that_was_there(trt: SimulatedBuilding, model: Path) -> None:
    assert main(["export", str(model), "--no-verify"]) == 0
    before = {path.name: path.read_bytes() for path in model.parent.iterdir()}
    trt.fail["build"] = lambda _: True
    assert main(["export", str(model), "--no-verify", "--force"]) == 2
    assert {path.name: path.read_bytes() for path in model.parent.iterdir()} == before


@pytest.mark.usefixtures("trt")
def test_plugins_that_are_not_found(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plugins.so").write_text("Others")
    assert main(["export", str(model)]) == 3
    assert "does not find MrcnnRoIAlign, MrcnnRoIPool and MrcnnNMS in it" in capsys.readouterr().err
    assert files(model.parent) == {"model.onnx"}


@pytest.mark.usefixtures("trt")
def test_an_engine_that_finds_other_things_is_told(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = simulated_builder.runnable

    def blind(lowered: onnx.ModelProto) -> onnx.ModelProto:
        """With a score threshold that nothing reaches."""
        model = build(lowered)
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "score_threshold" and node.name != "proposals/nms":
                    attribute.f = max(attribute.f, 0.6)
        return model

    monkeypatch.setattr(simulated_builder, "runnable", blind)
    assert main(["export", str(model)]) == 1
    captured = capsys.readouterr()
    assert "outside tolerance" in captured.err
    assert "NOT equal" in captured.out
    assert model.with_suffix(".engine").is_file(), "it is kept: who looks at the report decides"


def run_python(code: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, *arguments]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


STAND_IN = """
import sys
from pathlib import Path
from tests.export import simulated_builder
trt = simulated_builder.install(setattr, Path("plugins.so"))
"""


def test_an_onnx_file_needs_neither_torch_nor_onnxscript(model: Path, tmp_path: Path) -> None:
    code = (
        BLOCKER.format(names=("torch", "torchvision", "onnxscript"))
        + STAND_IN
        + "sys.argv[0] = 'to_trt'\nimport runpy\n"
        + f"runpy.run_path({str(REPOSITORY / 'export' / 'to_trt.py')!r}, run_name='__main__')\n"
    )
    done = run_python(code, tmp_path, str(model), "--json", "report.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["built"]
    assert report["equal"]
    assert {"model.engine", "model.engine.json", "model.parity.onnx.json"} <= files(model.parent)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("onnx", "the package onnx is not installed: pip install onnx cuda-python"),
        ("scipy", "the package scipy is not installed: pip install onnx cuda-python"),
        (
            "cuda",
            "the package cuda-python is not installed: pip install onnx cuda-python scipy",
        ),
    ],
)
def test_a_missing_package_is_told_before_the_build(
    model: Path, tmp_path: Path, name: str, words: str
) -> None:
    code = (
        STAND_IN
        + BLOCKER.format(names=(name,))
        + (
            f"sys.modules = {{k: v for k, v in sys.modules.items() if k.partition('.')[0] != {name!r}}}\n"
            "from mrcnn.cli import main\n"
            "sys.exit(main(['export', *sys.argv[1:]]))\n"
        )
    )
    done = run_python(code, tmp_path, str(model))
    assert done.returncode == 3, done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert files(model.parent) == {"model.onnx"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(model: Path, tmp_path: Path, number: signal.Signals) -> None:
    code = STAND_IN + (
        "import os, signal, threading, time\n"
        # A program that was started in the background ignores it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "trt.steps = 1000\n"
        "from mrcnn.export.progress import Progress\n"
        "def part(self, title, done, of):\n"
        "    if done == 3:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "    time.sleep(0.01)\n"
        "Progress.part = part\n"
        "from mrcnn.cli import main\n"
        "sys.exit(main(['export', *sys.argv[1:]]))\n"
    )
    done = run_python(code, tmp_path, str(model))
    expected = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}[number]
    assert done.returncode == expected[0], done.stderr
    assert done.stderr.splitlines()[-1] == f"mrcnn export: {expected[1]}"
    assert files(model.parent) == {"model.onnx"}


def test_a_graph_that_is_not_ours(
    trt: SimulatedBuilding, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = onnx.load(model)
    strange.metadata_props[0].value = "{}"
    onnx.save(strange, tmp_path / "strange.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    for name, words in (
        ("strange.onnx", "format version"),
        ("text.onnx", "not a complete ONNX model"),
        ("missing.onnx", "No such file"),
    ):
        assert main(["export", str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err.splitlines()[-1]
    assert trt.configs == []


@pytest.mark.usefixtures("trt")
def test_opening_is_refused_before_anything_is_loaded(model: Path) -> None:
    assert main(["export", str(model), "--no-verify"]) == 0
    model.with_name("model.engine.json").unlink()
    with pytest.raises(MrcnnError, match=r"model\.engine\.json is missing beside it"):
        Runtime(model.with_suffix(".engine"))
    with pytest.raises(MrcnnError, match="an engine runs on a GPU"):
        Runtime(model.with_suffix(".engine"), device="cpu")


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_of_lower_precision_is_compared_with_the_graph_it_is_built_of(
    precision: str, compact_file: Path, tmp_path: Path
) -> None:
    """`model.engine` of float32 beside it is not touched."""
    folder = tmp_path / "out"
    options = ["--precision", precision, "--calib", str(make_photographs(tmp_path, 3))]
    report = ["--json", str(tmp_path / "report.json")]
    assert main(["export", str(compact_file), "--output", str(folder), *SMALL, *options, *report]) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["equal"] is True
    assert found["parity"] == [str(folder / f"model.{precision}.parity.onnx.json")]
    assert {"model.onnx", f"model.{precision}.onnx", f"model.{precision}.engine"} <= files(folder)
    assert "model.engine" not in files(folder)
    with Runtime(folder / f"model.{precision}.engine") as engine:
        assert engine.deployment.precision == precision
