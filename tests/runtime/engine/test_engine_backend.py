"""Runs of an engine give what ONNX Runtime gives, in any order and from any thread, and all is freed."""

import gc
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.runtime.backend import CLOSED, Batch
from mrcnn.runtime.backend_onnx import OnnxBackend
from mrcnn.runtime.engine import backend as backend_module
from mrcnn.runtime.engine.backend import EngineBackend
from mrcnn.runtime.runtime import Runtime
from mrcnn.runtime.sizes import InputRange
from mrcnn.sidecar import Profile, sidecar_path
from tests.runtime.engine.conftest import PATIENCE, PROFILES, Lab, eventually, inputs, within
from tests.runtime.engine.simulated_device import SimulatedMisuse

MakeLab = Callable[..., Lab]

SHAPES = [(1, 32, 32), (1, 64, 96), (2, 64, 128), (1, 96, 64), (2, 128, 64), (3, 128, 128), (1, 128, 96)]


def assert_same(found: Any, expected: Any) -> None:
    """Bit by bit: both are ONNX Runtime in the end."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def reference(lab: Lab) -> OnnxBackend:
    return OnnxBackend(lab.onnx, device="cpu", threads=1)


def test_one_run_by_hand(make_lab: MakeLab) -> None:
    """The tiny model's first box is the shares (0.25, 0.25, 0.75, 0.5) of the valid size."""
    lab = make_lab()
    backend = lab.open()
    image = np.full((64, 96, 3), 255, np.uint8)
    batch = Batch(images=[image], resized=[(64, 96)], padded=(64, 96), rows=1)
    outputs = within(lambda: backend.start(backend.prepare(batch)).outputs())
    assert outputs["num_detections"].tolist() == [2]
    assert outputs["boxes"][0, 0].tolist() == [24, 16, 72, 32]
    assert outputs["scores"][0].tolist() == [1, 0.5, 0, 0]
    assert outputs["labels"][0].tolist() == [1, 2, 0, 0]
    assert outputs["masks"].shape == (1, 4, 28, 28)
    lab.assert_nothing_left()


def test_key_points_are_an_output_like_others(make_lab: MakeLab) -> None:
    lab = make_lab(model={"keypoints": True})
    given = inputs((2, 64, 96))
    expected = reference(lab).run(*given)
    outputs = within(lab.open().start(given).outputs)
    assert outputs["keypoints"].shape == (2, 4, 17, 56, 56)
    assert_same(outputs, expected)
    lab.assert_nothing_left()


def test_what_it_tells(make_lab: MakeLab) -> None:
    lab = make_lab()
    backend = lab.open()
    assert backend.device == "cuda"
    assert backend.deployment == reference(lab).deployment
    assert backend.ranges == tuple(InputRange(profile.least, profile.most) for profile in PROFILES)


@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
@pytest.mark.parametrize("contexts", [1, 2, 3])
def test_many_shapes_in_random_order(make_lab: MakeLab, contexts: int, eager: bool) -> None:
    lab = make_lab(eager=eager)
    backend, onnx = lab.open(contexts=contexts), reference(lab)
    rng = random.Random(contexts)
    for number in range(60):
        given = inputs(rng.choice(SHAPES), seed=number)
        run = backend.start(given)
        expected = onnx.run(*given)
        given[0][:] = -1  # the caller may use its arrays again
        assert_same(within(run.outputs), expected)
    lab.assert_nothing_left()


@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
@pytest.mark.parametrize("contexts", [1, 2, 3])
def test_several_threads(make_lab: MakeLab, contexts: int, eager: bool) -> None:
    lab = make_lab(eager=eager)
    backend, onnx = lab.open(contexts=contexts), reference(lab)

    def work(thread: int) -> None:
        rng = random.Random(thread)
        for number in range(25):
            given = inputs(rng.choice(SHAPES), seed=100 * thread + number)
            assert_same(backend.start(given).outputs(), onnx.run(*given))

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, thread) for thread in range(4)]:
            future.result(PATIENCE)
    assert lab.trt.ran == 100
    lab.assert_nothing_left()


def test_as_many_runs_at_once_as_contexts(make_lab: MakeLab) -> None:
    lab = make_lab()
    backend, onnx = lab.open(contexts=3), reference(lab)
    given = [inputs(shape, seed) for seed, shape in enumerate(SHAPES[:4])]
    runs = [backend.start(each) for each in given[:3]]
    started = threading.Event()

    def fourth() -> Any:
        run = backend.start(given[3])
        started.set()
        return run.outputs()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(fourth)
        assert not started.wait(0.05)
        outputs = [within(run.outputs) for run in reversed(runs)][::-1]
        outputs.append(future.result(PATIENCE))
    for each, found in zip(given, outputs, strict=True):
        assert_same(found, onnx.run(*each))
    lab.assert_nothing_left()


def test_outputs_belong_to_the_caller(make_lab: MakeLab) -> None:
    lab = make_lab()
    backend = lab.open(contexts=1)
    first = within(backend.start(inputs(SHAPES[1], 1)).outputs)
    kept = {name: value.copy() for name, value in first.items()}
    within(backend.start(inputs(SHAPES[1], 2)).outputs)
    lab.assert_nothing_left()
    for name, value in first.items():
        assert value.flags.owndata
        np.testing.assert_array_equal(value, kept[name])


def test_outputs_are_taken_once(make_lab: MakeLab) -> None:
    run = make_lab().open().start(inputs(SHAPES[0]))
    within(run.outputs)
    with pytest.raises(RuntimeError, match="taken already"):
        run.outputs()


@pytest.mark.parametrize(
    "model",
    [
        {"dtype": "uint8"},
        {"masks": False},
        {"height": 64, "width": 96, "batch": 2},
        {"height": 64, "width": 96},
        {"batch": 1},
    ],
    ids=str,
)
def test_other_models(make_lab: MakeLab, model: dict[str, Any]) -> None:
    least, most = (model.get("batch", 1), 32, 32), (model.get("batch", 2), 96, 96)
    if "height" in model:
        least, most = (least[0], 64, 96), (most[0], 64, 96)
    lab = make_lab(model=model, profiles=(Profile(least=least, best=most, most=most),))
    backend, onnx = lab.open(), reference(lab)
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    batch = Batch(images=[image], resized=[most[1:]], padded=most[1:], rows=most[0])
    for _ in range(3):
        given = backend.prepare(batch)
        assert_same(within(backend.start(given).outputs), onnx.run(given.images, given.image_sizes))
    lab.assert_nothing_left()


def test_the_smallest_profile_serves(make_lab: MakeLab) -> None:
    lab = make_lab()
    backend = lab.open(contexts=1)
    for shape in SHAPES:
        within(backend.start(inputs(shape)).outputs)
    chosen = [call.arguments for call in lab.device.calls if call.method == "run_on_stream"]
    assert len(chosen) == len(SHAPES)
    assert [backend._plan.profile_of(shape) for shape in SHAPES] == [0, 0, 0, 1, 1, 2, 2]
    assert sorted(context.profile for context in lab.trt.contexts) == [0, 1, 2]


@pytest.mark.parametrize("shape", [(4, 64, 64), (1, 16, 32), (1, 160, 64), (3, 64, 130)])
def test_inputs_of_no_profile(make_lab: MakeLab, shape: tuple[int, int, int]) -> None:
    lab = make_lab()
    backend = lab.open(contexts=1)
    with pytest.raises(MrcnnError, match=f"not built for {shape[0]} images of {shape[1]}x{shape[2]}"):
        backend.start(inputs(shape))
    within(backend.start(inputs(SHAPES[0])).outputs)
    lab.assert_nothing_left()


# The end of a backend.


def test_close_twice_and_then_start(make_lab: MakeLab) -> None:
    lab = make_lab()
    backend = lab.open()
    within(backend.start(inputs(SHAPES[0])).outputs)
    within(backend.close)
    within(backend.close)
    for shape in (SHAPES[0], (9, 9, 9)):
        with pytest.raises(MrcnnError, match=f"^{CLOSED}$"):
            backend.start(inputs(shape))
    lab.assert_nothing_left()


@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
def test_close_lets_runs_end(make_lab: MakeLab, eager: bool) -> None:
    """Also those whose outputs the closing thread itself has not taken yet."""
    lab = make_lab(eager=eager)
    backend = lab.open()
    given = [inputs(SHAPES[1], 1), inputs(SHAPES[3], 2)]
    runs = [backend.start(each) for each in given]
    within(backend.close)
    lab.assert_nothing_left()
    for run, each in zip(runs, given, strict=True):
        assert_same(within(run.outputs), reference(lab).run(*each))


def test_close_during_work(make_lab: MakeLab) -> None:
    lab = make_lab()
    backend, onnx = lab.open(), reference(lab)
    done, refused = [], []

    def work(thread: int) -> None:
        number = 0
        while True:
            given = inputs(SHAPES[number % len(SHAPES)], 1000 * thread + number)
            try:
                outputs = backend.start(given).outputs()
            except MrcnnError as error:
                refused.append(str(error))
                return
            assert_same(outputs, onnx.run(*given))
            done.append(number)
            number += 1

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, thread) for thread in range(4)]
        eventually(lambda: len(done) > 20)
        within(backend.close)
        for future in futures:
            future.result(PATIENCE)
    assert refused == [CLOSED] * 4
    lab.assert_nothing_left()


def test_close_turns_away_who_waits(make_lab: MakeLab) -> None:
    lab = make_lab()
    backend = lab.open(contexts=1)
    held = backend.start(inputs(SHAPES[0]))
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(backend.start, inputs(SHAPES[0])) for _ in range(3)]
        eventually(lambda: len(backend._pool._waiting) == 3)
        within(backend.close)
        for future in waiting:
            with pytest.raises(MrcnnError, match=CLOSED):
                future.result(PATIENCE)
    within(held.outputs)
    lab.assert_nothing_left()


def test_close_waits_for_every_slot(make_lab: MakeLab) -> None:
    """Also for one that a thread has taken and not yet begun to use."""
    lab = make_lab()
    backend = lab.open()
    slot = backend._pool.take()
    with ThreadPoolExecutor(1) as threads:
        closing = threads.submit(backend.close)
        eventually(lambda: len(backend._pool._closing) == 1)
        assert not lab.device.count("free")
        backend._pool.give(slot)
        closing.result(PATIENCE)
    lab.assert_nothing_left()


def test_close_between_taking_a_slot_and_launching(make_lab: MakeLab) -> None:
    """As when another thread closes while `start` is half-way."""
    lab = make_lab()
    backend = lab.open()
    run = backend._new_run(backend._pool.take())
    within(backend.close)
    with pytest.raises(MrcnnError, match=CLOSED):
        run.launch(inputs(SHAPES[0]))
    slot = backend._pool._free.pop()
    with pytest.raises(MrcnnError, match=CLOSED):  # the other half-way
        backend._new_run(slot)
    lab.assert_nothing_left()


@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
def test_a_run_that_nobody_wants(make_lab: MakeLab, eager: bool) -> None:
    lab = make_lab(eager=eager)
    backend, onnx = lab.open(contexts=1), reference(lab)
    for seed in range(5):
        backend.start(inputs(SHAPES[seed % 2], seed))  # dropped at once
    given = inputs(SHAPES[0], 9)
    assert_same(within(lambda: backend.start(given).outputs()), onnx.run(*given))
    backend.start(given)
    lab.assert_nothing_left()


def test_a_run_that_the_collector_finds(make_lab: MakeLab) -> None:
    lab = make_lab()
    backend = lab.open(contexts=1)
    circle: list[Any] = [backend.start(inputs(SHAPES[0]))]
    circle.append(circle)
    del circle
    gc.collect()
    within(lambda: backend.start(inputs(SHAPES[0])).outputs())
    lab.assert_nothing_left()


def test_a_backend_that_nobody_closed(make_lab: MakeLab) -> None:
    lab = make_lab()
    backend = EngineBackend(lab.engine, device=lab.device, trt=lab.trt)
    within(backend.start(inputs(SHAPES[0])).outputs)
    del backend
    gc.collect()
    lab.assert_nothing_left()


# Memory.


def test_memory_is_as_told(make_lab: MakeLab) -> None:
    lab = make_lab(activations=100_000)
    backend = lab.open(contexts=3)
    told = backend.memory_bytes
    free, total = lab.device.memory()
    assert told["weights"] == lab.engine.stat().st_size
    assert told["activations"] == 300_000
    # 3 x 128 x 128 pixels of 3 floats are the most; the other tensors of 3 rows are some 40 kB.
    assert 3 * 589_824 < told["buffers"] < 3 * 640_000
    assert total - free == told["activations"] + told["buffers"]  # the simulated weights take nothing
    assert all(type(size) is int for size in told.values())
    within(backend.close)
    assert backend.memory_bytes == {}


@pytest.mark.parametrize("activations", [0, 1, 255, 256])
def test_activations_of_any_size(make_lab: MakeLab, activations: int) -> None:
    lab = make_lab(activations=activations)
    backend = lab.open()
    for _ in range(3):
        within(backend.start(inputs(SHAPES[0])).outputs)
    lab.assert_nothing_left()


def test_too_little_memory_says_how_much(make_lab: MakeLab) -> None:
    """Per context 8 MB of activations and 0.6 MB of buffers; the plan is 16 kB."""
    lab = make_lab(total=15_000_000, activations=8_000_000)
    with pytest.raises(MissingRequirementError) as caught:
        lab.open(contexts=2)
    line = str(caught.value)
    assert (
        "2 contexts need 17 MB on the GPU, 15 MB are free: open it with contexts=1, which needs 9 MB" in line
    )
    lab.assert_nothing_left()
    within(lab.open(contexts=1).start(inputs(SHAPES[0])).outputs)
    lab.assert_nothing_left()


def test_too_little_memory_for_one(make_lab: MakeLab) -> None:
    lab = make_lab(total=8_000_000, activations=8_000_000)
    with pytest.raises(MissingRequirementError) as caught:
        lab.open(contexts=1)
    assert "1 context needs 9 MB on the GPU, 8 MB are free: build it with smaller profiles" in str(
        caught.value
    )
    lab.assert_nothing_left()


def test_memory_that_somebody_else_took_meanwhile(make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab(total=15_000_000, activations=8_000_000)
    monkeypatch.setattr(lab.device, "memory", lambda: (1 << 40, 1 << 40))
    with pytest.raises(MissingRequirementError, match=r"2 contexts need 17 MB on the GPU"):
        lab.open(contexts=2)
    lab.assert_nothing_left()


# What is refused before anything runs.


def test_the_gpu_is_asked_before_the_plan_is_read(make_lab: MakeLab) -> None:
    lab = make_lab(capability=(8, 7), gpu="Orin", plan_sha256="0")
    with pytest.raises(MissingRequirementError, match="built for Orin"):
        lab.open()
    assert not lab.trt.logger
    lab.assert_nothing_left()


def test_a_damaged_plan_never_reaches_tensorrt(make_lab: MakeLab) -> None:
    lab = make_lab()
    data = bytearray(lab.engine.read_bytes())
    data[-1] ^= 1
    lab.engine.write_bytes(data)
    with pytest.raises(MrcnnError, match="damaged"):
        lab.open()
    assert not lab.trt.logger


def test_files_are_asked_before_the_gpu(make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    sidecar_path(lab.engine).unlink()
    monkeypatch.setattr(backend_module, "_open_gpu", lambda: pytest.fail("the GPU was opened"))
    with pytest.raises(MrcnnError, match=r"model\.engine\.json is missing"):
        EngineBackend(lab.engine)


def test_without_a_gpu(make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gpu() -> None:
        raise MissingRequirementError("no GPU here")

    lab = make_lab()
    monkeypatch.setattr(backend_module, "_open_gpu", no_gpu)
    with pytest.raises(MissingRequirementError, match="no GPU here"):
        EngineBackend(lab.engine, trt=lab.trt)
    assert not lab.trt.runtimes


def test_outputs_that_break_the_contract(make_lab: MakeLab) -> None:
    lab = make_lab(model={"count": 5})  # of four that there are
    backend = lab.open(contexts=1)
    for _ in range(4):
        with pytest.raises(MrcnnError, match=r"model\.engine: the engine's outputs break the contract"):
            within(backend.start(inputs(SHAPES[0])).outputs)
    lab.assert_nothing_left()


def test_the_simulation_notices_misuse(make_lab: MakeLab) -> None:
    """A check of the check: a context that is freed after its memory is complained about."""
    lab = make_lab()
    backend = lab.open()
    within(backend.start(inputs(SHAPES[0])).outputs)
    (context,) = lab.trt.contexts
    within(backend.close)
    del context
    with pytest.raises(SimulatedMisuse, match="freed"):
        lab.device.assert_nothing_left()


def test_paths_are_given_as_paths(make_lab: MakeLab, tmp_path: Path) -> None:
    with pytest.raises(MrcnnError, match="No such file"):
        EngineBackend(tmp_path / "missing.engine", device=make_lab().device)


# Through the front door.


def test_runtime_gives_the_same_for_an_engine(make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    monkeypatch.setattr(backend_module, "_open_gpu", lambda: lab.device)
    monkeypatch.setattr(backend_module, "import_tensorrt", lambda **_: lab.trt)
    rng = np.random.default_rng(0)
    shapes = [(64, 96), (96, 64), (100, 130), (64, 96), (64, 96), (64, 96), (30, 45), (64, 64)]
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    with Runtime(lab.onnx, device="cpu") as onnx:
        expected = [onnx.infer(image) for image in images]
    with Runtime(lab.engine) as runtime:
        assert runtime.device == "cuda"
        one_by_one = within(lambda: [runtime.infer(image) for image in images])
        together = within(lambda: runtime.infer(images))
        streamed = within(lambda: list(runtime.stream(images)))
    for results in (one_by_one, together, streamed):
        for found, wanted in zip(results, expected, strict=True):
            np.testing.assert_array_equal(found.boxes, wanted.boxes)
            np.testing.assert_array_equal(found.scores, wanted.scores)
            np.testing.assert_array_equal(found.labels, wanted.labels)
    assert lab.device.count("launch") > 0
    lab.assert_nothing_left()
