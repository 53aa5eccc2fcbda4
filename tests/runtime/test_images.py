"""Whatever holds an image becomes the same RGB array, or one clear line."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mrcnn.errors import MrcnnError
from mrcnn.runtime.images import MAX_PIXELS, UnreadableError, read_image, to_rgb

# JPEG keeps flat colours to a few grey values; CMYK inks and YCbCr round once more.
JPEG_TOLERANCE = 6


@pytest.fixture
def picture() -> np.ndarray:
    """(40, 60, 3) RGB: red, green, blue and grey quarters, so that order and rotation show."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30] = 200, 20, 20
    pixels[:20, 30:] = 20, 200, 20
    pixels[20:, :30] = 20, 20, 200
    pixels[20:, 30:] = 90
    return pixels


def test_arrays_in_both_orders(picture: np.ndarray) -> None:
    assert (to_rgb(picture[..., ::-1]) == picture).all()
    assert (to_rgb(picture, color="rgb") == picture).all()
    alpha = np.full((40, 60, 1), 7, np.uint8)
    assert (to_rgb(np.concatenate([picture[..., ::-1], alpha], axis=2)) == picture).all()
    assert (to_rgb(np.concatenate([picture, alpha], axis=2), color="rgb") == picture).all()


def test_grey_arrays() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    assert (to_rgb(grey) == expected).all()
    assert (to_rgb(grey[:, :, None], color="rgb") == expected).all()


def test_views_with_strides(picture: np.ndarray) -> None:
    assert (to_rgb(picture[::2, ::-3], color="rgb") == picture[::2, ::-3]).all()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_lossless_files(picture: np.ndarray, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert (read_image(path) == picture).all()
    assert (to_rgb(str(path)) == picture).all()
    assert (to_rgb(path.read_bytes()) == picture).all()


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "RGBA", "P", "PA", "LA", "L", "1"])
def test_colour_modes(picture: np.ndarray, tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(picture).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.tiff" if mode == "PA" else "a.png")
    if mode == "PA":
        image = Image.fromarray(picture).convert("P").convert("PA")
        assert np.abs(to_rgb(image).astype(int) - picture).max() < 60  # a palette of the web's 216 colours
        return
    image.save(path)
    expected = np.array(image.convert("RGB")).astype(int)
    tolerance = JPEG_TOLERANCE if mode == "CMYK" else 0
    # Away from the edges between colours, which JPEG smears.
    found = read_image(path).astype(int)
    assert np.abs(found - expected)[4:16, 4:26].max() <= tolerance
    assert (to_rgb(image) == expected).all()


def test_palette_with_transparency_gives_no_warning(
    picture: np.ndarray, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    image = Image.fromarray(picture).quantize(8)
    image.info["transparency"] = bytes(range(0, 200, 25))
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == picture.shape
    assert not recwarn.list


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_grey_keeps_the_upper_byte(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 255, 256], [32768, 40000, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), values)
    assert (read_image(tmp_path / f"a.{suffix}")[..., 1] == values >> 8).all()


def test_16_bit_colour_keeps_the_upper_byte(picture: np.ndarray, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture[..., ::-1].astype(np.uint16) * 256 + 99)
    assert (read_image(tmp_path / "a.png") == picture).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_of_files(picture: np.ndarray, tmp_path: Path, orientation: int) -> None:
    turn = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }
    expected = turn.get(orientation, lambda a: a)(picture)
    image = Image.fromarray(picture)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    assert (read_image(tmp_path / "a.png") == expected).all()


def test_the_first_frame_of_an_animation(picture: np.ndarray, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full_like(picture, value)) for value in (10, 250)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == 10).all()


@pytest.mark.parametrize("shape", [(1, 1), (20000, 10), (1, 5000)])
def test_extreme_sizes(tmp_path: Path, shape: tuple[int, int]) -> None:
    Image.fromarray(np.full((*shape, 3), 77, np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (*shape, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"must be uint8 .* \(got float32, \(4, 5, 3\)\)"),
        (np.zeros((4, 5, 3), np.uint16), r"got uint16"),
        (np.zeros((3, 4, 5, 3), np.uint8), r"got uint8, \(3, 4, 5, 3\)"),
        (np.zeros((3, 40, 50), np.uint8), r"got uint8, \(3, 40, 50\)"),
        (np.zeros(12, np.uint8), r"got uint8, \(12,\)"),
        (np.zeros((0, 5, 3), np.uint8), r"the image is empty \(got shape \(0, 5, 3\)\)"),
        (Image.new("RGB", (0, 3)), r"the image is empty \(got 0x3\)"),
        (Image.new("F", (2, 2)), "floating-point values"),
        (Image.fromarray(np.full((2, 2), 70000, np.int32)), "32-bit values"),
        (None, r"\(got NoneType\)"),
        (3.5, r"\(got float\)"),
        (b"", "the image: the file is empty"),
        (b"no picture", "the image: not a picture"),
    ],
)
def test_what_is_no_image_is_refused(image: object, message: str) -> None:
    with pytest.raises(MrcnnError, match=message) as caught:
        to_rgb(image)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_unknown_channel_order_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(MrcnnError, match=r"color must be 'bgr' or 'rgb' \(got 'hsv'\)"):
        to_rgb(picture, color="hsv")


@pytest.mark.parametrize("color", [None, 3, b"rgb", np.array(["rgb", "bgr"]), ["rgb"]])
def test_a_channel_order_that_is_no_text_is_refused(picture: np.ndarray, color: Any) -> None:
    with pytest.raises(MrcnnError, match=r"color must be 'bgr' or 'rgb' \(got \w+\)$"):
        to_rgb(picture, color=color)


def test_a_closed_picture_is_one_line() -> None:
    closed = Image.new("RGB", (4, 5))
    closed.close()
    with pytest.raises(MrcnnError, match=r"^the PIL image cannot be read: .*closed"):
        to_rgb(closed)


def test_too_little_memory_for_a_picture_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, picture: np.ndarray
) -> None:
    def fail(*_: Any) -> Any:
        raise MemoryError

    image = Image.fromarray(picture)
    image.save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "convert", fail)
    for given in (image, tmp_path / "a.png"):
        with pytest.raises(MrcnnError, match="not enough memory for"):
            to_rgb(given)


@pytest.mark.parametrize("error", [RuntimeError("no\nmore"), MemoryError(), ValueError("closed")])
def test_a_path_that_raises_is_one_line(error: Exception) -> None:
    class Unwilling:
        def __fspath__(self) -> str:
            raise error

    with pytest.raises(UnreadableError, match=r"^the image's path cannot be read: .+") as caught:
        to_rgb(Unwilling())
    assert "\n" not in str(caught.value)


def test_a_path_may_be_of_bytes(picture: np.ndarray, tmp_path: Path) -> None:
    class InBytes:
        def __fspath__(self) -> Any:
            return bytes(tmp_path / "a.png")

    Image.fromarray(picture).save(tmp_path / "a.png")
    assert (to_rgb(InBytes()) == picture).all()


def test_an_array_of_too_many_pixels_is_refused_as_a_file_is() -> None:
    huge = np.broadcast_to(np.zeros(3, np.uint8), (MAX_PIXELS + 1, 1, 3))
    for given in (huge, huge[..., 0]):
        with pytest.raises(MrcnnError, match="more than the 80 million pixels"):
            to_rgb(given)


def encoded(picture: np.ndarray, kind: str) -> bytes:
    noisy = picture + np.random.default_rng(0).integers(0, 40, picture.shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_refused(picture: np.ndarray, tmp_path: Path, kind: str) -> None:
    data = encoded(picture, kind)
    for share in (0.1, 0.5, 0.9):
        path = tmp_path / f"a.{kind.lower()}"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(UnreadableError, match=r"a\.\w+: (damaged picture|not a picture)") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_corrupt_files_never_raise_anything_else(picture: np.ndarray, kind: str) -> None:
    data = np.frombuffer(encoded(picture, kind), np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = data.copy()
        damaged[rng.integers(0, len(data), 30)] = rng.integers(0, 256, 30)
        try:
            read_image(damaged.tobytes())
        except UnreadableError:
            refused += 1
    assert refused > 0


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("hello")
    # Pillow would hand PostScript to Ghostscript.
    (tmp_path / "page.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    for name, message in {
        "empty.jpg": "the file is empty",
        "text.png": "not a picture",
        "page.jpg": "not a picture",
        "missing.jpg": "No such file or directory",
        ".": "Is a directory",
    }.items():
        with pytest.raises(UnreadableError, match=message):
            read_image(tmp_path / name)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_000, 12_000, 100_000])
def test_a_picture_that_claims_too_many_pixels_is_refused_unread(tmp_path: Path, side: int) -> None:
    assert side * side > MAX_PIXELS
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    (tmp_path / "bomb.png").write_bytes(png)
    with pytest.raises(UnreadableError, match="more than the 80 million pixels"):
        read_image(tmp_path / "bomb.png")
