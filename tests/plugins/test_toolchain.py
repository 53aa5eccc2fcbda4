"""What the native libraries are built with: finding it, and asking programs that may not answer."""

import time
from pathlib import Path

import pytest

from mrcnn.plugins import toolchain
from mrcnn.plugins.toolchain import BuildError, Options, Tool, ToolError
from tests.plugins.programs import VARIABLES, headers, program, toolset

CPU_ONLY = Options(cpu_only=True)


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


def test_everything_is_found(tools: Path, tmp_path: Path) -> None:
    root = tmp_path / "TensorRT"
    folder = headers(
        root / "include", "#define NV_TENSORRT_MAJOR 10 //!< x", "#define NV_TENSORRT_MINOR 3 //!< x"
    )
    found = toolchain.find_toolchain(Options(tensorrt_root=str(root)))
    assert found == toolchain.Toolchain(
        compiler=Tool(tools / "c++", (12, 2, 1)),
        cmake=Tool(tools / "cmake", (3, 25, 1)),
        generator=("Ninja", tools / "ninja"),
        nvcc=Tool(tools / "nvcc", (13, 0, 88)),
        tensorrt=Tool(folder, (10, 3)),
    )
    assert found.versions() == {"c++": "12.2.1", "cmake": "3.25.1", "nvcc": "13.0.88", "tensorrt": "10.3"}


def left_out(options: Options | None = None) -> toolchain.LeftOut:
    """The one thing that the machine lacks."""
    (line,) = toolchain.find_toolchain(options or Options()).missing
    assert "\n" not in str(line)
    return line


def test_no_compiler(tools: Path) -> None:
    (tools / "c++").unlink()
    assert str(left_out()).startswith("native libraries left out: no C++ compiler found; install g++")
    assert not left_out().failed


def test_a_compiler_that_does_not_work(tools: Path) -> None:
    program(tools / "c++", 'echo "cannot execute: libfoo is missing" >&2', "exit 127")
    assert left_out().reason == "c++: ended with status 127: cannot execute: libfoo is missing"
    assert left_out().failed


def test_cmake_that_is_too_old(tools: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scripts = tmp_path / "venv"
    scripts.mkdir()
    monkeypatch.setattr(toolchain.sysconfig, "get_path", lambda _: str(scripts))
    program(tools / "cmake", 'echo "cmake version 3.22.1"')
    assert left_out().reason == "CMake 3.22.1 is older than 3.24"
    program(scripts / "cmake", 'echo "cmake version 4.1.0"')
    assert toolchain.find_toolchain(Options()).cmake == Tool(scripts / "cmake", (4, 1, 0))
    (scripts / "cmake").unlink()
    (tools / "cmake").unlink()
    assert left_out().reason == "CMake not found"


def test_make_takes_the_place_of_ninja(tools: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(toolchain.sysconfig, "get_path", lambda _: str(tmp_path))
    (tools / "ninja").unlink()
    assert left_out().reason == "neither ninja nor make found"
    program(tools / "make")
    assert toolchain.find_generator() == ("Unix Makefiles", tools / "make")


@pytest.mark.usefixtures("tools")
def test_no_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "find_nvcc", lambda: None)
    line = "CUDA kernels and TensorRT plugins left out: nvcc not found; install the CUDA toolkit and run: "
    assert str(left_out()) == line + "python -m mrcnn.plugins.build"


def test_nvcc_that_is_not_on_path(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cuda" / "bin").mkdir(parents=True)
    moved = (tools / "nvcc").rename(tmp_path / "cuda" / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    assert toolchain.find_nvcc() == Tool(moved, (13, 0, 88))


@pytest.mark.parametrize(
    ("lines", "version"),
    [
        (["#define TRT_MAJOR_ENTERPRISE 10", "#define TRT_MINOR_ENTERPRISE 13"], (10, 13)),
        (["#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE", "#define NV_TENSORRT_LWS_MINOR 7"], ()),
        ([], ()),
    ],
)
def test_versions_of_tensorrt(tmp_path: Path, lines: list[str], version: tuple[int, ...]) -> None:
    folder = headers(tmp_path / "x", *lines)
    assert toolchain.find_tensorrt(str(folder)) == Tool(folder, version)


@pytest.mark.usefixtures("tools")
def test_no_headers_of_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = left_out(Options(tensorrt_root=str(tmp_path)))
    assert wrong.reason == f"NvInfer.h not found in TENSORRT_ROOT={tmp_path} or its folder include"
    assert wrong.failed
    old = headers(tmp_path / "8", "#define NV_TENSORRT_MAJOR 8", "#define NV_TENSORRT_MINOR 6")
    assert left_out(Options(tensorrt_root=str(old))).reason == f"TensorRT 8.6 in {old} is older than 10.3"
    monkeypatch.setattr(toolchain, "find_tensorrt", lambda _: None)
    assert str(left_out()).startswith("TensorRT plugins left out: NvInfer.h not found; set TENSORRT_ROOT to ")
    assert not left_out().failed


@pytest.mark.usefixtures("tools")
def test_for_the_cpu_only() -> None:
    found = toolchain.find_toolchain(CPU_ONLY)
    assert found.nvcc is None
    assert found.missing[0].reason == "--cpu-only was asked for"


@pytest.mark.parametrize("architectures", ["native", "all", "87", "87;90", "90a-real;100f;120-virtual"])
def test_architectures(architectures: str) -> None:
    assert Options(architectures=architectures).architectures == architectures


@pytest.mark.parametrize("architectures", ["", "sm_87", "87,90", "8.7", "native;87", "87 -O0"])
def test_what_is_no_architecture(architectures: str) -> None:
    with pytest.raises(BuildError, match="architectures must be native, all, or numbers"):
        Options(architectures=architectures)


# Programs that do not answer as they should ---------------------------------------------------------------


def test_answers(tmp_path: Path) -> None:
    odd = program(tmp_path / "odd", r"printf 'a\377b\n'", 'echo "c" >&2')
    assert toolchain.answer([odd]) == "a\ufffdb\nc\n"
    with pytest.raises(ToolError, match=r"^none: No such file or directory$"):
        toolchain.answer([tmp_path / "none"])
    with pytest.raises(ToolError, match=r"^fails: ended with status 9: NVML: no$"):
        toolchain.answer([program(tmp_path / "fails", "echo", "echo NVML: no", "exit 9")])
    with pytest.raises(ToolError, match=r"^dies: killed by SIGSEGV: without a word$"):
        toolchain.answer([program(tmp_path / "dies", "kill -SEGV $$")])


def test_a_program_that_hangs_is_left_with_its_children(tmp_path: Path) -> None:
    hangs = program(tmp_path / "hangs", f"sleep 3600 & echo $! > {tmp_path}/child", "wait")
    with pytest.raises(ToolError, match=r"^hangs: no answer within 0\.5 s$"):
        toolchain.answer([hangs], timeout=0.5)
    # It did not wait for the child, which holds the same pipe; and the child is gone, or about to be.
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    deadline = time.monotonic() + 10
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_the_probe_of_a_machine_without_a_driver() -> None:
    document = toolchain.probe("gpus")
    assert set(document) == {"installed", "cuda", "gpus", "error"}
