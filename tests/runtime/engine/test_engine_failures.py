"""Whatever call fails: one line for who asked, no thread that waits for ever, nothing left behind."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from mrcnn.errors import MrcnnError
from mrcnn.runtime.backend import Outputs
from mrcnn.runtime.backend_onnx import OnnxBackend
from mrcnn.runtime.engine.backend import EngineBackend
from mrcnn.runtime.engine.device import DeviceError
from tests.runtime.engine.conftest import PATIENCE, Lab, eventually, inputs, within

MakeLab = Callable[..., Lab]

A, B, D = (1, 32, 32), (1, 64, 96), (1, 96, 64)

# What the scenario below calls of the GPU. `enter` is asked by each thread and each method; `memory` once.
METHODS = (
    "enter",
    "memory",
    "allocate",
    "allocate_pinned",
    "free",
    "free_pinned",
    "create_stream",
    "destroy_stream",
    "create_event",
    "destroy_event",
    "copy",
    "record",
    "wait",
    "synchronize",
    "begin_capture",
    "end_capture",
    "launch",
    "destroy_graph",
    "run_on_stream",
)

# Errors of these nobody needs to hear of: of those that may happen during a capture, or while a run ends that
# nobody wants; and of those at the end.
HARMLESS = ("begin_capture", "end_capture", "copy", "run_on_stream", "synchronize")
ENDS = ("free", "free_pinned", "destroy_stream", "destroy_event", "destroy_graph")


@functools.cache
def expected(onnx: OnnxBackend, shape: tuple[int, int, int], seed: int) -> Outputs:
    return onnx.run(*inputs(shape, seed))


class Scenario:
    """An engine's life: two slots at once, three shapes, recordings, a run that nobody wants, the end."""

    def __init__(self, lab: Lab, onnx: OnnxBackend) -> None:
        self.lab, self.onnx = lab, onnx
        self.errors: list[str] = []

    def attempt(self, action: Callable[[], object]) -> object:
        """Does it; an error must be one line."""
        try:
            return action()
        except MrcnnError as error:
            line = str(error)
            error.__traceback__ = None
        assert "\n" not in line
        self.errors.append(line)
        return None

    def live(self) -> None:
        backend = self.attempt(self.lab.open)
        if not isinstance(backend, EngineBackend):
            return
        for shape in (A, A, A, B, D):
            self.run(backend, shape)
        first = self.attempt(lambda: backend.start(inputs(A, 1)))
        second = self.attempt(lambda: backend.start(inputs(B, 2)))
        self.take(second, B, 2)
        self.take(first, A, 1)
        self.attempt(lambda: backend.start(inputs(D, 3)))  # dropped
        self.run(backend, B)
        self.run(backend, D)
        self.attempt(backend.close)

    def run(self, backend: EngineBackend, shape: tuple[int, int, int]) -> None:
        self.take(self.attempt(lambda: backend.start(inputs(shape, 0))), shape, 0)

    def take(self, run: object, shape: tuple[int, int, int], seed: int) -> None:
        """The outputs of what was started: the right ones, or an error."""
        if run is None:
            return
        outputs = self.attempt(run.outputs)  # type: ignore[attr-defined]
        if outputs is not None:
            for name, value in expected(self.onnx, shape, seed).items():
                np.testing.assert_array_equal(outputs[name], value)  # type: ignore[index]


@pytest.fixture(scope="module")
def onnx(tiny_model: Callable[..., object]) -> OnnxBackend:
    return OnnxBackend(tiny_model(), device="cpu", threads=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
def test_the_scenario_uses_everything(make_lab: MakeLab, onnx: OnnxBackend, eager: bool) -> None:
    lab = make_lab(eager=eager)
    scenario = Scenario(lab, onnx)
    within(scenario.live)
    assert not scenario.errors
    lab.assert_nothing_left()
    assert {call.method for call in lab.device.calls} == set(METHODS)


@pytest.mark.parametrize("sticky", [False, True], ids=["passing", "sticky"])
@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
@pytest.mark.parametrize("method", METHODS)
def test_any_call_may_fail(
    make_lab: MakeLab, onnx: OnnxBackend, method: str, eager: bool, sticky: bool
) -> None:
    clean = make_lab(eager=eager)
    within(Scenario(clean, onnx).live)
    total = clean.device.count(method) - (method == "enter")  # the fixture entered before
    assert total
    for nth in range(1, total + 1):
        lab = make_lab(eager=eager)
        lab.fail_on(method, nth, sticky=sticky)
        scenario = Scenario(lab, onnx)
        within(scenario.live)
        lab.assert_nothing_left()
        at_the_end = method in ENDS or (method == "enter" and nth == total)
        heard = (sticky or method not in HARMLESS) and not at_the_end
        assert scenario.errors or not heard, f"nobody heard of call {nth}"


@pytest.mark.parametrize("sticky", [False, True], ids=["passing", "sticky"])
@pytest.mark.parametrize("method", ["copy", "record", "wait", "synchronize", "launch", "end_capture"])
def test_several_threads_survive_an_error(
    make_lab: MakeLab, onnx: OnnxBackend, method: str, sticky: bool
) -> None:
    """Each thread ends; what comes out is right, or an error."""
    for nth in (1, 2, 5):
        lab = make_lab()
        backend = lab.open(contexts=2)
        lab.fail_on(method, nth, sticky=sticky)
        scenarios = [Scenario(lab, onnx) for _ in range(4)]

        def work(scenario: Scenario, backend: EngineBackend = backend) -> None:
            for number in range(12):
                scenario.run(backend, (A, B)[number % 3 // 2])

        with ThreadPoolExecutor(4) as threads:
            for future in [threads.submit(work, scenario) for scenario in scenarios]:
                future.result(PATIENCE)
        errors = [error for scenario in scenarios for error in scenario.errors]
        assert len(errors) <= 1 or sticky
        lab.assert_nothing_left()


def test_a_passing_error_costs_one_run(make_lab: MakeLab, onnx: OnnxBackend) -> None:
    lab = make_lab()
    backend = lab.open(contexts=1)
    for method in ("copy", "record", "wait"):
        lab.fail_on(method)
        with pytest.raises(DeviceError, match=f"^simulated failure of {method}$"):
            within(lambda: backend.start(inputs(A)).outputs())
        found = within(lambda: backend.start(inputs(A, 5)).outputs())
        np.testing.assert_array_equal(found["scores"], expected(onnx, A, 5)["scores"])
    lab.assert_nothing_left()


@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
@pytest.mark.parametrize("kind", ["enqueue", "context", "kernel", "capture"])
def test_tensorrt_may_refuse(make_lab: MakeLab, onnx: OnnxBackend, kind: str, eager: bool) -> None:
    for nth in range(1, 9):
        lab = make_lab(eager=eager)
        lab.trt.fail[kind] = lambda n, nth=nth: n == nth  # type: ignore[misc]
        lab.errors.append(lab.trt.kernel_error)
        scenario = Scenario(lab, onnx)
        within(scenario.live)
        lab.assert_nothing_left()
        happened = lab.trt.count(kind) >= nth
        assert len(scenario.errors) <= happened
        if kind in ("enqueue", "kernel"):
            assert len(scenario.errors) == happened
        assert happened or nth > 3


def test_the_line_has_tensorrts_reason(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.trt.fail["enqueue"] = lambda nth: nth == 1
    backend = lab.open()
    with pytest.raises(MrcnnError) as caught:
        backend.start(inputs(A))
    assert str(caught.value) == (
        f"{lab.engine}: TensorRT cannot run the engine "
        "([simulated.cpp::here::1] Error Code 1: simulated refusal)"
    )
    lab.trt.fail["context"] = lambda _: True
    with pytest.raises(MrcnnError, match=r"TensorRT cannot make a context \(.*out of memory\)\)$"):
        backend.start(inputs(D))


def test_a_lost_gpu_sends_everybody_home(make_lab: MakeLab) -> None:
    """Those who wait, those who come, and who closes."""
    lab = make_lab()
    backend = lab.open(contexts=1)
    held = backend.start(inputs(A))
    lab.fail_on("wait", sticky=True)
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(backend.start, inputs(A)) for _ in range(3)]
        eventually(lambda: len(backend._pool._waiting) == 3)
        with pytest.raises(DeviceError, match="simulated failure of wait"):
            within(held.outputs)
        errors = [future.exception(PATIENCE) for future in waiting]
    for error in errors:
        assert isinstance(error, DeviceError)
        assert error.sticky
        assert str(error).startswith(
            f"{lab.engine}: nothing runs on the GPU since: simulated failure of wait"
        )
        assert str(error).endswith("start the program again")
    with pytest.raises(DeviceError):
        backend.start(inputs(A))
    del waiting, errors
    lab.assert_nothing_left()


def test_an_error_in_a_kernel_is_heard_when_outputs_are_taken(make_lab: MakeLab) -> None:
    lab = make_lab()
    backend = lab.open(contexts=2)
    lab.trt.fail["kernel"] = lambda nth: nth == 1
    lab.errors.append(lab.trt.kernel_error)
    first, second = backend.start(inputs(A, 1)), backend.start(inputs(A, 2))
    with pytest.raises(DeviceError, match="error in a kernel"):
        within(first.outputs)
    within(second.outputs)
    for _ in range(3):
        within(backend.start(inputs(A)).outputs)
    lab.assert_nothing_left()


def test_errors_of_a_run_that_nobody_wants_are_nobodys(make_lab: MakeLab, onnx: OnnxBackend) -> None:
    lab = make_lab()
    backend = lab.open(contexts=1)
    lab.trt.fail["kernel"] = lambda nth: nth == 1
    lab.errors.append(lab.trt.kernel_error)
    backend.start(inputs(A, 1))  # dropped
    found = within(lambda: backend.start(inputs(A, 2)).outputs())
    np.testing.assert_array_equal(found["scores"], expected(onnx, A, 2)["scores"])
    lab.assert_nothing_left()


@pytest.mark.parametrize("nth", range(1, 8))
@pytest.mark.parametrize("method", ["allocate", "allocate_pinned", "create_stream", "create_event"])
def test_an_engine_that_cannot_be_opened_leaves_nothing(make_lab: MakeLab, method: str, nth: int) -> None:
    lab = make_lab()
    lab.fail_on(method, nth)
    with suppress(DeviceError):
        within(lambda: lab.open(contexts=3))
    assert bool(lab.opened) == (nth > 3 * (2 if method == "allocate" else 1))
    lab.assert_nothing_left()
    assert lab.device.count("free") + lab.device.count("free_pinned") > 0 or nth == 1
