"""Items, errors, cancelling, closing and callbacks, on items that a reader can follow."""

import threading
import time
from concurrent.futures import InvalidStateError, wait

import pytest

from mrcnn.errors import MrcnnError
from mrcnn.runtime import pipeline as module
from tests.runtime.pipeline.tools import LIMIT, eventually, held, limited, make, threads_of

# --- Items and results


@limited
def test_an_item_passes_all_stages() -> None:
    pipeline = make(
        prepare=lambda item: f"{item} prepared",
        start=lambda item: f"{item} started",
        finish=lambda item: f"{item} finished",
    )
    assert pipeline.submit("cat").result(LIMIT) == "cat prepared started finished"
    pipeline.close()


@limited
def test_each_stage_sees_the_items_in_order() -> None:
    calls: dict[str, list[int]] = {"prepare": [], "start": [], "finish": []}

    def stage(name: str):
        return lambda item: (calls[name].append(item), item)[1]

    pipeline = make(prepare=stage("prepare"), start=stage("start"), finish=stage("finish"))
    futures = [pipeline.submit(i) for i in range(50)]
    pipeline.close()
    assert [future.result(0) for future in futures] == list(range(50))
    assert list(calls.values()) == [list(range(50))] * 3


@limited
def test_the_three_stages_work_at_the_same_time() -> None:
    """prepare(i + 2), start(i + 1) and finish(i) meet: none of them ends before the others have begun."""
    count = 6
    meeting = threading.Barrier(3, timeout=LIMIT)
    pipeline = make(
        prepare=lambda i: (i < 2 or meeting.wait(), i)[1],
        start=lambda i: (not 1 <= i < count - 1 or meeting.wait(), i)[1],
        finish=lambda i: (i >= count - 2 or meeting.wait(), i)[1],
    )
    futures = [pipeline.submit(i) for i in range(count)]
    assert [future.result(LIMIT) for future in futures] == list(range(count))
    pipeline.close()


@limited
def test_submit_waits_where_enough_items_wait() -> None:
    begun, go = threading.Event(), threading.Event()
    pipeline = make(prepare=lambda item: (begun.set(), held(go, item))[1], waiting=2)
    first = pipeline.submit("in prepare")
    held(begun)
    waiting = [pipeline.submit("waits"), pipeline.submit("waits too")]
    accepted = threading.Event()
    more = threading.Thread(target=lambda: (pipeline.submit("one too many"), accepted.set()), daemon=True)
    more.start()
    # A machine too slow to show a mistake here would let it pass, but never invents one.
    assert not accepted.wait(0.05)
    go.set()
    held(accepted)
    assert [future.result(LIMIT) for future in (first, *waiting)] == ["in prepare", "waits", "waits too"]
    pipeline.close()


@limited
def test_what_is_held_in_memory_is_bounded() -> None:
    """While the engine is stuck, prepared items are few, and further ones stay outside."""
    go, prepared = threading.Event(), []
    pipeline = make(
        prepare=lambda item: (prepared.append(item), item)[1], start=lambda i: held(go, i), waiting=3
    )
    submitted = []
    source = threading.Thread(
        target=lambda: [submitted.append(pipeline.submit(i)) for i in range(20)], daemon=True
    )
    source.start()
    # One in start, those between, one in prepare that cannot hand over.
    within = 1 + module._PREPARED_AHEAD + 1
    eventually(lambda: len(submitted) == within + 3)
    assert prepared == list(range(within))
    go.set()
    source.join(LIMIT)
    pipeline.close()
    assert [future.result(0) for future in submitted] == list(range(20))


@pytest.mark.parametrize("waiting", [0, -1])
def test_no_room_at_all_is_refused(waiting: int) -> None:
    with pytest.raises(MrcnnError, match="waiting must be at least 1"):
        make(waiting=waiting)


# --- Errors


@pytest.mark.parametrize("stage", ["prepare", "start", "finish"])
@pytest.mark.parametrize("kind", [ValueError, MrcnnError, MemoryError, KeyboardInterrupt, SystemExit])
@limited
def test_an_error_reaches_the_future_of_its_item_alone(stage: str, kind: type[BaseException]) -> None:
    def failing(item: int) -> int:
        if item == 1:
            raise kind("this one")
        return item

    pipeline = make(**{stage: failing})
    futures = [pipeline.submit(i) for i in range(4)]
    pipeline.close()
    error = futures[1].exception(0)
    assert type(error) is kind
    assert error.args == ("this one",)
    assert [futures[i].result(0) for i in (0, 2, 3)] == [0, 2, 3]


@limited
def test_an_error_ends_the_way_of_its_item() -> None:
    started = []
    pipeline = make(prepare=lambda item: 1 // item, start=lambda item: started.append(item))
    futures = [pipeline.submit(item) for item in (0, 1)]
    pipeline.close()
    assert isinstance(futures[0].exception(0), ZeroDivisionError)
    assert started == [1]


# --- Cancelling


@limited
def test_a_cancelled_item_is_left_out() -> None:
    begun, go, prepared = threading.Event(), threading.Event(), []
    pipeline = make(prepare=lambda item: (begun.set(), held(go), prepared.append(item), item)[-1])
    futures = [pipeline.submit(i) for i in range(4)]
    held(begun)
    assert not futures[0].cancel()  # it has begun
    assert futures[1].cancel()
    assert futures[3].cancel()
    go.set()
    pipeline.close()
    assert [future.cancelled() for future in futures] == [False, True, False, True]
    assert prepared == [0, 2]
    assert futures[2].result(0) == 2


@limited
def test_what_was_prepared_is_started_and_finished() -> None:
    """Or the places of an engine would be lost, which `finish` gives back."""
    began, go, finished = threading.Event(), threading.Event(), []
    pipeline = make(start=lambda i: (began.set(), held(go, i))[1], finish=finished.append)
    futures = [pipeline.submit(i) for i in range(2)]
    held(began)
    eventually(futures[1].running)
    assert not futures[1].cancel()
    go.set()
    pipeline.close()
    assert finished == [0, 1]


@limited
def test_a_future_that_was_ended_from_outside_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    go = threading.Event()
    pipeline = make(finish=lambda i: held(go, i))
    first, second = pipeline.submit(1), pipeline.submit(2)
    eventually(first.running)
    first.set_result("mine")
    go.set()
    assert second.result(LIMIT) == 2
    pipeline.close()
    assert first.result(0) == "mine"
    assert [record.exc_info[0] for record in caplog.records] == [InvalidStateError]


# --- Closing


@limited
def test_close_waits_for_what_was_submitted() -> None:
    pipeline = make(finish=lambda item: (time.sleep(0.002), item)[1])
    futures = [pipeline.submit(i) for i in range(8)]
    pipeline.close()
    assert all(future.done() for future in futures)
    assert [future.result(0) for future in futures] == list(range(8))


@limited
def test_nothing_is_accepted_afterwards() -> None:
    pipeline = make()
    pipeline.submit(1)
    pipeline.close()
    pipeline.close()
    with pytest.raises(MrcnnError, match="is closed"):
        pipeline.submit(2)


@limited
def test_a_pipeline_without_items_closes() -> None:
    pipeline = make(name="unused")
    pipeline.close()
    pipeline.close()
    assert threads_of("unused") == []
    with pytest.raises(MrcnnError, match="is closed"):
        pipeline.submit(1)


@limited
def test_each_of_several_close_calls_waits() -> None:
    go, seen = threading.Event(), []
    pipeline = make(finish=lambda item: held(go, item))
    future = pipeline.submit(1)
    closing = [
        threading.Thread(target=lambda: (pipeline.close(), seen.append(future.done())), daemon=True)
        for _ in range(3)
    ]
    for thread in closing:
        thread.start()
    assert seen == []
    go.set()
    for thread in closing:
        thread.join(LIMIT)
    assert seen == [True] * 3


@limited
def test_a_submit_that_waits_when_close_comes_is_accepted() -> None:
    go, results = threading.Event(), []
    pipeline = make(prepare=lambda item: held(go, item), waiting=1)
    first = pipeline.submit(1)
    eventually(first.running)
    second = pipeline.submit(2)

    def submit() -> None:
        results.append(pipeline.submit(3).result(LIMIT))

    submitting = threading.Thread(target=submit, daemon=True)
    submitting.start()
    eventually(lambda: pipeline._line._submitting == 1)
    closing = threading.Thread(target=pipeline.close, daemon=True)
    closing.start()
    eventually(lambda: pipeline._line._closed)
    with pytest.raises(MrcnnError, match="is closed"):
        pipeline.submit(4)
    go.set()
    closing.join(LIMIT)
    submitting.join(LIMIT)
    assert (first.result(0), second.result(0), results) == (1, 2, [3])


# --- Callbacks


@pytest.mark.parametrize("stage", ["prepare", "start", "finish"])
@limited
def test_a_callback_may_submit_where_there_is_no_room(stage: str) -> None:
    """Whichever thread it runs in: none waits for room that it would have to make itself."""
    full, submitted = threading.Event(), []

    def work(item: int) -> int:
        if item == 0:
            held(full)
            raise ValueError
        return item

    pipeline = make(**{stage: work}, waiting=1)

    def submit_three(_: object) -> None:
        submitted.extend(pipeline.submit(item) for item in (101, 102, 103))

    first = pipeline.submit(0)
    first.add_done_callback(submit_three)
    eventually(first.running)
    others = threading.Thread(target=lambda: [pipeline.submit(item) for item in range(1, 20)], daemon=True)
    others.start()
    eventually(lambda: pipeline._line._submitting == 1 and pipeline._line.queue.qsize() == 1)
    full.set()
    wait([first], timeout=LIMIT)
    others.join(LIMIT)
    eventually(lambda: len(submitted) == 3)
    assert [future.result(LIMIT) for future in submitted] == [101, 102, 103]
    pipeline.close()


@limited
def test_a_callback_may_close() -> None:
    pipeline, closed = make(), threading.Event()
    go = threading.Event()
    first = pipeline.submit(0)
    second = pipeline.submit(1)
    first.add_done_callback(lambda _: (pipeline.close(), closed.set()))
    go.set()
    held(closed)
    assert second.result(LIMIT) == 1
    pipeline.close()
    with pytest.raises(MrcnnError):
        pipeline.submit(2)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
@limited
def test_a_failing_callback_breaks_nothing(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    go = threading.Event()
    pipeline = make(finish=lambda item: held(go, item))

    def callback(_: object) -> None:
        raise kind

    futures = [pipeline.submit(i) for i in range(3)]
    for future in futures:
        future.add_done_callback(callback)
    go.set()
    pipeline.close()
    assert [future.result(0) for future in futures] == [0, 1, 2]
    assert [record.exc_info[0] for record in caplog.records] == [kind] * 3
