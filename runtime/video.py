"""Videos as frames, and frames as a video."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mrcnn.errors import MrcnnError
from mrcnn.files import atomic_path
from mrcnn.runtime.images import UnreadableError, check_file

Frame = NDArray[np.uint8]

SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"))
_EXACT = frozenset((".mp4", ".m4v", ".mov", ".avi"))  # formats that count their frames in an index
_FALLBACK_RATE = 25.0


class Video:
    """A video file that is read frame by frame: `for frame in video`, each (height, width, 3) uint8 BGR.

    Attributes:
        frame_count: as the file claims, or None where it does not.
        frame_rate: in frames per second.

    Raises:
        UnreadableError: the file is missing or no video, or (while reading) ends before its last frame.
    """

    def __init__(self, path: Path) -> None:
        check_file(path)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's log would stand beside our line
        self._path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise UnreadableError(f"{path}: not a video that OpenCV can read")
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frame_count = count if count > 0 else None
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.frame_rate = rate if rate > 0 else _FALLBACK_RATE

    def __iter__(self) -> Iterator[Frame]:
        found = 0
        try:
            while True:
                there, frame = self._capture.read()
                if not there:
                    break
                found += 1
                yield frame.astype(np.uint8, copy=False)
        finally:
            self._capture.release()
        # Containers without an index only estimate their length; those that have one are held to it.
        if not found or (
            self.frame_count and found < self.frame_count and self._path.suffix.lower() in _EXACT
        ):
            frames = f"{found} of {self.frame_count}" if self.frame_count else "0"
            raise UnreadableError(f"{self._path}: damaged video ({frames} frames can be read)")


@contextmanager
def video_writer(path: Path, *, frame_rate: float) -> Iterator[Callable[[Frame], None]]:
    """Yields a function that appends a frame (height, width, 3) BGR to the MP4 file `path`.

    The first frame sets the size. The file appears when the block ends without an exception.

    Raises:
        MrcnnError: OpenCV cannot write such a file here, or the disk is full.
    """
    writer = cv2.VideoWriter()
    written = 0
    with atomic_path(path) as temporary:

        def write(frame: Frame) -> None:
            nonlocal written
            if not writer.isOpened():
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                if not writer.open(str(temporary), codec, frame_rate, frame.shape[1::-1]):
                    raise MrcnnError(f"cannot write {path}: OpenCV has no MP4 writer here")
            writer.write(frame)
            written += 1

        try:
            yield write
        finally:
            writer.release()
        # OpenCV reports nothing where writing fails, so that only the file itself can tell.
        if written and not _holds(temporary, written):
            raise MrcnnError(f"cannot write {path}: what was written is no whole video (is the disk full?)")


def _holds(path: Path, frames: int) -> bool:
    """Whether that many frames of the video can be read; they are not decoded into pixels for that."""
    capture = cv2.VideoCapture(str(path))
    try:
        return capture.isOpened() and all(capture.grab() for _ in range(frames))
    finally:
        capture.release()
