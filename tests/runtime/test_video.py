"""Videos are read frame by frame and written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrcnn.errors import MrcnnError
from mrcnn.runtime import video
from mrcnn.runtime.images import UnreadableError, read_image
from mrcnn.runtime.video import Video, video_writer

# MPEG-4 quantises; flat frames come back within a few grey values.
CODEC_TOLERANCE = 8


def write_frames(path: Path, values: list[int]) -> None:
    with video_writer(path, frame_rate=12.5) as write:
        for value in values:
            write(np.full((48, 64, 3), value, np.uint8))


def test_frames_come_back_in_order(tmp_path: Path) -> None:
    values = [20, 90, 160, 230]
    write_frames(tmp_path / "clip.mp4", values)
    clip = Video(tmp_path / "clip.mp4")
    assert clip.frame_count == 4
    assert clip.frame_rate == 12.5
    frames = list(clip)
    assert all(frame.shape == (48, 64, 3) and frame.dtype == np.uint8 for frame in frames)
    np.testing.assert_allclose([frame.mean() for frame in frames], values, rtol=0, atol=CODEC_TOLERANCE)


def interrupted_frames(path: Path) -> None:
    with video_writer(path, frame_rate=10) as write:
        write(np.zeros((48, 64, 3), np.uint8))
        raise RuntimeError("stop")


def test_a_failed_run_leaves_no_video(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        interrupted_frames(tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MrcnnError, match=r"a\.xyz: OpenCV has no MP4 writer"):
        write_frames(tmp_path / "a.xyz", [10])
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "good.mp4", [10, 20])
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "good.mp4").read_bytes()[:200])
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    for name, message in {
        "missing.mp4": "No such file",
        "text.mp4": "not a video",
        "empty.mp4": "not a video",
        "cut.mp4": "not a video",
    }.items():
        with pytest.raises(UnreadableError, match=rf"{name}: {message}"):
            Video(tmp_path / name)


def test_a_disk_that_fills_up_leaves_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a full disk: OpenCV writes nothing, and says nothing.
    original = video.atomic_path

    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        with original(path) as temporary:
            yield temporary
            # The check must come before this point, where the file would get its name.
            raise AssertionError("a broken video was accepted")

    class Silent:
        def __init__(self) -> None:
            self._open = False

        def isOpened(self) -> bool:  # noqa: N802  OpenCV's name
            return self._open

        def open(self, *_: object) -> bool:
            self._open = True
            return True

        def write(self, _: np.ndarray) -> None: ...

        def release(self) -> None: ...

    monkeypatch.setattr(video, "atomic_path", full)
    monkeypatch.setattr(cv2, "VideoWriter", Silent)
    monkeypatch.setattr(Silent, "fourcc", staticmethod(lambda *_: 0), raising=False)
    with pytest.raises(MrcnnError, match=r"cannot write .*a\.mp4: .*disk full"):
        write_frames(tmp_path / "a.mp4", [10, 20])
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_ends_too_early_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for value in (10, 90, 200):
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"00dc", 0, data.index(b"idx1")) + 4])
    frames = []
    with pytest.raises(UnreadableError, match=r"a\.avi: damaged video \(2 of 3 frames can be read\)"):
        frames.extend(Video(path))


def test_pipes_and_endless_paths_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    for path in (tmp_path / "pipe.mp4", tmp_path / "loop.mp4", tmp_path / ("x" * 300)):
        for read in (Video, read_image):
            with pytest.raises(UnreadableError) as caught:
                read(path)
            assert "\n" not in str(caught.value)
