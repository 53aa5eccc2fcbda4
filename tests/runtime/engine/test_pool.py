"""Threads take turns, in their order, and nobody waits for ever."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mrcnn.runtime.engine.pool import Pool
from tests.runtime.engine.conftest import PATIENCE, eventually, within


def waiting(pool: Pool[Any], count: int) -> None:
    eventually(lambda: len(pool._waiting) == count)


def test_the_last_one_given_back_goes_first() -> None:
    pool = Pool("abc")
    taken = [pool.take() for _ in range(3)]
    for item in taken:
        pool.give(item)
    assert [pool.take() for _ in range(3)] == taken[::-1]


def test_first_come_first_served() -> None:
    pool, order = Pool([0]), list[int]()
    item = pool.take()

    def work(number: int) -> None:
        taken = pool.take()
        order.append(number)
        pool.give(taken)

    with ThreadPoolExecutor(8) as threads:
        futures = []
        for number in range(8):
            futures.append(threads.submit(work, number))
            waiting(pool, number + 1)
        pool.give(item)
        for future in futures:
            future.result(PATIENCE)
    assert order == list(range(8))


def test_nobody_overtakes_who_waits() -> None:
    """An item that is back belongs to the first in the queue, even before that thread wakes up."""
    pool = Pool([0])
    item = pool.take()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.take)
        waiting(pool, 1)
        pool.give(item)
        second = threads.submit(pool.take)
        assert first.result(PATIENCE) == 0
        waiting(pool, 1)
        pool.give(0)
        assert second.result(PATIENCE) == 0


def test_refusal_reaches_who_waits_and_who_comes() -> None:
    pool = Pool([0])
    item = pool.take()
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(pool.take) for _ in range(3)]
        waiting(pool, 3)
        pool.refuse(lambda: ValueError("over"))
        errors = [future.exception(PATIENCE) for future in futures]
    assert [str(error) for error in errors] == ["over"] * 3
    assert len({id(error) for error in errors}) == 3  # threads would write into each other's tracebacks
    pool.give(item)
    with pytest.raises(ValueError, match="over"):
        pool.take()


def test_waiting_for_all() -> None:
    pool = Pool("ab")
    assert sorted(within(pool.wait_for_all)) == ["a", "b"]
    item = pool.take()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(pool.wait_for_all)
        eventually(lambda: len(pool._closing) == 1)
        assert not future.done()
        pool.give(item)
        assert sorted(future.result(PATIENCE)) == ["a", "b"]


class Returned:
    """Gives its item back when it is destroyed."""

    def __init__(self, pool: Pool[Any]) -> None:
        self.pool, self.item, self.circle = pool, pool.take(), self

    def __del__(self) -> None:
        self.pool.give(self.item)


def test_destructors_may_interrupt_anything() -> None:
    """The collector runs at every few allocations, in the midst of the pool's own code."""
    pool: Pool[int] = Pool(range(3))
    before = gc.get_threshold()
    gc.set_threshold(3, 1, 1)
    try:

        def work() -> None:
            for _ in range(300):
                if threading.get_ident() % 2:
                    Returned(pool)
                else:
                    pool.give(pool.take())
                gc.collect(0)

        with ThreadPoolExecutor(4) as threads:
            for future in [threads.submit(work) for _ in range(4)]:
                future.result(PATIENCE)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert sorted(within(pool.wait_for_all)) == [0, 1, 2]


def test_giving_back_while_the_lock_is_held() -> None:
    """As from a destructor that interrupts `take`: it does not wait, and the item is not lost."""
    pool = Pool([0])
    item = pool.take()
    with pool._lock:
        within(lambda: pool.give(item))
    assert not pool._free
    assert within(pool.take) == 0


def test_an_interrupted_wait_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool([0])
    item = pool.take()

    class Gate:
        def acquire(self) -> None:
            raise KeyboardInterrupt

        def release(self) -> None: ...

    class Waiter:
        def __init__(self) -> None:
            self.item, self.gate = None, Gate()

    with monkeypatch.context() as patch:
        patch.setattr("mrcnn.runtime.engine.pool._Waiter", Waiter)
        with pytest.raises(KeyboardInterrupt):
            pool.take()
        assert not pool._waiting
        pool.give(item)
        with pytest.raises(KeyboardInterrupt):  # it had the item already
            pool.take()
    assert within(pool.take) == 0
