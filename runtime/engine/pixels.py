"""How images get into the network's input on the GPU: resized on the way there, or made on the host."""

import ctypes
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.plugins.interface import ResizeParams
from mrcnn.plugins.kernels import KernelError, installed_kernels, resize_params
from mrcnn.runtime.engine.arrays import DeviceImage
from mrcnn.runtime.engine.device import Device
from mrcnn.runtime.sizes import Size

# Puts the resize of one image into a stream: parameters, address of the source, of the output, stream.
Resize = Callable[[ResizeParams, int, int, int], None]

_ALIGNMENT = 256
_STEP = 1 << 20  # staging memory grows to multiples of it, so that it soon stops growing


class Ready:
    """A moment in a stream of whoever made an image, after which it may be read."""

    def __init__(self, device: Device, stream: int) -> None:
        self._device = device
        self._event = device.create_event()
        device.record(self._event, stream)

    def before(self, stream: int) -> None:
        """What comes next in `stream` waits for it."""
        self._device.stream_wait(stream, self._event)

    def __del__(self) -> None:
        if hasattr(self, "_event"):
            with suppress(MrcnnError):
                self._device.enter()
                self._device.destroy_event(self._event)


@dataclass(frozen=True)
class GpuPicture:
    """An image that is on the GPU already.

    Attributes:
        swap_channels: it is BGR.
        ready: None where it is complete.
    """

    image: DeviceImage
    swap_channels: bool
    ready: Ready | None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.image.shape


class Staging:
    """Memory of one slot for pixels on their way, on the host and on the GPU; it grows with what comes."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.host = self.gpu = 0  # addresses
        self.host_bytes = self.gpu_bytes = 0

    def reserve(self, *, host: int, gpu: int) -> None:
        """Makes room for so many bytes; nothing may be under way in it. What it held is lost."""
        host, gpu = (-(-size // _STEP) * _STEP for size in (host, gpu))
        if host > self.host_bytes:
            self._free_host()
            self.host, self.host_bytes = self._device.allocate_pinned(host), host
        if gpu > self.gpu_bytes:
            self._free_gpu()
            self.gpu, self.gpu_bytes = self._device.allocate(gpu), gpu

    def view(self, offset: int, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> NDArray[Any]:
        """A part of the host's memory."""
        size = int(np.prod(shape)) * dtype.itemsize
        raw = (ctypes.c_uint8 * size).from_address(self.host + offset)
        array: NDArray[Any] = np.ctypeslib.as_array(raw).view(dtype).reshape(shape)
        return array

    def free(self) -> None:
        """Frees both."""
        try:
            self._free_host()
        finally:
            self._free_gpu()

    def _free_host(self) -> None:
        address, self.host, self.host_bytes = self.host, 0, 0
        if address:
            self._device.free_pinned(address)

    def _free_gpu(self) -> None:
        address, self.gpu, self.gpu_bytes = self.gpu, 0, 0
        if address:
            self._device.free(address)


@dataclass(frozen=True)
class Place:
    """Where images go: the network's input at `images`, in the order of `stream`."""

    device: Device
    stream: int
    images: int
    staging: Staging


class Inputs(Protocol):
    """What a run starts with.

    Attributes:
        shape: (batch, height, width) of the network's input.
        image_sizes: (batch, 2) int32.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def image_sizes(self) -> NDArray[np.int32]: ...

    def load(self, place: Place) -> None:
        """Puts the images into the network's input; the place is idle. What they are read from must stay."""


@dataclass(frozen=True)
class HostBatch:
    """The network's input as the host made it: (batch, height, width, 3)."""

    images: NDArray[Any]
    image_sizes: NDArray[np.int32]

    @property
    def shape(self) -> tuple[int, int, int]:
        batch, height, width = self.images.shape[:3]
        return batch, height, width

    def load(self, place: Place) -> None:
        place.staging.reserve(host=self.images.nbytes, gpu=0)
        place.staging.view(0, self.images.shape, self.images.dtype)[...] = self.images
        place.device.copy(place.images, place.staging.host, self.images.nbytes, place.stream)


@dataclass(frozen=True)
class Pictures:
    """Images of any size, which the GPU resizes: their bytes go there as they are, a tenth of the input's."""

    images: Sequence["NDArray[np.uint8] | GpuPicture"]
    resized: Sequence[Size]
    padded: Size
    rows: int
    dtype: "np.dtype[Any]"
    resize: Resize

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.rows, *self.padded)

    @property
    def image_sizes(self) -> NDArray[np.int32]:
        black = [self.padded] * (self.rows - len(self.images))
        return np.array([*self.resized, *black], np.int32)

    def load(self, place: Place) -> None:
        sizes = [0 if isinstance(image, GpuPicture) else image.nbytes for image in self.images]
        starts = np.cumsum([0, *(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]).tolist()
        place.staging.reserve(host=starts[-1], gpu=starts[-1])
        row_bytes = self.padded[0] * self.padded[1] * 3 * self.dtype.itemsize
        for index, (image, start) in enumerate(zip(self.images, starts[:-1], strict=True)):
            source, pitch, swap = self._source(image, start, place)
            params = resize_params(
                shape=image.shape,
                pitch=pitch,
                target=self.resized[index],
                padded=self.padded,
                swap_channels=swap,
                dtype=self.dtype,
            )
            self.resize(params, source, place.images + index * row_bytes, place.stream)
        if self.rows > len(self.images):
            black = place.images + len(self.images) * row_bytes
            place.device.clear(black, (self.rows - len(self.images)) * row_bytes, place.stream)

    def _source(
        self, image: "NDArray[np.uint8] | GpuPicture", start: int, place: Place
    ) -> tuple[int, int, bool]:
        """Address on the GPU, bytes from row to row, and whether it is BGR."""
        if isinstance(image, GpuPicture):
            if image.ready is not None:
                image.ready.before(place.stream)
            return image.image.address, image.image.pitch, image.swap_channels
        staging = place.staging
        staging.view(start, image.shape, image.dtype)[...] = image
        place.device.copy(staging.gpu + start, staging.host + start, image.nbytes, place.stream)
        return staging.gpu + start, 3 * image.shape[1], False


def find_resize(device: Device) -> Resize | None:
    """The CUDA kernel, where it was built and runs on this GPU; the device is entered."""
    try:
        kernels = installed_kernels()
    except MissingRequirementError:
        return None
    if "CUDA" not in kernels.build_info or not _runs(kernels.resize_cuda, device):
        return None
    return kernels.resize_cuda


def _runs(resize: Resize, device: Device) -> bool:
    """Whether the library holds code for this GPU, found out with one pixel."""
    with ExitStack() as undo:
        stream = device.create_stream()
        undo.callback(device.destroy_stream, stream)
        pixel = device.allocate(2 * _ALIGNMENT)
        undo.callback(device.free, pixel)
        device.clear(pixel, 2 * _ALIGNMENT, stream)
        params = resize_params(shape=(1, 1, 3), target=(1, 1), padded=(1, 1))
        try:
            resize(params, pixel, pixel + _ALIGNMENT, stream)
        except KernelError:
            return False
        finally:
            device.synchronize(stream)
    return True
