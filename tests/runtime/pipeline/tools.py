"""What the tests of the pipeline share: stages, waiting, and a limit of time for each test."""

import faulthandler
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait

import pytest

from mrcnn.runtime import pipeline as module
from mrcnn.runtime.pipeline import Pipeline

# Seconds. Nothing comes near unless it hangs, also on a busy machine.
LIMIT = 60

# The filling and emptying of the pipeline included.
MAX_THROUGHPUT_LOSS = 0.05


def limited(test: Callable[..., None]) -> Callable[..., None]:
    """The test in a thread that is given up when it hangs."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        outcome: Future[None] = Future()

        def body() -> None:
            try:
                outcome.set_result(test(*args, **kwargs))
            except BaseException as error:
                outcome.set_exception(error)

        threading.Thread(target=body, daemon=True).start()
        if not wait([outcome], timeout=LIMIT).done:
            faulthandler.dump_traceback(all_threads=True)
            module._LINES.clear()  # or the end of pytest would wait for them
            pytest.fail("hangs")
        outcome.result()

    return run


def same(value):
    return value


def make(*, prepare=same, start=same, finish=same, **options) -> Pipeline:
    return Pipeline(prepare=prepare, start=start, finish=finish, **options)


def held(event: threading.Event, value=None):
    """`value`, once the event has happened."""
    assert event.wait(LIMIT)
    return value


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def threads_of(name: str) -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith(name))


class Thing:
    """Something whose end can be seen."""
