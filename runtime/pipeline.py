"""Successive images under way at the same time: one is prepared, one in the engine, one finished."""

import atexit
import logging
import os
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from queue import Queue, SimpleQueue
from threading import Condition, Thread, current_thread
from typing import Any, Generic, TypeVar

from mrcnn.errors import MrcnnError
from mrcnn.runtime.backend import CLOSED

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Running = TypeVar("Running")
Result = TypeVar("Result")

_LOGGER = logging.getLogger(__name__)

# One is enough for `start` to find the next input when it returns, and each is a whole batch of pixels.
_PREPARED_AHEAD = 1
# What comes out of an engine is small. With those in `start` and in `finish`, up to four runs are under way.
_STARTED_AHEAD = 2


class Pipeline(Generic[Item, Prepared, Running, Result]):
    """Takes items through three stages, each in a thread of its own and in the order of submission.

    An item that was prepared is started, and one that was started is finished, unless a stage raises: then
    the item's future gets the exception, whatever it is, and the other items go on.

    The threads start with the first item. They end after the last one: at `close`, when the pipeline is
    collected, or when the program ends. Until then they hold the stages, so that an object to which those
    refer is not collected.

    Callbacks of the futures run in these threads. They may submit and close; waiting there for another item
    of the same pipeline would never end.

    Args:
        prepare: the work before the engine, on the CPU.
        start: starts the engine, or does its work. May wait until an earlier item is finished.
        finish: waits for what was started, and does the rest. Also where it raises, it frees what `start` may
            wait for.
        waiting: items that wait for `prepare` at most.
        name: begins the names of the threads.

    Raises:
        MrcnnError: `waiting` is not at least 1.
    """

    def __init__(
        self,
        *,
        prepare: Callable[[Item], Prepared],
        start: Callable[[Prepared], Running],
        finish: Callable[[Running], Result],
        waiting: int = 8,
        name: str = "mrcnn",
    ) -> None:
        if waiting < 1:
            raise MrcnnError(f"waiting must be at least 1 (got {waiting})")
        self._line = _Line(prepare, start, finish, waiting=waiting, name=name)
        # The collector may call this in any thread, which may hold any lock: `put` of this queue is made for
        # that. At the program's end _finish_all does more.
        weakref.finalize(self, self._line.queue.put, None).atexit = False

    def submit(self, item: Item) -> Future[Result]:
        """Hands over one item; waits while `waiting` others have not begun.

        In a callback of a future it does not wait, because its thread is one of those that make room. The
        future can be cancelled until `prepare` begins.

        Raises:
            MrcnnError: close() was called before.
        """
        return self._line.submit(item)

    @property
    def works_here(self) -> bool:
        """Whether the calling thread is one of its own: a stage or a callback, which must not wait."""
        return self._line.works_here

    def close(self) -> None:
        """Refuses further items, and waits for the end of all that were submitted before.

        May be called again, and from several threads. In a callback of a future it does not wait.
        """
        self._line.stop()
        self._line.join()


def in_order(
    submit: Callable[[Item], Future[Result]], source: Iterable[Item], *, ahead: int
) -> Generator[Result | Exception, None, None]:
    """The results of `submit` for all items of `source`, in its order.

    Where an item fails, its exception is yielded in the place of its result, and the next ones follow; only
    what is no Exception, such as SystemExit, is raised. What `source` or `submit` themselves raise is raised
    after the results of the items before, and is the end.

    Each result costs the pull of one item, and of more only while it is not there yet: behind a camera,
    results come one frame late, not `ahead` frames. When the consumer stops early, items that have not begun
    are cancelled; those that have end by themselves, and nobody waits for them.

    Args:
        submit: gives the future of an item.
        source: read in the consumer's thread.
        ahead: items that are submitted and not yet yielded, at most.

    Raises:
        MrcnnError: `ahead` is not at least 1.
    """
    if ahead < 1:
        raise MrcnnError(f"ahead must be at least 1 (got {ahead})")
    return _in_order(submit, iter(source), ahead)


def _in_order(
    submit: Callable[[Item], Future[Result]], items: Iterator[Item], ahead: int
) -> Generator[Result | Exception, None, None]:
    under_way: deque[Future[Result]] = deque()
    failure: Exception | None = None
    more = True
    try:
        while more or under_way:
            pulled = 0
            # One in for one out also where the next is done: a slow consumer would let the pipeline run dry.
            while more and len(under_way) < ahead and not (pulled and under_way[0].done()):
                try:
                    under_way.append(submit(next(items)))
                    pulled += 1
                except StopIteration:
                    more = False
                except Exception as error:
                    more, failure = False, error
            if under_way:
                yield _outcome(under_way.popleft())
        if failure is not None:
            raise failure
    finally:
        # Without waiting for the others: the collector may close a generator in the very thread that works on
        # them.
        for future in under_way:
            future.cancel()
        del failure  # which holds this frame


def _outcome(future: Future[Any]) -> Any:
    """The result, or the exception in its place."""
    try:
        return future.result()
    except Exception as error:
        return error
    finally:
        del future  # whose exception holds this frame


class _Job:
    """An item on its way: what the last stage made of it, and the future of its result."""

    __slots__ = ("future", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.future: Future[Any] = Future()


class _Line:
    """The threads of a pipeline and what they share. They do not refer to the pipeline: it can be collected.

    None is the last entry of each queue. `_changed` guards the attributes, and is notified of room in
    `queue`.
    """

    def __init__(
        self,
        prepare: Callable[[Any], Any],
        start: Callable[[Any], Any],
        finish: Callable[[Any], Any],
        *,
        waiting: int,
        name: str,
    ) -> None:
        self.queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting = waiting
        self._changed = Condition()
        self._started = self._closed = False
        self._submitting = 0
        prepared: Queue[_Job | None] = Queue(_PREPARED_AHEAD)
        started: Queue[_Job | None] = Queue(_STARTED_AHEAD)
        # The stages live in the threads alone, which drop them when they end.
        work = {
            "prepare": (prepare, self._next, prepared.put),
            "start": (start, prepared.get, started.put),
            "finish": (finish, started.get, self._deliver),
        }
        self._threads = [
            Thread(target=_work, args=args, name=f"{name}-{stage}", daemon=True)
            for stage, args in work.items()
        ]

    def submit(self, item: Any) -> Future[Any]:
        with self._changed:
            if self._closed:
                raise MrcnnError(CLOSED)
            self._start()
            self._submitting += 1  # now close() waits for this item
            try:
                if not self.works_here:
                    self._changed.wait_for(lambda: self.queue.qsize() < self._waiting)
                job = _Job(item)
                self.queue.put(job)
                return job.future
            finally:
                self._submitting -= 1
                self._end_queue()

    def stop(self) -> None:
        with self._changed:
            self._closed = True
            self._end_queue()

    @property
    def works_here(self) -> bool:
        return current_thread() in self._threads

    def join(self) -> None:
        if not self.works_here:
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()

    def _end_queue(self) -> None:
        if self._closed and not self._submitting:
            self.queue.put(None)

    def _start(self) -> None:
        if self._started:
            return
        for thread in self._threads:
            if thread.ident is None:  # else it has run since a call in which a later one could not be started
                thread.start()
        self._started = True
        _LINES.add(self)
        # The last one registered is called first: before what the packages of the engine do there.
        atexit.unregister(_finish_all)
        atexit.register(_finish_all)

    def _next(self) -> _Job | None:
        """The next job that was not cancelled, marked as running."""
        while True:
            job = self.queue.get()
            with self._changed:
                self._changed.notify_all()
            if job is None or job.future.set_running_or_notify_cancel():
                return job
            del job  # not to be kept while waiting

    def _deliver(self, job: _Job | None) -> None:
        if job is None:
            _LINES.discard(self)
        else:
            _settle(job.future.set_result, job.value)


def _work(
    stage: Callable[[Any], Any], take: Callable[[], _Job | None], give: Callable[[_Job | None], None]
) -> None:
    """What each thread does."""
    while (job := take()) is not None:
        try:
            job.value = stage(job.value)
        except BaseException as error:
            _settle(job.future.set_exception, error)
        else:
            give(job)
        del job  # an idle thread keeps no arrays
    give(None)


def _settle(settle: Callable[[Any], None], value: Any) -> None:
    """Ends a future. It calls its callbacks there, and does not catch all that they can raise."""
    try:
        settle(value)
    except BaseException:
        _LOGGER.exception("a callback of a result failed")


# The lines whose threads run. As daemons these do not keep a program from ending, but they must not be inside
# the engine while the interpreter takes it down.
_LINES: set[_Line] = set()

# A forked process has none of the threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_LINES.clear)


def _finish_all() -> None:
    """At the program's end: as `close` for each pipeline that has not been closed."""
    lines = list(_LINES)
    for line in lines:
        line.stop()
    for line in lines:
        line.join()
