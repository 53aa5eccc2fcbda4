"""RoIAlign on the GPU against the CPU function: every value, every byte that is written, twice."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.benchmarks.gpu_check.compare import unequal_values
from mrcnn.benchmarks.gpu_check.device import Bench, Buffer, problems
from mrcnn.benchmarks.gpu_check.isolate import Record, Task
from mrcnn.benchmarks.gpu_check.roi_align_cases import RoIAlignCase, features_of, rois_of, stored
from mrcnn.plugins import interface
from mrcnn.plugins.kernels import Kernels

# NaN in both types, and a number: what the kernel leaves out differs between the runs, whatever it should be.
_POISONS = (0xFF, 0x3C)

AXES = {"linear": "roi channel y x", "channels_last": "roi y x channel"}


@dataclass(frozen=True)
class Prepared:
    """A case's inputs and expected output, as they lie in memory."""

    case: RoIAlignCase
    levels: "tuple[NDArray[Any], ...]"
    rois: NDArray[np.float32]
    expected: "NDArray[Any]"


def roi_align_tasks(bench: Bench, cases: list[RoIAlignCase]) -> Iterator[Task]:
    for case in cases:
        yield Task(
            name=f"RoIAlign {case.name}",
            prepare=partial(prepare, case, bench.kernels),
            run=partial(check, bench),
        )


def prepare(case: RoIAlignCase, kernels: Kernels) -> Prepared:
    """The inputs, and what the CPU makes of them in linear layout: other layouts are held against NumPy's."""
    features = features_of(case)
    params = case.parameters([level.ctypes.data for level in features], ("linear", "linear"))
    rois = rois_of(case, kernels.level_thresholds(params))
    shape = (case.batch * case.rois_per_image, case.channels, case.output_size, case.output_size)
    output = np.empty(shape, case.dtype)
    kernels.roi_align_cpu(params, rois.ctypes.data, output.ctypes.data)
    source, target = case.layouts
    # The features' padding must not matter, and the output's is 0.
    levels = tuple(stored(level, source, padding=np.nan) for level in features)
    return Prepared(case, levels, rois, stored(output, target, padding=0.0))


class RoIAlignRun:
    """A case in the GPU's memory."""

    def __init__(self, bench: Bench, prepared: Prepared) -> None:
        case = prepared.case
        item = np.dtype(case.dtype).itemsize
        source, target = (case.shift * item if layout == "linear" else 0 for layout in case.layouts)
        self._bench = bench
        self._levels = [Buffer.of(bench.gpu, level, offset=source) for level in prepared.levels]
        self._rois = Buffer.of(bench.gpu, prepared.rois)
        self._output = Buffer(bench.gpu, prepared.expected.nbytes, offset=target)
        self._params: interface.RoIAlignParams = case.parameters(
            [level.address for level in self._levels], case.layouts
        )

    def load(self, prepared: Prepared) -> None:
        """Other inputs of the same sizes, in the same memory."""
        for buffer, level in zip(self._levels, prepared.levels, strict=True):
            buffer.upload(level)
        self._rois.upload(prepared.rois)

    def launch(self) -> None:
        self._bench.kernels.roi_align_cuda(
            self._params, self._rois.address, self._output.address, self._bench.gpu.stream()
        )

    def poison(self, byte: int) -> None:
        self._output.poison(byte)

    def result(self, prepared: Prepared) -> "NDArray[Any]":
        self._bench.gpu.synchronize()
        return self._output.download(prepared.expected.shape, prepared.expected.dtype)

    def problems(self) -> list[str]:
        levels = {f"level {i}": level for i, level in enumerate(self._levels)}
        return problems({**levels, "RoIs": self._rois, "output": self._output})


def check(bench: Bench, prepared: Prepared) -> Record:
    run = RoIAlignRun(bench, prepared)
    results = []
    for byte in _POISONS:
        run.poison(byte)
        run.launch()
        results.append(run.result(prepared))
    failures, worst = judge(prepared, results[0])
    if results[0].tobytes() != results[1].tobytes():
        failures.append("two runs differ: something is left unwritten, or races")
    failures += run.problems()
    return {"failures": failures, "case": prepared.case.words, "worst": worst}


def judge(prepared: Prepared, result: "NDArray[Any]") -> tuple[list[str], float]:
    """Lines, and the largest difference."""
    line, worst = unequal_values(result, prepared.expected, axes=AXES[prepared.case.layouts[1]])
    return ([] if line is None else [line]), worst
