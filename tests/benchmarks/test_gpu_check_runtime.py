"""The checks of the runtime's GPU layer, on the simulated GPU: they pass there, and find what is wrong."""

from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from mrcnn.benchmarks.gpu_check import check_runtime
from mrcnn.benchmarks.gpu_check.check_runtime import runtime_tasks
from mrcnn.runtime.engine.arrays import DeviceImage
from mrcnn.runtime.engine.device import DeviceError
from tests.benchmarks.test_gpu_check_device import require_kernels
from tests.runtime.engine.simulated_device import SimulatedDevice
from tests.runtime.engine.simulated_resize import simulated_resize


@pytest.fixture(params=[False, True], ids=["lazy", "eager"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimulatedDevice:
    require_kernels()
    device = SimulatedDevice(eager=request.param, total=1 << 31)
    kept: list[torch.Tensor] = []  # or their addresses were somebody else's later

    def as_if_there(tensor: torch.Tensor, *, index: int) -> DeviceImage:
        assert index == device.index
        height, width, _ = tensor.shape
        kept.append(tensor)
        device.adopt(tensor.data_ptr(), tensor.nbytes)
        return DeviceImage(tensor.data_ptr(), height, width, 3 * width, None, tensor)

    monkeypatch.setattr(check_runtime, "device_image", as_if_there)
    return device


def failures(device: SimulatedDevice, resize: Any) -> dict[str, list[str]]:
    tasks = list(runtime_tasks(device, resize, place="cpu"))
    return {task.name: found for task in tasks if (found := task.run(None)["failures"])}


def run_all(device: SimulatedDevice, resize: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    # Of what this one does the simulated GPU says that it is no proper use.
    monkeypatch.setattr(check_runtime, "survives_a_failed_capture", lambda _: [])
    return failures(device, resize)


def test_all_checks_pass(device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_all(device, simulated_resize(device), monkeypatch) == {}
    device.assert_nothing_left()


def test_a_wrong_resize_is_found(device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_all(device, simulated_resize(device, fault=1), monkeypatch)
    assert len(found) == 4
    assert all("bytes are wrong, the first at 0" in lines[0] for lines in found.values())


@pytest.mark.parametrize(
    ("method", "wrong", "checks"),
    [
        ("clear", lambda *_: None, {"memory is set to zero"}),
        ("stream_wait", lambda *_: None, {"an event orders two streams"}),
        ("memory", lambda: (1, 2), {"free memory is told"}),
    ],
)
def test_a_faulty_layer_is_found(
    device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch, method: str, wrong: Any, checks: set[str]
) -> None:
    monkeypatch.setattr(device, method, wrong)
    if device._eager and method == "stream_wait":
        pytest.skip("an eager GPU is always in order")
    assert checks <= set(run_all(device, simulated_resize(device), monkeypatch))


def test_a_want_of_memory_that_is_told_otherwise_is_found(
    device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate = device.allocate

    def strange(size: int) -> int:
        if size > 1 << 40:
            raise DeviceError("an unknown error", name="cudaErrorUnknown")
        return allocate(size)

    monkeypatch.setattr(device, "allocate", strange)
    found = run_all(device, simulated_resize(device), monkeypatch)
    assert (
        "not told as a want of memory"
        in found["memory that is not there is refused, and the next call works"][0]
    )
