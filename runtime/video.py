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
from mrcnn.runtime.images import UnreadableError

Frame = NDArray[np.uint8]

SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"))
_FALLBACK_RATE = 25.0


class Video:
    """A video file that is read frame by frame: `for frame in video`, each (height, width, 3) uint8 BGR.

    Attributes:
        frame_count: as the file claims, or None where it does not.
        frame_rate: in frames per second.

    Raises:
        UnreadableError: the file is missing or no video, or (while reading) has no frame.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UnreadableError(f"{path}: no such file")
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
        found = False
        try:
            while True:
                there, frame = self._capture.read()
                if not there:
                    break
                found = True
                yield frame.astype(np.uint8, copy=False)
        finally:
            self._capture.release()
        if not found:
            raise UnreadableError(f"{self._path}: not one frame of this video can be read")


@contextmanager
def video_writer(path: Path, *, frame_rate: float) -> Iterator[Callable[[Frame], None]]:
    """Yields a function that appends a frame (height, width, 3) BGR to the MP4 file `path`.

    The first frame sets the size. The file appears when the block ends without an exception.

    Raises:
        MrcnnError: OpenCV cannot write such a file here.
    """
    writer = cv2.VideoWriter()
    with atomic_path(path) as temporary:

        def write(frame: Frame) -> None:
            if not writer.isOpened():
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                if not writer.open(str(temporary), codec, frame_rate, frame.shape[1::-1]):
                    raise MrcnnError(f"cannot write {path}: OpenCV has no MP4 writer here")
            writer.write(frame)

        try:
            yield write
        finally:
            writer.release()
