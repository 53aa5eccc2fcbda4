"""Tasks in a process of their own: order, mistakes, ends, stalls, deadlines; programs with a time limit."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mrcnn.benchmarks.gpu_check import steps
from mrcnn.benchmarks.gpu_check.deadline import Deadline
from mrcnn.benchmarks.gpu_check.isolate import START, Plan, Record, Task, run_tasks
from mrcnn.benchmarks.gpu_check.shell import run
from mrcnn.errors import MissingRequirementError, MrcnnError

# The plans below are called in another process, which finds them by their name.


def _say(what: str, _: object) -> Record:
    return {"failures": [], "said": what}


def _raise(error: Exception, _: object) -> Record:
    raise error


def _end(number: int, _: object) -> Record:
    if number < 0:
        os.kill(os.getpid(), -number)
    os._exit(number)


def _wait(seconds: float, _: object) -> Record:
    time.sleep(seconds)
    return {"failures": []}


def _lose(folder: Path, _: object) -> Record:
    (folder / "lost").touch()
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _answers(folder: Path) -> None:
    """The GPU of the process that lost it does not answer; that of the next one does."""
    if (folder / "lost").exists():
        (folder / "lost").unlink()
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def plan_of(tasks: dict[str, Any]) -> Plan:
    return Plan([Task(name, run=work) for name, work in tasks.items()])


def plan_that_loses_its_gpu(folder: Path) -> Plan:
    tasks = [
        Task("before", partial(_say, "a")),
        Task("lost", partial(_lose, folder)),
        Task("after", partial(_say, "b")),
    ]
    return Plan(tasks, probe=partial(_answers, folder))


def plan_that_cannot_start(reason: str) -> Plan:
    raise MrcnnError(reason)


def plan_that_ends(status: int) -> Plan:
    os._exit(status)


def plan_prepared(count: int) -> Plan:
    return Plan([Task(str(i), prepare=partial(int, i), run=_double) for i in range(count)])


def _double(prepared: int) -> Record:
    return {"failures": [], "twice": 2 * prepared}


def soon() -> Deadline:
    return Deadline.after(30)


def test_records_come_in_order_with_what_was_prepared() -> None:
    seen: list[str] = []
    outcome = run_tasks(plan_prepared, 20, deadline=soon(), on_record=lambda name, _: seen.append(name))
    assert [record["twice"] for record in outcome.records.values()] == list(range(0, 40, 2))
    assert seen == list(outcome.records) == [str(i) for i in range(20)]
    assert outcome.left == []


def test_a_mistake_and_an_end_cost_one_task_each() -> None:
    tasks = {
        "first": partial(_say, "a"),
        "raises": partial(_raise, ValueError("no such\nlayout")),
        "killed": partial(_end, -signal.SIGSEGV),
        "second": partial(_say, "b"),
        "exits": partial(_end, 7),
        "third": partial(_say, "c"),
    }
    outcome = run_tasks(plan_of, tasks, deadline=soon())
    failures = {name: record["failures"] for name, record in outcome.records.items() if record["failures"]}
    assert failures == {
        "raises": ["ValueError: no such layout"],
        "killed": ["the process was ended by SIGSEGV"],
        "exits": ["the process ended with status 7"],
    }
    assert [record.get("said") for record in outcome.records.values()] == ["a", None, None, "b", None, "c"]
    assert outcome.left == []


def test_a_gpu_that_is_lost_is_lost_to_one_process(tmp_path: Path) -> None:
    outcome = run_tasks(plan_that_loses_its_gpu, tmp_path, deadline=soon())
    assert list(outcome.records) == ["before", "lost", "after"]
    assert outcome.records["lost"]["failures"] == [
        "RuntimeError: CUDA error: an illegal memory access was encountered"
    ]
    assert outcome.records["after"]["said"] == "b"


def test_a_task_that_hangs_is_stopped_and_the_rest_goes_on() -> None:
    tasks = {"hangs": partial(_wait, 60), "next": partial(_say, "a")}
    outcome = run_tasks(plan_of, tasks, deadline=soon(), stall_s=5)
    assert outcome.records["hangs"]["failures"] == ["no end after 5 s: the process was stopped"]
    assert outcome.records["next"]["said"] == "a"


def test_at_the_deadline_nothing_has_failed_but_is_left() -> None:
    tasks = {"first": partial(_say, "a"), "long": partial(_wait, 60), "next": partial(_say, "b")}
    outcome = run_tasks(plan_of, tasks, deadline=Deadline.after(4))
    assert list(outcome.records) == ["first"]
    assert outcome.left == ["long", "next"]


def test_restarts_are_counted() -> None:
    tasks = {str(i): partial(_end, 1) for i in range(4)}
    outcome = run_tasks(plan_of, tasks, deadline=soon(), restarts=1)
    assert list(outcome.records) == ["0", "1"]
    assert outcome.left == ["2", "3"]


@pytest.mark.parametrize(
    ("plan", "argument", "line"),
    [
        (plan_that_cannot_start, "no kernels", "no kernels"),
        (plan_that_ends, 3, "the process ended with status 3"),
    ],
)
def test_a_process_that_does_not_start_is_not_started_again(plan: Any, argument: Any, line: str) -> None:
    outcome = run_tasks(plan, argument, deadline=soon())
    assert outcome.records == {START: {"failures": [line]}}
    assert outcome.left == []


def test_after_the_deadline_no_process_is_started() -> None:
    outcome = run_tasks(plan_that_ends, 3, deadline=Deadline.after(0))
    assert outcome.records == {}
    assert steps.summary(outcome)["status"] == steps.INCOMPLETE


class TestDeadline:
    def test_counts_down_and_stops_at_nothing(self) -> None:
        now = [100.0]
        deadline = Deadline.after(10, now=lambda: now[0])
        assert deadline.remaining == 10
        now[0] = 107
        assert deadline.remaining == 3
        assert deadline.part(2).remaining == 2
        assert deadline.part(60).remaining == 3
        now[0] = 111
        assert deadline.remaining == 0
        assert deadline.passed


class TestPrograms:
    def test_both_streams_and_the_status_are_kept(self) -> None:
        code = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"
        ran = run([sys.executable, "-c", code], deadline=soon())
        assert (ran.code, ran.lines) == (3, ["out", "err"])
        assert ran.last_words == "status 3: out | err"

    def test_a_program_and_its_child_end_at_the_limit(self, tmp_path: Path) -> None:
        code = (
            "import os, subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
            f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
            "print('started', flush=True)\n"
            "child.wait()\n"
        )
        ran = run([sys.executable, "-c", code], deadline=Deadline.after(3))
        assert ran.code is None
        assert ran.last_words == "stopped at its time limit: started"
        child = int((tmp_path / "pid").read_text())
        for _ in range(100):
            if not _runs(child):
                return
            time.sleep(0.1)
        pytest.fail("the child of the program runs on")

    def test_a_program_that_is_not_there(self) -> None:
        ran = run(["/nowhere/nvcc"], deadline=soon())
        assert (ran.code, ran.lines) == (127, ["/nowhere/nvcc: No such file or directory"])


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestSteps:
    def test_a_summary_names_what_is_wrong_and_what_was_left(self) -> None:
        tasks = {"right": partial(_say, "a"), "wrong": partial(_raise, ValueError("x"))}
        summary = steps.summary(run_tasks(plan_of, tasks, deadline=soon()))
        assert (summary["status"], summary["checks"]) == (steps.FAILED, 2)
        assert summary["failures"] == [{"check": "wrong", "wrong": ["ValueError: x"]}]

    def test_an_error_of_a_step_is_its_failure(self) -> None:
        def step() -> dict[str, Any]:
            raise OSError("disk full")

        record = steps.timed(step, now=iter([1.0, 3.5]).__next__)
        assert record == {
            "status": steps.FAILED,
            "failures": [{"check": "step", "wrong": ["OSError: disk full"]}],
            "seconds": 2.5,
        }

    def test_what_a_step_lacks_is_a_note(self) -> None:
        def step() -> dict[str, Any]:
            raise MissingRequirementError("nvcc is not found")

        record = steps.timed(step, now=iter([1.0, 1.0]).__next__)
        assert (record["status"], record["note"]) == (steps.SKIPPED, "nvcc is not found")

    def test_the_largest_difference_by_type(self) -> None:
        records = {
            "a": {"failures": [], "case": "float32 linear>linear", "worst": 1e-7},
            "b": {"failures": [], "case": "float16 linear>linear", "worst": 1e-3},
            "c": {"failures": [], "case": "float32 linear>linear", "worst": 3e-7},
            "d": {"failures": [], "case": "1x100 boxes"},
        }
        assert steps.worst_differences(records) == {"float32": 3e-7, "float16": 1e-3}
