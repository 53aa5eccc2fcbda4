"""The timed resizes: one launch of ours against what torchvision's transform makes of an image on the GPU."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from mrcnn.benchmarks.gpu_check import workloads
from mrcnn.benchmarks.gpu_check.compare import unequal_values
from mrcnn.benchmarks.gpu_check.device import Bench, Gpu
from mrcnn.benchmarks.gpu_check.isolate import Record, Task
from mrcnn.benchmarks.gpu_check.resize_cases import Dtype, Size
from mrcnn.benchmarks.gpu_check.tables import REFERENCE
from mrcnn.benchmarks.gpu_check.timing import Contender, measure, sets_needed
from mrcnn.plugins.kernels import resize_params

# torch's CUDA code lets the compiler fuse where positions are computed, which moves them by up to 1e-4 pixels
# between neighbours that differ by up to 255. Values close to a half are then rounded to neighbouring bytes.
_TOLERANCE = {"float32": 0.05, "uint8": 1.0}


@dataclass(frozen=True)
class ResizeLoad:
    """Sizes as (height, width), and the type of the output."""

    source: Size
    target: Size
    padded: Size
    dtype: Dtype

    @property
    def name(self) -> str:
        sizes = (f"{height}x{width}" for height, width in (self.source, self.target, self.padded))
        return "Resize {} to {} in {}, ".format(*sizes) + self.dtype


LOADS = (
    ResizeLoad((1080, 1920), (750, 1333), (768, 1344), "float32"),
    ResizeLoad((480, 640), (800, 1066), (800, 1088), "float32"),
    ResizeLoad((1080, 1920), (750, 1333), (768, 1344), "uint8"),
)


def resize_time_tasks(bench: Bench, *, rounds: int, quick: bool) -> Iterator[Task]:
    for load in LOADS[:1] if quick else LOADS:
        yield Task(name=load.name, run=partial(time_resize, bench, load, rounds))


def time_resize(bench: Bench, load: ResizeLoad, rounds: int, _: object) -> Record:
    gpu = bench.gpu
    output_bytes = 3 * load.padded[0] * load.padded[1] * np.dtype(load.dtype).itemsize
    floor_bytes = 3 * workloads.sampled_pixels(load.source, load.target) + output_bytes
    sets = sets_needed(gpu, floor_bytes)
    inputs = [_ResizeSet(gpu, load, seed) for seed in range(sets)]
    contenders = {
        "ours": Contender(partial(_call_resize, bench, inputs), capturable=True),
        REFERENCE: Contender(partial(_call_torchvision, load, inputs), capturable=False),
    }
    return {
        "failures": _compare(gpu, load, contenders, inputs[0]),
        "floor_bytes": floor_bytes,
        "sets": sets,
        "contenders": measure(gpu, contenders, sets=sets, rounds=rounds, reference=REFERENCE),
    }


class _ResizeSet:
    """An image of noise and its output on the GPU."""

    def __init__(self, gpu: Gpu, load: ResizeLoad, seed: int) -> None:
        generator = torch.Generator(gpu.place).manual_seed(seed)
        shape = (*load.source, 3)
        self.image = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8, device=gpu.place)
        self.output = torch.zeros((*load.padded, 3), dtype=getattr(torch, load.dtype), device=gpu.place)
        self.params = resize_params(shape=shape, target=load.target, padded=load.padded, dtype=load.dtype)


def _call_resize(bench: Bench, inputs: Sequence[_ResizeSet], number: int) -> None:
    one = inputs[number]
    addresses = one.image.data_ptr(), one.output.data_ptr()
    bench.kernels.resize_cuda(one.params, *addresses, bench.gpu.stream())


def _call_torchvision(load: ResizeLoad, inputs: Sequence[_ResizeSet], number: int) -> torch.Tensor:
    """As GeneralizedRCNNTransform resizes and batches, planes of channels; (1, 3, *padded)."""
    image = inputs[number].image
    planes = image.permute(2, 0, 1)[None].to(torch.float32)
    resized = torch.nn.functional.interpolate(planes, load.target, mode="bilinear", align_corners=False)
    if load.dtype == "uint8":
        resized = resized.round().to(torch.uint8)
    batch = resized.new_zeros((1, 3, *load.padded))
    batch[..., : load.target[0], : load.target[1]].copy_(resized)
    return batch


def _compare(gpu: Gpu, load: ResizeLoad, contenders: dict[str, Contender], one: _ResizeSet) -> list[str]:
    """A line, where both do not make the same of an image: what is fast must be right."""
    one.output.fill_(77)
    contenders["ours"].call(0)
    theirs = contenders[REFERENCE].call(0)
    assert isinstance(theirs, torch.Tensor)
    gpu.synchronize()
    expected = np.moveaxis(theirs[0].cpu().numpy(), 0, -1)
    tolerance = _TOLERANCE[load.dtype]
    line, _ = unequal_values(one.output.cpu().numpy(), expected, axes="y x channel", tolerance=tolerance)
    return [] if line is None else [line]
