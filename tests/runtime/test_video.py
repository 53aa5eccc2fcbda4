"""Videos are read frame by frame and written whole or not at all."""

from pathlib import Path

import numpy as np
import pytest

from mrcnn.errors import MrcnnError
from mrcnn.runtime.images import UnreadableError
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
    video = Video(tmp_path / "clip.mp4")
    assert video.frame_count == 4
    assert video.frame_rate == 12.5
    frames = list(video)
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
        "missing.mp4": "no such file",
        "text.mp4": "not a video",
        "empty.mp4": "not a video",
        "cut.mp4": "not a video",
    }.items():
        with pytest.raises(UnreadableError, match=rf"{name}: {message}"):
            Video(tmp_path / name)
