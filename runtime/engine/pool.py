"""Things that threads take in turn and give back; also from destructors."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Waiter(Generic[T]):
    """A thread in the queue; `gate` opens when it gets an item, or is turned away."""

    def __init__(self) -> None:
        self.item: T | None = None
        # A bare lock: unlike an event, it can be opened from a destructor that interrupts the waiting itself.
        self.gate = threading.Lock()
        self.gate.acquire()


class Pool(Generic[T]):
    """Who asks first gets an item first; the item that was given back last is the next to go.

    (It is the one whose recordings are of the shapes that are in use.)

    `give` may be called from a destructor, which may interrupt any code of this class, in the same thread. So
    it never waits for the lock: what it has brought is put in order by whoever holds the lock, on letting go.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._free = list(items)
        self._count = len(self._free)
        self._given: deque[T] = deque()
        self._waiting: deque[_Waiter[T]] = deque()
        self._closing: deque[threading.Lock] = deque()
        self._refusal: Callable[[], Exception] | None = None
        self._lock = threading.Lock()

    def take(self) -> T:
        """An item, as soon as it is this thread's turn.

        Raises:
            Exception: what `refuse` was told.
        """
        waiter: _Waiter[T] = _Waiter()
        with self._lock:
            refusal = self._refusal
            if refusal is None:
                self._waiting.append(waiter)
                self._hand_out()
        self._settle()
        if refusal is not None:
            raise refusal()
        try:
            waiter.gate.acquire()
        except BaseException:  # the user interrupts the program
            self._withdraw(waiter)
            raise
        if waiter.item is None:
            assert self._refusal is not None
            raise self._refusal()
        return waiter.item

    def give(self, item: T) -> None:
        """Brings an item back."""
        self._given.append(item)
        self._settle()

    def refuse(self, error: Callable[[], Exception]) -> None:
        """From now on, and for those who wait, taking raises what `error` makes."""
        with self._lock:
            self._refusal = error
            while self._waiting:
                self._waiting.popleft().gate.release()
        self._settle()

    def wait_for_all(self) -> list[T]:
        """Waits until every item is back; they stay here."""
        gate = threading.Lock()
        gate.acquire()
        with self._lock:
            self._closing.append(gate)
            self._hand_out()
        self._settle()
        gate.acquire()
        return list(self._free)

    def _withdraw(self, waiter: _Waiter[T]) -> None:
        with self._lock:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif waiter.item is not None:
                self._given.append(waiter.item)
        self._settle()

    def _settle(self) -> None:
        # Whoever fails to get the lock may leave: its holder comes by here after letting go.
        while self._given and self._lock.acquire(blocking=False):
            try:
                while self._given:
                    self._free.append(self._given.popleft())
                self._hand_out()
            finally:
                self._lock.release()

    def _hand_out(self) -> None:
        while self._free and self._waiting:
            waiter = self._waiting.popleft()
            waiter.item = self._free.pop()
            waiter.gate.release()
        if len(self._free) == self._count:
            while self._closing:
                self._closing.popleft().release()
