"""Images that the GPU resizes, from the host and from where they are, on the simulated GPU."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.plugins.kernels import KernelError
from mrcnn.runtime import Runtime
from mrcnn.runtime.backend import Batch
from mrcnn.runtime.engine import backend as backend_module
from mrcnn.runtime.engine import pixels
from mrcnn.runtime.engine.backend import EngineBackend
from mrcnn.runtime.engine.device import DeviceError
from mrcnn.runtime.engine.pixels import GpuPicture, Pictures, Staging, find_resize
from mrcnn.runtime.preprocess import make_batch
from tests.runtime.engine.conftest import Lab, within
from tests.runtime.engine.simulated_device import SimulatedDevice
from tests.runtime.engine.simulated_resize import simulated_resize

MakeLab = Callable[..., Lab]
Pixels = NDArray[np.uint8]

PADDED = (64, 96)


@pytest.fixture(params=[False, True], ids=["lazy", "eager"])
def lab(request: pytest.FixtureRequest, make_lab: MakeLab) -> Lab:
    return make_lab(eager=request.param)


def picture(height: int, width: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class OnGpu:
    """An array of somebody else's on the simulated GPU, BGR, its rows with gaps."""

    def __init__(
        self, device: SimulatedDevice, rgb: Pixels, *, stream: int | None = None, gap: int = 16
    ) -> None:
        height, width = rgb.shape[:2]
        self.rows = np.full((height, 3 * width + gap), 0xEE, np.uint8)
        self.address = self.rows.ctypes.data
        device.adopt(self.address, self.rows.nbytes)

        def fill() -> None:
            self.rows[:, : 3 * width] = rgb[..., ::-1].reshape(height, -1)

        if stream is None:
            fill()
        else:
            device.run_on_stream(stream, fill, touches=[(self.address, self.rows.nbytes)])
        self.__cuda_array_interface__ = {
            "shape": (height, width, 3),
            "strides": (3 * width + gap, 3, 1),
            "typestr": "|u1",
            "data": (self.address, False),
            "version": 3,
            "stream": stream,
        }


def outputs(backend: EngineBackend, batch: Batch) -> dict[str, NDArray[Any]]:
    return dict(within(lambda: backend.start(backend.prepare(batch)).outputs()))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_the_gpu_resizes_as_the_cpu(make_lab: MakeLab, dtype: str) -> None:
    lab = make_lab(model={"dtype": dtype})
    on_cpu = lab.open()
    on_gpu = lab.open(resize=simulated_resize(lab.device))
    rng = np.random.default_rng(0)
    for seed in range(30):
        count = 1 + seed % 2
        images = [picture(*rng.integers(1, 150, 2), seed + i) for i in range(count)]
        images[0] = images[0][:, ::-1]  # a view, whose columns lie backwards
        resized = [(int(h), int(w)) for h, w in rng.integers(1, (65, 97), (count, 2))]
        batch = Batch(images=images, resized=resized, padded=PADDED, rows=2)
        inputs = on_gpu.prepare(batch)
        assert isinstance(inputs, Pictures)
        expected = make_batch(images, resized=resized, padded=PADDED, batch=2, dtype=dtype)
        assert (inputs.image_sizes == expected[1]).all()
        found, wanted = outputs(on_gpu, batch), outputs(on_cpu, batch)
        for name, value in wanted.items():
            np.testing.assert_array_equal(found[name], value)
    lab.assert_nothing_left()


def test_rows_without_an_image_are_black(lab: Lab) -> None:
    backend = lab.open(contexts=1, resize=simulated_resize(lab.device))
    white = np.full((9, 9, 3), 255, np.uint8)
    full = Batch(images=[white, white], resized=[PADDED, PADDED], padded=PADDED, rows=2)
    half = Batch(images=[white], resized=[PADDED], padded=PADDED, rows=2)
    assert outputs(backend, full)["scores"][:, 0].tolist() == [1, 1]
    assert outputs(backend, half)["scores"][:, 0].tolist() == [1, 0]  # the brightest pixel is the first score
    lab.assert_nothing_left()


def open_runtime(lab: Lab, monkeypatch: pytest.MonkeyPatch, resize: Any) -> Runtime:
    monkeypatch.setattr(backend_module, "_open_gpu", lambda: lab.device)
    monkeypatch.setattr(backend_module, "find_resize", lambda _: resize)
    monkeypatch.setattr(backend_module, "import_tensorrt", lambda **_: lab.trt)
    return Runtime(lab.engine)


def test_images_on_the_gpu_give_what_those_on_the_host_give(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [picture(40 + 7 * seed, 60, seed) for seed in range(4)]
    with open_runtime(lab, monkeypatch, simulated_resize(lab.device)) as runtime:
        expected = runtime.infer(images, color="rgb")
        theirs = [OnGpu(lab.device, image) for image in images]
        for given in (
            runtime.infer(theirs),
            [runtime.infer(one) for one in theirs],
            [runtime.infer_async(one).result(30) for one in theirs],
            list(runtime.stream(theirs)),
        ):
            for found, wanted in zip(given, expected, strict=True):
                assert found.image_size == wanted.image_size
                assert (found.boxes == wanted.boxes).all()
                assert (found.scores == wanted.scores).all()
        swapped = runtime.infer(theirs[0], color="rgb")
        assert swapped.scores.tolist() == pytest.approx(
            expected[0].scores.tolist()
        )  # the model is colour-blind
        with pytest.raises(MrcnnError, match="color must be"):
            runtime.infer(theirs[0], color="rbg")
        assert runtime.memory_bytes["staging"] > 0
    lab.assert_nothing_left()


def test_channels_are_swapped(lab: Lab) -> None:
    backend = lab.open(contexts=1, resize=simulated_resize(lab.device))
    image = picture(8, 8, 0)
    theirs = OnGpu(lab.device, image)
    for color, expected in (("bgr", image), ("rgb", image[..., ::-1])):
        taken = backend.take(theirs, color=color)
        inputs = backend.prepare(Batch(images=[taken], resized=[(8, 8)], padded=PADDED, rows=1))
        slot = backend._slots[0]
        inputs.load(slot._place)
        lab.device.synchronize(slot._stream)
        got = lab.device.view(slot._place.images, (1, *PADDED, 3), np.float32)
        assert (got[0, :8, :8] == expected).all()
        assert got.sum() == expected.sum()
    lab.assert_nothing_left()


def test_an_image_that_is_still_being_made_is_waited_for(
    make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab()  # lazy: nothing is done before somebody waits for it
    theirs = lab.device.create_stream()
    image = picture(50, 60, 1)
    with open_runtime(lab, monkeypatch, simulated_resize(lab.device)) as runtime:
        expected = runtime.infer(image, color="rgb")
        for _ in range(4):
            late = OnGpu(lab.device, image, stream=theirs)
            assert runtime.infer(late).scores.tolist() == expected.scores.tolist()
    lab.device.destroy_stream(theirs)
    lab.assert_nothing_left()


def test_an_image_stays_until_its_run_is_over(make_lab: MakeLab) -> None:
    lab = make_lab()
    backend = lab.open(contexts=1, resize=simulated_resize(lab.device))
    theirs = OnGpu(lab.device, picture(30, 30, 1))
    ended = weakref.ref(theirs)
    run = backend.start(
        backend.prepare(
            Batch(images=[backend.take(theirs, color="bgr")], resized=[(64, 64)], padded=PADDED, rows=1)
        )
    )
    del theirs
    gc.collect()
    assert ended() is not None
    within(run.outputs)
    del run
    gc.collect()
    assert ended() is None
    lab.assert_nothing_left()


def test_without_the_kernel_a_line_says_what_is_missing(lab: Lab) -> None:
    backend = lab.open()
    assert backend.take(picture(3, 3, 0), color="rgb") is None
    assert backend.take("photo.jpg", color="bgr") is None
    with pytest.raises(MissingRequirementError, match="images on the GPU need the kernels with CUDA"):
        backend.take(OnGpu(lab.device, picture(3, 3, 0)), color="bgr")
    lab.assert_nothing_left()


def test_an_onnx_model_on_the_cpu_takes_no_images_from_the_gpu(lab: Lab) -> None:
    with Runtime(lab.onnx) as runtime, pytest.raises(MrcnnError, match="an image must be a path"):
        runtime.infer(OnGpu(lab.device, picture(3, 3, 0)))  # type: ignore[call-overload]


def test_staging_grows_and_is_freed() -> None:
    device = SimulatedDevice()
    device.enter()
    staging = Staging(device)
    staging.reserve(host=0, gpu=0)
    assert (staging.host_bytes, staging.gpu_bytes) == (0, 0)
    staging.reserve(host=10, gpu=1 << 20)
    first = staging.host
    staging.reserve(host=1 << 20, gpu=5)
    assert staging.host == first
    staging.reserve(host=(1 << 20) + 1, gpu=0)
    assert (staging.host_bytes, staging.gpu_bytes) == (2 << 20, 1 << 20)
    device.fail_on("allocate", 1, DeviceError("out of memory", name="cudaErrorMemoryAllocation"))
    with pytest.raises(DeviceError):
        staging.reserve(host=0, gpu=5 << 20)
    assert staging.gpu_bytes == 0
    staging.reserve(host=0, gpu=1)
    assert staging.gpu_bytes == 1 << 20
    staging.free()
    staging.free()
    device.assert_nothing_left()


@pytest.mark.parametrize(
    "method", ["allocate", "allocate_pinned", "copy", "clear", "stream_wait", "record", "create_event"]
)
@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
def test_any_call_may_fail(make_lab: MakeLab, method: str, eager: bool) -> None:
    image = picture(30, 50, 1)
    for nth in range(1, 20):
        lab = make_lab(eager=eager)
        theirs = lab.device.create_stream()
        backend = lab.open(contexts=1, resize=simulated_resize(lab.device))
        wanted = None
        errors: list[str] = []
        before = lab.device.count(method)
        for attempt in range(4):
            if attempt == 1:
                before = lab.device.count(method)
                lab.fail_on(method, nth)
            late = OnGpu(lab.device, image, stream=theirs)
            try:
                taken = backend.take(late, color="bgr")
                batch = Batch(images=[image, taken], resized=[(40, 64)] * 2, padded=PADDED, rows=2)
                found = outputs(backend, batch)
            except DeviceError as error:
                errors.append(str(error))
                error.__traceback__ = None
                continue
            wanted = wanted if wanted is not None else found
            for name, value in wanted.items():
                np.testing.assert_array_equal(found[name], value)
            taken = batch = None
        reached = lab.device.count(method) - before >= nth
        assert len(errors) <= 1
        assert all(f"simulated failure of {method}" in line for line in errors)
        lab.device.synchronize(theirs)
        lab.device.destroy_stream(theirs)
        taken = batch = late = None
        gc.collect()
        lab.assert_nothing_left()
        if not reached:
            break


def test_the_kernel_is_found_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    device = SimulatedDevice()
    device.enter()

    class Kernels:
        build_info = "mrcnn 0.1.0, CPU, CUDA 13.0 sm_90"
        resize_cuda = staticmethod(simulated_resize(device))

    def refused(*_: Any) -> None:
        raise KernelError("no kernel image is available")

    monkeypatch.setattr(pixels, "installed_kernels", Kernels)
    assert find_resize(device) is Kernels.resize_cuda
    Kernels.resize_cuda = staticmethod(refused)
    assert find_resize(device) is None
    Kernels.build_info = "mrcnn 0.1.0, CPU"
    Kernels.resize_cuda = staticmethod(simulated_resize(device))
    assert find_resize(device) is None

    def missing() -> None:
        raise MissingRequirementError("not built")

    monkeypatch.setattr(pixels, "installed_kernels", missing)
    assert find_resize(device) is None
    device.assert_nothing_left()


def test_a_picture_has_the_shape_of_its_array(lab: Lab) -> None:
    backend = lab.open(resize=simulated_resize(lab.device))
    taken = backend.take(OnGpu(lab.device, picture(5, 7, 0)), color="bgr")
    assert isinstance(taken, GpuPicture)
    assert taken.shape == (5, 7, 3)
    del taken
    lab.assert_nothing_left()
