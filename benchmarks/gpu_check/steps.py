"""The steps of the command: what each is given, and the record that it gives back."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn.benchmarks.gpu_check import isolate
from mrcnn.benchmarks.gpu_check.deadline import Deadline
from mrcnn.benchmarks.gpu_check.isolate import Outcome, Plan, Record, Task
from mrcnn.errors import MissingRequirementError
from mrcnn.plugins.kernels import Kernels

if TYPE_CHECKING:
    from mrcnn.benchmarks.gpu_check.device import Bench, Gpu

# Of what is wrong, so many lines are printed; the result has all.
MOST_LINES = 20

PASSED, FAILED, SKIPPED, INCOMPLETE = "passed", "failed", "skipped", "incomplete"


@dataclass(frozen=True)
class Settings:
    """What steps work on, also in another process.

    Attributes:
        root: the checkout.
        build: folder for everything that is compiled.
        library: the kernels.
        make_gpu, load_kernels: called in the process that uses them; tests bring their own.
    """

    root: Path
    build: Path
    library: Path
    quick: bool
    make_gpu: "Callable[[], Gpu]"
    load_kernels: Callable[[Path], Kernels] = Kernels

    def bench(self) -> "Bench":
        from mrcnn.benchmarks.gpu_check.device import Bench

        return Bench(self.make_gpu(), self.load_kernels(self.library))


def first_gpu() -> "Gpu":
    from mrcnn.benchmarks.gpu_check.device import Gpu

    return Gpu()


# Plans: they are called in the process that works ---------------------------------------------------------


def plan_facts(settings: Settings) -> Plan:
    gpu = settings.make_gpu()
    return Plan([Task("facts", run=lambda _: {"failures": [], "facts": gpu.facts()})])


def plan_check(settings: Settings) -> Plan:
    from mrcnn.benchmarks.gpu_check.check_nms import nms_tasks
    from mrcnn.benchmarks.gpu_check.check_resize import resize_tasks
    from mrcnn.benchmarks.gpu_check.check_roi_align import roi_align_tasks
    from mrcnn.benchmarks.gpu_check.check_roi_pool import roi_pool_tasks
    from mrcnn.benchmarks.gpu_check.check_torchvision import torchvision_tasks
    from mrcnn.benchmarks.gpu_check.nms_cases import nms_cases
    from mrcnn.benchmarks.gpu_check.resize_cases import resize_cases
    from mrcnn.benchmarks.gpu_check.roi_align_cases import roi_align_cases

    bench = settings.bench()
    tasks = [
        *torchvision_tasks(bench),
        *roi_pool_tasks(bench),
        *_alternating(
            list(roi_align_tasks(bench, roi_align_cases(quick=settings.quick))),
            list(nms_tasks(bench, nms_cases(quick=settings.quick))),
            list(resize_tasks(bench, resize_cases(quick=settings.quick))),
        ),
    ]
    return Plan(tasks, probe=bench.gpu.synchronize)


def plan_graph(settings: Settings) -> Plan:
    from mrcnn.benchmarks.gpu_check.check_graphs import graph_tasks

    bench = settings.bench()
    return Plan(list(graph_tasks(bench)), probe=bench.gpu.synchronize)


def plan_runtime(settings: Settings) -> Plan:
    from mrcnn.benchmarks.gpu_check.check_runtime import runtime_tasks
    from mrcnn.runtime.engine.cuda import open_cuda

    gpu, kernels = settings.make_gpu(), settings.load_kernels(settings.library)
    tasks = runtime_tasks(open_cuda(), kernels.resize_cuda, place=gpu.place)
    return Plan(list(tasks), probe=gpu.synchronize)


def plan_time(settings: Settings) -> Plan:
    from mrcnn.benchmarks.gpu_check.time_kernels import time_tasks

    bench = settings.bench()
    return Plan(list(time_tasks(bench, quick=settings.quick)), probe=bench.gpu.synchronize)


def _alternating(*lists: list[Task]) -> list[Task]:
    """The lists in turn, so that a step that is cut short has seen something of each."""
    longest = max(map(len, lists))
    return [task for i in range(longest) for tasks in lists for task in tasks[i : i + 1]]


# Steps ----------------------------------------------------------------------------------------------------


def gpu_facts(settings: Settings, deadline: Deadline) -> dict[str, Any]:
    """What the GPU is, asked by a process of its own.

    Raises:
        MissingRequirementError: there is none that torch can use.
    """
    outcome = isolate.run_tasks(plan_facts, settings, deadline=deadline, restarts=0)
    for record in outcome.records.values():
        if "facts" in record:
            facts: dict[str, Any] = record["facts"]
            return facts
    lines = [line for record in outcome.records.values() for line in record["failures"]]
    reason = lines[0] if lines else "it does not answer in time"
    raise MissingRequirementError(f"a GPU is needed that torch can use: {reason}")


def run_plan(
    make_plan: Callable[[Settings], Plan],
    settings: Settings,
    deadline: Deadline,
    *,
    say: Callable[[str], None],
    stall_s: float = 60.0,
) -> dict[str, Any]:
    """Runs a plan and sums it up: status, number of checks, failures by name, names not run, all records."""

    said = 0

    def on_record(name: str, record: Record) -> None:
        nonlocal said
        for line in record["failures"]:
            said += 1
            if said <= MOST_LINES:
                say(f"  WRONG {name}: {line}")
            elif said == MOST_LINES + 1:
                say("  … and more, in the result")

    outcome = isolate.run_tasks(make_plan, settings, deadline=deadline, stall_s=stall_s, on_record=on_record)
    return summary(outcome)


def summary(outcome: Outcome) -> dict[str, Any]:
    failures = [
        {"check": name, **({"case": record["case"]} if "case" in record else {}), "wrong": record["failures"]}
        for name, record in outcome.records.items()
        if record["failures"]
    ]
    incomplete = bool(outcome.left) or not outcome.records
    return {
        "status": FAILED if failures else INCOMPLETE if incomplete else PASSED,
        "checks": len(outcome.records),
        "failures": failures,
        "not_run": outcome.left,
        "records": outcome.records,
    }


def timed(step: Callable[[], dict[str, Any]], now: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """A step's record with its seconds; skipped where the machine lacks something.

    An error that nobody foresaw is the step's failure: later ones go on.
    """
    began = now()
    try:
        record = step()
    except MissingRequirementError as error:
        record = {"status": SKIPPED, "note": str(error), "failures": []}
    except Exception as error:
        record = {"status": FAILED, "failures": [{"check": "step", "wrong": [isolate.one_line(error)]}]}
    return {**record, "seconds": round(now() - began, 1)}


def worst_differences(records: Mapping[str, Record]) -> dict[str, float]:
    """The largest differences of RoIAlign's values, by type."""
    worst: dict[str, float] = {}
    for record in records.values():
        if "worst" in record:
            dtype = record["case"].split()[0]
            worst[dtype] = max(worst.get(dtype, 0.0), record["worst"])
    return worst
