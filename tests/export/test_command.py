"""`mrcnn export` and `python export/to_trt.py` as a user calls them."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from mrcnn.cli import main
from mrcnn.description import Deployment, ResizeRule


def test_without_tensorrt_the_onnx_file_is_there_and_one_command_builds_the_engine(
    tmp_path: Path, compact_file: Path, repository: Path
) -> None:
    script = repository / "export" / "to_trt.py"
    done = subprocess.run(
        [sys.executable, str(script), str(compact_file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    onnx.checker.check_model(tmp_path / "compact" / "model.onnx", full_check=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mrcnn export: error: TensorRT is not installed here")
    assert last.endswith("on the GPU machine run: mrcnn export compact/model.onnx")
    assert "Traceback" not in done.stderr
    assert "every stage equal to PyTorch's" in done.stdout


@pytest.mark.parametrize(
    ("options", "command"),
    [
        (["--shape", "96x160", "--batch", "2", "--no-verify"], "--shape 96x160 --batch 2 --no-verify"),
        (["--bucket", "96x160", "--bucket", "160x96"], "--bucket 96x160 --bucket 160x96"),
        (
            [
                "--opt-shape",
                "96x96",
                "--max-shape",
                "4x96x160",
                "--workspace",
                "512",
                "--images",
                "a b.png",
            ],
            "--opt-shape 96x96 --max-shape 4x96x160 --workspace 512 --images 'a b.png'",
        ),
    ],
)
def test_that_command_has_the_options_for_the_engine(
    compact_onnx: Path,
    options: list[str],
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.png").touch()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["export", str(compact_onnx), *options]) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(f"on the GPU machine run: mrcnn export {compact_onnx} {command}")


def test_what_the_graph_holds_already_is_not_repeated(
    tmp_path: Path, compact_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["export", str(compact_file), "--shape", "192x320", "--batch", "2", "--tf32"]) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("on the GPU machine run: mrcnn export compact/model.onnx --tf32")


def test_the_command_for_the_gpu_machine_is_one_that_this_program_reads(
    compact_onnx: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    options = ["--max-shape", "2x192x320", "--opt-shape", "192x320", "--min-shape", "64x64", "--effort", "2"]
    flags = ["--tf32", "--refit", "--inspect", "--force", "--embed-plugins", "--version-compatible"]
    assert main(["export", str(compact_onnx), *options, *flags]) == 3
    first = capsys.readouterr().err.splitlines()[-1].partition("run: ")[2]
    assert main(shlex.split(first)[1:]) == 3
    assert capsys.readouterr().err.splitlines()[-1].partition("run: ")[2] == first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{onnx}", "--onnx-only"], "is an ONNX file already"),
        (["{onnx}", "--class-names", "names.txt"], "--class-names is for checkpoints"),
        (["{onnx}", "--input-dtype", "uint8"], "--input-dtype is for checkpoints"),
        (["{onnx}", "--shape", "100x100"], "multiples of 32"),
        (["{onnx}", "--max-shape", "64x64"], "needs --opt-shape and --max-shape"),
        (["{file}", "--onnx-only", "--tf32"], "--tf32 is for engines"),
        (["{file}", "--onnx-only", "--bucket", "64x64"], "--bucket is for engines"),
        (["{file}", "--bucket", "64x64", "--bucket", "64x65"], "multiples of 32"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path,
    compact_file: Path,
    compact_onnx: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *(a.format(file=compact_file, onnx=compact_onnx) for a in arguments)]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_onnx_only_reports_json(
    tmp_path: Path, compact_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("coin\nbutton\n")
    options = (
        f"--onnx-only --output {tmp_path}/o --shape 160x160 --batch 1 --class-names {names} "
        "--min-size 120 --square 160 --score-threshold 0.3 --detections 7 --json"
    )
    assert main(["export", str(compact_file), *options.split()]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["validated"] is True
    metadata = {p.key: p.value for p in onnx.load(report["onnx"]).metadata_props}
    deployment = Deployment.from_json(metadata["mrcnn"])
    assert deployment.description.class_names == ("__background__", "coin", "button")
    assert deployment.description.resize == ResizeRule(min_size=120, max_size=160, size_divisible=160)
    assert deployment.description.detections.detections_per_image == 7
    assert (deployment.height, deployment.width, deployment.batch) == (160, 160, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.pth"], "no such file"),
        (["{file}", "--shape", "100x100"], "multiples of 32"),
        (["{file}", "--batch", "0"], "batch must be in 1…1024"),
        (["{file}", "--batch", "1000000"], "batch must be in 1…1024"),
        (["{file}", "--shape", "32768x32768"], "pixels in one run"),
        (["{file}", "--norm-eps", "nan"], "norm_eps must be in"),
        (["{file}", "--class-names", "missing.txt"], "cannot be read as class names"),
        (["{file}", "--class-names", "{one}"], "1 class names, but the model has 2"),
        (["{file}", "--min-size", "900", "--max-size", "100"], "min_size <= max_size"),
        (["{file}", "--output", "{one}"], "cannot write"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path,
    compact_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    one = tmp_path / "one.txt"
    one.write_text("coin\n")
    status = main(["export", "--onnx-only", *(a.format(file=compact_file, one=one) for a in arguments)])
    last = capsys.readouterr().err.splitlines()[-1]
    assert status == 2
    assert words in last
    assert [path for path in tmp_path.rglob("*") if path != one] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shape", "big"],
        ["--batch", "-1"],
        ["--batch", "9" * 30],
        ["--input-dtype", "int8"],
        ["--bucket", "dynamic"],
        ["--max-shape", "1x2x3x4"],
        ["--workspace", "0"],
        ["--effort", "6"],
    ],
)
def test_unreadable_options_are_usage_errors(compact_file: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["export", str(compact_file), *arguments])
    assert error.value.code == 2
