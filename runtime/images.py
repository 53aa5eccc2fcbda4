"""Whatever a caller holds (a file, a PIL image, an array) as one array (height, width, 3) uint8 RGB."""

import io
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

import cv2
import numpy as np
from numpy.typing import NDArray

from mrcnn.errors import MrcnnError

if TYPE_CHECKING:
    from PIL.Image import Image

RgbArray = NDArray[np.uint8]
ImageLike: TypeAlias = Union[str, "os.PathLike[str]", bytes, "Image", RgbArray]

# A file of a few kilobytes can claim any size; this many pixels are 240 MB as RGB.
MAX_PIXELS = 80_000_000
_TOO_LARGE = f"more than the {MAX_PIXELS // 10**6} million pixels that one image may have: cut it into tiles"

# Formats that are pictures and nothing else; Pillow would also start Ghostscript on PostScript.
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2")
)


class UnreadableError(MrcnnError):
    """A file that should hold an image or a video cannot be read; others may be fine."""


def to_rgb(image: ImageLike, *, color: str = "bgr") -> RgbArray:
    """Any accepted image as (height, width, 3) uint8 RGB.

    Args:
        image: a path, the bytes of a picture file, a PIL image (taken as its pixels lie, also where its EXIF
            data asks for a rotation), or a uint8 array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), whose
            alpha channel is ignored.
        color: channel order of an array, "bgr" or "rgb"; files and PIL images know their own.

    Raises:
        MrcnnError: the file is unreadable, or the array has another shape or dtype.
    """
    check_color(color)
    if isinstance(image, str | os.PathLike | bytes):
        return read_image(image)
    if isinstance(image, np.ndarray):
        return _array_to_rgb(image, color)
    pillow = sys.modules.get("PIL.Image")  # whoever holds a PIL image has imported it
    if pillow is None or not isinstance(image, pillow.Image):
        raise MrcnnError(
            "an image must be a path, a file's bytes, a PIL image or a uint8 array (height, width, 3) "
            f"(got {type(image).__name__})"
        )
    try:
        _check_pixels(image.width, image.height)
        return _pillow_to_rgb(image)
    except MrcnnError:
        raise
    except MemoryError as error:
        raise MrcnnError(f"not enough memory for a picture of {image.width}x{image.height} pixels") from error
    except ValueError as error:  # of all that is said of one that was closed
        raise MrcnnError(f"the PIL image cannot be read: {_one_line(error)}") from error
    except (OSError, SyntaxError) as error:  # it was opened from a file that is read only now
        raise MrcnnError(f"damaged picture ({_one_line(error)})") from error


def check_color(color: str) -> None:
    """Raises MrcnnError unless it is a known channel order."""
    if not isinstance(color, str):
        raise MrcnnError(f"color must be 'bgr' or 'rgb' (got {type(color).__name__})")
    if color not in ("bgr", "rgb"):
        raise MrcnnError(f"color must be 'bgr' or 'rgb' (got {color!r})")


def read_image(source: str | os.PathLike[str] | bytes) -> RgbArray:
    """The picture in a file, given by its path or its bytes, as an array (height, width, 3) uint8 RGB.

    It is turned as its EXIF data asks. 16-bit values keep their upper byte, transparency is ignored, and of
    an animation the first frame is read.

    Raises:
        UnreadableError: the file is missing, no picture, damaged, truncated, or of more than `MAX_PIXELS`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = None if isinstance(source, bytes) else _path(source)
    name = "the image" if path is None else str(source if isinstance(source, str) else path)
    if path is not None:
        check_file(path)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else path or ""
        with Image.open(file, formats=_FORMATS) as image:
            _check_pixels(image.width, image.height)
            return _pillow_to_rgb(ImageOps.exif_transpose(image))
    except MrcnnError as error:
        raise UnreadableError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        size = len(source) if isinstance(source, bytes) else _path(source).stat().st_size
        raise UnreadableError(f"{name}: {'not a picture' if size else 'the file is empty'}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"{name}: {_TOO_LARGE}") from error
    except OSError as error:
        raise UnreadableError(f"{name}: {error.strerror or f'damaged picture ({error})'}") from error
    except MemoryError as error:
        raise UnreadableError(f"{name}: not enough memory for it") from error
    except Exception as error:  # on damaged data Pillow's decoders raise whatever they stumble over
        raise UnreadableError(f"{name}: damaged picture ({error})") from error


def check_file(path: Path) -> None:
    """Raises UnreadableError unless `path` is a file that can be opened; on a pipe we would wait forever."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise UnreadableError(
                f"{path}: {'Is a directory' if stat.S_ISDIR(mode) else 'not a regular file'}"
            )
        path.open("rb").close()
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a null character in the name
        raise UnreadableError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _path(source: str | os.PathLike[str]) -> Path:
    """The path that an object stands for, asked once."""
    try:
        return Path(os.fsdecode(source))
    except Exception as error:  # of whoever wrote its `__fspath__`
        raise UnreadableError(f"the image's path cannot be read: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise MrcnnError(f"{width}x{height} pixels, {_TOO_LARGE}")


def image_files(paths: Sequence[Path], *, limit: int | None = None) -> list[Path]:
    """The given files, and the pictures (by suffix) in the given folders and those below, sorted by path.

    Args:
        limit: at most so many, the first.

    Raises:
        MrcnnError: a path does not exist, or a folder holds no picture.
    """
    files: list[Path] = []
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a name of 300 characters
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not found:
                raise MrcnnError(f"{path}: no pictures in this folder ({', '.join(sorted(SUFFIXES))})")
            files += found
        elif os.path.exists(path):  # noqa: PTH110
            files.append(path)
        else:
            raise MrcnnError(f"{path}: no such file or folder")
    return files[:limit]


def _pillow_to_rgb(image: "Image") -> RgbArray:
    if 0 in image.size:
        raise MrcnnError(f"the image is empty (got {image.width}x{image.height})")
    if image.mode == "F":
        raise MrcnnError("the picture has floating-point values: convert it to 8 bits")
    if image.mode.startswith("I"):  # Pillow's own conversion of 16-bit grey would clip at 255
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise MrcnnError("the picture has 32-bit values: convert it to 8 bits")
        return _array_to_rgb((grey >> 8).astype(np.uint8), "rgb")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # without this step Pillow warns
    return np.array(image.convert("RGB"))


def _array_to_rgb(array: NDArray[np.generic], color: str) -> RgbArray:
    shape = array.shape
    if array.dtype != np.uint8 or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise MrcnnError(
            f"an image array must be uint8 of shape (height, width, 3) (got {array.dtype}, {shape})"
        )
    if 0 in shape:
        raise MrcnnError(f"the image is empty (got shape {shape})")
    _check_pixels(shape[1], shape[0])
    pixels = np.ascontiguousarray(array, np.uint8)
    channels = shape[2] if len(shape) == 3 else 1
    if channels == 1:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB).astype(np.uint8, copy=False)
    if color == "rgb":
        return np.ascontiguousarray(pixels[..., :3])
    code = cv2.COLOR_BGR2RGB if channels == 3 else cv2.COLOR_BGRA2RGB
    return cv2.cvtColor(pixels, code).astype(np.uint8, copy=False)
