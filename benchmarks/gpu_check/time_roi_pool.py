"""The timed RoIPool: that of VGG-16 on an image of 800x1344, against torchvision's CUDA operator."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from mrcnn.benchmarks.gpu_check import workloads
from mrcnn.benchmarks.gpu_check.compare import unequal_values
from mrcnn.benchmarks.gpu_check.device import Bench, Gpu
from mrcnn.benchmarks.gpu_check.isolate import Record, Task
from mrcnn.benchmarks.gpu_check.tables import REFERENCE
from mrcnn.benchmarks.gpu_check.timing import Contender, measure, sets_needed
from mrcnn.plugins.kernels import roi_pool_params

STRIDE, CHANNELS, ROIS, BINS = 16, 512, 300, 7


def roi_pool_time_tasks(bench: Bench, *, rounds: int) -> Iterator[Task]:
    for dtype in (torch.float16, torch.float32):
        name = f"RoIPool {str(dtype).removeprefix('torch.')} {ROIS} RoIs, {BINS}x{BINS}"
        yield Task(name=name, run=partial(time_roi_pool, bench, dtype, rounds))


def time_roi_pool(bench: Bench, dtype: torch.dtype, rounds: int, _: object) -> Record:
    gpu = bench.gpu
    one = _RoIPoolSet(gpu, dtype, 0)
    # The proposals cover the image, so that the whole map is read.
    floor_bytes = sum(tensor.nbytes for tensor in (one.features, one.rois, one.output))
    sets = sets_needed(gpu, floor_bytes)
    inputs = [one, *(_RoIPoolSet(gpu, dtype, seed) for seed in range(1, sets))]
    contenders = {
        "ours": Contender(partial(_call_ours, bench, inputs), capturable=True),
        REFERENCE: Contender(partial(_call_torchvision, inputs), capturable=False),
    }
    return {
        "failures": _compare(gpu, contenders, one),
        "floor_bytes": floor_bytes,
        "sets": sets,
        "contenders": measure(gpu, contenders, sets=sets, rounds=rounds, reference=REFERENCE),
    }


class _RoIPoolSet:
    """Features, RoIs and an output on the GPU."""

    def __init__(self, gpu: Gpu, dtype: torch.dtype, seed: int) -> None:
        size = tuple(side // STRIDE for side in workloads.IMAGE)
        generator = torch.Generator(gpu.place).manual_seed(seed)
        shape = (1, CHANNELS, *size)
        self.features = torch.randn(shape, generator=generator, device=gpu.place).to(dtype)
        self.rois = torch.from_numpy(workloads.proposals(ROIS, seed)).to(gpu.place)
        self.output = torch.zeros((ROIS, CHANNELS, BINS, BINS), dtype=dtype, device=gpu.place)
        self.params = roi_pool_params(
            shape=shape,
            rois_shape=(1, ROIS, 4),
            dtype=np.dtype(str(dtype).removeprefix("torch.")),
            output_size=(BINS, BINS),
            spatial_scale=1 / STRIDE,
        )


def _call_ours(bench: Bench, inputs: Sequence[_RoIPoolSet], number: int) -> None:
    one = inputs[number]
    addresses = one.features.data_ptr(), one.rois.data_ptr(), one.output.data_ptr()
    bench.kernels.roi_pool_cuda(one.params, *addresses, bench.gpu.stream())


def _call_torchvision(inputs: Sequence[_RoIPoolSet], number: int) -> torch.Tensor:
    from torchvision.ops import roi_pool

    one = inputs[number]
    pooled: torch.Tensor = roi_pool(
        one.features, [one.rois.to(one.features.dtype)], (BINS, BINS), spatial_scale=1 / STRIDE
    )
    return pooled


def _compare(gpu: Gpu, contenders: dict[str, Contender], one: _RoIPoolSet) -> list[str]:
    """A line, where both do not make the same of float32: torchvision rounds float16 corners in float16."""
    if one.features.dtype != torch.float32:
        return []
    one.output.fill_(float("nan"))
    contenders["ours"].call(0)
    theirs = contenders[REFERENCE].call(0)
    assert isinstance(theirs, torch.Tensor)
    gpu.synchronize()
    ours, expected = one.output.cpu().numpy(), theirs.cpu().numpy()
    line, _ = unequal_values(ours, expected, axes="roi channel y x", tolerance=0.0)
    return [] if line is None else [line]
