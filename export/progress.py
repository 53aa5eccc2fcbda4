"""What the user sees while a model is exported and built."""

import sys
import time
from threading import Event, Thread
from types import TracebackType
from typing import Any

# Seconds between two looks of the line: on a terminal, and in a file, where each stays.
_OFTEN, _SELDOM = 0.1, 10.0


class Progress:
    """A line on standard error: the step, how many there are, the time since the beginning.

    Args:
        steps: calls of `step` that are expected.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._words = ""
        self._shown = 0.0
        self._bar: Any = None
        self._ended = Event()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._bar is not None:
            self._bar.close()

    def step(self, words: str) -> None:
        """The next step begins."""
        from tqdm import tqdm

        if self._bar is None:
            form = "{desc} [{n_fmt}/{total_fmt}] {elapsed}"
            self._bar = tqdm(total=self._steps, leave=False, bar_format=form)
            if sys.stderr.isatty():
                Thread(target=self._tick, daemon=True).start()
        self._words = words
        self._bar.set_description_str(words, refresh=False)
        self._bar.update()
        self._bar.refresh()

    def _tick(self) -> None:
        """The clock goes on while a step says nothing."""
        while not self._ended.wait(1.0):
            self._bar.refresh()

    def part(self, title: str, done: int, of: int) -> None:
        """How far a part of the step is; may be called from any thread."""
        if time.monotonic() - self._shown < (_OFTEN if sys.stderr.isatty() else _SELDOM):
            return
        self._shown = time.monotonic()
        self._bar.set_description_str(f"{self._words}: {title} {done}/{of}", refresh=True)
