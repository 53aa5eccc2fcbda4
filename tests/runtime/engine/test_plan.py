"""TensorRT is found or missed in one line, prints nothing, and engines that are not as told are refused."""

import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mrcnn.description import RoiRule
from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.runtime.engine import backend as backend_module
from mrcnn.runtime.engine.checks import read_plan, read_sidecar
from mrcnn.runtime.engine.plan import Plan, open_plan
from mrcnn.runtime.engine.tensorrt import PLUGINS, ErrorLog, error_log, import_tensorrt, load_plugins
from mrcnn.sidecar import Profile
from tests.runtime.conftest import DESCRIPTION, MASK_SIZE
from tests.runtime.engine.conftest import PROFILES, Lab, inputs, within
from tests.runtime.engine.engine_files import deployment_of
from tests.runtime.engine.simulated_device import SimulatedDevice
from tests.runtime.engine.simulated_tensorrt import Severity, SimulatedTensorrt

MakeLab = Callable[..., Lab]

NO_PLUGINS = Path("no_such_library.so")


# Finding the package.


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes packages of that name and code the only ones; None stands for one that is not installed."""

    def install(**code: str | None) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        for name, text in code.items():
            if text is None:
                monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
                continue
            monkeypatch.delitem(sys.modules, name, raising=False)
            (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")

    return install


def find(*, version_compatible: bool = False) -> ModuleType:
    module = import_tensorrt(version="10.13.3.9", version_compatible=version_compatible)
    assert isinstance(module, ModuleType)
    sys.modules.pop(module.__name__)
    return module


def test_the_full_package_comes_first(packages: Callable[..., None]) -> None:
    packages(tensorrt="", tensorrt_lean="")
    assert find().__name__ == "tensorrt"
    assert find(version_compatible=True).__name__ == "tensorrt"


def test_the_lean_one_is_for_version_compatible_engines(packages: Callable[..., None]) -> None:
    packages(tensorrt=None, tensorrt_lean="")
    assert find(version_compatible=True).__name__ == "tensorrt_lean"
    with pytest.raises(
        MissingRequirementError, match=r"only TensorRT's lean runtime .*'tensorrt==10.13.3.9'"
    ):
        find()


@pytest.mark.parametrize("version_compatible", [False, True])
def test_without_tensorrt(packages: Callable[..., None], version_compatible: bool) -> None:
    packages(tensorrt=None, tensorrt_lean=None)
    with pytest.raises(MissingRequirementError, match=r"not installed: pip install onnx .* tensorrt, on"):
        find(version_compatible=version_compatible)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise ImportError('libnvinfer.so.10:\\n cannot open')", "libnvinfer.so.10: cannot open"),
        ("import tensorrt_libs_that_are_missing", "tensorrt_libs_that_are_missing"),
        ("raise OSError('wrong ELF class')", "wrong ELF class"),
    ],
)
def test_a_broken_package(packages: Callable[..., None], code: str, says: str) -> None:
    packages(tensorrt=code, tensorrt_lean="")
    with pytest.raises(MissingRequirementError) as caught:
        find()
    assert f"does not load ({says}" in str(caught.value) or says in str(caught.value)
    assert "\n" not in str(caught.value)


# What TensorRT says.


def test_only_errors_are_kept_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    trt = SimulatedTensorrt(SimulatedDevice())
    log = error_log(trt)
    moment = log.now()
    for severity in Severity:
        log.logger.log(severity, f"{severity.name}\n  in two lines")
    assert log.reason(moment) == "INTERNAL_ERROR in two lines"
    assert log.now() == moment + 2
    assert capfd.readouterr() == ("", "")


def test_the_first_error_since_the_moment_counts() -> None:
    log = ErrorLog()
    log.add("old")
    moment = log.now()
    assert log.reason(moment) == "it gives no reason"
    log.add("the cause")
    log.add("its consequence")
    assert log.reason(moment) == "the cause"
    log.add("x" * 1000)
    assert len(log.reason(moment + 2)) == 300


def test_errors_of_other_threads_come_second() -> None:
    log = ErrorLog()
    thread = threading.Thread(target=lambda: log.add("theirs"))
    thread.start()
    thread.join()
    assert log.reason(0) == "theirs"
    log.add("mine")
    assert log.reason(0) == "mine"


def test_the_log_does_not_grow() -> None:
    log = ErrorLog()
    for number in range(1000):
        log.add(str(number))
    assert len(log._lines) < 100


def test_one_logger_for_all(make_lab: MakeLab) -> None:
    """TensorRT keeps the first one."""
    lab = make_lab()
    lab.open()
    logger = lab.trt.logger
    lab.open()
    assert error_log(lab.trt).logger is logger


# Plugins.


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libmrcnn_plugins.so"
    path.write_text(" ".join(PLUGINS), encoding="utf-8")
    return path


def test_plugins_are_loaded_once(library: Path) -> None:
    trt = SimulatedTensorrt(SimulatedDevice())
    for _ in range(3):
        load_plugins(trt, library, version="1")
    assert trt.registry.loads == [str(library)]


@pytest.mark.parametrize(
    ("content", "absent"),
    [
        (None, "MrcnnRoIAlign, MrcnnRoIPool and MrcnnNMS"),
        ("", "MrcnnRoIAlign, MrcnnRoIPool and MrcnnNMS"),
        ("MrcnnNMS", "MrcnnRoIAlign and MrcnnRoIPool"),
        ("MrcnnNMS MrcnnRoIPool", "MrcnnRoIAlign"),
    ],
)
def test_a_library_without_the_plugins(library: Path, content: str | None, absent: str) -> None:
    library.unlink() if content is None else library.write_text(content, encoding="utf-8")
    with pytest.raises(MissingRequirementError) as caught:
        load_plugins(SimulatedTensorrt(SimulatedDevice()), library, version="1")
    assert str(caught.value) == (
        f"{library}: TensorRT 10.13.3.9 does not find {absent} in it: run python -m mrcnn.plugins.build"
    )


def test_an_engine_with_plugins_from_the_library(
    make_lab: MakeLab, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "plugins_path", lambda: library)
    monkeypatch.setattr(backend_module, "installed_plugins", lambda _: "0.1.0")
    lab = make_lab(plugins_embedded=False)
    for _ in range(2):
        within(lab.open().start(inputs((1, 64, 96))).outputs)
    assert lab.trt.registry.loads == [str(library)]
    lab.assert_nothing_left()


def test_an_engine_with_plugins_of_another_version(
    make_lab: MakeLab, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "plugins_path", lambda: library)
    monkeypatch.setattr(backend_module, "installed_plugins", lambda _: "0.0.9")
    lab = make_lab(plugins_embedded=False)
    with pytest.raises(MissingRequirementError, match=r"here are those of 0\.0\.9"):
        lab.open()
    assert not lab.trt.registry.loads


def test_embedded_plugins_need_no_library(make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "installed_plugins", lambda _: pytest.fail("it was looked for"))
    lab = make_lab(plugins_embedded=True)
    lab.open()
    assert not lab.trt.registry.loads


# The engine.


def opened(lab: Lab) -> Plan:
    """As `EngineBackend` opens it, without the checks of the machine."""
    sidecar = read_sidecar(lab.engine)
    data = read_plan(lab.engine, sidecar)
    return open_plan(lab.engine, data, sidecar, trt=lab.trt, plugins=NO_PLUGINS)


def refusal(lab: Lab) -> str:
    with pytest.raises(MrcnnError) as caught:
        opened(lab)
    line = str(caught.value)
    assert line.startswith(f"{lab.engine}: ")
    assert "\n" not in line
    caught.value.__traceback__ = None
    return line.removeprefix(f"{lab.engine}: ")


def test_what_an_engine_is(make_lab: MakeLab) -> None:
    plan = opened(make_lab(activations=12345))
    assert plan.activation_bytes == 12345
    assert [tensor.name for tensor in plan.tensors] == [
        "images",
        "image_sizes",
        "num_detections",
        "boxes",
        "scores",
        "labels",
        "masks",
    ]
    # The largest input is 3 x 128 x 128, with 4 detections per image.
    assert [tensor.most_bytes for tensor in plan.tensors] == [
        3 * 128 * 128 * 3 * 4,
        3 * 2 * 4,
        3 * 4,
        3 * 4 * 4 * 4,
        3 * 4 * 4,
        3 * 4 * 4,
        3 * 4 * 28 * 28 * 4,
    ]


def test_the_largest_input_need_not_be_the_last_profile(make_lab: MakeLab) -> None:
    """Most pixels in the first profile, most images in the second."""
    profiles = (
        Profile.fixed(1, 256, 256),
        Profile.fixed(5, 32, 32),
    )
    images, sizes, *_ = opened(make_lab(profiles=profiles)).tensors
    assert images.most_bytes == 256 * 256 * 3 * 4
    assert sizes.most_bytes == 5 * 2 * 4


@pytest.mark.parametrize(
    ("flags", "allowed"),
    [
        ({"plugins_embedded": True}, True),
        ({"plugins_embedded": True, "version_compatible": True}, True),
        ({"plugins_embedded": False, "version_compatible": True}, True),
        ({"plugins_embedded": False}, False),
    ],
)
def test_host_code_is_allowed_where_there_is_some(
    make_lab: MakeLab, flags: dict[str, bool], allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(**flags)
    if not flags["plugins_embedded"]:
        lab.trt.registry.creators |= {(name, "1", "mrcnn") for name in PLUGINS}
    seen = []
    deserialize = lab.trt.runtime_type.deserialize_cuda_engine

    def spy(self: Any, data: Any) -> Any:
        seen.append(self.engine_host_code_allowed)
        return deserialize(self, data)

    monkeypatch.setattr(lab.trt.runtime_type, "deserialize_cuda_engine", spy)
    opened(lab)
    assert seen == [allowed]


def test_tensorrt_refuses_the_plan(make_lab: MakeLab) -> None:
    lab = make_lab(prefix=b"no plan of TensorRT: ")
    assert refusal(lab) == (
        "TensorRT cannot load the engine "
        "([simulated.cpp::here::1] Error Code 1: Internal Error (magic tag does not match))"
    )
    assert not lab.trt.runtimes


def other_deployment(onnx_file: Path, **changes: Any) -> Any:
    return replace(deployment_of(onnx_file), **changes)


def test_names_are_those_of_the_contract(make_lab: MakeLab) -> None:
    assert "(inputs image_sizes, pictures)" in refusal(make_lab(model={"rename": ("images", "pictures")}))
    assert "(outputs corners, labels, masks" in refusal(make_lab(model={"rename": ("boxes", "corners")}))


def test_masks_are_there_when_they_are_told(make_lab: MakeLab, tiny_model: Callable[..., Path]) -> None:
    told = other_deployment(tiny_model(), description=DESCRIPTION, mask_size=MASK_SIZE)
    assert "(outputs boxes, labels, num_detections, scores)" in refusal(
        make_lab(model={"masks": False}, deployment=told)
    )


def test_types_are_those_of_the_contract(make_lab: MakeLab, tiny_model: Callable[..., Path]) -> None:
    told = other_deployment(tiny_model(), input_dtype="uint8")
    assert "(images is DataType.FLOAT)" in refusal(make_lab(deployment=told))


def test_shapes_are_those_of_the_contract(make_lab: MakeLab, tiny_model: Callable[..., Path]) -> None:
    told = other_deployment(tiny_model(), height=64, width=128)
    line = refusal(make_lab(model={"height": 64, "width": 96}, deployment=told))
    assert "(images has shape (-1, 64, 96, 3))" in line
    assert line.endswith("build it again with `mrcnn export`")


def test_masks_have_the_told_size(make_lab: MakeLab, tiny_model: Callable[..., Path]) -> None:
    small = replace(DESCRIPTION, rois=RoiRule(mask_size=7))
    told = other_deployment(tiny_model(), description=small, mask_size=14)
    assert "(masks has shape (-1, 4, 28, 28))" in refusal(make_lab(deployment=told))


@pytest.mark.parametrize(
    ("built", "says"),
    [
        (PROFILES[:2], "(2 profiles)"),
        (
            (PROFILES[1], PROFILES[0], PROFILES[2]),
            "(profile 0 takes images of [(1, 32, 32, 3), (1, 96, 64, 3)",
        ),
        ((*PROFILES[:2], Profile.fixed(1, 64, 64)), "(profile 2 takes images of [(1, 64, 64, 3)"),
    ],
)
def test_profiles_are_those_of_the_sidecar(make_lab: MakeLab, built: tuple[Profile, ...], says: str) -> None:
    assert says in refusal(make_lab(built_profiles=built))


def test_the_profile_of_a_fixed_graph(make_lab: MakeLab) -> None:
    model = {"height": 64, "width": 96, "batch": 2}
    assert opened(make_lab(model=model, profiles=(Profile.fixed(2, 64, 96),)))
    assert "(profile 0 takes images of [(2, 64, 96, 3)" in refusal(
        make_lab(model=model, profiles=(Profile.fixed(1, 64, 96),))
    )


@pytest.mark.parametrize(
    ("shape", "profile"),
    [
        ((1, 32, 32), 0),  # both of the first two, which are as large
        ((2, 64, 128), 0),
        ((1, 96, 64), 1),
        ((1, 96, 96), 2),
        ((3, 32, 32), 2),
    ],
)
def test_the_smallest_profile_is_taken(make_lab: MakeLab, shape: tuple[int, int, int], profile: int) -> None:
    assert opened(make_lab()).profile_of(shape) == profile


def test_the_smallest_profile_is_taken_wherever_it_stands(make_lab: MakeLab) -> None:
    plan = opened(make_lab(profiles=PROFILES[::-1]))
    assert plan.profile_of((1, 96, 64)) == 1
    assert plan.profile_of((2, 64, 128)) == 2
    assert plan.profile_of((1, 96, 96)) == 0
