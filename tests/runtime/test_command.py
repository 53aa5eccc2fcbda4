"""`mrcnn infer`, run as the command line runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mrcnn.cli import main
from mrcnn.runtime import Runtime, decode_rle
from mrcnn.runtime.video import Video

TinyModel = Callable[..., Path]


def write_image(path: Path, height: int = 40, width: int = 60, value: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)
    return path


def write_clip(path: Path, frames: int = 3) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for index in range(frames):
        writer.write(np.full((48, 64, 3), 255 - 60 * index, np.uint8))
    writer.release()
    return path


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def infer(*arguments: object) -> int:
    return main(["infer", *map(str, arguments)])


def names(folder: Path) -> list[str]:
    """All files below `folder`, hidden ones too."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_one_image(tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, out = write_image(tmp_path / "photo.jpg"), tmp_path / "out"
    assert infer(tiny_model(count=2), photo, "--output", out) == 0
    assert names(out) == ["detections.json", "images.json", "photo.jpg"]
    assert np.array(Image.open(out / "photo.jpg")).shape == (40, 60, 3)
    found = read_json(out / "detections.json")
    assert [(d["image_id"], d["category_id"], round(d["score"], 3)) for d in found] == [
        (1, 1, 1.0),
        (1, 2, 0.5),
    ]
    assert found[1]["bbox"] == [0, 0, 60, 40]
    with Runtime(tiny_model(count=2)) as runtime:
        expected = runtime.infer(photo).masks
    assert (decode_rle(found[0]["segmentation"]) == expected[0]).all()
    assert capsys.readouterr().out == f"2 objects in 1 images: see {out}\n"


def test_results_load_in_pycocotools(tiny_model: TinyModel, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "b.png", 30, 90)
    assert infer(tiny_model(), tmp_path / "in", "--output", tmp_path / "out") == 0
    truth = COCO(str(tmp_path / "out" / "images.json"))
    loaded = truth.loadRes(str(tmp_path / "out" / "detections.json"))
    assert [Path(image["file_name"]).name for image in truth.loadImgs([1, 2])] == ["a.png", "b.png"]
    assert [category["name"] for category in truth.loadCats(truth.getCatIds())] == ["coin", "dog"]
    (first, *_) = loaded.loadAnns(loaded.getAnnIds(imgIds=2))
    assert loaded.annToMask(first).shape == (30, 90)


def test_score(tiny_model: TinyModel, tmp_path: Path) -> None:
    photo = write_image(tmp_path / "photo.png")
    for score, count in [("0", 4), ("0.3", 2), ("0.9", 1)]:
        assert infer(tiny_model(count=4), photo, "--output", tmp_path, "--no-overlay", "--score", score) == 0
        assert len(read_json(tmp_path / "detections.json")) == count


def test_folder_with_subfolders_and_equal_names(tiny_model: TinyModel, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "a.bmp", "a.JPG", "sub/a.png"):
        write_image(source / name)
    (source / "notes.txt").write_text("not looked at")
    other = write_image(tmp_path / "elsewhere" / "a.png")
    assert infer(tiny_model(), source, other, "--output", out) == 0
    assert names(out) == [
        "a-2.png",
        "a-3.png",
        "a.jpg",
        "a.png",
        "detections.json",
        "images.json",
        "sub/a.png",
    ]
    assert [Path(image["file_name"]) for image in read_json(out / "images.json")["images"]] == [
        *(source / name for name in ("a.JPG", "a.bmp", "a.png", "sub/a.png")),
        other,
    ]


def test_a_bad_file_is_reported_and_the_run_goes_on(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_image(source / "a.png")
    (source / "b.jpg").write_text("not a picture")
    (source / "c.mp4").write_bytes(b"\0" * 100)
    (source / "d.png").write_bytes((source / "a.png").read_bytes()[:60])
    write_image(source / "e.png")
    assert infer(tiny_model(), source, tmp_path / "missing.png", "--output", out) == 1
    assert names(out) == ["a.png", "detections.json", "e.png", "images.json"]
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("mrcnn infer:")]
    assert len(lines) == 4
    for line, name in zip(lines, ["b.jpg", "c.mp4", "d.png", "missing.png"], strict=True):
        assert name in line
    assert "4 objects in 2 images, 4 failed" in captured.out


@pytest.mark.parametrize("name", ["missing.png", "text.png", "text.mp4", "missing.mp4", "empty"])
def test_a_single_bad_input_is_an_error(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    assert infer(tiny_model(), tmp_path / name, "--output", out) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("mrcnn infer: error: ")
    assert name in error
    assert "\n" not in error
    assert not out.exists()


def test_bad_models_and_options(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = write_image(tmp_path / "photo.png"), tmp_path / "out"
    (tmp_path / "bad.onnx").write_text("hello")
    assert infer(tmp_path / "bad.onnx", photo, "--output", out) == 2
    assert infer(tmp_path / "model.engine", photo, "--output", out) == 2
    assert infer(tiny_model(), photo, "--output", out, "--score", "7") == 2
    assert infer(tiny_model(), photo, "--output", out, "--threads", "0") == 2
    assert infer(tiny_model(), photo, "--output", photo) == 2
    assert len(capsys.readouterr().err.splitlines()) == 5
    assert not out.exists()


def test_inputs_are_never_overwritten(tiny_model: TinyModel, tmp_path: Path) -> None:
    photo = write_image(tmp_path / "sub" / "photo.png")
    before = photo.read_bytes()
    assert infer(tiny_model(), tmp_path, "--output", tmp_path) == 2
    assert infer(tiny_model(), photo, "--output", photo.parent) == 2
    assert photo.read_bytes() == before
    assert names(tmp_path) == ["sub/photo.png"]


def test_results_inside_the_input_folder_are_no_inputs(tiny_model: TinyModel, tmp_path: Path) -> None:
    write_image(tmp_path / "photo.png")
    for _ in range(2):
        assert infer(tiny_model(), tmp_path, "--output", tmp_path / "out") == 0
        assert len(read_json(tmp_path / "out" / "images.json")["images"]) == 1


def test_video(tiny_model: TinyModel, tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "clip.avi"), tmp_path / "out"
    assert infer(tiny_model(), clip, "--output", out, "--score", "0") == 0
    assert names(out) == ["clip.mp4", "detections.json", "images.json"]
    images = read_json(out / "images.json")["images"]
    assert [(image["id"], image["frame"]) for image in images] == [(1, 0), (2, 1), (3, 2)]
    assert {(image["width"], image["height"]) for image in images} == {(64, 48)}
    assert len(read_json(out / "detections.json")) == 6
    video = Video(out / "clip.mp4")
    assert video.frame_rate == 10
    frames = list(video)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    assert max(frame.std() for frame in frames) > 10  # the flat frames were drawn on


def test_video_without_overlay(tiny_model: TinyModel, tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "clip.mp4"), tmp_path / "out"
    assert infer(tiny_model(), clip, "--output", out, "--no-overlay") == 0
    assert names(out) == ["detections.json", "images.json"]


def test_json_report(tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("hello")
    arguments = [tiny_model(), tmp_path / "in", "--output", tmp_path / "out", "--json"]
    assert infer(*arguments) == 1
    report = json.loads(capsys.readouterr().out)
    assert infer(*arguments, tmp_path / "report.json") == 1
    again = read_json(tmp_path / "report.json")
    own = ["model", "images", "categories", "detections", "failed"]
    assert [again[key] for key in own] == [report[key] for key in own]
    assert (report["schema_version"], report["kind"]) == (1, "infer")
    assert report["detections"] == read_json(tmp_path / "out" / "detections.json")
    assert [Path(entry["file"]).name for entry in report["failed"]] == ["b.png"]


def test_an_interrupted_run_keeps_whole_files_only(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_image(tmp_path / "in" / f"{name}.png")
    clip = write_clip(tmp_path / "in" / "d.mp4")
    seen: list[object] = []
    original = Runtime.infer

    def interrupted(self: Runtime, image: Any, **options: Any) -> Any:
        seen.append(image)
        if len(seen) == stop:
            raise KeyboardInterrupt
        return original(self, image, **options)

    monkeypatch.setattr(Runtime, "infer", interrupted)
    stop = 1
    assert infer(tiny_model(), tmp_path / "in", "--output", tmp_path / "out") == 130
    assert not (tmp_path / "out").exists()

    seen.clear()
    stop = 3
    assert infer(tiny_model(), tmp_path / "in", "--output", tmp_path / "out") == 130
    assert names(tmp_path / "out") == ["a.png", "b.png", "detections.json", "images.json"]
    assert [image["id"] for image in read_json(tmp_path / "out" / "images.json")["images"]] == [1, 2]

    seen.clear()
    stop = 2
    assert infer(tiny_model(), clip, "--output", tmp_path / "video") == 130
    assert names(tmp_path / "video") == ["detections.json", "images.json"]


def test_overlays_that_cannot_be_written_are_reported(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write_image(tmp_path / "in" / f"{name}.png")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert infer(tiny_model(), tmp_path / "in", "--output", tmp_path / "out") == 1
    assert "a.png: No space left on device" in capsys.readouterr().err
    assert names(tmp_path / "out") == ["detections.json", "images.json"]


def test_a_folder_with_one_bad_picture(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("hello")
    assert infer(tiny_model(), tmp_path / "in", "--output", tmp_path / "out") == 1
    assert capsys.readouterr().out == "0 objects in 0 images, 1 failed\n"
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_too_long_for_its_overlay(tiny_model: TinyModel, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "b.png")
    long = write_image(tmp_path / "in" / "c.png").rename(tmp_path / "in" / ("a" * 251 + ".gif"))
    equal = write_image(tmp_path / "in2" / "c.png").rename(tmp_path / "in2" / long.name)
    # The second one would be called a…a-2.png: 257 characters.
    assert infer(tiny_model(), long.parent, equal, "--output", tmp_path / "out") == 1
    assert len(read_json(tmp_path / "out" / "images.json")["images"]) == 3
    assert "b.png" in names(tmp_path / "out")


@pytest.mark.parametrize("kind", ["long", "loop", "pipe"])
def test_paths_that_are_no_files(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / ("x" * 300 if kind == "long" else f"{kind}.png")
    if kind == "loop":
        path.symlink_to(path)
    if kind == "pipe":
        os.mkfifo(path)
    assert infer(tiny_model(), path, "--output", tmp_path / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_that_may_not_be_entered(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Simulated, since the superuser may enter every folder.
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "closed" / "b.png")
    original = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert infer(tiny_model(), tmp_path / "in", "--output", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "closed: Permission denied" in captured.err
    assert captured.out.startswith("2 objects in 1 images, 1 failed: see ")


def test_a_working_folder_that_is_gone(tiny_model: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    write_image(tmp_path / "in" / "a.png")
    program = (
        "import os, sys; os.rmdir(os.getcwd()); from mrcnn.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["infer", str(tiny_model()), str(tmp_path / "in"), "--output", "out"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path / "gone",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
