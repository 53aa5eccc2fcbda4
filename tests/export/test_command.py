"""`mrcnn export` and `python export/to_trt.py` as a user calls them."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from mrcnn.cli import main
from mrcnn.description import Deployment


def test_export_without_tensorrt_writes_the_onnx_file_and_says_so(
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
    assert (tmp_path / "compact" / "model.onnx").is_file()
    assert "TensorRT" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "every stage equal to PyTorch's" in done.stdout


def test_onnx_only_reports_json(
    tmp_path: Path, compact_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("coin\nbutton\n")
    options = (
        f"--onnx-only --output {tmp_path}/o --shape 128x160 --batch 1 --class-names {names} "
        "--min-size 120 --max-size 160 --score-threshold 0.3 --detections 7 --json"
    )
    assert main(["export", str(compact_file), *options.split()]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["validated"] is True
    metadata = {p.key: p.value for p in onnx.load(report["onnx"]).metadata_props}
    deployment = Deployment.from_json(metadata["mrcnn"])
    assert deployment.description.class_names == ("__background__", "coin", "button")
    assert deployment.description.resize.min_size == 120
    assert deployment.description.detections.detections_per_image == 7
    assert (deployment.height, deployment.width, deployment.batch) == (128, 160, 1)


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
    "arguments", [["--shape", "big"], ["--batch", "-1"], ["--batch", "9" * 30], ["--input-dtype", "int8"]]
)
def test_unreadable_options_are_usage_errors(compact_file: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["export", str(compact_file), *arguments])
    assert error.value.code == 2
