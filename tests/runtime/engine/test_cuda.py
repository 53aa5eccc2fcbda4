"""The GPU through cuda-python, as far as it goes without one: what is called, and what errors say."""

import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.plugins.probe import gpus
from mrcnn.runtime.engine import cuda as module
from mrcnn.runtime.engine.cuda import Cuda, open_cuda
from mrcnn.runtime.engine.device import Device, DeviceError
from tests.runtime.engine.fake_cuda import DriverStatus, FakeCuda, Handle, Status


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    made = FakeCuda()
    made.install(monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


@pytest.fixture
def cuda(fake: FakeCuda) -> Cuda:
    opened = open_cuda()
    fake.calls.clear()
    return opened


# Each method, what it gives, and the call that it is.
METHODS: list[tuple[Callable[[Cuda], object], object, str, tuple[Any, ...]]] = [
    (lambda c: c.memory(), (100 << 20, 8000 << 20), "cudaMemGetInfo", ()),
    (lambda c: c.allocate(64), 0x1000, "cudaMalloc", (64,)),
    (lambda c: c.free(0x1000), None, "cudaFree", (0x1000,)),
    (lambda c: c.allocate_pinned(64), 0x2000, "cudaHostAlloc", (64, 0)),
    (lambda c: c.free_pinned(0x2000), None, "cudaFreeHost", (0x2000,)),
    (lambda c: c.create_stream(), 0x3000, "cudaStreamCreateWithFlags", (1,)),
    (lambda c: c.destroy_stream(0x3000), None, "cudaStreamDestroy", (0x3000,)),
    (lambda c: c.synchronize(0x3000), None, "cudaStreamSynchronize", (0x3000,)),
    (lambda c: c.create_event(), 0x4000, "cudaEventCreateWithFlags", (2,)),
    (lambda c: c.destroy_event(0x4000), None, "cudaEventDestroy", (0x4000,)),
    (lambda c: c.record(0x4000, 0x3000), None, "cudaEventRecord", (0x4000, 0x3000)),
    (lambda c: c.wait(0x4000), None, "cudaEventSynchronize", (0x4000,)),
    (lambda c: c.stream_wait(0x3000, 0x4000), None, "cudaStreamWaitEvent", (0x3000, 0x4000, 0)),
    (lambda c: c.copy(1, 2, 3, 0x3000), None, "cudaMemcpyAsync", (1, 2, 3, "default", 0x3000)),
    (lambda c: c.clear(1, 3, 0x3000), None, "cudaMemsetAsync", (1, 0, 3, 0x3000)),
    (lambda c: c.begin_capture(0x3000), None, "cudaStreamBeginCapture", (0x3000, "thread")),
    (lambda c: c.launch(0x6000, 0x3000), None, "cudaGraphLaunch", (0x6000, 0x3000)),
    (lambda c: c.destroy_graph(0x6000), None, "cudaGraphExecDestroy", (0x6000,)),
]


@pytest.mark.parametrize(("use", "given", "function", "arguments"), METHODS)
def test_each_method_is_one_call(
    fake: FakeCuda,
    cuda: Cuda,
    use: Callable[[Cuda], object],
    given: object,
    function: str,
    arguments: tuple[Any, ...],
) -> None:
    assert use(cuda) == given
    assert fake.calls == [(function, arguments)]


@pytest.mark.parametrize(("use", "given", "function", "arguments"), METHODS)
def test_every_refusal_names_function_and_error_and_is_cleared(
    fake: FakeCuda,
    cuda: Cuda,
    use: Callable[[Cuda], object],
    given: object,
    function: str,
    arguments: tuple[Any, ...],
) -> None:
    del given, arguments
    fake.answers[function] = (Status.cudaErrorInvalidResourceHandle, None)
    with pytest.raises(DeviceError, match=rf"^{function}: cudaErrorInvalidResourceHandle$") as caught:
        use(cuda)
    assert not caught.value.sticky
    assert fake.calls[-1] == ("cudaGetLastError", ())


def test_it_is_a_device(cuda: Cuda) -> None:
    needed = {name for name in vars(Device) if not name.startswith("_")} | set(Device.__annotations__)
    assert not {name for name in needed if not hasattr(cuda, name)}
    assert (cuda.name, cuda.index, cuda.capability) == ("NVIDIA Orin", 0, (8, 7))


def test_handles_are_integers_with_every_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    for utils in (False, True):
        FakeCuda().install(monkeypatch, utils=utils)
        assert type(open_cuda().create_stream()) is int


@pytest.mark.parametrize("status", [Status.cudaErrorIllegalAddress, Status.cudaErrorLaunchFailure])
def test_after_a_sticky_error_the_process_has_to_start_again(
    fake: FakeCuda, cuda: Cuda, status: Status
) -> None:
    fake.answers["cudaStreamSynchronize"] = (status,)
    with pytest.raises(DeviceError, match=r"in this process: start it again$") as caught:
        cuda.synchronize(0x3000)
    assert caught.value.sticky
    assert caught.value.name == status.name
    fake.answers["cuCtxGetCurrent"] = (DriverStatus.CUDA_ERROR_LAUNCH_FAILED, None)
    with pytest.raises(DeviceError) as caught:
        cuda.enter()
    assert caught.value.sticky


def test_out_of_memory_says_how_much_there_is(fake: FakeCuda, cuda: Cuda) -> None:
    fake.answers["cudaMalloc"] = (Status.cudaErrorMemoryAllocation, None)
    line = "cudaMalloc: cudaErrorMemoryAllocation (out of memory); 2 MB were asked for"
    with pytest.raises(DeviceError) as caught:
        cuda.allocate((1 << 20) + 1)
    assert str(caught.value) == f"{line}, 100 of 8000 MB are free"
    assert caught.value.out_of_memory
    fake.answers["cudaMemGetInfo"] = (Status.cudaErrorInvalidResourceHandle, None, None)
    with pytest.raises(DeviceError) as caught:
        cuda.allocate((1 << 20) + 1)
    assert str(caught.value) == line


def test_a_capture_becomes_a_graph_that_can_be_launched(fake: FakeCuda, cuda: Cuda) -> None:
    assert cuda.end_capture(0x3000) == 0x6000
    assert fake.calls == [
        ("cudaStreamEndCapture", (0x3000,)),
        ("cudaGraphInstantiate", (0x5000, 0)),
        ("cudaGraphDestroy", (0x5000,)),
    ]


def test_a_capture_that_fails_leaves_nothing(fake: FakeCuda, cuda: Cuda) -> None:
    fake.answers["cudaStreamEndCapture"] = (Status.cudaErrorStreamCaptureInvalidated, None)
    with pytest.raises(DeviceError, match="cudaStreamEndCapture: cudaErrorStreamCaptureInvalidated"):
        cuda.end_capture(0x3000)
    assert [function for function, _ in fake.calls if "Error" not in function] == ["cudaStreamEndCapture"]
    fake.answers["cudaStreamEndCapture"] = (Status.cudaSuccess, Handle(0))
    with pytest.raises(DeviceError, match="invalidated"):
        cuda.end_capture(0x3000)
    assert not fake.count("cudaGraphDestroy")


def test_a_graph_that_cannot_be_launched_is_destroyed(fake: FakeCuda, cuda: Cuda) -> None:
    fake.answers["cudaGraphInstantiate"] = (Status.cudaErrorMemoryAllocation, None)
    fake.answers["cudaGraphDestroy"] = (Status.cudaErrorInvalidResourceHandle,)
    with pytest.raises(DeviceError, match="cudaGraphInstantiate: cudaErrorMemoryAllocation"):
        cuda.end_capture(0x3000)
    assert fake.count("cudaGraphDestroy") == 1


def test_without_a_context_the_primary_one_is_used(fake: FakeCuda) -> None:
    assert open_cuda(1).index == 1
    assert fake.current == 0xC0
    retained = [arguments for function, arguments in fake.calls if function == "cuDevicePrimaryCtxRetain"]
    assert [int(device) for (device,) in retained] == [1]


def test_a_context_that_is_current_is_used(fake: FakeCuda) -> None:
    fake.current = 0xD0
    assert open_cuda().index == 3
    assert fake.current == 0xD0
    assert not fake.count("cuDevicePrimaryCtxRetain")


def test_entering_changes_the_context_only_where_it_must(fake: FakeCuda, cuda: Cuda) -> None:
    cuda.enter()
    assert not fake.count("cuCtxSetCurrent")
    fake.current = 0xD0
    cuda.enter()
    assert fake.current == 0xC0
    assert fake.count("cuCtxSetCurrent") == 1


@pytest.mark.parametrize("index", [2, -1, True, 0.0])
def test_a_gpu_that_is_not_there_is_one_line(fake: FakeCuda, index: Any) -> None:
    with pytest.raises(MrcnnError, match=rf"^there is no GPU {index}: this process sees 2") as caught:
        open_cuda(index)
    assert caught.value.exit_status == 2
    assert not fake.count("cuDevicePrimaryCtxRetain")


def no_library(_flags: int) -> tuple[Any, ...]:
    raise RuntimeError("Failed to dlopen libcuda.so.1")


@pytest.mark.parametrize(
    ("function", "answer", "line"),
    [
        ("cuInit", no_library, "no NVIDIA driver is found: install it .*, or run the .onnx file"),
        ("cuInit", (DriverStatus.CUDA_ERROR_NO_DEVICE,), "no NVIDIA GPU is found: use a machine that has"),
        ("cuInit", (DriverStatus.CUDA_ERROR_NOT_INITIALIZED,), "forked .*'spawn' instead of 'fork'"),
        (
            "cuInit",
            (DriverStatus.CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,),
            "the NVIDIA driver does not work: cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH; mrcnn doctor",
        ),
        ("cudaGetDeviceCount", (Status.cudaErrorNoDevice, None), "no NVIDIA GPU is found"),
        ("cudaGetDeviceCount", (Status.cudaSuccess, 0), "no NVIDIA GPU is found"),
        (
            "cudaGetDeviceCount",
            (Status.cudaErrorInsufficientDriver, None),
            r"is for CUDA up to 12\.6, cuda-python for 13\.5: update .*, or pip install 'cuda-python<13'$",
        ),
    ],
)
def test_what_the_machine_lacks_is_one_line(fake: FakeCuda, function: str, answer: Any, line: str) -> None:
    fake.answers[function] = answer
    with pytest.raises(MissingRequirementError, match=line) as caught:
        open_cuda()
    assert "\n" not in str(caught.value)


def test_an_older_driver_than_any_cuda_python_can_only_be_updated(fake: FakeCuda) -> None:
    fake.answers["cudaGetDeviceCount"] = (Status.cudaErrorInsufficientDriver, None)
    fake.answers["cuDriverGetVersion"] = (DriverStatus.CUDA_SUCCESS, 11040)
    with pytest.raises(MissingRequirementError, match=r"update the driver$"):
        open_cuda()


def test_hidden_gpus_are_named(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    fake.answers["cuInit"] = (DriverStatus.CUDA_ERROR_NO_DEVICE,)
    with pytest.raises(MissingRequirementError, match="with CUDA_VISIBLE_DEVICES='': unset it"):
        open_cuda()


def test_a_full_gpu_is_no_missing_requirement(fake: FakeCuda) -> None:
    fake.answers["cuDevicePrimaryCtxRetain"] = (DriverStatus.CUDA_ERROR_OUT_OF_MEMORY, None)
    with pytest.raises(DeviceError, match="cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY") as caught:
        open_cuda()
    assert caught.value.out_of_memory
    assert not fake.count("cudaGetLastError")


def test_without_cuda_python_a_line_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    words = r"pip install onnx cuda-python .*'cuda-python>=12\.9\.1,<13'"
    with pytest.raises(MissingRequirementError, match=words):
        open_cuda()


def test_a_cuda_python_that_cannot_be_loaded_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "cuda" / "bindings"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "driver.py").write_text("raise ImportError('libfoo.so: cannot\\nopen')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "cuda"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingRequirementError, match=r"cannot be loaded \(libfoo.so: cannot open\): pip"):
        open_cuda()
    for name in [name for name in sys.modules if name.partition(".")[0] == "cuda"]:
        del sys.modules[name]


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, mrcnn.runtime.engine.arrays, mrcnn.runtime.engine.cuda\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not set(loaded.split()) & {"cuda", "torch", "onnx", "onnxruntime", "tensorrt", "PIL", "cv2"}


# What follows is about the installed package.


def real(name: str) -> Any:
    return pytest.importorskip(f"cuda.bindings.{name}", reason="cuda-python is not installed")


def every_call(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, ...]]:
    """All functions that we call, each with arguments of ours."""
    fake = FakeCuda()
    with monkeypatch.context() as patch:
        fake.install(patch)
        cuda = open_cuda()
        for use, *_ in METHODS:
            use(cuda)
        cuda.end_capture(0x3000)
        fake.current = 0xD0
        open_cuda()
        for function, answer in (
            ("cudaMalloc", (Status.cudaErrorMemoryAllocation, None)),
            ("cuInit", (DriverStatus.CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,)),
            ("cudaGetDeviceCount", (Status.cudaErrorInsufficientDriver, None)),
        ):
            before = dict(fake.answers)
            fake.answers[function] = answer
            with pytest.raises(MrcnnError):
                open_cuda().allocate(1)
            fake.answers = before
    return dict(fake.calls)


def test_the_installed_cuda_python_has_every_function_with_as_many_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modules = {"cuda": real("runtime"), "cu": real("driver")}
    calls = every_call(monkeypatch)
    assert len(calls) >= 28
    for function, arguments in calls.items():
        module = modules["cuda" if function.startswith("cuda") else "cu"]
        signature = getattr(module, function).__doc__.strip().partition("\n")[0]
        name, _, parameters = signature.partition("(")
        parameters = parameters.rstrip(")")
        assert name == function
        assert len(parameters.split(",")) * bool(parameters) == len(arguments), signature


def test_the_installed_cuda_python_has_the_names_and_numbers_that_we_use() -> None:
    runtime, driver = real("runtime"), real("driver")
    assert runtime.cudaMemcpyKind.cudaMemcpyDefault == 4
    assert runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal == 1
    assert (runtime.cudaStreamNonBlocking, runtime.cudaEventDisableTiming, runtime.cudaHostAllocDefault) == (
        1,
        2,
        0,
    )
    major = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    minor = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
    assert (major, minor) == (75, 76)
    for ours, theirs in ((Status, runtime.cudaError_t), (DriverStatus, driver.CUresult)):
        assert {status.name: int(status) for status in ours} == {
            status.name: int(getattr(theirs, status.name)) for status in ours
        }


def test_every_sticky_error_exists() -> None:
    names = {name.removeprefix("cudaError").lower() for name in real("runtime").cudaError_t.__members__}
    names |= {
        name.removeprefix("CUDA_ERROR").replace("_", "").lower()
        for name in real("driver").CUresult.__members__
    }
    assert not module._STICKY - names


def test_the_installed_cuda_python_gives_handles_as_integers() -> None:
    runtime, driver = real("runtime"), real("driver")
    handle = module._Api().handle
    assert [handle(kind(77)) for kind in (runtime.cudaStream_t, runtime.cudaGraph_t, driver.CUcontext)] == [
        77
    ] * 3
    assert int(driver.CUdevice(1)) == 1


@pytest.fixture
def without_driver() -> None:
    real("runtime")
    if gpus()["installed"]:
        pytest.skip("this machine has an NVIDIA driver: made-up handles would crash it")


@pytest.mark.usefixtures("without_driver")
def test_the_installed_cuda_python_takes_our_kinds_of_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a driver its functions take their arguments apart before they refuse."""
    runtime = real("runtime")
    kinds = {
        "default": runtime.cudaMemcpyKind.cudaMemcpyDefault,
        "thread": runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal,
    }
    asked = (
        "cudaGetError",
        "cudaGetLastError",
        "cudaRuntimeGetVersion",
    )  # what may be asked without a driver
    for function, arguments in every_call(monkeypatch).items():
        if function.startswith("cuda") and not function.startswith(asked):
            call = partial(getattr(runtime, function), *(kinds.get(value, value) for value in arguments))
            assert re.search(r'libcuda\.so|"cuInit" not found|cudaErrorInsufficientDriver', refusal(call))


def refusal(call: Callable[[], tuple[Any, ...]]) -> str:
    """The status, or the exception that older versions (up to 12.8) raise instead."""
    try:
        name: str = call()[0].name
        return name
    except RuntimeError as error:
        return str(error)


@pytest.mark.usefixtures("without_driver")
def test_without_a_driver_the_installed_cuda_python_is_one_line() -> None:
    with pytest.raises(MissingRequirementError, match=r"^no NVIDIA driver is found: install it") as caught:
        open_cuda()
    assert caught.value.exit_status == 3
