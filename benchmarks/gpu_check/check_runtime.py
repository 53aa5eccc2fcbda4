"""The runtime's GPU layer on a GPU: memory, streams, events, graphs, PyTorch's images, resizing."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrcnn.benchmarks.gpu_check.isolate import Record, Task
from mrcnn.runtime.engine.arrays import device_image
from mrcnn.runtime.engine.device import Device, DeviceError
from mrcnn.runtime.engine.pixels import GpuPicture, HostBatch, Inputs, Pictures, Place, Ready, Resize, Staging
from mrcnn.runtime.preprocess import make_batch
from mrcnn.runtime.sizes import Size

Bytes = NDArray[np.uint8]

_SIZE = 1 << 20
_MORE_THAN_ANY_GPU = 1 << 46


class Lab:
    """A device, and what a check allocates on it, freed at its end."""

    def __init__(self, device: Device, stack: ExitStack) -> None:
        self.device = device
        self._stack = stack
        device.enter()

    def stream(self) -> int:
        stream = self.device.create_stream()
        self._stack.callback(self.device.destroy_stream, stream)
        return stream

    def event(self) -> int:
        event = self.device.create_event()
        self._stack.callback(self.device.destroy_event, event)
        return event

    def memory(self, size: int = _SIZE) -> int:
        address = self.device.allocate(size)
        self._stack.callback(self.device.free, address)
        return address

    def pinned(self, size: int = _SIZE) -> tuple[int, Bytes]:
        address = self.device.allocate_pinned(size)
        self._stack.callback(self.device.free_pinned, address)
        return address, np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def graph(self, stream: int, work: Callable[[], None]) -> int:
        self.device.begin_capture(stream)
        work()
        graph = self.device.end_capture(stream)
        self._stack.callback(self.device.destroy_graph, graph)
        return graph

    def staging(self) -> Staging:
        staging = Staging(self.device)
        self._stack.callback(staging.free)
        return staging


def runtime_tasks(device: Device, resize: Resize, *, place: str) -> Iterator[Task]:
    """All checks; `place` is where PyTorch puts the images that stand for a user's."""
    for name, check in (
        ("copies there and back", copies),
        ("memory is set to zero", clears),
        ("an event orders two streams", orders),
        ("a graph repeats what was captured on later bytes", replays),
        ("a capture that fails leaves the stream usable", survives_a_failed_capture),
        ("memory that is not there is refused, and the next call works", refuses),
        ("free memory is told", counts),
    ):
        yield Task(name=name, run=partial(_in_a_lab, device, check))
    for dtype in ("float32", "uint8"):
        yield Task(
            name=f"a batch of the host, {dtype}",
            run=partial(_in_a_lab, device, partial(loads, kind="host", dtype=dtype, resize=resize)),
        )
        yield Task(
            name=f"pictures resized on the GPU, {dtype}",
            run=partial(_in_a_lab, device, partial(loads, kind="pictures", dtype=dtype, resize=resize)),
        )
        yield Task(
            name=f"PyTorch's images resized where they are, {dtype}",
            run=partial(_in_a_lab, device, partial(loads, kind=place, dtype=dtype, resize=resize)),
        )


def _in_a_lab(device: Device, check: Callable[[Lab], list[str]], _: Any) -> Record:
    with ExitStack() as stack:
        return {"failures": check(Lab(device, stack))}


def copies(lab: Lab) -> list[str]:
    device, stream, gpu = lab.device, lab.stream(), lab.memory()
    (to, sent), (back, got) = lab.pinned(), lab.pinned()
    sent[:] = _noise(1)
    device.copy(gpu, to, _SIZE, stream)
    device.copy(back, gpu, _SIZE, stream)
    device.synchronize(stream)
    return _unlike(got, sent)


def clears(lab: Lab) -> list[str]:
    device, stream, gpu = lab.device, lab.stream(), lab.memory()
    address, host = lab.pinned()
    host[:] = 7
    device.copy(gpu, address, _SIZE, stream)
    device.clear(gpu + 256, _SIZE - 512, stream)
    device.copy(address, gpu, _SIZE, stream)
    device.synchronize(stream)
    expected = np.zeros(_SIZE, np.uint8)
    expected[:256] = expected[-256:] = 7
    return _unlike(host, expected)


def orders(lab: Lab) -> list[str]:
    """The second stream's copy must find what many copies of the first have left."""
    device, first, second, event = lab.device, lab.stream(), lab.stream(), lab.event()
    gpu = lab.memory()
    (a, early), (b, late), (back, got) = lab.pinned(), lab.pinned(), lab.pinned()
    early[:], late[:] = _noise(2), _noise(3)
    for _ in range(50):
        device.copy(gpu, a, _SIZE, first)
    device.copy(gpu, b, _SIZE, first)
    device.record(event, first)
    device.stream_wait(second, event)
    device.copy(back, gpu, _SIZE, second)
    device.synchronize(second)
    device.synchronize(first)
    return _unlike(got, late)


def replays(lab: Lab) -> list[str]:
    device, stream, gpu, event = lab.device, lab.stream(), lab.memory(), lab.event()
    (to, sent), (back, got) = lab.pinned(), lab.pinned()

    def work() -> None:
        device.copy(gpu, to, _SIZE, stream)
        device.copy(back, gpu, _SIZE, stream)

    graph = lab.graph(stream, work)
    failures = []
    for seed in range(4, 8):
        sent[:] = _noise(seed)
        got[:] = 0
        device.launch(graph, stream)
        device.record(event, stream)
        device.wait(event)
        failures += _unlike(got, sent)
    return failures


def survives_a_failed_capture(lab: Lab) -> list[str]:
    device, stream = lab.device, lab.stream()
    device.begin_capture(stream)
    failures = []
    try:
        device.synchronize(stream)
        failures.append("waiting for a stream that is captured was not refused")
    except DeviceError:
        pass
    try:
        device.destroy_graph(device.end_capture(stream))
        failures.append("the broken capture gave a graph")
    except DeviceError as error:
        if error.sticky:
            failures.append(f"the GPU is lost: {error}")
    return failures + copies(lab)


def refuses(lab: Lab) -> list[str]:
    try:
        lab.device.free(lab.device.allocate(_MORE_THAN_ANY_GPU))
        return ["64 TB were allocated"]
    except DeviceError as error:
        if not error.out_of_memory or error.sticky:
            return [f"not told as a want of memory: {error}"]
    return copies(lab)


def counts(lab: Lab) -> list[str]:
    before, total = lab.device.memory()
    lab.memory(1 << 28)
    after, _ = lab.device.memory()
    if not 0 < after < before <= total or before - after < 1 << 27:
        return [f"256 MB changed the free memory from {before} to {after} of {total}"]
    return []


def loads(lab: Lab, *, kind: str, dtype: str, resize: Resize) -> list[str]:
    """The network's input as the CPU makes it, for two images and a black row."""
    images = [_image(480, 640, 1), _image(300, 1000, 2)]
    resized: list[Size] = [(96, 128), (57, 160)]
    padded, rows = (96, 160), 3
    expected, sizes = make_batch(images, resized=resized, padded=padded, batch=rows, dtype=dtype)
    device, stream = lab.device, lab.stream()
    place = Place(device=device, stream=stream, images=lab.memory(expected.nbytes), staging=lab.staging())
    inputs: Inputs = HostBatch(expected, sizes)
    if kind != "host":
        sources = images if kind == "pictures" else [_of_pytorch(lab, image, kind) for image in images]
        inputs = Pictures(
            images=sources, resized=resized, padded=padded, rows=rows, dtype=np.dtype(dtype), resize=resize
        )
    address, got = lab.pinned(expected.nbytes)
    inputs.load(place)
    device.copy(address, place.images, expected.nbytes, stream)
    device.synchronize(stream)
    wrong = [] if (inputs.image_sizes == sizes).all() else [f"sizes are {inputs.image_sizes.tolist()}"]
    return wrong + _unlike(got, expected.reshape(-1).view(np.uint8))


def _of_pytorch(lab: Lab, image: Bytes, place: str) -> GpuPicture:
    """As `Runtime` takes a tensor: BGR, with what its stream has still to do."""
    tensor = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).to(place, non_blocking=True)
    taken = device_image(tensor, index=lab.device.index)
    if taken is None:
        raise AssertionError(f"a tensor on {place} was not taken for an image on the GPU")
    ready = None if taken.stream is None else Ready(lab.device, taken.stream)
    return GpuPicture(taken, swap_channels=True, ready=ready)


def _noise(seed: int, size: int = _SIZE) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def _image(height: int, width: int, seed: int) -> Bytes:
    return _noise(seed, height * width * 3).reshape(height, width, 3)


def _unlike(found: Bytes, expected: Bytes) -> list[str]:
    wrong = np.flatnonzero(found != expected)
    if not len(wrong):
        return []
    return [f"{len(wrong)} of {len(expected)} bytes are wrong, the first at {wrong[0]}"]
