import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mrcnn.benchmarks import memory, programs
from mrcnn.checkpoint import load_checkpoint
from mrcnn.cli import main
from mrcnn.runtime import Runtime
from tests.benchmarks.conftest import Exported
from tests.conftest import REPOSITORY
from tests.test_packaging import BLOCKER


def test_the_report_is_whole(exported: Exported, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", exported.model, "--reference", exported.checkpoint, "--images", photos, "--json"]
    assert main([*map(str, command), "--repeats", "2", "--warmup", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 3
    assert report["repeats"] == 2
    for name in ("", "reference_", "rle_"):
        assert 0 < report[f"{name}p50_ms"] <= report[f"{name}p90_ms"] <= report[f"{name}p99_ms"]
    assert report["speedup_p10"] <= report["speedup"] <= report["speedup_p90"]
    assert report["not_measured"]
    if sys.platform.startswith("linux"):  # where peak memory can be read
        assert 0 < report["peak_rss_mb"] < report["reference_peak_rss_mb"] / 2
    assert {"machine", "versions", "command", "git_commit"} <= report.keys()


def test_bad_images_are_skipped_and_the_status_tells(
    exported: Exported,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for function in ("runtime_peak_rss_mb", "reference_peak_rss_mb"):  # two processes each, tested above
        monkeypatch.setattr(memory, function, lambda *_, **__: None)
    shutil.copy(photos / "a.png", tmp_path)
    (tmp_path / "bad.png").write_bytes(b"")
    command = ["bench", exported.model, "--reference", exported.checkpoint, "--images", tmp_path]
    assert main([*map(str, command), "--repeats", "1", "--warmup", "0"]) == 1
    output = capsys.readouterr()
    assert "times as fast" in output.out
    assert f"skipped: {tmp_path / 'bad.png'}" in output.err


def test_an_onnx_file_is_timed_without_pytorch(exported: Exported, photos: Path, tmp_path: Path) -> None:
    code = BLOCKER.format(names=("torch", "torchvision")) + (
        "from mrcnn.cli import main\nsys.exit(main(['bench', *sys.argv[1:]]))"
    )
    words = [exported.model, "--reference", exported.model, "--images", photos / "a.png", "--repeats", "1"]
    report = tmp_path / "bench.json"
    command = [sys.executable, "-c", code, *map(str, words), "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert "ONNX file" in done.stdout
    assert json.loads(report.read_text())["reference_p50_ms"] > 0


def test_a_count_that_is_none_is_refused(exported: Exported, photos: Path) -> None:
    command = ["bench", exported.model, "--reference", exported.checkpoint, "--images", photos]
    for option in (["--repeats", "0"], ["--warmup", "-1"], ["--threads", "x"]):
        with pytest.raises(SystemExit) as end:
            main([*map(str, command), *option])
        assert end.value.code == 2


def test_both_programs_give_the_masks_that_are_compared(exported: Exported, photos: Path) -> None:
    """The timed calls end in the same bitmaps, of the image's size."""
    checkpoint = load_checkpoint(exported.checkpoint)
    data = (photos / "b.png").read_bytes()
    with Runtime(exported.model) as runtime:
        predictor = programs.load_reference(checkpoint, runtime.description)
        ours = programs.runtime_to_bitmaps(runtime, data)
        rles = programs.runtime_to_rles(runtime, data)
    reference = programs.pytorch_to_bitmaps(predictor, data)
    assert ours is not None
    assert reference is not None
    assert rles is not None
    assert ours.dtype == reference.dtype == bool
    assert ours.shape == reference.shape == (len(rles), 150, 100)
