"""The resize on the CPU: by hand, and bit by bit against `mrcnn.runtime.preprocess`, which NumPy computes."""

import ctypes
import mmap
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from mrcnn.plugins import interface
from mrcnn.plugins.kernels import KernelError, Kernels, installed_kernels, resize_params
from mrcnn.runtime.preprocess import make_batch

Dtype = Literal["float32", "uint8"]
Size = tuple[int, int]

_PROT_NONE = 0  # of sys/mman.h


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return installed_kernels()


def gray(rows: Any) -> NDArray[np.uint8]:
    """(h, w, 3): in channel c the value plus c."""
    return np.add.outer(np.asarray(rows), np.arange(3)).astype(np.uint8)


def values(kernels: Kernels, rows: Any, target: Size, dtype: Dtype = "float32") -> list[list[float]]:
    """What becomes of a gray image, after the channels have been compared with each other."""
    result = kernels.resize(gray(rows), target=target, padded=target, dtype=dtype)
    assert (result == result[..., :1] + np.arange(3, dtype=dtype)).all()
    numbers: list[list[float]] = result[..., 0].tolist()
    return numbers


def expected(image: NDArray[np.uint8], target: Size, padded: Size, dtype: Dtype) -> NDArray[Any]:
    """What the runtime's NumPy code makes of it."""
    batch, _ = make_batch([image], resized=[target], padded=padded, batch=1, dtype=dtype)
    result: NDArray[Any] = batch[0]
    return result


def noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (height, width, 3), np.uint8)


class FencedImage:
    """A copy of an image behind whose last byte the process has no memory."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        inside = -(-image.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._pages = mmap.mmap(-1, inside + mmap.PAGESIZE)
        whole = np.frombuffer(self._pages, np.uint8)
        mprotect = ctypes.CDLL(None, use_errno=True).mprotect
        mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        assert mprotect(whole.ctypes.data + inside, mmap.PAGESIZE, _PROT_NONE) == 0
        self.array = whole[inside - image.nbytes : inside].reshape(image.shape)
        self.array[:] = image


# By hand -------------------------------------------------------------------------------------------------


def test_one_pixel_is_repeated(kernels: Kernels) -> None:
    assert values(kernels, [[7]], (1, 1)) == [[7]]
    assert values(kernels, [[7]], (3, 2)) == [[7, 7]] * 3


def test_twice_as_large(kernels: Kernels) -> None:
    """Pixels lie at -1/4, 1/4, 3/4 and 5/4 of the source, which ends at 0 and 1."""
    assert values(kernels, [[0, 100], [200, 40]], (4, 4)) == [
        [0, 25, 75, 100],
        [50, 58.75, 76.25, 85],
        [150, 126.25, 78.75, 55],
        [200, 160, 80, 40],
    ]


def test_half_as_large_is_the_mean_of_four(kernels: Kernels) -> None:
    rows = [[0, 4, 8, 12], [20, 24, 28, 32], [1, 1, 2, 2], [3, 3, 250, 250]]
    assert values(kernels, rows, (2, 2)) == [[12, 20], [2, 126]]


def test_a_third_is_every_third_pixel(kernels: Kernels) -> None:
    """Without antialiasing, as torch by default."""
    assert values(kernels, [[9, 1, 9, 9, 4, 9]], (1, 2)) == [[1, 4]]


def test_the_same_size_changes_nothing(kernels: Kernels) -> None:
    image = noise(np.random.default_rng(0), 5, 7)
    for dtype in ("float32", "uint8"):
        assert (kernels.resize(image, target=(5, 7), padded=(5, 7), dtype=dtype) == image).all()


def test_bytes_are_rounded_halves_to_even(kernels: Kernels) -> None:
    pairs = [[0, 1], [1, 2], [2, 3], [251, 252]]
    assert values(kernels, pairs, (4, 1)) == [[0.5], [1.5], [2.5], [251.5]]
    means = [kernels.resize(gray([pair]), target=(1, 1), padded=(1, 1), dtype="uint8") for pair in pairs]
    assert [mean[0, 0].tolist() for mean in means] == [[0, 2, 2], [2, 2, 4], [2, 4, 4], [252, 252, 254]]


def test_what_is_not_target_is_zero(kernels: Kernels) -> None:
    result = kernels.resize(np.full((2, 2, 3), 9, np.uint8), target=(2, 3), padded=(4, 5))
    assert result.shape == (4, 5, 3)
    assert (result[:2, :3] == 9).all()
    result[:2, :3] = 0
    assert not result.any()


def test_swapping_turns_bgr_to_rgb(kernels: Kernels) -> None:
    pixel = np.array([[[10, 20, 30]]], np.uint8)
    swapped = kernels.resize(pixel, target=(1, 6), padded=(1, 6), swap_channels=True)
    assert swapped.tolist() == [[[30, 20, 10]] * 6]


# Against the runtime's NumPy code ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_numpy_bit_by_bit(kernels: Kernels, seed: int, dtype: Dtype) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(100):
        height, width, *target = map(int, rng.integers(1, 120, 4))
        size = (target[0], target[1])
        padded = (size[0] + int(rng.integers(0, 5)), size[1] + int(rng.integers(0, 5)))
        gap, swap = int(rng.integers(0, 3)), bool(rng.integers(0, 2))
        image = noise(rng, height, width + gap)[:, :width]
        ours = kernels.resize(image, target=size, padded=padded, swap_channels=swap, dtype=dtype)
        theirs = expected(image[..., ::-1] if swap else image, size, padded, dtype)
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes(), (image.shape, size, padded, gap, swap)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((480, 640), (800, 1066)),
        ((1080, 1920), (750, 1333)),
        ((1200, 1600), (80, 100)),
        ((1, 1000), (7, 3)),
        ((1000, 1), (3, 7)),
        ((3, 100_000), (2, 65_535)),  # positions have few bits left of the point
        ((70_000, 2), (65_535, 1)),
        ((2, 3), (1000, 1001)),
    ],
)
def test_equals_numpy_in_large(kernels: Kernels, source: Size, target: Size) -> None:
    image = noise(np.random.default_rng(source[0]), *source)
    ours = kernels.resize(image, target=target, padded=target)
    assert ours.tobytes() == expected(image, target, target, "float32").tobytes()


@pytest.mark.parametrize("width", range(1, 8))
@pytest.mark.parametrize("swap", [False, True])
def test_nothing_behind_the_last_pixel_is_read(kernels: Kernels, width: int, swap: bool) -> None:
    """Pixels are loaded four bytes at a time, which the last one of an image does not have."""
    image = FencedImage(noise(np.random.default_rng(width), 3, width)).array
    for target in ((3, width), (1, 1), (5, 20), (2, 3)):
        ours = kernels.resize(image, target=target, padded=target, swap_channels=swap)
        theirs = expected(image[..., ::-1] if swap else image, target, target, "float32")
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[::-1],
        lambda image: image[:, ::-1],
        lambda image: image[..., ::-1],
        lambda image: image[::2, ::3],
        lambda image: image[3:9, 2:8],
        lambda image: image[5:6],
        lambda image: image[:, 5:6],
        lambda image: np.asfortranarray(image),
        lambda image: image.transpose(1, 0, 2),
        lambda image: np.broadcast_to(image[:1], image.shape),
    ],
)
def test_views_are_images_too(kernels: Kernels, view: Any) -> None:
    image = view(noise(np.random.default_rng(1), 14, 11))
    ours = kernels.resize(image, target=(9, 10), padded=(9, 10))
    assert ours.tobytes() == expected(np.ascontiguousarray(image), (9, 10), (9, 10), "float32").tobytes()


# Refusals ------------------------------------------------------------------------------------------------


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"source_height": 0}, "the source must have 1 to 2^24 rows and columns (got height 0, width 4)"),
    ({"source_width": 0}, "(got height 3, width 0)"),
    ({"source_height": -1}, "(got height -1, width 4)"),
    ({"source_height": 2**24 + 1}, "(got height 16777217, width 4)"),
    ({"source_width": 2**31 - 1}, "(got height 3, width 2147483647)"),
    ({"source_pitch": 11}, "source_pitch must be at least the 12 bytes of a row, and below 2^31 (got 11)"),
    ({"source_pitch": 0}, "(got 0)"),
    ({"source_pitch": -12}, "(got -12)"),
    ({"source_pitch": 2**31}, "(got 2147483648)"),
    ({"source_pitch": 2**32 + 12}, "(got 4294967308)"),
    ({"target_height": 0}, "the target must have 1 to 65535 rows and columns (got height 0, width 6)"),
    ({"target_width": -3}, "(got height 5, width -3)"),
    ({"target_height": 65536, "padded_height": 65536}, "the target must have 1 to 65535 rows"),
    ({"padded_height": 4}, "the padded size must be at least the target's, and at most 65535 (got height 4"),
    ({"padded_width": 5}, "(got height 7 for 5, width 5 for 6)"),
    ({"padded_width": 65536}, "(got height 7 for 5, width 65536 for 6)"),
    ({"padded_height": 2**31 - 1}, "(got height 2147483647 for 5, width 8 for 6)"),
    ({"swap_channels": 2}, "swap_channels must be 0 or 1 (got 2)"),
    ({"swap_channels": -1}, "swap_channels must be 0 or 1 (got -1)"),
    ({"output_type": interface.FLOAT16}, "the output must be float32 or uint8 (got type 1)"),
    ({"output_type": 3}, "the output must be float32 or uint8 (got type 3)"),
    ({"source": 0}, "source is null"),
    ({"output": 0}, "output is null"),
    ({"shift": 2}, "float32 output is not aligned to 4 bytes"),
    ({"params": None}, "params is null"),
]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("changed", "words"), WRONG)
def test_wrong_calls_are_refused_before_memory_is_touched(
    kernels: Kernels, device: str, changed: dict[str, Any], words: str
) -> None:
    if device == "cuda" and "CUDA" not in kernels.build_info:
        pytest.skip("the kernels were built without nvcc")
    params = resize_params(shape=(3, 4, 3), target=(5, 6), padded=(7, 8))
    for name, value in changed.items():
        if hasattr(params, name):
            setattr(params, name, value)
    image, output = np.zeros((3, 4, 3), np.uint8), np.full((7, 9, 3), 5, np.float32)
    pointers = {"source": image.ctypes.data, "output": output.ctypes.data + changed.get("shift", 0)}
    pointers |= {name: value for name, value in changed.items() if name in pointers}
    call: Any = kernels.resize_cpu
    if device == "cuda":
        call, pointers = kernels.resize_cuda, {**pointers, "stream": 0}
    with pytest.raises(KernelError) as caught:
        call(changed.get("params", params), **pointers)
    assert str(caught.value).startswith("Resize: ")
    assert words in str(caught.value)
    assert (output == 5).all()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"image": np.zeros((4, 4), np.uint8)}, r"the image must be (h, w, 3) (got (4, 4))"),
        ({"image": np.zeros((4, 4, 4), np.uint8)}, "the image must be (h, w, 3) (got (4, 4, 4))"),
        ({"image": np.zeros((1, 4, 4, 3), np.uint8)}, "the image must be (h, w, 3) (got (1, 4, 4, 3))"),
        ({"image": np.zeros((4, 4, 3), np.float32)}, "the image must be uint8 (got float32)"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, "the source must have 1 to 2^24 rows and columns"),
        ({"image": np.zeros((4, 0, 3), np.uint8)}, "the source must have 1 to 2^24 rows and columns"),
        ({"dtype": np.float16}, "the output must be float32 or uint8 (got float16)"),
        ({"dtype": np.int8}, "the output must be float32 or uint8 (got int8)"),
        ({"target": (0, 3)}, "the target must have 1 to 65535 rows and columns"),
        ({"target": (6, 3)}, "the padded size must be at least the target's"),
        ({"padded": (-1, 5)}, "the padded size must be at least the target's"),
        (
            {"padded": (2**31 - 1, 2**31 - 1)},
            "the padded size must be at least the target's, and at most 65535",
        ),
        ({"target": (2**32 + 3, 3)}, "target_height must be a whole number of 32 bits (got 4294967299)"),
        ({"target": (3, 2.5)}, "target_width must be a whole number of 32 bits (got 2.5)"),
        ({"padded": (5, 5, 3)}, "target and padded must be (height, width) (got (3, 3) and (5, 5, 3))"),
        ({"swap_channels": 7}, "swap_channels must be 0 or 1 (got 7)"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    kernels: Kernels, changed: dict[str, Any], words: str
) -> None:
    arguments: dict[str, Any] = {"image": np.zeros((4, 4, 3), np.uint8), "target": (3, 3), "padded": (5, 5)}
    with pytest.raises(KernelError) as caught:
        kernels.resize(**(arguments | changed))
    assert str(caught.value).startswith("Resize: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_parameters_of_an_image_without_gaps() -> None:
    params = resize_params(shape=(3, 4, 3), target=(5, 6), padded=(7, 8), swap_channels=True, dtype="uint8")
    told = {name: getattr(params, name) for name, *_ in params._fields_}
    assert told == {
        "source_height": 3,
        "source_width": 4,
        "source_pitch": 12,
        "target_height": 5,
        "target_width": 6,
        "padded_height": 7,
        "padded_width": 8,
        "swap_channels": 1,
        "output_type": interface.UINT8,
    }
    assert resize_params(shape=(3, 4, 3), target=(5, 6), padded=(7, 8), pitch=64).source_pitch == 64
