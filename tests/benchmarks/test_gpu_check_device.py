"""The GPU's stand-in that the tests of gpu-check share, and the memory that checks use.

`HostGpu` is the CPU in the place of the GPU, and `HostKernels` the CPU functions in the place of the CUDA
ones; `Meddling` makes mistakes that the checks must find.
"""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from mrcnn.benchmarks.gpu_check.device import GUARD, Bench, Buffer, Gpu, problems
from mrcnn.errors import MissingRequirementError
from mrcnn.plugins import interface
from mrcnn.plugins.kernels import Kernels, installed_kernels, kernels_path


class HostGpu(Gpu):
    """The CPU as a GPU: what is launched is done at once, a graph is the work itself."""

    place = "cpu"

    def synchronize(self) -> None:
        pass

    def stream(self) -> int:
        return 0

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        return lambda: (work(), None)[1]

    def mark(self) -> float:
        return time.perf_counter()

    def seconds_between(self, start: Any, end: Any) -> float:
        return float(end - start) + 1e-9

    def kernel_times(self, work: Callable[[], object], repeats: int) -> list[dict[str, Any]]:  # noqa: ARG002
        work()
        return [{"kernel": "host", "launches": 1.0, "us": 1.0}]

    def facts(self) -> dict[str, Any]:
        return {
            "name": "Host (no GPU)",
            "compute_capability": "9.0",
            "memory_bytes": 1 << 24,
            "multiprocessors": 1,
            "l2_bytes": 1 << 20,
            "torch_cuda": None,
        }


class HostKernels(Kernels):
    """The CPU functions under the names of the CUDA ones."""

    def __init__(self, path: Path | None = None) -> None:  # noqa: ARG002 - the installed ones serve all
        super().__init__(kernels_path())

    def roi_align_cuda(self, params: interface.RoIAlignParams, rois: int, output: int, stream: int) -> None:  # noqa: ARG002
        self.roi_align_cpu(params, rois, output)

    def roi_pool_cuda(
        self,
        params: interface.RoIPoolParams,
        features: int,
        rois: int,
        output: int,
        stream: int,  # noqa: ARG002
    ) -> None:
        self.roi_pool_cpu(params, features, rois, output)

    def nms_cuda_workspace(self, params: interface.NMSParams) -> int:
        return 64 * params.batch * params.candidates + 256

    def nms_cuda(self, params: interface.NMSParams, *_: int, **addresses: int) -> None:
        inputs = {name: addresses[name] for name in ("boxes", "scores", "group", "indices", "count")}
        self.nms_cpu(params, **inputs)

    def resize_cuda(self, params: interface.ResizeParams, source: int, output: int, stream: int) -> None:  # noqa: ARG002
        self.resize_cpu(params, source, output)


def require_kernels() -> None:
    """Skips the test where the native library is not built."""
    try:
        installed_kernels()
    except MissingRequirementError as error:
        pytest.skip(str(error))


@pytest.fixture
def bench() -> Bench:
    require_kernels()
    return Bench(HostGpu(), HostKernels())


class Meddling(HostKernels):
    """Kernels with a mistake: after each call `meddle` may change memory, given the arguments' addresses."""

    def __init__(
        self,
        roi_align: Callable[[interface.RoIAlignParams, int, int], None] | None = None,
        nms: Callable[[interface.NMSParams, dict[str, int]], None] | None = None,
        resize: Callable[[interface.ResizeParams, int, int], None] | None = None,
    ) -> None:
        super().__init__()
        self._roi_align, self._nms, self._resize = roi_align, nms, resize

    def roi_align_cuda(self, params: interface.RoIAlignParams, rois: int, output: int, stream: int) -> None:
        super().roi_align_cuda(params, rois, output, stream)
        if self._roi_align is not None:
            self._roi_align(params, rois, output)

    def nms_cuda(self, params: interface.NMSParams, *_: int, **addresses: int) -> None:
        super().nms_cuda(params, **addresses)
        if self._nms is not None:
            self._nms(params, addresses)

    def resize_cuda(self, params: interface.ResizeParams, source: int, output: int, stream: int) -> None:
        super().resize_cuda(params, source, output, stream)
        if self._resize is not None:
            self._resize(params, source, output)


def memory(address: int, count: int, dtype: Any) -> "np.ndarray[Any, Any]":
    """What lies at an address, to be read and changed."""
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype)


# Buffers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 2, 4, 8])
def test_a_buffer_returns_what_was_put_into_it(offset: int) -> None:
    array = np.arange(30, dtype=np.float32).reshape(5, 6)
    buffer = Buffer.of(HostGpu(), array, offset=offset)
    assert buffer.address % 16 == offset % 16
    assert buffer.size == array.nbytes
    np.testing.assert_array_equal(buffer.download((5, 6), np.float32), array)
    assert buffer.problem("array") is None


def test_a_download_is_a_copy() -> None:
    buffer = Buffer.of(HostGpu(), np.ones(4, np.int32))
    before = buffer.download((4,), np.int32)
    buffer.poison(0)
    assert before.tolist() == [1, 1, 1, 1]


def test_poison_fills_all_of_it() -> None:
    buffer = Buffer(HostGpu(), 8)
    buffer.poison(0xFF)
    assert np.isnan(buffer.download((2,), np.float32)).all()
    assert buffer.problem("output") is None


@pytest.mark.parametrize("place", [-1, -GUARD, 24, 24 + GUARD - 1])
def test_a_byte_written_outside_is_found(place: int) -> None:
    buffer = Buffer.of(HostGpu(), np.zeros(6, np.float32))
    memory(buffer.address + place, 1, np.uint8)[0] ^= 1
    assert buffer.problem("scores") == "scores: written outside of its memory"


def test_an_input_that_was_written_to_is_found() -> None:
    buffers = {"boxes": Buffer.of(HostGpu(), np.zeros(6, np.float32)), "scores": Buffer(HostGpu(), 8)}
    memory(buffers["boxes"].address, 6, np.float32)[3] = 1
    memory(buffers["scores"].address, 2, np.float32)[1] = 1  # an output: may be written
    assert problems(buffers) == ["boxes: an input was written to"]


def test_a_buffer_of_nothing_has_guards_still() -> None:
    buffer = Buffer.of(HostGpu(), np.zeros((0, 4), np.float32))
    assert buffer.download((0, 4), np.float32).shape == (0, 4)
    assert buffer.problem("boxes") is None
    memory(buffer.address, 1, np.uint8)[0] ^= 1
    assert buffer.problem("boxes") is not None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_facts_say_what_is_missing() -> None:
    with pytest.raises(MissingRequirementError, match=r"torch .* (finds no GPU|has no CUDA) on this machine"):
        Gpu().facts()
