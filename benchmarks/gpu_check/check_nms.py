"""NMS on the GPU against the CPU function: every index, three times, whatever the workspace held before."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.benchmarks.gpu_check.compare import unequal_kept
from mrcnn.benchmarks.gpu_check.device import Bench, Buffer, problems
from mrcnn.benchmarks.gpu_check.isolate import Record, Task
from mrcnn.benchmarks.gpu_check.nms_cases import Floats, Ints, NMSCase, inputs_of
from mrcnn.plugins import interface
from mrcnn.plugins.kernels import Kernels

# What the workspace and the outputs hold before each run.
_POISONS = (0xFF, 0x00, 0x6B)

# Scores and groups need to be aligned to their type alone.
_SHIFT = 4


@dataclass(frozen=True)
class Prepared:
    """A case's inputs and expected outputs."""

    case: NMSCase
    boxes: Floats
    scores: Floats
    group: Ints
    indices: Ints
    count: Ints


def nms_tasks(bench: Bench, cases: list[NMSCase]) -> Iterator[Task]:
    for case in cases:
        yield Task(
            name=f"NMS {case.name}",
            prepare=partial(prepare, case, bench.kernels),
            run=partial(check, bench),
        )


def prepare(case: NMSCase, kernels: Kernels) -> Prepared:
    boxes, scores, group = inputs_of(case)
    indices, count = kernels.nms(
        boxes,
        scores,
        group,
        iou_threshold=case.iou_threshold,
        score_threshold=case.score_threshold,
        max_output=case.max_output,
    )
    return Prepared(case, boxes, scores, group, indices, count)


class NMSRun:
    """A case in the GPU's memory."""

    def __init__(self, bench: Bench, prepared: Prepared) -> None:
        case, gpu = prepared.case, bench.gpu
        self._bench = bench
        self._params = interface.NMSParams(
            case.batch, case.candidates, case.max_output, case.iou_threshold, case.score_threshold
        )
        self._inputs = {
            "boxes": Buffer.of(gpu, prepared.boxes),
            "scores": Buffer.of(gpu, prepared.scores, offset=_SHIFT),
            "group": Buffer.of(gpu, prepared.group, offset=_SHIFT),
        }
        self._outputs = {
            "indices": Buffer(gpu, prepared.indices.nbytes, offset=_SHIFT),
            "count": Buffer(gpu, prepared.count.nbytes, offset=_SHIFT),
        }
        self._workspace = Buffer(gpu, bench.kernels.nms_cuda_workspace(self._params))

    def load(self, prepared: Prepared) -> None:
        """Other inputs of the same sizes, in the same memory."""
        for name, buffer in self._inputs.items():
            buffer.upload(getattr(prepared, name))

    def launch(self) -> None:
        addresses = {name: buffer.address for name, buffer in (self._inputs | self._outputs).items()}
        self._bench.kernels.nms_cuda(
            self._params,
            **addresses,
            workspace=self._workspace.address,
            workspace_bytes=self._workspace.size,
            stream=self._bench.gpu.stream(),
        )

    def poison(self, byte: int) -> None:
        for buffer in (*self._outputs.values(), self._workspace):
            buffer.poison(byte)

    def result(self, prepared: Prepared) -> "tuple[NDArray[Any], NDArray[Any]]":
        self._bench.gpu.synchronize()
        return (
            self._outputs["indices"].download(prepared.indices.shape, np.int32),
            self._outputs["count"].download(prepared.count.shape, np.int32),
        )

    def problems(self) -> list[str]:
        return problems(self._inputs | self._outputs | {"workspace": self._workspace})


def check(bench: Bench, prepared: Prepared) -> Record:
    run = NMSRun(bench, prepared)
    lines = []
    for byte in _POISONS:
        run.poison(byte)
        run.launch()
        lines.append(judge(prepared, run.result(prepared)))
    failures = [line for line in lines[:1] if line is not None]
    # Once right is right each time; what is wrong each time in the same way is one failure.
    failures += [
        f"run {i + 1} differs from the first: {line or 'right'}"
        for i, line in enumerate(lines)
        if line != lines[0]
    ]
    failures += run.problems()
    return {"failures": failures, "case": prepared.case.words}


def judge(prepared: Prepared, result: "tuple[NDArray[Any], NDArray[Any]]") -> str | None:
    return unequal_kept(*result, prepared.indices, prepared.count)
