"""Images that lie in the GPU's memory already, from whatever library: found without importing it."""

import ctypes
import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mrcnn.errors import MrcnnError
from mrcnn.runtime.sizes import check_sides

__all__ = ["DeviceImage", "device_image"]

_EXPECTED = "an image on the GPU must be uint8 of shape (height, width, 3), the pixels of a row side by side"

# CUDA's own handle of the legacy default stream, which both protocols use as well.
_LEGACY_STREAM = 1

# Of DLPack's device types. What is pinned on the host is read like any other memory of the host.
_CPU, _CUDA, _CUDA_HOST, _CUDA_MANAGED = 1, 2, 3, 13
_MOST_DIMENSIONS = 64  # of what is worth a look at its shape
_MOST_PITCH = 2**31 - 1  # that the resize takes
_TYPE_NAMES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}


@dataclass(frozen=True)
class DeviceImage:
    """An image (height, width, 3) uint8 in the GPU's memory, which stays as long as this object.

    Attributes:
        address: of the first pixel.
        pitch: bytes from one row to the next.
        stream: CUDA's handle of the stream that must have come this far before the image is read, or None.
            2 is the default stream of the thread that got the image, under this handle in that thread only.
        owner: what keeps the memory.
    """

    address: int
    height: int
    width: int
    pitch: int
    stream: int | None
    owner: object = field(repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """As of an array."""
        return self.height, self.width, 3


def device_image(image: object, *, index: int = 0) -> DeviceImage | None:
    """An image in the GPU's memory: of PyTorch, CuPy, Numba, DALI, or whatever has one of the two protocols.

    These are `__cuda_array_interface__` (versions 2 and 3) and DLPack. Where there are both, the one that
    says what to wait for is used; version 2 of the former leaves that to the user.

    Args:
        image: anything.
        index: the GPU that is going to read it.

    Returns:
        None where it is something else, such as a NumPy array, a path or a tensor in the host's memory.

    Raises:
        MrcnnError: it is on another GPU or no GPU of NVIDIA's, or of another shape, type or layout.
    """
    if isinstance(image, np.ndarray | str | bytes):
        return None
    pillow = sys.modules.get("PIL.Image")  # whoever holds a PIL image has imported it
    if pillow is not None and isinstance(image, pillow.Image):
        return None
    interface = _ask(image, "__cuda_array_interface__")
    says_stream = isinstance(interface, dict) and "stream" in interface
    dlpack = ("__dlpack__", "__dlpack_device__")
    if not says_stream and all(_ask(image, name) is not None for name in dlpack):
        found = _from_dlpack(image, index)
        if found is not None or interface is None:
            return found
    return None if interface is None else _from_interface(image, interface, index)


def _ask(image: Any, attribute: str) -> Any:
    try:
        return getattr(image, attribute, None)
    except Exception as error:  # any library's
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> MrcnnError:
    line = " ".join(str(error).split()) or type(error).__name__
    return MrcnnError(f"the image on the GPU cannot be read: {line}")


def _number(value: Any, *, least: int = -(2**63), most: int = 2**64 - 1) -> int:
    """A whole number; what is none, or does not fit, raises TypeError or ValueError."""
    number = operator.index(value)
    if not least <= number <= most:
        raise ValueError("a number in its description is out of range")
    return number


def _check_address(address: int, size: int) -> None:
    if address == 0:
        raise MrcnnError("the image on the GPU cannot be read: it has no address")
    if address + size > 2**64:
        raise MrcnnError("the image on the GPU cannot be read: it does not fit behind its address")


def _check_index(index: object, wanted: int) -> None:
    if type(index) is int and abs(index) >= 2**31:
        raise MrcnnError("the image on the GPU cannot be read: there is no such GPU as it tells")
    if type(index) is int and index != wanted:
        raise MrcnnError(f"the image is on GPU {index}, the model on GPU {wanted}: move one of them")


def _pitch(shape: Sequence[int], strides: Sequence[int] | None, dtype: str) -> int:
    """Bytes from row to row of an image.

    Args:
        strides: in elements, which are bytes in the images that we take; None where there are no gaps.

    Raises:
        MrcnnError: it is no image of the kind that we take.
    """
    if dtype != "uint8" or len(shape) != 3 or shape[2] != 3:
        raise MrcnnError(f"{_EXPECTED} (got {dtype}, {tuple(shape)})")
    height, width, _ = shape
    if height < 1 or width < 1:
        raise MrcnnError(f"the image is empty (got shape {tuple(shape)})")
    check_sides(height, width)
    if strides is None:
        return 3 * width
    row, pixel, channel = strides
    # Where there is one row, or one pixel in a row, the stride to the next means nothing.
    pitch = row if height > 1 else 3 * width
    if channel != 1 or (pixel != 3 and width > 1) or pitch < 3 * width:
        raise MrcnnError(f"{_EXPECTED} (got the strides {tuple(strides)}): make it contiguous")
    if pitch > _MOST_PITCH:
        raise MrcnnError(f"the rows of the image on the GPU are {pitch} bytes apart: make it contiguous")
    return pitch


def _from_interface(image: Any, interface: Any, index: int) -> DeviceImage:
    try:
        shape = [_number(size) for size in interface["shape"]]
        strides = interface.get("strides")
        if strides is not None:
            strides = [_number(stride) for _, stride in zip(shape, strides, strict=True)]
        address, dtype = _number(interface["data"][0], least=0), np.dtype(interface["typestr"]).name
        stream = interface.get("stream")
        stream = None if stream is None else _number(stream, least=0)
        masked = interface.get("mask") is not None
    except Exception as error:  # it is whatever a library made of the protocol
        raise _unreadable(error) from error
    device = _ask(image, "device")
    _check_index(_ask(device, "index"), index)  # PyTorch's
    _check_index(_ask(device, "id"), index)  # CuPy's
    pitch = _pitch(shape, strides, dtype)
    if masked:
        raise MrcnnError(f"{_EXPECTED} (got one with a mask)")
    _check_address(address, (shape[0] - 1) * pitch + 3 * shape[1])
    if stream == 0:  # the protocol forbids it, since it may be either default stream
        raise MrcnnError("the image on the GPU cannot be read: its __cuda_array_interface__ has the stream 0")
    return DeviceImage(
        address=address, height=shape[0], width=shape[1], pitch=pitch, stream=stream, owner=image
    )


def _from_dlpack(image: Any, index: int) -> DeviceImage | None:
    try:
        kind, number = (_number(part, least=-(2**31), most=2**31 - 1) for part in image.__dlpack_device__())
    except Exception as error:  # any library's
        raise _unreadable(error) from error
    if kind in (_CPU, _CUDA_HOST):
        return None
    if kind not in (_CUDA, _CUDA_MANAGED):
        raise MrcnnError(f"the image is on a device of another kind ({kind} in DLPack): move it to the CPU")
    if kind == _CUDA:  # managed memory is everywhere
        _check_index(number, index)
    try:
        # The library lets the legacy default stream wait for the image, and so we have to wait for that.
        capsule = _capsule(image, stream=_LEGACY_STREAM)
        tensor = _Tensor(capsule)
    except MrcnnError:
        raise
    except Exception as error:  # any library's
        raise _unreadable(error) from error
    layout = tensor.layout()
    # Managed memory may be called the GPU's own, and the other way round.
    if layout.kind not in (_CUDA, _CUDA_MANAGED) or (
        layout.kind == kind == _CUDA and layout.number != number
    ):
        raise MrcnnError(
            "the image on the GPU cannot be read: its __dlpack_device__ tells another device "
            f"({kind}, {number}) than its __dlpack__ ({layout.kind}, {layout.number})"
        )
    pitch = _pitch(layout.shape, layout.strides, layout.dtype)
    _check_address(layout.address, (layout.shape[0] - 1) * pitch + 3 * layout.shape[1])
    return DeviceImage(
        address=layout.address,
        height=layout.shape[0],
        width=layout.shape[1],
        pitch=pitch,
        stream=_LEGACY_STREAM,
        owner=tensor,
    )


def _capsule(image: Any, *, stream: int) -> object:
    try:
        return image.__dlpack__(stream=stream, max_version=(1, 0))
    except TypeError:  # a library from before DLPack 1.0
        return image.__dlpack__(stream=stream)


class _DLDevice(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class _DLDataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),  # in elements; may be null
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """DLManagedTensor, before DLPack 1.0."""

    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _ManagedVersioned(ctypes.Structure):
    """DLManagedTensorVersioned. Up to the deleter it stays as it is in all versions to come."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    )


# The names of a capsule, and of one that was taken over; constants, since a capsule keeps their address.
_VERSIONED, _USED_VERSIONED = b"dltensor_versioned", b"used_dltensor_versioned"
_UNVERSIONED, _USED_UNVERSIONED = b"dltensor", b"used_dltensor"

_DELETER = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)  # with the GIL, as Python libraries are used to

_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.argtypes, _is_valid.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_int
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.argtypes, _get_pointer.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p
_set_name = ctypes.pythonapi.PyCapsule_SetName
_set_name.argtypes, _set_name.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_int


class _Layout(NamedTuple):
    """A tensor's place, form and device; strides in elements, None where it has no gaps."""

    address: int
    shape: list[int]
    strides: list[int] | None
    dtype: str
    kind: int
    number: int


class _Tensor:
    """A tensor taken over from its DLPack capsule, and given back when nobody holds this object any more.

    Raises:
        MrcnnError: it is no such capsule, or was taken over already.
    """

    def __init__(self, capsule: object) -> None:
        self._deleter: Any = None
        self._managed: _Managed | _ManagedVersioned
        if _is_valid(capsule, _VERSIONED):
            self._address = _get_pointer(capsule, _VERSIONED)
            self._managed, used = _ManagedVersioned.from_address(self._address), _USED_VERSIONED
        elif _is_valid(capsule, _UNVERSIONED):
            self._address = _get_pointer(capsule, _UNVERSIONED)
            self._managed, used = _Managed.from_address(self._address), _USED_UNVERSIONED
        else:
            raise MrcnnError("the image on the GPU cannot be read: its __dlpack__ gives no new capsule")
        _set_name(capsule, used)  # from here on, it is on us to call the deleter
        if self._managed.deleter:
            self._deleter = _DELETER(self._managed.deleter)

    def layout(self) -> _Layout:
        """Where the tensor lies and how.

        Raises:
            MrcnnError: there is no shape, or the library speaks a later DLPack, which may have put it
                elsewhere in its structure.
        """
        if isinstance(self._managed, _ManagedVersioned) and self._managed.major != 1:
            version = f"{self._managed.major}.{self._managed.minor}"
            raise MrcnnError(f"the image on the GPU cannot be read: it is of DLPack {version}, not 1")
        tensor: _DLTensor = self._managed.tensor
        if not 0 <= tensor.ndim <= _MOST_DIMENSIONS or (tensor.ndim and not tensor.shape):
            raise MrcnnError("the image on the GPU cannot be read: its __dlpack__ gives no shape")
        kind = tensor.dtype
        dtype = _TYPE_NAMES.get(kind.code, f"type {kind.code} of bits ") + str(kind.bits)
        dtype += f" x {kind.lanes}" if kind.lanes != 1 else ""
        return _Layout(
            address=tensor.data + tensor.byte_offset if tensor.data else 0,
            shape=tensor.shape[: tensor.ndim] if tensor.ndim else [],
            strides=tensor.strides[: tensor.ndim] if tensor.strides else None,
            dtype=dtype,
            kind=tensor.device.type,
            number=tensor.device.id,
        )

    def __del__(self) -> None:
        if self._deleter is not None:
            self._deleter(self._address)
