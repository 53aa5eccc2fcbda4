"""The build of the native libraries: what it leaves out, and that it says so in one line."""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mrcnn import __version__
from mrcnn.plugins import build, interface, toolchain
from mrcnn.plugins.kernels import KernelError, Kernels
from mrcnn.plugins.toolchain import BuildError, Options, ToolError
from tests.plugins.programs import VARIABLES, headers, program, toolset

CPU_ONLY = Options(cpu_only=True)
INFO = f"mrcnn {__version__}, CPU"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine's decides what these tests see."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the only programs on PATH."""
    folder = toolset(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(folder))
    return folder


# What a build leaves out ----------------------------------------------------------------------------------


class Compilers:
    """Stands in for CMake and the compilers: the libraries that it does not refuse appear, with a log."""

    def __init__(self, refused: Sequence[str], log: Sequence[str] = ()) -> None:
        self.refused = refused
        self.log = log
        self.configured: list[dict[str, str]] = []

    def __call__(self, job: build._Job, command: Sequence[str | Path]) -> bool:
        texts = [str(part) for part in command]
        if "-S" in texts:
            definitions = (text[2:].split("=", 1) for text in texts if text.startswith("-D"))
            self.configured.append(dict(definitions))
            Path(texts[texts.index("-B") + 1]).mkdir()
            return True
        folder, settings = Path(texts[2]), self.configured[-1]
        kind = "cuda" if settings["MRCNN_CUDA"] == "ON" else "cpu"
        made = {f"{kind} {build.KERNELS}": build.KERNELS}
        if settings["TENSORRT_INCLUDE_DIR"] != "OFF":
            made[build.PLUGINS] = build.PLUGINS
        failed = [name for name in made if name in self.refused]
        for name in made.keys() - failed:
            (folder / made[name]).write_text(name)
        job.log += self.log if failed else []
        return not failed

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(build._Job, "_call", lambda job, command: self(job, command))
        monkeypatch.setattr(build, "library_info", lambda path: f"{INFO} of {path.parent.name}")


@pytest.fixture
def tensorrt(tmp_path: Path) -> str:
    lines = ("#define NV_TENSORRT_MAJOR 10", "#define NV_TENSORRT_MINOR 3")
    return str(headers(tmp_path / "trt", *lines))


@pytest.mark.usefixtures("tools")
def test_what_cmake_is_told(tmp_path: Path, tensorrt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compilers = Compilers(refused=())
    compilers.install(monkeypatch)
    options = Options(architectures="87;90", tensorrt_root=tensorrt)
    report = build.build(options, tmp_path / "lib")
    assert report.lines() == [f"built {build.KERNELS} and {build.PLUGINS} ({INFO} of cuda) in 0 s"]
    (settings,) = compilers.configured
    assert settings["MRCNN_VERSION"] == __version__
    assert settings["MRCNN_ARCHITECTURES"] == "87;90"
    assert settings["TENSORRT_INCLUDE_DIR"] == tensorrt
    assert Path(settings["CMAKE_CUDA_COMPILER"]).name == "nvcc"


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(
    ("gpus", "told"),
    [
        ([], "native"),
        ([[8, 7]], "87"),
        ([[12, 0], [9, 0], [9, 0]], "90;120"),
    ],
)
def test_native_means_the_gpus_that_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: list[list[int]], told: str
) -> None:
    compilers = Compilers(refused=())
    compilers.install(monkeypatch)
    answer = {"gpus": [{"capability": capability} for capability in gpus]}
    monkeypatch.setattr(toolchain, "probe", lambda *_: answer)
    build.build(Options(), tmp_path / "lib")
    assert compilers.configured[0]["MRCNN_ARCHITECTURES"] == told


@pytest.mark.usefixtures("tools")
def test_plugins_that_do_not_compile_leave_the_kernels(
    tmp_path: Path, tensorrt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = [
        "[1/2] x.cpp",
        f"{build.SOURCES}/nms/nms_trt.cpp:3:10: fatal error: NvInfer.h: gone",
        "ninja: stopped",
    ]
    Compilers(refused=[build.PLUGINS], log=log).install(monkeypatch)
    report = build.build(Options(tensorrt_root=tensorrt), tmp_path / "lib")
    assert list(report.libraries) == [build.KERNELS]
    (line,) = report.left_out
    assert line.reason == "nms/nms_trt.cpp:3:10: fatal error: NvInfer.h: gone (TensorRT 10.3)"
    assert report.failed
    assert (tmp_path / "lib" / build.LOG).read_text().splitlines() == log
    assert not (tmp_path / "lib" / build.PLUGINS).exists()


@pytest.mark.usefixtures("tools")
def test_kernels_that_nvcc_refuses_are_built_for_the_cpu(
    tmp_path: Path, tensorrt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ["FAILED: nms.cu.o", "nvcc fatal   : Unsupported gpu architecture 'compute_61'"]
    compilers = Compilers(refused=[f"cuda {build.KERNELS}", build.PLUGINS], log=log)
    compilers.install(monkeypatch)
    report = build.build(Options(tensorrt_root=tensorrt, architectures="61"), tmp_path / "lib")
    assert report.libraries == {build.KERNELS: f"{INFO} of cpu"}
    (line,) = report.left_out
    assert line.part == "CUDA kernels and TensorRT plugins"
    assert line.reason == "nvcc fatal : Unsupported gpu architecture 'compute_61' (nvcc 13.0.88)"
    assert [settings["MRCNN_CUDA"] for settings in compilers.configured] == ["ON", "OFF"]
    assert compilers.configured[1]["TENSORRT_INCLUDE_DIR"] == "OFF"


@pytest.mark.usefixtures("tools")
def test_nothing_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = [f"cuda {build.KERNELS}", f"cpu {build.KERNELS}"]
    Compilers(refused=refused, log=["a.cpp:1:1: error: no", "b.cpp:1:1: error: no"]).install(monkeypatch)
    output = tmp_path / "lib"
    output.mkdir()
    (output / build.KERNELS).write_text("of an earlier build")
    report = build.build(Options(), output, keep=True)
    assert report.lines()[0].startswith("native libraries left out: a.cpp:1:1: error: no; build.log beside ")
    assert {path.name for path in output.iterdir()} == {build.KERNELS, build.LOG}, "kept as it was"
    build.build(Options(), output)
    assert {path.name for path in output.iterdir()} == {build.LOG, build.REPORT}
    Compilers(refused=()).install(monkeypatch)
    build.build(Options(), output)
    assert {path.name for path in output.iterdir()} == {build.KERNELS, build.REPORT}


def test_a_library_that_cannot_be_loaded_is_left_out(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = build.library_info
    Compilers(refused=()).install(monkeypatch)
    monkeypatch.setattr(build, "library_info", info)
    (tools / "nvcc").unlink()
    report = build.build(CPU_ONLY, tmp_path / "lib")
    assert report.libraries == {}
    assert report.left_out[0].reason.startswith(f"{build.KERNELS} cannot be loaded: ")


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (
            ["In file included from a/error.cpp:3:", "x.h:1:2: error: #error -- unsupported GNU version!"],
            "x.h:1:2: ",
        ),
        (
            ["CMake Error at CMakeLists.txt:3 (message):", "", "  The C++ compiler", "", '    "c++"'],
            "The C++ compiler",
        ),
        (["CMake Error: Generator Ninja does not match"], "Generator Ninja does not match"),
        (
            ["a.o: in function `f':", "a.cpp:(.text+0x5): undefined reference to `g'"],
            "a.cpp:(.text+0x5): undefined",
        ),
        (["Killed"], "it does not compile"),
        ([], "it does not compile"),
    ],
)
def test_the_first_error_of_a_log(log: list[str], error: str) -> None:
    assert build._first_error(log, Path("work")).startswith(error)


# At `pip install` and by hand -----------------------------------------------------------------------------


def installed(output: Path, *, editable: bool = False, **environment: str) -> list[str]:
    return build.install_step(output, editable=editable, environment=environment)


def stub_build(monkeypatch: pytest.MonkeyPatch, report: build.Report) -> list[Options]:
    """Makes every build give `report`; returns the list of what was asked for."""
    asked: list[Options] = []

    def stand_in(options: Options, *_: object, **__: object) -> build.Report:
        asked.append(options)
        return report

    monkeypatch.setattr(build, "build", stand_in)
    return asked


WHOLE = build.Report(architectures="native", libraries={build.KERNELS: INFO})
NOTHING = build.Report(architectures="native", left_out=(toolchain.LeftOut("all", "no compiler", "install"),))
BROKEN = build.Report(
    architectures="native",
    libraries={build.KERNELS: INFO},
    left_out=(toolchain.LeftOut("CUDA kernels", "error: x", "repair", failed=True),),
)


def test_pip_install_passes_the_variables_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stub_build(monkeypatch, WHOLE)
    installed(tmp_path)
    installed(tmp_path, MRCNN_NATIVE="1", MRCNN_ARCHITECTURES="all", TENSORRT_ROOT="trt")
    assert asked == [Options(), Options(architectures="all", tensorrt_root="trt")]


def test_pip_install_without_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stub_build(monkeypatch, WHOLE)
    (tmp_path / build.KERNELS).touch()
    line = "native libraries left out: MRCNN_NATIVE=0; later: python -m mrcnn.plugins.build"
    assert installed(tmp_path, editable=True, MRCNN_NATIVE="0") == [line]
    assert [path.name for path in tmp_path.iterdir()] == [build.KERNELS], "the checkout's stay"
    assert installed(tmp_path, MRCNN_NATIVE="0") == [line]
    assert json.loads((tmp_path / build.REPORT).read_text())["left_out"] == [line]
    assert not (tmp_path / build.KERNELS).exists(), "not of this build"
    assert asked == []


@pytest.mark.parametrize("report", [NOTHING, BROKEN])
def test_pip_install_that_requires_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: build.Report
) -> None:
    stub_build(monkeypatch, report)
    assert installed(tmp_path) == report.lines()
    with pytest.raises(BuildError, match=r"^MRCNN_NATIVE=require: .*left out"):
        installed(tmp_path, MRCNN_NATIVE="require")
    stub_build(monkeypatch, WHOLE)
    assert installed(tmp_path, MRCNN_NATIVE="require") == WHOLE.lines()


def test_pip_install_with_variables_that_have_no_meaning(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"^MRCNN_NATIVE must be 0, 1 or require \(got 'off'\)$"):
        installed(tmp_path, MRCNN_NATIVE="off")
    with pytest.raises(BuildError, match="architectures must be"):
        installed(tmp_path, MRCNN_ARCHITECTURES="ampere")


def test_pip_install_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (line,) = installed(tmp_path / "file" / "lib")
    assert line.startswith(f"native libraries left out: {tmp_path / 'file'}")


@pytest.mark.parametrize(("report", "status"), [(WHOLE, 0), (BROKEN, 1), (NOTHING, 3)])
def test_by_hand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], report: build.Report, status: int
) -> None:
    asked = stub_build(monkeypatch, report)
    monkeypatch.setenv("MRCNN_ARCHITECTURES", "all")
    monkeypatch.setenv("TENSORRT_ROOT", "trt")
    monkeypatch.setattr(toolchain, "check", lambda _: None)
    assert build.main([]) == status
    assert capsys.readouterr().out.splitlines()[: len(report.lines())] == report.lines()
    build.main(["--architectures", "87", "--tensorrt-root", "other", "--cpu-only"])
    assert asked == [
        Options(architectures="all", tensorrt_root="trt"),
        Options(architectures="87", tensorrt_root="other", cpu_only=True),
    ]


def test_by_hand_without_options_repeats_the_last_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stub_build(monkeypatch, WHOLE)
    headers = tmp_path / "trt"
    headers.mkdir()
    (headers / "NvInfer.h").touch()
    for variable in ("MRCNN_ARCHITECTURES", "TENSORRT_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    last = {"architectures": "87;90", "tensorrt_root": str(headers)}
    (tmp_path / build.REPORT).write_text(json.dumps(last))
    monkeypatch.setattr(toolchain, "check", lambda _: None)
    build.main(["--output", str(tmp_path)])
    (headers / "NvInfer.h").unlink()
    build.main(["--output", str(tmp_path)])
    (tmp_path / build.REPORT).write_text('{"architectures": [1], "tensorrt_root": 2}')
    build.main(["--output", str(tmp_path)])
    assert asked == [
        Options(architectures="87;90", tensorrt_root=str(headers)),
        Options(architectures="87;90"),
        Options(),
    ]


def test_a_mistyped_option_costs_no_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = stub_build(monkeypatch, WHOLE)
    assert build.main(["--tensorrt-root", str(tmp_path)]) == 2
    assert f"NvInfer.h is neither in {tmp_path} nor in its folder include" in capsys.readouterr().err
    nvcc = toolchain.Tool(tmp_path / "nvcc", (13, 0))
    monkeypatch.setattr(toolchain, "find_nvcc", lambda: nvcc)
    monkeypatch.setattr(toolchain, "answer", lambda _: "sm_75\nsm_90\n")
    assert build.main(["--architectures", "90;12"]) == 2
    assert "nvcc does not know the GPU architecture 12 (known: 75, 90)" in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize("text", ['{"summary": [1]}', '{"summary": "abc"}', "[" * 100_000, "no JSON"])
def test_a_damaged_report_is_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / build.REPORT).write_text(text)
    assert build.main(["--show", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip()


def test_by_hand_with_options_that_have_no_meaning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for arguments in (["--architectures", "ampere"], ["--output", str(tmp_path / "file" / "lib")]):
        assert build.main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("python -m mrcnn.plugins.build: error: ")


def test_what_the_last_build_gave(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (None, "{", "[]", "{}"):
        if text is not None:
            (tmp_path / build.REPORT).write_text(text)
        assert build.main(["--show", "--output", str(tmp_path)]) == 0
        assert capsys.readouterr().out.startswith("the native libraries were not built yet; run: ")
    build.install([], BROKEN, tmp_path)
    assert build.main(["--show", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == BROKEN.lines()


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where packages of a made-up environment are installed."""
    folder = tmp_path / "site-packages"
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(folder))
    return folder


def put_package(environment: Path, version: str = __version__) -> Path:
    """The installed mrcnn/plugins/lib, of a build that gave nothing."""
    package = environment / "mrcnn"
    (package / "plugins").mkdir(parents=True)
    (package / "plugins" / "build.py").touch()
    (package / "__init__.py").write_text(f'__version__ = "{version}"\n')
    build.install([], NOTHING, package / "plugins" / "lib")
    return package / "plugins" / "lib"


def test_by_hand_from_a_checkout_for_the_installed_package(
    environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs: list[Path] = []

    def stand_in(_: Options, output: Path, **__: object) -> build.Report:
        outputs.append(output)
        return WHOLE

    monkeypatch.setattr(build, "build", stand_in)
    monkeypatch.setattr(toolchain, "check", lambda _: None)
    assert build.main([]) == 0
    assert outputs.pop() == build.SOURCES / "lib", "nothing is installed"
    assert "not for" not in capsys.readouterr().out
    lib = put_package(environment)
    first = f"for the installed mrcnn in {environment / 'mrcnn'}, not for {build.SOURCES.parent}"
    assert build.main([]) == 0
    assert outputs.pop() == lib
    assert capsys.readouterr().out.splitlines() == [first, *WHOLE.lines(), f"they are in {lib}"]
    assert build.main(["--show"]) == 0
    assert capsys.readouterr().out.splitlines() == [first, *NOTHING.lines()]
    assert build.main(["--output", str(environment)]) == 0
    assert outputs.pop() == environment
    (environment / "mrcnn" / "plugins" / "build.py").unlink()  # another project of that name, or a rest
    assert build.main([]) == 0
    assert outputs.pop() == build.SOURCES / "lib"


def test_by_hand_from_the_package_itself(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lib = put_package(environment)
    monkeypatch.setattr(build, "SOURCES", lib.parent.resolve())
    assert build.installed_package() is None


def test_by_hand_from_a_checkout_of_another_version(
    environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = stub_build(monkeypatch, WHOLE)
    put_package(environment, "0.0.9")
    assert build.main([]) == 2
    assert f"that one is 0.0.9, this one {__version__}" in capsys.readouterr().err
    assert asked == []


def test_setup_py_can_load_it_without_the_package() -> None:
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('by_path', {build.__file__!r})\n"
        "sys.modules['by_path'] = module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(module.package_version(), 'mrcnn' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [__version__, "False"]


# The real thing -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cpu_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a build without CUDA."""
    if toolchain.find_toolchain(CPU_ONLY).cmake is None:
        pytest.skip("this machine has no C++ compiler or no CMake")
    output = tmp_path_factory.mktemp("native") / "lib"
    steps: list[str] = []
    report = build.build(CPU_ONLY, output, progress=steps.append)
    assert not report.failed, report.lines()
    assert any(build._StatusLine._STEP.match(step) for step in steps), "progress can be shown"
    return output


def test_a_real_library_answers(cpu_library: Path) -> None:
    kernels = Kernels(cpu_library / build.KERNELS)
    assert kernels.build_info == INFO
    boxes = np.array([[[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]]], np.float32)
    scores, group = np.array([[0.5, 0.9, 0.7]], np.float32), np.zeros((1, 3), np.int32)
    indices, count = kernels.nms(boxes, scores, group, iou_threshold=0.5, score_threshold=0, max_output=3)
    assert (indices.tolist(), count.tolist()) == ([[1, 2, 0]], [2])
    params = interface.NMSParams(1, 3, 3, 0.5, 0)
    with pytest.raises(KernelError, match="no CUDA part"):
        kernels.nms_cuda_workspace(params)
    with pytest.raises(KernelError, match="no CUDA part"):
        kernels.nms_cuda(params, 0, 0, 0, 0, 0, 0, 0, 0)


def test_a_real_report(cpu_library: Path) -> None:
    assert {path.name for path in cpu_library.iterdir()} == {build.KERNELS, build.REPORT}
    report = json.loads((cpu_library / build.REPORT).read_text())
    assert report["libraries"] == {build.KERNELS: INFO}
    assert report["mrcnn"] == __version__
    assert {"c++", "cmake"} == set(report["compilers"])
    assert report["left_out"] == [report["summary"][1]]
    assert 0 < report["seconds"] < 600


def test_a_library_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    path.write_text("text")
    with pytest.raises(ToolError, match=r"file too short|invalid ELF header"):
        build.library_info(path)


def test_a_real_library_is_asked_from_outside(cpu_library: Path, tmp_path: Path) -> None:
    path = cpu_library / build.KERNELS
    assert build.library_info(path, functions=tuple(interface.FUNCTIONS)) == INFO
    with pytest.raises(ToolError, match="undefined symbol: getCreators"):
        build.library_info(path, functions=["getCreators"])
    # Cut where its headers are whole, it can be mapped, but not be read.
    cut = tmp_path / path.name
    cut.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ToolError):
        build.library_info(cut)


def test_a_real_failure_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if toolchain.find_toolchain(CPU_ONLY).cmake is None:
        pytest.skip("this machine has no C++ compiler or no CMake")
    refuses = 'echo "refuses 1.2.3"; [ "$1" = --version ]'
    monkeypatch.setenv("CXX", str(program(tmp_path / "c++", refuses)))
    report = build.build(CPU_ONLY, tmp_path / "lib")
    (line,) = report.lines()
    assert line.startswith("native libraries left out: The C++ compiler ")
    assert not report.libraries
    assert (tmp_path / "lib" / build.LOG).is_file()
    assert not list((build.SOURCES.parent / "build").glob(f"native-*/{build.KERNELS}"))
