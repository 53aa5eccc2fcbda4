"""The resize on the GPU against the CPU function: every value exactly, every byte that is written, twice."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.benchmarks.gpu_check.compare import unequal_values
from mrcnn.benchmarks.gpu_check.device import Bench, Buffer, problems
from mrcnn.benchmarks.gpu_check.isolate import Record, Task
from mrcnn.benchmarks.gpu_check.resize_cases import ResizeCase, rows_of
from mrcnn.plugins.kernels import Kernels

# What the output holds before each run; no byte of an output is both.
_POISONS = (0xFF, 0x3C)


@dataclass(frozen=True)
class Prepared:
    """A case's source, with its gaps, and expected output."""

    case: ResizeCase
    rows: NDArray[np.uint8]
    expected: "NDArray[Any]"


def resize_tasks(bench: Bench, cases: list[ResizeCase]) -> Iterator[Task]:
    for case in cases:
        yield Task(
            name=f"Resize {case.name}",
            prepare=partial(prepare, case, bench.kernels),
            run=partial(check, bench),
        )


def prepare(case: ResizeCase, kernels: Kernels) -> Prepared:
    rows = rows_of(case)
    expected = np.empty((*case.padded, 3), case.dtype)
    kernels.resize_cpu(case.parameters(), rows.ctypes.data, expected.ctypes.data)
    return Prepared(case, rows, expected)


class ResizeRun:
    """A case in the GPU's memory."""

    def __init__(self, bench: Bench, prepared: Prepared) -> None:
        case = prepared.case
        item = prepared.expected.dtype.itemsize
        self._bench = bench
        self._params = case.parameters()
        self._source = Buffer.of(bench.gpu, prepared.rows, offset=case.shift)
        self._output = Buffer(bench.gpu, prepared.expected.nbytes, offset=case.shift * item)

    def load(self, prepared: Prepared) -> None:
        """Another image of the same size, in the same memory."""
        self._source.upload(prepared.rows)

    def launch(self) -> None:
        self._bench.kernels.resize_cuda(
            self._params, self._source.address, self._output.address, self._bench.gpu.stream()
        )

    def poison(self, byte: int) -> None:
        self._output.poison(byte)

    def result(self, prepared: Prepared) -> "NDArray[Any]":
        self._bench.gpu.synchronize()
        return self._output.download(prepared.expected.shape, prepared.expected.dtype)

    def problems(self) -> list[str]:
        return problems({"source": self._source, "output": self._output})


def check(bench: Bench, prepared: Prepared) -> Record:
    run = ResizeRun(bench, prepared)
    results = []
    for byte in _POISONS:
        run.poison(byte)
        run.launch()
        results.append(run.result(prepared))
    line = judge(prepared, results[0])
    failures = [] if line is None else [line]
    if results[0].tobytes() != results[1].tobytes():
        failures.append("two runs differ: something is left unwritten, or races")
    return {"failures": failures + run.problems(), "case": prepared.case.words}


def judge(prepared: Prepared, result: "NDArray[Any]") -> str | None:
    """A line, where a value is not the CPU's."""
    if result.tobytes() == prepared.expected.tobytes():
        return None
    line, _ = unequal_values(result, prepared.expected, axes="y x channel", tolerance=0.0)
    return line
