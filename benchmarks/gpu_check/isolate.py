"""Runs tasks in a process of its own, and goes on after the one that ended it.

A kernel that reads where it must not leaves its process without a GPU, and one that does not end leaves it
waiting for ever. Either costs one task here: it is recorded, and a new process takes up the rest.
"""

import faulthandler
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from mrcnn.benchmarks.gpu_check.deadline import Deadline
from mrcnn.errors import MrcnnError
from mrcnn.report import available_cores

Record = dict[str, Any]

# The name under which a process that did not get as far as its first task is recorded.
START = "start"


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Task:
    """One check or measurement.

    Attributes:
        name: unique within its plan.
        run: gets what `prepare` returned, uses the GPU; returns a record, its `failures` a list of lines.
        prepare: work for the CPU, done in a thread beside other tasks'.
    """

    name: str
    run: Callable[[Any], Record]
    prepare: Callable[[], Any] = _nothing


@dataclass(frozen=True)
class Plan:
    """The tasks of one process, and how to find out whether its GPU still answers (raises if not)."""

    tasks: Sequence[Task]
    probe: Callable[[], None] = _nothing


@dataclass
class Outcome:
    """Records by task in the order they ended, and the names of tasks that were not reached."""

    records: dict[str, Record] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def run_tasks(
    make_plan: Callable[[Any], Plan],
    argument: Any,
    *,
    deadline: Deadline,
    stall_s: float = 60.0,
    restarts: int = 3,
    on_record: Callable[[str, Record], None] = lambda *_: None,
) -> Outcome:
    """Runs the tasks of `make_plan(argument)`, which is called in the new process.

    Args:
        make_plan: a function of a module, so that it can be named to another process.
        stall_s: a task that takes longer fails.
        restarts: new processes after tasks that ended theirs.
    """
    outcome = Outcome()
    names: list[str] = []
    for _ in range(restarts + 1):
        if deadline.passed:
            break
        child = _Child(make_plan, argument, tuple(outcome.records))
        try:
            current, fault = _follow(child, deadline, stall_s, outcome, names, on_record)
        finally:
            child.stop()
        if fault is None:
            break
        if current not in outcome.records:
            outcome.records[current] = failed(fault)
            on_record(current, outcome.records[current])
        if current == START:
            break
    outcome.left = [name for name in names if name not in outcome.records]
    return outcome


def failed(*lines: str) -> Record:
    return {"failures": list(lines)}


def one_line(error: BaseException) -> str:
    """What an exception says in one line of bearable length; with its type where it is not one of ours."""
    text = " ".join(str(error).split())[:400]
    if isinstance(error, MrcnnError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _follow(
    child: "_Child",
    deadline: Deadline,
    stall_s: float,
    outcome: Outcome,
    names: list[str],
    on_record: Callable[[str, Record], None],
) -> tuple[str, str | None]:
    """Takes the child's messages; returns the task it was at, and what ended it (None: all in order)."""
    current = START
    while True:
        wait = min(stall_s, deadline.remaining)
        try:
            message = child.receive(wait)
        except EOFError:
            return current, f"the process {child.how_it_ended()}"
        if message is None:
            if deadline.passed:
                return current, None
            return current, f"no end after {stall_s:.0f} s: the process was stopped"
        kind, name, content = message
        if kind == "plan":
            names[:] = content
        elif kind == "begin":
            current = name
        elif kind == "end":
            outcome.records[name] = content
            on_record(name, content)
        elif kind == "lost":
            return current, f"the GPU is lost to the process: {content}"
        else:
            return current, None  # "done"


class _Child:
    """A process at work, and the messages that it sends: (kind, task's name, content)."""

    def __init__(self, make_plan: Callable[[Any], Plan], argument: Any, done: tuple[str, ...]) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self._connection, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(theirs, make_plan, argument, done), daemon=True)
        self._process.start()
        theirs.close()
        self._leaving = False

    def receive(self, seconds: float) -> tuple[str, str, Any] | None:
        """The next message, or None where none came in time. EOFError once the process has ended."""
        if not self._connection.poll(seconds):
            return None
        message: tuple[str, str, Any] = self._connection.recv()
        self._leaving = message[0] in ("done", "lost")
        return message

    def how_it_ended(self) -> str:
        self._process.join(10)
        code = self._process.exitcode
        if code is None:
            return "closed its connection"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    def stop(self) -> None:
        if self._leaving:
            self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(10)
        self._connection.close()


def _work(
    connection: Connection, make_plan: Callable[[Any], Plan], argument: Any, done: tuple[str, ...]
) -> None:
    """The child: sends what it does; ends without clean-up, which a lost GPU might not allow."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    try:
        plan = make_plan(argument)
    except Exception as error:
        connection.send(("plan", START, [START]))
        connection.send(("end", START, failed(one_line(error))))
        connection.send(("done", "", None))
        os._exit(0)
    connection.send(("plan", START, [task.name for task in plan.tasks]))
    tasks = [task for task in plan.tasks if task.name not in done]
    pool = ThreadPoolExecutor(available_cores())
    for task, prepared in _prepared_ahead(pool, tasks):
        connection.send(("begin", task.name, None))
        try:
            record = task.run(prepared.result())
        except Exception as error:
            record = failed(one_line(error))
        connection.send(("end", task.name, record))
        if record.get("failures"):
            try:
                plan.probe()
            except Exception as error:
                connection.send(("lost", task.name, one_line(error)))
                os._exit(0)
    connection.send(("done", "", None))
    connection.close()
    os._exit(0)


def _prepared_ahead(pool: ThreadPoolExecutor, tasks: Sequence[Task]) -> Iterator[tuple[Task, "Future[Any]"]]:
    """The tasks in order, while the pool prepares those after them; bounded, since they hold memory."""
    waiting: deque[tuple[Task, Future[Any]]] = deque()
    for task in tasks:
        waiting.append((task, pool.submit(task.prepare)))
        if len(waiting) > available_cores():
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
