"""Engines on the simulated GPU."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from mrcnn.runtime.engine.backend import EngineBackend
from mrcnn.runtime.engine.device import DeviceError
from mrcnn.runtime.engine.pixels import HostBatch
from mrcnn.sidecar import Profile
from tests.runtime.engine.engine_files import write_engine
from tests.runtime.engine.simulated_device import SimulatedDevice
from tests.runtime.engine.simulated_tensorrt import SimulatedTensorrt

T = TypeVar("T")

PATIENCE = 30  # seconds after which a thread counts as stuck

# Landscape and portrait of up to two images, and one that contains both.
PROFILES = (
    Profile(least=(1, 32, 32), best=(1, 64, 96), most=(2, 64, 128)),
    Profile(least=(1, 32, 32), best=(1, 96, 64), most=(2, 128, 64)),
    Profile(least=(1, 32, 32), best=(1, 128, 128), most=(3, 128, 128)),
)


@dataclass
class Lab:
    """A simulated GPU, TensorRT on it, and an engine file."""

    engine: Path
    onnx: Path
    device: SimulatedDevice
    trt: SimulatedTensorrt
    opened: list[EngineBackend] = field(default_factory=list)
    errors: list[DeviceError] = field(default_factory=list)

    def open(self, *, contexts: int = 2, resize: Any = None) -> EngineBackend:
        """The engine; what is still open at the end of the test is closed then."""
        backend = EngineBackend(
            self.engine, device=self.device, trt=self.trt, contexts=contexts, resize=resize
        )
        self.opened.append(backend)
        return backend

    def fail_on(self, method: str, nth_call: int = 1, *, sticky: bool = False) -> None:
        """Lets a call of the GPU fail."""
        self.errors.append(DeviceError(f"simulated failure of {method}", name="simulated", sticky=sticky))
        self.device.fail_on(method, nth_call, self.errors[-1])

    def assert_nothing_left(self) -> None:
        """Closes what is open, and looks for what was not freed."""
        while self.opened:
            within(self.opened.pop().close)
        self.forget_errors()
        assert not self.trt.contexts
        assert not self.trt.engines
        assert not self.trt.runtimes
        self.device.assert_nothing_left()

    def forget_errors(self) -> None:
        """The device keeps them, and their tracebacks keep everything that is in the frames."""
        for error in self.errors:
            error.__traceback__ = error.__context__ = error.__cause__ = None


@pytest.fixture
def make_lab(tmp_path: Path, tiny_model: Callable[..., Path]) -> Callable[..., Lab]:
    """Makes a `Lab`: `eager`, `total` are for the GPU, `model` for the tiny model, others for the engine."""

    def make(
        *,
        eager: bool = False,
        total: int = 1 << 30,
        model: dict[str, Any] | None = None,
        **build: Any,
    ) -> Lab:
        device = SimulatedDevice(eager=eager, total=total)
        device.enter()
        onnx = tiny_model(**model or {})
        engine = write_engine(tmp_path / "model.engine", onnx, **{"profiles": PROFILES, **build})
        return Lab(engine, onnx, device, SimulatedTensorrt(device))

    return make


class Given(HostBatch):
    """Unpacks into the graph's two inputs, which ONNX Runtime takes."""

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter((self.images, self.image_sizes))

    def __getitem__(self, index: int) -> NDArray[Any]:
        return (self.images, self.image_sizes)[index]


def inputs(shape: tuple[int, int, int], seed: int = 0) -> Given:
    """What `start` takes: random images of (batch, height, width), their valid sizes somewhat smaller."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (*shape, 3)).astype(np.float32)
    images *= rng.uniform(0.2, 1, (shape[0], 1, 1, 1)).astype(np.float32)
    sizes = rng.integers(8, [shape[1] + 1, shape[2] + 1], (shape[0], 2)).astype(np.int32)
    return Given(images, sizes)


def within(function: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Calls it in a thread that must end in time; gives or raises what it gives or raises."""
    result: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            result.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "stuck"
    if errors:
        raise errors[0]
    return result[0]


def eventually(condition: Callable[[], bool]) -> None:
    """Waits until another thread has made it true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)
