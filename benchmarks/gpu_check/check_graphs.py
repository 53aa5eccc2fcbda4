"""The kernels inside CUDA graphs: captured once, replayed on inputs that come later."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from mrcnn.benchmarks.gpu_check import check_nms, check_resize, check_roi_align
from mrcnn.benchmarks.gpu_check.device import Bench
from mrcnn.benchmarks.gpu_check.isolate import Record, Task
from mrcnn.benchmarks.gpu_check.nms_cases import NMSCase
from mrcnn.benchmarks.gpu_check.resize_cases import ResizeCase
from mrcnn.benchmarks.gpu_check.roi_align_cases import DTYPES, LAYOUTS, MODES, RoIAlignCase

_REPLAYS = 3
_POISONS = (0xFF, 0x3C)

P = TypeVar("P", contravariant=True)


class _Run(Protocol[P]):
    """What `RoIAlignRun`, `NMSRun` and `ResizeRun` have in common."""

    def load(self, prepared: P) -> None: ...
    def launch(self) -> None: ...
    def poison(self, byte: int) -> None: ...
    def result(self, prepared: P) -> Any: ...
    def problems(self) -> list[str]: ...


def graph_tasks(bench: Bench) -> Iterator[Task]:
    for case in _roi_align_cases():
        yield Task(
            name=f"graph of RoIAlign {case.name}",
            prepare=partial(_prepare_roi_align, case, bench),
            run=partial(_check_roi_align, bench),
        )
    for nms_case in _nms_cases():
        yield Task(
            name=f"graph of NMS {nms_case.name}",
            prepare=partial(_prepare_nms, nms_case, bench),
            run=partial(_check_nms, bench),
        )
    for resize_case in _resize_cases():
        yield Task(
            name=f"graph of Resize {resize_case.name}",
            prepare=partial(_prepare_resize, resize_case, bench),
            run=partial(_check_resize, bench),
        )


def _prepare_roi_align(case: RoIAlignCase, bench: Bench) -> list[check_roi_align.Prepared]:
    seeds = range(case.seed, case.seed + _REPLAYS)
    return [check_roi_align.prepare(replace(case, seed=seed), bench.kernels) for seed in seeds]


def _prepare_nms(case: NMSCase, bench: Bench) -> list[check_nms.Prepared]:
    seeds = range(case.seed, case.seed + _REPLAYS)
    return [check_nms.prepare(replace(case, seed=seed), bench.kernels) for seed in seeds]


def _prepare_resize(case: ResizeCase, bench: Bench) -> list[check_resize.Prepared]:
    seeds = range(case.seed, case.seed + _REPLAYS)
    return [check_resize.prepare(replace(case, seed=seed), bench.kernels) for seed in seeds]


def _roi_align_cases() -> Iterator[RoIAlignCase]:
    for i, layouts in enumerate(LAYOUTS):
        for mode, dtype in zip(MODES, DTYPES, strict=True):
            yield RoIAlignCase(
                name=f"{dtype} {layouts[0]}>{layouts[1]}, {mode}",
                seed=30_000 + 10 * i,
                dtype=dtype,
                mode=mode,
                layouts=layouts,
                channels=16,
                batch=2,
                rois_per_image=300,
                sampling_ratio=2 * (i % 2),
            )


def _nms_cases() -> Iterator[NMSCase]:
    base = NMSCase(seed=40_000, boxes="clusters", batch=2)
    yield replace(base, name="levels", candidates=4819, groups="levels", max_output=1000)
    yield replace(base, name="classes", candidates=91_000, groups="classes", score_threshold=0.05)
    yield replace(base, name="one large group", candidates=5000, max_output=2000)
    yield replace(base, name="few candidates", candidates=33)
    yield replace(base, name="no candidates", candidates=0)


def _resize_cases() -> Iterator[ResizeCase]:
    base = ResizeCase(seed=60_000, source=(240, 320), target=(400, 533), padded=(416, 544))
    yield replace(base, name="float32")
    yield replace(base, name="uint8", dtype="uint8", swap=True)


def _check_roi_align(bench: Bench, prepared: list[check_roi_align.Prepared]) -> Record:
    run = check_roi_align.RoIAlignRun(bench, prepared[0])
    failures = []
    for i, (inputs, result) in enumerate(_replayed(bench, run, prepared)):
        lines, _ = check_roi_align.judge(inputs, result)
        failures += [f"replay {i + 1}: {line}" for line in lines]
    return {"failures": failures + run.problems(), "case": prepared[0].case.words}


def _check_nms(bench: Bench, prepared: list[check_nms.Prepared]) -> Record:
    run = check_nms.NMSRun(bench, prepared[0])
    return {"failures": _judged(bench, run, prepared, check_nms.judge), "case": prepared[0].case.words}


def _check_resize(bench: Bench, prepared: list[check_resize.Prepared]) -> Record:
    run = check_resize.ResizeRun(bench, prepared[0])
    return {"failures": _judged(bench, run, prepared, check_resize.judge), "case": prepared[0].case.words}


def _judged(
    bench: Bench, run: "_Run[P]", prepared: list[P], judge: Callable[[P, Any], str | None]
) -> list[str]:
    """What `judge` says of each replay, and what was written where nothing should be."""
    failures = []
    for i, (inputs, result) in enumerate(_replayed(bench, run, prepared)):
        line = judge(inputs, result)
        failures += [] if line is None else [f"replay {i + 1}: {line}"]
    return failures + run.problems()


def _replayed(bench: Bench, run: "_Run[P]", prepared: list[P]) -> Iterator[tuple[P, Any]]:
    """Launches once, since a first launch loads the kernel; captures; then each input and its result."""
    run.launch()
    replay = bench.gpu.capture(run.launch)
    for i, inputs in enumerate(prepared):
        run.load(inputs)
        run.poison(_POISONS[i % len(_POISONS)])
        replay()
        yield inputs, run.result(inputs)
