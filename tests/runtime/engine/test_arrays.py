"""Images in the GPU's memory, by objects that offer the protocols over the host's."""

import ctypes
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn.errors import MrcnnError
from mrcnn.runtime.engine import arrays
from mrcnn.runtime.engine.arrays import DeviceImage, device_image


class Interface:
    """An array with `__cuda_array_interface__`, as of another library."""

    def __init__(self, array: np.ndarray, **changes: Any) -> None:
        self.array = array
        self.__cuda_array_interface__: Any = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "version": 3,
            "strides": None if array.flags.c_contiguous else array.strides,
            **changes,
        }


class OnGpu:
    """A tensor in the host's memory that says it is on a GPU."""

    def __init__(self, tensor: torch.Tensor, *, device: Any = (2, 0), versioned: bool = True) -> None:
        self.tensor = tensor
        self.kind = device
        self.versioned = versioned
        self.streams: list[int | None] = []

    def __dlpack_device__(self) -> Any:
        return self.kind

    def __dlpack__(self, *, stream: int | None = None, **more: Any) -> Any:
        self.streams.append(stream)
        if more and not self.versioned:
            raise TypeError("unexpected keyword argument 'max_version'")
        capsule = self.tensor.__dlpack__(**more)
        versioned = bool(arrays._is_valid(capsule, arrays._VERSIONED))
        address = arrays._get_pointer(capsule, arrays._VERSIONED if versioned else arrays._UNVERSIONED)
        managed = (arrays._ManagedVersioned if versioned else arrays._Managed).from_address(address)
        managed.tensor.device.type, managed.tensor.device.id = self.kind
        return capsule


def pixels(height: int = 4, width: int = 5) -> np.ndarray:
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def read(image: DeviceImage | None) -> np.ndarray:
    """What a copy with this pitch gives."""
    assert image is not None
    rows = [
        (ctypes.c_uint8 * (3 * image.width)).from_address(image.address + row * image.pitch)
        for row in range(image.height)
    ]
    return np.array([np.ctypeslib.as_array(row) for row in rows]).reshape(image.height, image.width, 3)


# Views of an array (8, 9, 3) that a copy with a pitch can take, and such that it cannot.
VIEWS = {
    "all of it": np.s_[:],
    "rows": np.s_[2:5],
    "every other row": np.s_[::2],
    "a part": np.s_[1:7, 2:6],
    "one row": np.s_[3:4, 1:4],
    "one column": np.s_[:, 4:5],
    "one pixel": np.s_[3:4, 4:5],
}
OTHERS = {"every other pixel": np.s_[:, ::2], "upside down": np.s_[::-1], "BGR for RGB": np.s_[..., ::-1]}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("stated", [False, True])
def test_the_interface_gives_the_pixels(view: Any, stated: bool) -> None:
    array = pixels(8, 9)[view]
    image = device_image(Interface(array, **({"strides": array.strides} if stated else {})))
    assert (read(image) == array).all()


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("versioned", [False, True])
def test_dlpack_gives_the_pixels(view: Any, versioned: bool) -> None:
    whole = torch.from_numpy(pixels(8, 9))
    steps = [
        slice(part.start, part.stop, part.step) for part in (view if isinstance(view, tuple) else (view,))
    ]
    tensor = whole[tuple(steps)]
    given = OnGpu(tensor, versioned=versioned)
    assert (read(device_image(given)) == tensor.numpy()).all()
    assert set(given.streams) == {1}


def test_one_row_or_column_has_strides_that_mean_nothing() -> None:
    array = pixels(1, 1)
    assert (read(device_image(Interface(array, strides=(77, 99, 1)))) == array).all()


@pytest.mark.parametrize("view", OTHERS.values(), ids=OTHERS)
def test_pixels_apart_are_refused(view: Any) -> None:
    with pytest.raises(MrcnnError, match=r"the pixels of a row side by side \(got the strides .*\)"):
        device_image(Interface(pixels(8, 9)[view]))


def test_channels_first_are_refused_in_both_protocols() -> None:
    turned = np.moveaxis(pixels(), 2, 0)
    for given in (Interface(turned), OnGpu(torch.from_numpy(pixels()).permute(2, 0, 1))):
        with pytest.raises(MrcnnError, match=r"\(height, width, 3\).* \(got uint8, \(3, 4, 5\)\)"):
            device_image(given)


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (pixels().astype(np.float32), r"got float32, \(4, 5, 3\)"),
        (pixels().astype(np.int8), r"got int8, \(4, 5, 3\)"),
        (pixels()[..., :2].copy(), r"got uint8, \(4, 5, 2\)"),
        (pixels()[..., 0].copy(), r"got uint8, \(4, 5\)"),
        (pixels()[None], r"got uint8, \(1, 4, 5, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), r"is empty \(got shape \(0, 5, 3\)\)"),
        (np.uint8(7)[...], r"got uint8, \(\)"),
    ],
)
def test_other_arrays_are_refused_in_one_line(array: np.ndarray, got: str) -> None:
    array = np.asarray(array)
    tensor = torch.from_numpy(array)
    for given in (Interface(array), OnGpu(tensor), OnGpu(tensor, versioned=False)):
        with pytest.raises(MrcnnError, match=got) as caught:
            device_image(given)
        assert "\n" not in str(caught.value)


def test_types_that_numpy_does_not_have_are_named() -> None:
    with pytest.raises(MrcnnError, match="got bfloat16"):
        device_image(OnGpu(torch.zeros(4, 5, 3, dtype=torch.bfloat16)))


@pytest.mark.parametrize(
    ("changes", "stream"),
    [({}, None), ({"version": 2}, None), ({"stream": None}, None)]
    + [({"stream": stream}, stream) for stream in (1, 2, 0x7F00)],
)
def test_the_interface_says_what_to_wait_for(changes: dict[str, Any], stream: int | None) -> None:
    image = device_image(Interface(pixels(), **changes))
    assert image is not None
    assert image.stream == stream


@pytest.mark.parametrize(
    ("interface", "line"),
    [
        (Interface(pixels(), stream=0), "has the stream 0"),
        (Interface(pixels(), data=(0, False)), "has no address"),
        (Interface(pixels(), mask=object()), "with a mask"),
        (Interface(pixels(), strides=(15, 3)), "cannot be read"),
        (Interface(pixels(), typestr="nonsense"), "cannot be read"),
        (Interface(pixels(), shape=None), "cannot be read"),
        (Interface(pixels(), data=(-1, False)), "out of range"),
        (Interface(pixels(), data=(2**64, False)), "out of range"),
        (Interface(pixels(), data=(10**5000, False)), "out of range"),
        (Interface(pixels(), data=(1.5, False)), "cannot be read"),
        (Interface(pixels(), data=(2**64 - 59, False)), "does not fit behind its address"),
        (Interface(pixels(), stream=-1), "out of range"),
        (Interface(pixels(), stream=2**64), "out of range"),
        (Interface(pixels(), stream="1"), "cannot be read"),
        (Interface(pixels(), shape=(4.0, 5, 3)), "cannot be read"),
        (Interface(pixels(), shape=("4", "5", "3")), "cannot be read"),
        (Interface(pixels(), shape=(10**5000, 5, 3)), "out of range"),
        (Interface(pixels(), shape=(2**62, 2**62, 3)), "1 to 16777216 pixels high and wide"),
        (Interface(pixels(), shape=(2**24 + 1, 1, 3)), "1 to 16777216 pixels high and wide"),
        (Interface(pixels(), shape=(1, 2**24 + 1, 3)), "1 to 16777216 pixels high and wide"),
        (Interface(pixels(), strides=(2**31, 3, 1)), "2147483648 bytes apart"),
        (Interface(pixels(), strides=(15.0, 3, 1)), "cannot be read"),
    ],
)
def test_a_wrong_interface_is_one_line(interface: Interface, line: str) -> None:
    with pytest.raises(MrcnnError, match=line):
        device_image(interface)


def test_what_is_no_dictionary_is_one_line() -> None:
    given = Interface(pixels())
    given.__cuda_array_interface__ = 7
    with pytest.raises(MrcnnError, match="cannot be read"):
        device_image(given)


class Both(Interface):
    """Both protocols over different pixels, so that one sees which was used."""

    def __init__(self, array: np.ndarray, other: OnGpu, **changes: Any) -> None:
        super().__init__(array, **changes)
        self.other = other

    def __dlpack_device__(self) -> Any:
        return self.other.__dlpack_device__()

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.other.__dlpack__(**arguments)


def test_of_two_protocols_the_one_that_says_what_to_wait_for_is_used() -> None:
    one, two = pixels(), OnGpu(torch.zeros(4, 5, 3, dtype=torch.uint8))
    assert read(device_image(Both(one, two, stream=7))).any()
    assert not read(device_image(Both(one, two, version=2))).any()


class Torch:
    """What `tensor.device` is in PyTorch, and in CuPy."""

    def __init__(self, **numbers: int) -> None:
        vars(self).update(numbers)


@pytest.mark.parametrize("device", [Torch(index=1), Torch(id=1)])
def test_an_image_on_another_gpu_is_refused(device: Torch) -> None:
    given = Interface(pixels())
    given.device = device  # type: ignore[attr-defined]
    elsewhere = OnGpu(torch.from_numpy(pixels()), device=(2, 1))
    for image in (given, elsewhere):
        with pytest.raises(MrcnnError, match="is on GPU 1, the model on GPU 0"):
            device_image(image)
        assert device_image(image, index=1) is not None
    assert elsewhere.streams == [1]


@pytest.mark.parametrize("device", ["cuda:1", None, "index", Torch()])
def test_a_device_that_says_no_number_is_no_obstacle(device: Any) -> None:
    given = Interface(pixels())
    given.device = device  # type: ignore[attr-defined]
    assert device_image(given) is not None


def test_managed_memory_is_on_every_gpu() -> None:
    assert device_image(OnGpu(torch.from_numpy(pixels()), device=(13, 5)), index=0) is not None


def test_other_devices_are_refused_and_the_host_is_left_to_others() -> None:
    tensor = torch.from_numpy(pixels())
    with pytest.raises(MrcnnError, match="a device of another kind"):
        device_image(OnGpu(tensor, device=(10, 0)))  # ROCm
    assert device_image(OnGpu(tensor, device=(3, 0))) is None
    assert device_image(tensor) is None


@pytest.mark.parametrize("image", [pixels(), "photo.jpg", b"", Path("photo.jpg"), None, 7, [pixels()]])
def test_everything_else_is_none(image: Any) -> None:
    assert device_image(image) is None


def test_numpy_and_pillow_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_ask", None)
    assert device_image(pixels()) is None
    assert device_image(Image.new("RGB", (4, 4))) is None


class Unwilling:
    """A library that refuses, as PyTorch does for tensors with gradients."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("Can't export tensors\nthat require gradient")


def test_what_a_library_refuses_is_one_line() -> None:
    with pytest.raises(MrcnnError, match="cannot be read: Can't export tensors that require gradient"):
        device_image(Unwilling())


# How long the memory stays.


def test_the_interface_keeps_its_object() -> None:
    given = Interface(pixels())
    alive = weakref.ref(given)
    image = device_image(given)
    del given
    gc.collect()
    assert alive() is not None
    del image
    gc.collect()
    assert alive() is None


class Producer:
    """Makes capsules as a library in C does, and counts the calls of the deleter."""

    def __init__(self, *, versioned: bool, major: int = 1, deleter: bool = True) -> None:
        self.array = pixels()
        self.deleted: list[int] = []
        self.name = b"dltensor_versioned" if versioned else b"dltensor"
        self.managed = arrays._ManagedVersioned(major=major) if versioned else arrays._Managed()
        # The deleter finds the library's own book-keeping here; it must get the same address back.
        self.managed.context = 0x1234
        self.call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda address: self.deleted.append(address))
        self.managed.deleter = ctypes.cast(self.call, ctypes.c_void_p) if deleter else None
        tensor = self.managed.tensor
        self.shape = (ctypes.c_int64 * 3)(*self.array.shape)
        tensor.data, tensor.byte_offset, tensor.ndim = self.array.ctypes.data - 8, 8, 3
        tensor.device.type, tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes = 2, 1, 8, 1
        tensor.shape = self.shape
        self.capsule: Any = self.new()

    def new(self) -> Any:
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return make(ctypes.addressof(self.managed), self.name, None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int, max_version: tuple[int, int]) -> Any:
        assert (stream, max_version) == (1, (1, 0))
        return self.capsule


@pytest.mark.parametrize("versioned", [False, True])
def test_the_deleter_is_called_once_when_the_image_goes(versioned: bool) -> None:
    producer = Producer(versioned=versioned)
    image = device_image(producer)
    assert (read(image) == producer.array).all()  # no strides, and an offset
    gc.collect()
    assert not producer.deleted
    del image
    gc.collect()
    assert producer.deleted == [ctypes.addressof(producer.managed)]
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, (ctypes.py_object,)
    assert name(producer.capsule) == b"used_" + producer.name


@pytest.mark.parametrize("versioned", [False, True])
def test_a_capsule_is_taken_once(versioned: bool) -> None:
    producer = Producer(versioned=versioned)
    first = device_image(producer)
    with pytest.raises(MrcnnError, match="no new capsule"):
        device_image(producer)
    assert not producer.deleted
    del first
    assert len(producer.deleted) == 1


def test_what_is_no_capsule_is_one_line() -> None:
    producer = Producer(versioned=True)
    producer.capsule = object()
    with pytest.raises(MrcnnError, match="no new capsule"):
        device_image(producer)


@pytest.mark.parametrize("versioned", [False, True])
def test_a_library_without_a_deleter_is_fine(versioned: bool) -> None:
    assert device_image(Producer(versioned=versioned, deleter=False)) is not None


def test_an_image_that_is_refused_is_given_back() -> None:
    producer = Producer(versioned=True)
    producer.managed.tensor.dtype.bits = 16
    with pytest.raises(MrcnnError, match="got uint16"):
        device_image(producer)
    gc.collect()
    assert len(producer.deleted) == 1


def test_a_later_dlpack_is_refused_unread_and_given_back() -> None:
    producer = Producer(versioned=True, major=2)
    producer.managed.tensor.ndim = 1 << 30
    with pytest.raises(MrcnnError, match=r"DLPack 2\.0, not 1"):
        device_image(producer)
    gc.collect()
    assert len(producer.deleted) == 1


@pytest.mark.parametrize("versioned", [False, True])
def test_memory_of_pytorch_stays_while_the_image_does(versioned: bool) -> None:
    array = pixels()
    alive = weakref.ref(array)
    image = device_image(OnGpu(torch.from_numpy(array), versioned=versioned))
    del array
    gc.collect()
    assert alive() is not None
    del image
    gc.collect()
    assert alive() is None
