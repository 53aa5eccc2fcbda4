"""Images on the GPU whose descriptions are wrong: each is one line, and given back."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mrcnn.errors import MrcnnError
from mrcnn.runtime.engine.arrays import device_image
from tests.runtime.engine.test_arrays import Interface, OnGpu, Producer, Torch, pixels, read


class Raising:
    """What raises as soon as it is asked for some attribute."""

    def __init__(self, name: str, **others: Any) -> None:
        self.name = name
        vars(self).update(others)

    def __getattribute__(self, name: str) -> Any:
        if name == object.__getattribute__(self, "name"):
            raise RuntimeError("not\nnow")
        return object.__getattribute__(self, name)


@pytest.mark.parametrize("name", ["__cuda_array_interface__", "__dlpack__", "__dlpack_device__", "device"])
def test_attributes_that_raise_are_one_line(name: str) -> None:
    of_dlpack = {"__dlpack__": None, "__dlpack_device__": None} | {name: None}
    others = {"__cuda_array_interface__": Interface(pixels(), version=3, stream=1).__cuda_array_interface__}
    if "dlpack" in name:
        others = dict.fromkeys(of_dlpack, int)
    with pytest.raises(MrcnnError, match="cannot be read: not now"):
        device_image(Raising(name, **others))


@pytest.mark.parametrize("name", ["index", "id"])
def test_a_device_that_raises_is_one_line(name: str) -> None:
    given = Interface(pixels())
    given.device = Raising(name)  # type: ignore[attr-defined]
    with pytest.raises(MrcnnError, match="cannot be read: not now"):
        device_image(given)


@pytest.mark.parametrize("device", [(2.5, 0), ("2", "0"), (2, 10**5000), (2,), None, (2, 0, 0)])
def test_a_device_of_dlpack_that_is_none_is_one_line(device: Any) -> None:
    with pytest.raises(MrcnnError, match="cannot be read"):
        device_image(OnGpu(torch.from_numpy(pixels()), device=device))


def test_a_gpu_of_a_number_that_none_has_is_one_line() -> None:
    given = Interface(pixels())
    given.device = Torch(index=10**5000)  # type: ignore[attr-defined]
    with pytest.raises(MrcnnError, match="no such GPU"):
        device_image(given)


def at(address: int, offset: int) -> Callable[[Any], None]:
    def change(tensor: Any) -> None:
        tensor.data, tensor.byte_offset = address, offset

    return change


def sized(*sides: int) -> Callable[[Any], None]:
    def change(tensor: Any) -> None:
        for index, side in enumerate(sides):
            tensor.shape[index] = side

    return change


def on(kind: int, number: int) -> Callable[[Any], None]:
    def change(tensor: Any) -> None:
        tensor.device.type, tensor.device.id = kind, number

    return change


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (at(0, 0), "has no address"),
        (at(0, 512), "has no address"),
        (at(2**63, 2**63), "does not fit behind its address"),
        (at(2**64 - 8, 0), "does not fit behind its address"),
        (lambda tensor: setattr(tensor, "shape", None), "gives no shape"),
        (lambda tensor: setattr(tensor, "ndim", -1), "gives no shape"),
        (lambda tensor: setattr(tensor, "ndim", 2**31 - 1), "gives no shape"),
        (sized(2**62, 2**62), "1 to 16777216 pixels"),
        (sized(-4, 5), "is empty"),
        (on(1, 0), r"another device \(2, 0\) than its __dlpack__ \(1, 0\)"),
        (on(2, 3), r"another device \(2, 0\) than its __dlpack__ \(2, 3\)"),
    ],
)
def test_a_wrong_tensor_is_one_line_and_given_back(
    change: Callable[[Any], None], line: str, versioned: bool
) -> None:
    producer = Producer(versioned=versioned)
    change(producer.managed.tensor)
    with pytest.raises(MrcnnError, match=line) as caught:
        device_image(producer)
    assert "\n" not in str(caught.value)
    del caught  # which keeps the frames
    gc.collect()
    assert len(producer.deleted) == 1


def test_managed_memory_may_be_called_the_gpus_own() -> None:
    producer = Producer(versioned=True)
    on(13, 0)(producer.managed.tensor)
    assert (read(device_image(producer)) == producer.array).all()
