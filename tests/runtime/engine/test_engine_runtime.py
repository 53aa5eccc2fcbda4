"""`Runtime` over an engine: an error stays with its image, and nothing waits for a slot that nobody frees."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mrcnn.errors import MrcnnError
from mrcnn.runtime import Detections, Runtime
from mrcnn.runtime.engine import backend as backend_module
from mrcnn.runtime.jobs import Jobs
from tests.runtime.engine.conftest import PATIENCE, Lab, eventually, within
from tests.runtime.engine.simulated_resize import simulated_resize
from tests.runtime.engine.test_pixels import OnGpu

MakeLab = Callable[..., Lab]

ONE, TWO = np.full((40, 60, 3), 1, np.uint8), np.full((60, 40, 3), 2, np.uint8)


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    return make_lab()


@pytest.fixture
def runtime(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """With one slot, so that each run that is not taken is one too many."""
    monkeypatch.setattr(backend_module, "_open_gpu", lambda: lab.device)
    monkeypatch.setattr(backend_module, "find_resize", lambda _: simulated_resize(lab.device))
    monkeypatch.setattr(backend_module, "import_tensorrt", lambda **_: lab.trt)
    return Runtime(lab.engine, contexts=1)


class Late:
    """A path that is told when it is time, so that callbacks can be added before anything ends."""

    def __init__(self) -> None:
        self.now = threading.Event()

    def __fspath__(self) -> str:
        assert self.now.wait(PATIENCE)
        return "missing.png"


def submit(runtime: Runtime, images: list[Any]) -> Any:
    return runtime._submit(images, "bgr").result(PATIENCE)


def test_an_image_that_the_resize_cannot_take_is_refused_alone(lab: Lab, runtime: Runtime) -> None:
    long = OnGpu(lab.device, ONE)
    long.__cuda_array_interface__ |= {"shape": (1, 2**24 + 1, 3), "strides": None}
    wide = OnGpu(lab.device, ONE)
    wide.__cuda_array_interface__ |= {"strides": (2**31, 3, 1)}
    bad = [long, wide, np.zeros((2**24 + 1, 1, 3), np.uint8), np.zeros((1, 2**24 + 1), np.uint8)]
    for image in bad:
        found = submit(runtime, [ONE, image, ONE])
        assert [type(one) for one in found] == [Detections, MrcnnError, Detections]
        with pytest.raises(MrcnnError, match="image 1 of the list: "):
            runtime.infer([ONE, image])
    runtime.close()
    lab.assert_nothing_left()


@pytest.mark.parametrize("error", [ValueError("a bug"), MemoryError(), MrcnnError("no")])
@pytest.mark.parametrize("failing", [[1], [2], [1, 2]])
def test_a_failing_last_step_keeps_no_slot(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, error: Exception, failing: list[int]
) -> None:
    detections = Jobs._detections

    def fail(self: Jobs, row: Any, picture: Any) -> Detections:
        if picture.pixels.max() in failing:
            raise error
        return detections(self, row, picture)

    monkeypatch.setattr(Jobs, "_detections", fail)
    kept = [submit(runtime, [ONE, TWO]) for _ in range(3)]
    for found in kept:
        assert [one is error for one in found] == [1 in failing, 2 in failing]
    monkeypatch.undo()
    found = within(lambda: runtime.infer([ONE, TWO]))
    assert [round(float(one.scores[0]) * 255) for one in found] == [1, 2]
    within(runtime.close)


def test_infer_in_a_callback_is_refused_instead_of_waiting_forever(lab: Lab, runtime: Runtime) -> None:
    said: list[str] = []

    def callback(_: Any) -> None:
        try:
            runtime.infer(ONE)
        except MrcnnError as error:
            said.append(str(error))

    late = Late()
    first = runtime.infer_async(late)
    futures = [runtime.infer_async(ONE) for _ in range(5)]
    for future in futures:
        future.add_done_callback(callback)
    late.now.set()
    assert isinstance(first.exception(PATIENCE), MrcnnError)
    assert [len(future.result(PATIENCE)) for future in futures] == [2] * 5
    within(runtime.close)
    assert len(said) == 5
    assert all("infer cannot be called in a callback of infer_async" in line for line in said)
    lab.assert_nothing_left()


def test_close_in_a_callback_lets_the_engine_end_its_runs(lab: Lab, runtime: Runtime) -> None:
    backend = runtime._backend
    assert isinstance(backend, backend_module.EngineBackend)
    late = Late()
    first = runtime.infer_async(late)
    futures = [runtime.infer_async(image) for image in (ONE, TWO, TWO, TWO, TWO, TWO)]
    futures[0].add_done_callback(lambda _: runtime.close())
    late.now.set()
    assert isinstance(first.exception(PATIENCE), MrcnnError)
    assert [round(float(one.result(PATIENCE).scores[0]) * 255) for one in futures] == [1] + 5 * [2]
    runtime.close()
    eventually(lambda: backend._closed)
    eventually(lambda: not any(thread.name == "mrcnn-close" for thread in threading.enumerate()))
    lab.assert_nothing_left()
