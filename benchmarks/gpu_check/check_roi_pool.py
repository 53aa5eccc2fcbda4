"""RoIPool on the GPU against the CPU function and torchvision's: every value exactly, every byte, twice."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.benchmarks.gpu_check.compare import unequal_values
from mrcnn.benchmarks.gpu_check.device import Bench, Buffer, problems
from mrcnn.benchmarks.gpu_check.isolate import Record, Task
from mrcnn.plugins import interface
from mrcnn.plugins.kernels import Kernels, roi_pool_params

# NaN in both types, and a number: what the kernel leaves out differs between the runs.
_POISONS = (0xFF, 0x3C)


@dataclass(frozen=True)
class RoIPoolCase:
    """One call; RoIs have corners at halves of the map's pixels, where rounding decides.

    Attributes:
        strange: RoIs with NaN, infinite, inverted and far corners among them, which torchvision leaves open.
    """

    name: str = ""
    seed: int = 70_000
    dtype: str = "float32"
    batch: int = 2
    rois_per_image: int = 300
    channels: int = 70
    size: tuple[int, int] = (50, 84)
    output_size: tuple[int, int] = (7, 7)
    scale: float = 1 / 16
    strange: bool = False

    def parameters(self) -> interface.RoIPoolParams:
        return roi_pool_params(
            shape=(self.batch, self.channels, *self.size),
            rois_shape=(self.batch, self.rois_per_image, 4),
            dtype=np.dtype(self.dtype),
            output_size=self.output_size,
            spatial_scale=self.scale,
        )


def roi_pool_cases() -> Iterator[RoIPoolCase]:
    for dtype in ("float32", "float16"):
        base = RoIPoolCase(dtype=dtype)
        yield replace(base, name=dtype)
        yield replace(base, name=f"{dtype}, strange RoIs", strange=True)
        yield replace(base, name=f"{dtype}, 32x1 bins", output_size=(32, 1), channels=3)
        yield replace(base, name=f"{dtype}, another scale", scale=0.3, batch=1)
        yield replace(base, name=f"{dtype}, VGG-16 of 800x1344", channels=512, batch=1)
    yield RoIPoolCase(name="no RoIs", rois_per_image=0)
    yield RoIPoolCase(name="no images", batch=0)


@dataclass(frozen=True)
class Prepared:
    """A case's inputs and expected output."""

    case: RoIPoolCase
    features: "NDArray[Any]"
    rois: NDArray[np.float32]
    expected: "NDArray[Any]"


def roi_pool_tasks(bench: Bench) -> Iterator[Task]:
    for case in roi_pool_cases():
        yield Task(
            name=f"RoIPool {case.name}",
            prepare=partial(prepare, case, bench.kernels),
            run=partial(check, bench),
        )


def prepare(case: RoIPoolCase, kernels: Kernels) -> Prepared:
    generator = np.random.default_rng(case.seed)
    shape = (case.batch, case.channels, *case.size)
    features = generator.standard_normal(shape, np.float32).astype(case.dtype)
    extent = np.array(case.size[::-1]) * 2
    corner = generator.uniform(-0.2 * extent, extent, (case.batch, case.rois_per_image, 2))
    side = np.exp(generator.uniform(0, np.log(extent), corner.shape))
    rois = (np.round(np.concatenate([corner, corner + side], axis=2)) / 2 / case.scale).astype(np.float32)
    if case.strange:
        choices = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, -1e9, 0], np.float32)
        replaced = generator.random(rois.shape) < 0.2
        rois[replaced] = generator.choice(choices, int(replaced.sum()))
    rows = case.batch * case.rois_per_image
    expected = np.empty((rows, case.channels, *case.output_size), case.dtype)
    addresses = (features.ctypes.data, rois.ctypes.data, expected.ctypes.data)
    kernels.roi_pool_cpu(case.parameters(), *addresses)
    return Prepared(case, features, rois, expected)


def check(bench: Bench, prepared: Prepared) -> Record:
    expected = prepared.expected
    features, rois = (Buffer.of(bench.gpu, array) for array in (prepared.features, prepared.rois))
    output = Buffer(bench.gpu, expected.nbytes)
    results = []
    for byte in _POISONS:
        output.poison(byte)
        addresses = (features.address, rois.address, output.address)
        bench.kernels.roi_pool_cuda(prepared.case.parameters(), *addresses, bench.gpu.stream())
        bench.gpu.synchronize()
        results.append(output.download(expected.shape, expected.dtype))
    failures = _unequal(results[0], expected, "")
    if results[0].tobytes() != results[1].tobytes():
        failures.append("two runs differ: something is left unwritten, or races")
    if expected.size and not prepared.case.strange:
        failures += _unequal(results[0], _torchvisions(bench, prepared), "against torchvision: ")
    failures += problems({"features": features, "RoIs": rois, "output": output})
    return {"failures": failures, "case": prepared.case.name}


def _torchvisions(bench: Bench, prepared: Prepared) -> "NDArray[Any]":
    """In float32: torchvision rounds the corners of float16 RoIs in float16."""
    import torch
    from torchvision.ops import roi_pool

    case = prepared.case
    features, rois = (
        torch.from_numpy(array).float().to(bench.gpu.place) for array in (prepared.features, prepared.rois)
    )
    pooled = roi_pool(features, list(rois), case.output_size, case.scale)
    result: NDArray[Any] = pooled.cpu().numpy().reshape(prepared.expected.shape).astype(case.dtype)
    return result


def _unequal(got: "NDArray[Any]", expected: "NDArray[Any]", what: str) -> list[str]:
    if got.tobytes() == expected.tobytes():
        return []
    line, _ = unequal_values(got, expected, axes="roi channel y x", tolerance=0.0)
    return [] if line is None else [what + line]
