"""`close` while others work, calls in callbacks, and processes that were forked."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from mrcnn.errors import MrcnnError
from mrcnn.runtime import Detections, Runtime
from tests.runtime.engine.conftest import eventually, within
from tests.runtime.test_stream import SECONDS, brightness, flat

TinyModel = Callable[..., Path]


class Gate:
    """An image whose path is told when the gate is opened; says when somebody waits for it."""

    def __init__(self, path: Path) -> None:
        self.path, self.reached, self.opened = path, threading.Event(), threading.Event()

    def __fspath__(self) -> str:
        self.reached.set()
        assert self.opened.wait(SECONDS)
        return str(self.path)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    from PIL import Image

    Image.fromarray(flat(7)).save(tmp_path / "a.png")
    return Gate(tmp_path / "a.png")


def in_thread(work: Callable[[], Any]) -> "Future[Any]":
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def closes_of(runtime: Runtime) -> list[int]:
    """Grows when the backend is closed."""
    backend, closes = runtime._opened(), []
    close = backend.close

    def counted() -> None:
        closes.append(1)
        close()

    backend.close = counted  # type: ignore[method-assign]
    return closes


def test_close_lets_a_running_infer_end(tiny_model: TinyModel, gate: Gate) -> None:
    runtime = Runtime(tiny_model())
    closes = closes_of(runtime)
    running = in_thread(lambda: runtime.infer([flat(3), gate, flat(5)]))
    assert gate.reached.wait(SECONDS)
    closing = in_thread(runtime.close)
    eventually(lambda: runtime._backend is None)
    with pytest.raises(MrcnnError, match="this Runtime is closed"):
        runtime.infer(flat(1))
    assert not closes
    assert not closing.done()
    gate.opened.set()
    assert [brightness(one) for one in running.result(SECONDS)] == [3, 7, 5]
    closing.result(SECONDS)
    assert closes == [1]


def test_close_inside_of_infer_does_not_wait_for_itself(tiny_model: TinyModel, gate: Gate) -> None:
    runtime = Runtime(tiny_model())
    closes = closes_of(runtime)

    class Closing(Gate):
        def __fspath__(self) -> str:
            runtime.close()
            assert not closes
            return str(self.path)

    assert brightness(within(lambda: runtime.infer(Closing(gate.path)))) == 7
    eventually(lambda: closes == [1])


def test_close_after_an_infer_that_failed(tiny_model: TinyModel) -> None:
    runtime = Runtime(tiny_model())
    with pytest.raises(MrcnnError):
        runtime.infer("missing.jpg")
    within(runtime.close)


def test_close_in_a_callback_loses_nothing(tiny_model: TinyModel, gate: Gate) -> None:
    runtime = Runtime(tiny_model())
    closes = closes_of(runtime)
    futures: list[Future[Detections]] = [runtime.infer_async(gate)]
    futures[0].add_done_callback(lambda _: runtime.close())
    futures += [runtime.infer_async(flat(value)) for value in range(1, 6)]
    gate.opened.set()
    assert [brightness(future.result(SECONDS)) for future in futures] == [7, 1, 2, 3, 4, 5]
    eventually(lambda: closes == [1])


def test_close_in_a_callback_of_an_error_loses_nothing(tiny_model: TinyModel, gate: Gate) -> None:
    runtime = Runtime(tiny_model())
    gate.path = Path("missing.png")
    first = runtime.infer_async(gate)
    first.add_done_callback(lambda _: runtime.close())
    others = [runtime.infer_async(flat(value)) for value in range(1, 6)]
    gate.opened.set()
    assert [brightness(future.result(SECONDS)) for future in others] == [1, 2, 3, 4, 5]
    with pytest.raises(MrcnnError, match=r"missing\.png"):
        first.result(SECONDS)


@pytest.mark.parametrize("path", ["a.png", "missing.png"])
def test_what_would_wait_in_a_callback_is_refused(tiny_model: TinyModel, gate: Gate, path: str) -> None:
    gate.path = gate.path.with_name(path)
    said: list[str] = []
    with Runtime(tiny_model()) as runtime:

        def callback(_: Any) -> None:
            calls: list[Callable[[], Any]] = [
                lambda: runtime.infer(flat(1)),
                lambda: next(runtime.stream([flat(1)])),
                runtime.warm_up,
            ]
            for call in calls:
                with pytest.raises(MrcnnError) as caught:
                    call()
                said.append(str(caught.value))
            later.append(runtime.infer_async(flat(9)))

        later: list[Future[Detections]] = []
        future = runtime.infer_async(gate)
        future.add_done_callback(callback)
        gate.opened.set()
        eventually(lambda: bool(later))
        assert brightness(later[0].result(SECONDS)) == 9
        assert brightness(runtime.infer(flat(3))) == 3
    assert [line.partition(":")[0] for line in said] == [
        f"{name} cannot be called in a callback of infer_async" for name in ("infer", "stream", "stream")
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_is_told_to_spawn(tiny_model: TinyModel, gate: Gate) -> None:
    runtime = Runtime(tiny_model())
    runtime.infer_async(flat(1)).result(SECONDS)
    running = in_thread(lambda: runtime.infer(gate))
    assert gate.reached.wait(SECONDS)  # a call that never ends in the child

    def child(lines: Any) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: runtime.infer_async(flat(1)),
            lambda: list(runtime.stream([flat(1)])),
            runtime.warm_up,
            runtime.close,
            lambda: runtime.infer(flat(1)),
        ]
        for call in calls:
            try:
                call()
                lines.send("nothing")
            except MrcnnError as error:
                lines.send(str(error))

    fork = get_context("fork")
    receiving, sending = fork.Pipe(duplex=False)
    process = fork.Process(target=child, args=(sending,), daemon=True)
    process.start()
    lines = []
    end = time.monotonic() + SECONDS
    while len(lines) < 5 and receiving.poll(max(0, end - time.monotonic())):
        lines.append(receiving.recv())
    process.kill()
    process.join()
    gate.opened.set()
    assert brightness(running.result(SECONDS)) == 7
    runtime.close()
    assert len(lines) == 5
    assert all("'spawn'" in line for line in lines[:3])
    assert lines[3:] == ["nothing", "this Runtime is closed"]
