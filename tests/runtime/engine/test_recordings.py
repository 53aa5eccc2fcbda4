"""When a run is recorded as a CUDA graph and when it is replayed; graphs that fail or grow old."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pytest

from mrcnn.runtime.backend_onnx import OnnxBackend
from mrcnn.runtime.engine import slot as slot_module
from mrcnn.runtime.engine.backend import EngineBackend
from mrcnn.runtime.engine.device import DeviceError
from tests.runtime.engine.conftest import Lab, inputs, within
from tests.runtime.engine.simulated_device import SimulatedMisuse

MakeLab = Callable[..., Lab]

A, B, C, D = (1, 32, 32), (1, 64, 96), (2, 64, 128), (1, 96, 64)  # D alone is of another profile


@dataclass(frozen=True)
class Counts:
    """`plain` and `captured` calls of execute_async_v3, `replayed` graphs, and contexts that are `alive`."""

    plain: int
    captured: int
    replayed: int
    alive: int


def counts(lab: Lab) -> Counts:
    lab.forget_errors()
    return Counts(lab.trt.enqueued, lab.trt.captured, lab.device.count("launch"), len(lab.trt.contexts))


def run(lab: Lab, backend: EngineBackend, shapes: Iterable[tuple[int, int, int]]) -> None:
    """Runs them one after the other, each with other pixels, and compares with ONNX Runtime."""
    onnx = OnnxBackend(lab.onnx, device="cpu", threads=1)
    for seed, shape in enumerate(shapes):
        given = inputs(shape, seed)
        found = within(lambda given=given: backend.start(given).outputs())  # type: ignore[misc]
        for name, value in onnx.run(*given).items():
            np.testing.assert_array_equal(found[name], value, err_msg=f"{name} of run {seed}")


@pytest.fixture(params=[False, True], ids=["lazy", "eager"])
def lab(request: pytest.FixtureRequest, make_lab: MakeLab) -> Lab:
    return make_lab(eager=request.param)


def test_plain_then_recorded_then_replayed(lab: Lab) -> None:
    backend = lab.open(contexts=1)
    run(lab, backend, [A])
    assert counts(lab) == Counts(plain=1, captured=0, replayed=0, alive=1)
    run(lab, backend, [A])  # in a context of its own, and recorded afterwards
    assert counts(lab) == Counts(plain=2, captured=1, replayed=0, alive=2)
    run(lab, backend, [A] * 3)
    assert counts(lab) == Counts(plain=2, captured=1, replayed=3, alive=2)
    lab.assert_nothing_left()


def test_shapes_that_alternate(lab: Lab) -> None:
    backend = lab.open(contexts=1)
    run(lab, backend, [A, B, D] * 6)
    # Two profiles with a shared context each, three graphs with their own.
    assert counts(lab) == Counts(plain=6, captured=3, replayed=12, alive=5)
    lab.assert_nothing_left()


def test_plain_runs_between_replays(lab: Lab) -> None:
    """A new shape in the shared context does not touch what was recorded in others."""
    backend = lab.open(contexts=1)
    run(lab, backend, [A, A, B, A, C, A, (1, 64, 64), A])
    assert counts(lab) == Counts(plain=5, captured=1, replayed=3, alive=2)
    lab.assert_nothing_left()


def test_each_slot_has_its_own(lab: Lab) -> None:
    backend = lab.open(contexts=2)
    for _ in range(4):
        runs = [backend.start(inputs(A, seed)) for seed in range(2)]
        for each in runs:
            within(each.outputs)
    assert counts(lab) == Counts(plain=4, captured=2, replayed=4, alive=4)
    lab.assert_nothing_left()


def test_one_caller_stays_in_one_slot(lab: Lab) -> None:
    backend = lab.open(contexts=3)
    run(lab, backend, [A] * 5)
    assert counts(lab) == Counts(plain=2, captured=1, replayed=3, alive=2)
    lab.assert_nothing_left()


def test_the_least_recently_used_goes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_module, "MOST_GRAPHS", 2)
    backend = lab.open(contexts=1)
    run(lab, backend, [A, A, B, B, A])  # A was used after B
    assert counts(lab) == Counts(plain=4, captured=2, replayed=1, alive=3)
    run(lab, backend, [C, C])  # B goes, and its context with it
    assert counts(lab) == Counts(plain=6, captured=3, replayed=1, alive=3)
    assert lab.device.count("destroy_graph") == 1
    run(lab, backend, [A, C])
    assert counts(lab).replayed == 3
    run(lab, backend, [B, B, B])  # as at its first time, and A goes
    assert counts(lab) == Counts(plain=8, captured=4, replayed=4, alive=3)
    lab.assert_nothing_left()


def test_there_are_at_most_sixteen(lab: Lab) -> None:
    backend = lab.open(contexts=1)
    shapes = [(1, height, width) for height in (32, 64) for width in range(32, 123, 10)]
    run(lab, backend, [shape for shape in shapes for _ in range(2)])
    assert len(shapes) == 20
    assert counts(lab).captured == 20
    assert lab.device.count("destroy_graph") == 4
    assert len(lab.trt.contexts) == 1 + 16
    lab.assert_nothing_left()


def test_tensorrt_refuses_the_capture(lab: Lab) -> None:
    """Tried once for the shape; all runs happen."""
    lab.trt.fail["capture"] = lambda nth: nth == 1
    backend = lab.open(contexts=1)
    run(lab, backend, [A] * 5)
    assert counts(lab) == Counts(plain=5, captured=0, replayed=0, alive=1)
    assert lab.device.count("begin_capture") == lab.device.count("end_capture") == 1
    run(lab, backend, [B] * 3)
    assert counts(lab) == Counts(plain=7, captured=1, replayed=1, alive=2)
    lab.assert_nothing_left()


@pytest.mark.parametrize("method", ["begin_capture", "end_capture"])
def test_the_gpu_refuses_the_capture(lab: Lab, method: str) -> None:
    backend = lab.open(contexts=1)
    lab.fail_on(method)
    run(lab, backend, [A] * 4)
    assert counts(lab).replayed == 0
    assert lab.device.count("begin_capture") == 1
    assert lab.trt.ran == 4
    lab.assert_nothing_left()


def test_a_copy_fails_in_the_capture(lab: Lab) -> None:
    """Seven copies a run; the second run does them, and then records them."""
    backend = lab.open(contexts=1)
    lab.fail_on("copy", 2 * 7 + 1)
    run(lab, backend, [A] * 3)
    assert counts(lab) == Counts(plain=3, captured=0, replayed=0, alive=1)
    assert lab.device.count("end_capture") == 1
    lab.assert_nothing_left()


def test_both_refuse_the_capture(lab: Lab) -> None:
    lab.trt.fail["capture"] = lambda _: True
    backend = lab.open(contexts=1)
    lab.fail_on("end_capture")
    run(lab, backend, [A] * 3)
    assert counts(lab) == Counts(plain=3, captured=0, replayed=0, alive=1)
    lab.assert_nothing_left()


def test_no_memory_for_another_context(lab: Lab) -> None:
    """The shared context goes on; it is not asked for again."""
    lab.trt.fail["context"] = lambda nth: nth == 2
    backend = lab.open(contexts=1)
    run(lab, backend, [A] * 4)
    assert counts(lab) == Counts(plain=4, captured=0, replayed=0, alive=1)
    lab.assert_nothing_left()


def test_a_run_that_fails_before_it_is_recorded(lab: Lab) -> None:
    """Its context goes before the next run, and the shape is tried again."""
    backend = lab.open(contexts=1)
    run(lab, backend, [A])
    lab.fail_on("synchronize")
    with pytest.raises(DeviceError):
        backend.start(inputs(A))
    run(lab, backend, [B])
    assert counts(lab) == Counts(plain=3, captured=0, replayed=0, alive=1)
    run(lab, backend, [A, A])
    assert counts(lab) == Counts(plain=4, captured=1, replayed=1, alive=2)
    lab.assert_nothing_left()


def test_the_oldest_goes_even_with_an_error(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_module, "MOST_GRAPHS", 1)
    backend = lab.open(contexts=1)
    run(lab, backend, [A, A, B])
    lab.fail_on("destroy_graph")
    with pytest.raises(DeviceError):
        backend.start(inputs(B))
    assert len(lab.trt.contexts) == 2  # though the error's traceback is still there
    run(lab, backend, [B, A])
    assert counts(lab) == Counts(plain=5, captured=2, replayed=1, alive=2)
    lab.assert_nothing_left()


def test_all_a_run_needs_is_in_the_recording(lab: Lab) -> None:
    """A replay is the images' copy, one launch and one event."""
    backend = lab.open(contexts=1)
    run(lab, backend, [A, A])
    before = len(lab.device.calls)
    within(backend.start(inputs(A)).outputs)
    methods = [call.method for call in lab.device.calls[before:]]
    assert [method for method in methods if method != "enter"] == [
        "copy",
        "launch",
        "record",
        "wait",
    ]


def test_the_simulation_notices_a_changed_context(make_lab: MakeLab) -> None:
    """A check of the check: what NVIDIA calls undefined is refused here."""
    lab = make_lab()
    backend = lab.open(contexts=1)
    run(lab, backend, [A, A])
    slot = backend._slots[0]
    slot._recorded[A].bound.context.trt.set_input_shape("images", (*B, 3))
    with pytest.raises(SimulatedMisuse, match="changed after the capture"):
        within(lambda: backend.start(inputs(A)).outputs())
