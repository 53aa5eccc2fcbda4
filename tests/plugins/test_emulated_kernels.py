"""The CUDA kernels on an emulated GPU, in several orders of their threads, against the CPU functions.

`emulation/` says what this shows and what it does not. On a GPU `make gpu-check` runs the kernels themselves.
"""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mrcnn.plugins import interface
from mrcnn.plugins.kernels import (
    Kernels,
    resize_params,
    roi_align_params,
    roi_pool_params,
    stored_channels,
)
from tests.plugins.emulation.build import as_cpp, build
from tests.plugins.test_resize import Dtype, FencedImage, Size, expected, noise
from tests.plugins.test_roi_align import SCALES, STRANGE, pyramid, random_rois, to_channels_last

# The kernel adds the four products of a sample in the same order; sums are equal, too.
TOLERANCE = 1e-6

_GUARD = 64
_POISON = 0xA5


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("emulation"))


@pytest.fixture(scope="module")
def emulated(library: Path) -> Kernels:
    return Kernels(library)


@pytest.fixture(params=[0, 1, 2], ids=["ascending", "descending", "shuffled"])
def order(request: pytest.FixtureRequest, library: Path) -> Iterator[None]:
    """Results must not depend on the order in which threads take turns."""
    set_order = ctypes.CDLL(str(library)).mrcnnEmulationOrder
    set_order(request.param)
    yield
    set_order(0)


class Guarded:
    """Memory aligned to 64 bytes, moved on by `offset` bytes, poisoned, with guard bytes on both sides."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, offset: int = 0) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._room = np.full(size + offset + 3 * _GUARD, _POISON, np.uint8)
        start = -self._room.ctypes.data % _GUARD + _GUARD + offset
        self._outside = np.r_[0:start, start + size : len(self._room)]
        self.array = self._room[start : start + size].view(dtype).reshape(shape)
        self.address = self.array.ctypes.data

    def check(self) -> None:
        assert (self._room[self._outside] == _POISON).all(), "written outside"


# RoIAlign ------------------------------------------------------------------------------------------------

ROI_ALIGN_CASES = [
    # dtype, channels, feature layout, output layout, levels, batch, output size, sampling, aligned, mode
    (np.float32, 5, "linear", "linear", 4, 2, 7, 2, False, "avg"),
    (np.float32, 5, "linear", "linear", 1, 1, 14, 0, True, "max"),
    (np.float16, 9, "linear", "linear", 2, 1, 3, 3, False, "max"),
    (np.float16, 2, "linear", "linear", 3, 3, 1, 0, False, "avg"),
    (np.float32, 12, "channels_last", "linear", 3, 2, 7, 2, False, "avg"),
    (np.float32, 12, "channels_last", "channels_last", 3, 2, 7, 0, False, "max"),
    (np.float32, 6, "channels_last", "linear", 2, 1, 5, 2, True, "avg"),  # does not fill up vectors
    (np.float32, 7, "channels_last", "channels_last", 2, 1, 5, 2, False, "max"),
    (np.float16, 13, "channels_last", "linear", 4, 1, 7, 0, True, "avg"),
    (np.float16, 13, "channels_last", "channels_last", 2, 2, 7, 2, False, "avg"),
    (np.float16, 16, "channels_last", "linear", 5, 1, 14, 2, False, "max"),
    (np.float16, 8, "channels_last", "channels_last", 1, 1, 2, 4, True, "max"),
    (np.float16, 700, "channels_last", "linear", 1, 1, 7, 1, False, "avg"),  # three slabs of channels
    (np.float32, 300, "channels_last", "linear", 1, 1, 8, 1, False, "avg"),
    (np.float32, 300, "linear", "linear", 1, 1, 8, 1, False, "avg"),
    (np.float16, 24, "channels_last", "linear", 1, 1, 32, 1, False, "avg"),  # the largest output
    (np.float16, 8, "channels_last", "linear", 2, 1, 4, 33, True, "avg"),  # too many samples for the tables
]


@pytest.mark.parametrize("case", ROI_ALIGN_CASES, ids=lambda case: "-".join(map(str, case[1:])))
@pytest.mark.usefixtures("order")
def test_roi_align_equals_the_cpu(emulated: Kernels, case: tuple[Any, ...]) -> None:
    dtype, channels, layout, output_layout, levels, batch, size, sampling_ratio, aligned, mode = case
    rng = np.random.default_rng(channels)
    features = [x.astype(dtype) for x in pyramid(rng, levels=levels, batch=batch, channels=channels, size=64)]
    strange = np.array(list(STRANGE.values()), np.float32) if channels < 20 else np.zeros((0, 4), np.float32)
    rois = random_rois(rng, batch=batch, count=6, size=64)
    rois = np.concatenate([rois, np.broadcast_to(strange, (batch, *strange.shape))], axis=1)
    stored = stored_channels(channels, np.dtype(dtype), layout)
    held = features if layout == "linear" else [to_channels_last(x, stored, fill=np.nan) for x in features]
    params = roi_align_params(
        shapes=[x.shape for x in features],
        rois_shape=rois.shape,
        dtype=np.dtype(dtype),
        addresses=[x.ctypes.data for x in held],
        output_size=size,
        spatial_scales=SCALES[:levels],
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        mode=mode,
        canonical_size=112,
        canonical_level=3,
        feature_layout=layout,
        output_layout=output_layout,
    )
    rows = batch * rois.shape[1]
    last = output_layout == "channels_last"
    shape = (rows, size, size, stored) if last else (rows, channels, size, size)
    ours, expected, given = Guarded(shape, dtype), Guarded(shape, dtype), Guarded(rois.shape, np.float32)
    given.array[:] = rois
    emulated.roi_align_cuda(params, given.address, ours.address, 0)
    emulated.roi_align_cpu(params, given.address, expected.address)
    ours.check()
    assert np.abs(ours.array.astype(np.float64) - expected.array).max() <= TOLERANCE


# RoIPool -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "batch", "channels", "output_size"),
    [
        (np.float32, 2, 5, (7, 7)),
        (np.float16, 1, 130, (7, 7)),  # three slabs of channels, the last one not full
        (np.float32, 3, 64, (1, 1)),
        (np.float32, 1, 2, (32, 32)),
        (np.float16, 2, 3, (3, 5)),
    ],
)
@pytest.mark.usefixtures("order")
def test_roi_pool_equals_the_cpu_bit_by_bit(
    emulated: Kernels, dtype: Any, batch: int, channels: int, output_size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(channels)
    features = rng.standard_normal((batch, channels, 9, 14), np.float32).astype(dtype)
    features[:, :, 2, 3] = np.nan
    rois = random_rois(rng, batch=batch, count=8, size=64)
    strange = np.array(list(STRANGE.values()), np.float32)
    rois = np.concatenate([rois, np.broadcast_to(strange, (batch, *strange.shape))], axis=1)
    params = roi_pool_params(
        shape=features.shape,
        rois_shape=rois.shape,
        dtype=features.dtype,
        output_size=output_size,
        spatial_scale=1 / 8,
    )
    shape = (batch * rois.shape[1], channels, *output_size)
    ours, expected, given = Guarded(shape, dtype), Guarded(shape, dtype), Guarded(rois.shape, np.float32)
    given.array[:] = rois
    emulated.roi_pool_cuda(params, features.ctypes.data, given.address, ours.address, 0)
    emulated.roi_pool_cpu(params, features.ctypes.data, given.address, expected.address)
    ours.check()
    assert ours.array.tobytes() == expected.array.tobytes()


# NMS -----------------------------------------------------------------------------------------------------


def crowd(
    rng: np.random.Generator, *, batch: int, count: int, groups: int, tied: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Boxes that overlap, scores from -1 to 1, groups of either sign; with NaN among the first two."""
    corner = rng.uniform(0, 200 if count > 100 else 40, (batch, count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 40, (batch, count, 2))], axis=2).astype(
        np.float32
    )
    scores = rng.uniform(-1, 1, (batch, count)).astype(np.float32)
    boxes[scores < -0.95] = np.nan
    scores[np.abs(scores) < 0.02] = np.nan
    if tied:
        scores = np.round(scores, 1)
    return boxes, scores, rng.integers(-groups, groups, (batch, count)).astype(np.int32)


def both(
    emulated: Kernels, boxes: Any, scores: Any, group: Any, *, iou: float, score: float, keep: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Runs the emulated kernels, and asserts that the CPU's result is the same."""
    batch, count = scores.shape
    params = interface.NMSParams(batch, count, keep, iou, score)
    size = emulated.nms_cuda_workspace(params)
    given, indices = Guarded(boxes.shape, np.float32), Guarded((batch, keep), np.int32)
    counts, workspace = Guarded((batch,), np.int32), Guarded((size,), np.uint8)
    given.array[:] = boxes
    emulated.nms_cuda(
        params,
        given.address,
        scores.ctypes.data,
        group.ctypes.data,
        indices.address,
        counts.address,
        workspace.address,
        size,
        0,
    )
    for memory in (indices, counts, workspace):
        memory.check()
    expected = emulated.nms(boxes, scores, group, iou_threshold=iou, score_threshold=score, max_output=keep)
    assert indices.array.tolist() == expected[0].tolist()
    assert counts.array.tolist() == expected[1].tolist()
    return expected


@pytest.mark.parametrize("count", [1, 31, 32, 33, 700, 1023, 1024, 1025, 2500])
@pytest.mark.parametrize("groups", [1, 3, 400])
@pytest.mark.usefixtures("order")
def test_nms_equals_the_cpu(emulated: Kernels, count: int, groups: int) -> None:
    """Groups of up to three tiles, buckets of several groups, images beside each other."""
    rng = np.random.default_rng(count + groups)
    batch = 1 + (count + groups) % 3
    for keep, score, iou in ((1, -2.0, 0.5), (count, -2.0, 0.7), (100, 0.5, 0.0), (3000, 0.0, 1.0)):
        case = crowd(rng, batch=batch, count=count, groups=groups, tied=keep == count)
        both(emulated, *case, iou=iou, score=score, keep=keep)


@pytest.mark.usefixtures("order")
def test_a_chain_of_overlaps_is_resolved_link_by_link(emulated: Kernels) -> None:
    """Each box overlaps the next only, so that every second one is kept: the most rounds a warp can need."""
    count = 1500
    left = np.arange(count, dtype=np.float32) * 4
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=1)[None]
    scores = np.linspace(1, 0.1, count, dtype=np.float32)[None]
    indices, _ = both(emulated, boxes, scores, np.zeros((1, count), np.int32), iou=0.4, score=0.0, keep=count)
    assert indices[0, : count // 2].tolist() == list(range(0, count, 2))


def test_a_later_tile_sees_what_the_earlier_ones_kept(emulated: Kernels) -> None:
    box = np.array([0, 0, 10, 10], np.float32)
    boxes = np.tile(box, (1, 3000, 1))
    boxes[0, :1024] += np.arange(1024, dtype=np.float32)[:, None] * 20  # the first tile: all apart
    scores = np.linspace(1, 0.1, 3000, dtype=np.float32)[None]
    _, count = both(emulated, boxes, scores, np.zeros((1, 3000), np.int32), iou=0.5, score=0.0, keep=2000)
    assert count.tolist() == [1024]


@pytest.mark.usefixtures("order")
def test_more_candidates_than_the_last_kernel_looks_at_in_one_round(emulated: Kernels) -> None:
    count = 17_000
    case = crowd(np.random.default_rng(4), batch=1, count=count, groups=300, tied=False)
    both(emulated, *case, iou=0.3, score=-2.0, keep=count)


def test_when_nothing_takes_part_nothing_is_kept(emulated: Kernels) -> None:
    boxes, scores, group = crowd(np.random.default_rng(0), batch=2, count=50, groups=3, tied=False)
    _, count = both(emulated, boxes, scores, group, iou=0.5, score=2.0, keep=7)
    assert count.tolist() == [0, 0]


def test_no_candidates(emulated: Kernels) -> None:
    indices, counts = Guarded((3, 5), np.int32), Guarded((3,), np.int32)
    params = interface.NMSParams(3, 0, 5, 0.5, 0.0)
    emulated.nms_cuda(params, 0, 0, 0, indices.address, counts.address, 0, 0, 0)
    assert not indices.array.any()
    assert not counts.array.any()
    indices.check()


# Resize --------------------------------------------------------------------------------------------------

RESIZE_CASES: list[tuple[Size, Size, Size]] = [
    # source, target, padded
    ((1, 1), (1, 1), (1, 1)),
    ((2, 2), (4, 4), (4, 4)),
    ((5, 7), (5, 7), (5, 7)),
    ((9, 13), (4, 5), (6, 9)),  # rows of 27 values, each begins elsewhere in a vector
    ((9, 13), (4, 5), (6, 10)),
    ((9, 13), (4, 5), (4, 11)),
    ((9, 13), (4, 5), (6, 8)),
    ((4, 300), (3, 200), (5, 352)),  # more than one block a row, the last of padding alone
    ((3, 1), (2, 171), (2, 171)),  # 513 values, one more than a block has
    ((1, 90), (2, 170), (2, 170)),
    ((40, 50), (1, 1), (3, 3)),
]


@pytest.mark.parametrize("case", RESIZE_CASES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.usefixtures("order")
def test_resize_equals_numpy_bit_by_bit(
    emulated: Kernels, case: tuple[Size, Size, Size], dtype: Dtype, swap: bool
) -> None:
    source, target, padded = case
    for shift in range(4):  # places where the output may begin, in values
        gap = 5 * shift
        given = Guarded((source[0], 3 * source[1] + gap), np.uint8, offset=shift)
        ours = Guarded((*padded, 3), dtype, offset=shift * np.dtype(dtype).itemsize)
        image = noise(np.random.default_rng(shift), *source)
        given.array[:, : 3 * source[1]] = image.reshape(source[0], -1)
        params = resize_params(
            shape=image.shape,
            pitch=given.array.strides[0],
            target=target,
            padded=padded,
            swap_channels=swap,
            dtype=dtype,
        )
        emulated.resize_cuda(params, given.address, ours.address, 0)
        ours.check()
        given.check()
        theirs = expected(image[..., ::-1] if swap else image, target, padded, dtype)
        assert ours.array.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("width", range(1, 7))
def test_resize_reads_nothing_behind_the_source(emulated: Kernels, width: int) -> None:
    image = FencedImage(noise(np.random.default_rng(width), 2, width)).array
    for size in ((2, width), (1, 1), (3, 11), (2, 12), (1, 13)):
        output = np.empty((*size, 3), np.float32)
        params = resize_params(shape=image.shape, target=size, padded=size)
        emulated.resize_cuda(params, image.ctypes.data, output.ctypes.data, 0)
        assert output.tobytes() == expected(image, size, size, "float32").tobytes()


# The emulation itself ------------------------------------------------------------------------------------


def test_launches_become_calls() -> None:
    source = "kernel<T, 3><<<dim3(a, f(b, c)), n, bytes, stream>>>(x,\n y);"
    assert (
        as_cpp(source)
        == "mrcnn::emulation::launch(dim3(a, f(b, c)), n, bytes, [&] { kernel<T, 3>(x,\n y); });"
    )


def test_dynamic_shared_memory_becomes_a_pointer() -> None:
    source = as_cpp("extern __shared__ uint4 tile[];")
    assert source == "uint4* const tile = static_cast<uint4*>(mrcnn::emulation::dynamic_shared());"
