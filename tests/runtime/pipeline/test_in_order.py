"""Results in the order of their source."""

import gc
import itertools
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future

import pytest

from mrcnn.errors import MrcnnError
from mrcnn.runtime.pipeline import in_order
from tests.runtime.pipeline.tools import Thing, eventually, held, limited, make


class Service:
    """Gives a future for each item; a test ends them by hand."""

    def __init__(self) -> None:
        self.futures: dict[object, Future] = {}

    def submit(self, item: object) -> Future:
        self.futures[item] = Future()
        return self.futures[item]

    def submit_done(self, item: object) -> Future:
        future = self.submit(item)
        future.set_result(item)
        return future


def recording(source, pulled: list):
    for item in source:
        pulled.append(item)
        yield item


@limited
def test_results_come_in_the_order_of_the_source() -> None:
    service = Service()

    def submit(item: int) -> Future:
        future = service.submit(item)
        if item == 2:  # the last ends first
            for i in (2, 1, 0):
                service.futures[i].set_result(f"result {i}")
        return future

    assert list(in_order(submit, range(3), ahead=3)) == ["result 0", "result 1", "result 2"]
    assert list(in_order(submit, (), ahead=3)) == []


@limited
def test_no_more_than_ahead_is_pulled() -> None:
    service, pulled = Service(), []
    results = in_order(service.submit, recording(itertools.count(), pulled), ahead=3)
    assert pulled == []
    threading.Thread(
        target=lambda: (eventually(lambda: len(pulled) == 3), service.futures[0].set_result("a")), daemon=True
    ).start()
    assert next(results) == "a"
    assert pulled == [0, 1, 2]
    service.futures[1].set_result("b")
    assert next(results) == "b"
    assert pulled == [0, 1, 2, 3]
    results.close()


@limited
def test_what_is_there_is_not_kept_back() -> None:
    """A source in real time pays one item for a result, not all that may be under way."""
    pulled: list[int] = []
    results = in_order(Service().submit_done, recording(itertools.count(), pulled), ahead=8)
    for i in range(5):
        assert next(results) == i
        assert pulled == list(range(i + 1))


@limited
def test_errors_come_in_the_place_of_results() -> None:
    service = Service()

    def submit(item: object) -> Future:
        future = service.submit(item)
        if isinstance(item, BaseException):
            future.set_exception(item)
        elif item is None:
            future.cancel()
        else:
            future.set_result(item)
        return future

    error = MrcnnError("unreadable")
    first, second, third, fourth = in_order(submit, [1, error, None, 4], ahead=2)
    assert (first, second, fourth) == (1, error, 4)
    assert isinstance(third, CancelledError)
    results = in_order(submit, [1, SystemExit(3), 5], ahead=2)
    assert next(results) == 1
    with pytest.raises(SystemExit):
        next(results)


@pytest.mark.parametrize("ahead", [1, 2, 10])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
@limited
def test_an_error_of_the_source_comes_after_the_results_before_it(
    ahead: int, kind: type[BaseException]
) -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        raise kind("damaged")

    pipeline = make()
    results = in_order(pipeline.submit, source(), ahead=ahead)
    if kind is KeyboardInterrupt:  # which is never put off
        with pytest.raises(KeyboardInterrupt):
            list(results)
    else:
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(OSError, match="damaged"):
            next(results)
    assert next(results, "end") == "end"
    pipeline.close()


@limited
def test_a_closed_pipeline_ends_an_endless_source() -> None:
    pipeline = make()
    results = in_order(pipeline.submit, itertools.count(), ahead=4)
    found = [next(results) for _ in range(3)]
    pipeline.close()
    with pytest.raises(MrcnnError, match="is closed"):
        found.extend(results)
    assert found == list(range(len(found)))


@pytest.mark.parametrize("how", ["close", "forget", "throw"])
@limited
def test_a_consumer_that_stops_cancels_the_rest(how: str) -> None:
    go, prepared = threading.Event(), []
    pipeline = make(prepare=lambda i: (prepared.append(i), i == 0 or held(go), i)[-1], waiting=10)
    futures: list[Future] = []

    def submit(item: int) -> Future:
        futures.append(pipeline.submit(item))
        return futures[-1]

    results = in_order(submit, range(100), ahead=6)
    assert next(results) == 0
    eventually(lambda: prepared == [0, 1])
    if how == "close":
        results.close()
    elif how == "throw":
        with pytest.raises(ValueError, match="enough"):
            results.throw(ValueError("enough"))
    del results
    go.set()
    pipeline.close()
    assert prepared == [0, 1]
    assert [future.cancelled() for future in futures] == [i > 1 for i in range(len(futures))]


@limited
def test_two_streams_of_one_pipeline_in_turns() -> None:
    pipeline = make(waiting=1)
    odd = in_order(pipeline.submit, range(1, 60, 2), ahead=5)
    even = in_order(pipeline.submit, range(0, 60, 2), ahead=3)
    assert [value for pair in zip(even, odd, strict=True) for value in pair] == list(range(60))
    pipeline.close()


@limited
def test_a_stream_keeps_no_result_that_was_taken() -> None:
    gone = []

    def submit(_: int) -> Future:
        future: Future[Thing] = Future()
        future.set_result(Thing())
        gone.append(weakref.ref(future.result()))
        return future

    results = in_order(submit, range(3), ahead=2)
    next(results)
    assert gone[0]() is None


@pytest.mark.parametrize("failing", ["item", "source"])
@limited
def test_an_error_that_was_dropped_leaves_nothing_to_the_collector(failing: str) -> None:
    """It holds the frames that it came through, and these their images: they must not hold it in turn."""
    gone = []

    def fail(_: int) -> int:
        image = Thing()
        gone.append(weakref.ref(image))
        raise ValueError("image 1")

    pipeline = make(**({"start": fail} if failing == "item" else {}))
    gc.disable()
    try:
        results = in_order(pipeline.submit, [1] if failing == "item" else map(fail, [1]), ahead=2)
        if failing == "item":
            assert isinstance(next(results), ValueError)
        else:
            with pytest.raises(ValueError, match="image 1"):
                next(results)
        del results
        eventually(lambda: gone[0]() is None)
    finally:
        gc.enable()
    pipeline.close()


@pytest.mark.parametrize("ahead", [0, -1])
def test_a_stream_needs_at_least_one(ahead: int) -> None:
    with pytest.raises(MrcnnError, match="ahead must be at least 1"):
        in_order(Service().submit, (), ahead=ahead)
