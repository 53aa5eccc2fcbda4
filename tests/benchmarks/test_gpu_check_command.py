"""The command gpu-check: what it needs, its steps, its result and its status."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from mrcnn.benchmarks.gpu_check import build, command, programs, steps
from mrcnn.benchmarks.gpu_check.deadline import Deadline
from mrcnn.benchmarks.gpu_check.shell import Ran
from mrcnn.errors import MissingRequirementError
from mrcnn.plugins import toolchain
from mrcnn.plugins.kernels import kernels_path
from tests.benchmarks.test_gpu_check_device import HostGpu, HostKernels, require_kernels
from tests.conftest import REPOSITORY

GRAPH_CHECKS = 13


class SlipperyKernels(HostKernels):
    """Keeps a box too few."""

    def nms_cuda(self, params: Any, *_: int, **addresses: int) -> None:
        params.max_output = max(1, params.max_output - 1)
        super().nms_cuda(params, **addresses)


def arguments(output: Path, *others: str) -> list[str]:
    return ["--library", str(kernels_path()), "--output", str(output), *others]


# What it needs --------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "how", [[str(REPOSITORY / "benchmarks" / "gpu_check")], ["-m", "mrcnn.benchmarks.gpu_check"]]
)
def test_without_a_gpu_or_nvcc_it_says_so_in_one_line(how: list[str], tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, *how], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 3
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("gpu-check: error: ")
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'matplotlib', 'cv2', 'onnxruntime')))\n"
        "from mrcnn.benchmarks.gpu_check.command import main\n"
        "main(['--help'])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    assert "--deadline" in result.stdout


def test_unknown_steps_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command.main(["--only", "build,tune"])
    assert end.value.code == 2
    known = "build, check, graph, runtime, time, sanitize, host, engine"
    assert f"unknown step 'tune' (known: {known})" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("torch", "torch with CUDA is needed and not installed"),
        ("nvcc", "nvcc is not found: install the CUDA toolkit"),
        ("cmake", "CMake 3.24 or newer is not found"),
        ("library", "nowhere.so is missing: add build to --only"),
    ],
)
def test_what_is_missing_is_named(
    what: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--library", "nowhere.so"] if what == "library" else []
    if what == "torch":
        monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None if name == "torch" else 1)
    if what in ("nvcc", "cmake"):
        tool = toolchain.Tool(Path("cmake"), (4, 0))
        monkeypatch.setattr(toolchain, "find_nvcc", lambda: None if what == "nvcc" else tool)
        monkeypatch.setattr(toolchain, "find_cmake", lambda: None if what == "cmake" else tool)
    assert command.main(argv) == 3
    assert line in capsys.readouterr().err


# The whole, with the CPU in the place of the GPU ----------------------------------------------------------


def test_a_step_in_its_own_process_and_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_kernels()
    output = tmp_path / "result.json"
    status = command.main(
        arguments(output, "--only", "build,graph"), make_gpu=HostGpu, load_kernels=HostKernels
    )
    assert status == 0
    result = json.loads(output.read_text())
    assert result["kind"] == "gpu_check"
    assert result["passed"] is True
    assert result["gpu"]["slug"] == "host-no-gpu"
    assert result["steps"]["build"]["status"] == "skipped"
    assert result["steps"]["graph"]["checks"] == GRAPH_CHECKS
    assert {"versions", "command", "git_commit", "created", "machine"} <= result.keys()
    text = capsys.readouterr()
    assert f"graph: passed, {GRAPH_CHECKS} checks" in text.err
    assert text.out.splitlines()[-1].startswith("all right; written to ")


def test_what_is_wrong_is_reported_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_kernels()
    output = tmp_path / "result.json"
    status = command.main(
        arguments(output, "--only", "graph"), make_gpu=HostGpu, load_kernels=SlipperyKernels
    )
    assert status == 1
    step = json.loads(output.read_text())["steps"]["graph"]
    assert step["status"] == "failed"
    assert {failure["check"] for failure in step["failures"]} >= {"graph of NMS few candidates"}
    assert "indices are wrong, the first at" in step["failures"][0]["wrong"][0]
    text = capsys.readouterr()
    assert "WRONG graph of NMS" in text.err
    assert "NOT all right" in text.out


# Steps, one after the other -------------------------------------------------------------------------------


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Steps without work: name -> what each does, given nothing; default: it passes."""
    require_kernels()
    does: dict[str, Any] = {}
    monkeypatch.setattr(steps, "gpu_facts", lambda *_: HostGpu().facts())
    for name in command.BUDGETS:

        def step(_self: Any, _deadline: Deadline, name: str = name) -> dict[str, Any]:
            done: dict[str, Any] = does.get(name, lambda: {"status": "passed", "failures": []})()
            return done

        monkeypatch.setattr(command._Command, f"_{name}", step)
    return does


def statuses(output: Path) -> dict[str, str]:
    return {name: step["status"] for name, step in json.loads(output.read_text())["steps"].items()}


def test_the_result_is_written_after_every_step(tmp_path: Path, faked: dict[str, Any]) -> None:
    output = tmp_path / "result.json"
    seen = []
    passed = {"status": "passed", "failures": []}
    faked["graph"] = lambda: seen.append(statuses(output)) or passed
    assert command.main(arguments(output)) == 0
    assert seen == [{"build": "passed", "check": "passed"}]
    assert list(statuses(output)) == list(command.BUDGETS)


def test_after_an_error_the_other_steps_run(tmp_path: Path, faked: dict[str, Any]) -> None:
    output = tmp_path / "result.json"

    def fails() -> None:
        raise RuntimeError("surprise")

    faked["check"] = fails
    assert command.main(arguments(output)) == 1
    assert statuses(output)["check"] == "failed"
    assert set(statuses(output).values()) == {"passed", "failed"}
    assert json.loads(output.read_text())["passed"] is False


def test_skipped_is_all_right_and_incomplete_is_not(tmp_path: Path, faked: dict[str, Any]) -> None:
    output = tmp_path / "result.json"
    faked["host"] = lambda: programs.skipped("no TensorRT")
    assert command.main(arguments(output)) == 0
    faked["host"] = lambda: {"status": "incomplete", "failures": []}
    assert command.main(arguments(output)) == 1


def test_after_the_deadline_steps_are_recorded_as_not_run(
    tmp_path: Path, faked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "result.json"
    now = [0.0]
    monkeypatch.setattr(
        command.Deadline, "after", classmethod(lambda cls, seconds: cls(now[0] + seconds, lambda: now[0]))
    )

    def long() -> dict[str, Any]:
        now[0] = 1000.0
        return {"status": "passed", "failures": []}

    faked["check"] = long
    assert command.main(arguments(output)) == 1
    assert statuses(output) == dict.fromkeys(("build", "check"), "passed") | dict.fromkeys(
        ("graph", "runtime", "time", "sanitize", "host", "engine"), "incomplete"
    )
    assert json.loads(output.read_text())["steps"]["host"]["note"] == "not run: the deadline has passed"


@pytest.mark.parametrize("stop", [SystemExit(143), KeyboardInterrupt()], ids=["terminated", "interrupted"])
def test_a_run_that_is_stopped_keeps_what_it_has(
    stop: BaseException, tmp_path: Path, faked: dict[str, Any]
) -> None:
    output = tmp_path / "result.json"

    def stopped() -> None:
        raise stop

    faked["graph"] = stopped
    if isinstance(stop, SystemExit):
        with pytest.raises(SystemExit):
            command.main(arguments(output))
    else:
        assert command.main(arguments(output)) == 130
    assert statuses(output) == {"build": "passed", "check": "passed", "graph": "incomplete"}
    assert json.loads(output.read_text())["passed"] is False


def test_the_steps_fit_the_deadline_as_they_are_expected_to() -> None:
    """Budgets are limits, not plans; those of --quick stay below what is asked of the whole."""
    for name, (full, quick) in command.BUDGETS.items():
        assert quick <= full <= (240 if name == "engine" else 150)


def test_a_slug_is_a_file_name() -> None:
    assert command.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert command.slug("Orin (nvgpu)") == "orin-nvgpu"


# Building -------------------------------------------------------------------------------------------------

PTXAS = """\
[3/9] Building CUDA object
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN5mrcnn12_GLOBAL__N_16selectEi' for 'sm_90'
ptxas info    : Function properties for _ZN5mrcnn12_GLOBAL__N_16selectEi
    0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 30 registers, used 1 barriers, 128 bytes smem
ptxas info    : Function properties for _ZN3cub6kernelEi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers
""".splitlines()


def settings_in(folder: Path) -> steps.Settings:
    return steps.Settings(
        root=REPOSITORY,
        build=folder,
        library=folder / "plugins" / "libmrcnn_kernels.so",
        quick=False,
        make_gpu=HostGpu,
    )


class FakeTools:
    """Answers for CMake; copies the installed kernels where the build would put its own."""

    def __init__(self, settings: steps.Settings, *, fails_at: str = "") -> None:
        self.commands: list[list[str]] = []
        self._settings, self._fails_at = settings, fails_at

    def __call__(self, command: list[str], **_: Any) -> Ran:
        self.commands.append(command)
        words = " ".join(command)
        if self._fails_at and self._fails_at in words:
            return Ran(1, ["nms.cu(7): error: no such thing"], 1.0)
        if "--target" in command:
            self._settings.library.parent.mkdir(parents=True, exist_ok=True)
            self._settings.library.write_bytes(kernels_path().read_bytes())
        return Ran(0, PTXAS, 1.0)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTools:
    require_kernels()
    tool = toolchain.Tool(Path("tool"), (99, 0))
    monkeypatch.setattr(toolchain, "find_nvcc", lambda: tool)
    monkeypatch.setattr(toolchain, "find_cmake", lambda: tool)
    monkeypatch.setattr(toolchain, "find_generator", lambda: ("Ninja", Path("ninja")))
    fake = FakeTools(settings_in(tmp_path))
    monkeypatch.setattr(build, "run", fake)
    return fake


def test_the_kernels_are_built_for_the_gpu_that_is_here(tmp_path: Path, tools: FakeTools) -> None:
    record = build.build_kernels(settings_in(tmp_path), {"compute_capability": "8.7"}, Deadline.after(60))
    assert record["status"] == "passed"
    assert "-DMRCNN_ARCHITECTURES=87" in tools.commands[0]
    assert record["kernels"].startswith("mrcnn ")
    assert record["plugins"] is None
    (kernel,) = record["resources"]  # without CUB's
    assert "select" in kernel.pop("kernel")
    assert kernel == {"registers": 30, "shared_bytes": 128, "spill_bytes": 12}


@pytest.mark.parametrize("stage", ["-S", "--target"])
def test_a_build_that_fails_leaves_no_older_library(stage: str, tmp_path: Path, tools: FakeTools) -> None:
    settings = settings_in(tmp_path)
    settings.library.parent.mkdir(parents=True)
    settings.library.write_bytes(b"of yesterday")
    tools._fails_at = stage
    record = build.build_kernels(settings, {"compute_capability": "9.0"}, Deadline.after(60))
    assert record["status"] == "failed"
    assert record["failures"] == [
        {"check": "kernels", "wrong": ["status 1: nms.cu(7): error: no such thing"]}
    ]
    assert not settings.library.exists()


def test_compilers_of_the_wrong_version_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = toolchain.Tool(Path("tool"), (3, 10))
    monkeypatch.setattr(toolchain, "find_nvcc", lambda: tool)
    monkeypatch.setattr(toolchain, "find_cmake", lambda: tool)
    with pytest.raises(MissingRequirementError, match=r"CMake 3\.24 or newer"):
        build.require_tools()


# Other programs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "lines", "status", "summary"),
    [
        (0, ["20 checks, 0 wrong", "========= ERROR SUMMARY: 0 errors"], "passed", "ERROR SUMMARY: 0 errors"),
        (
            0,
            ["========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"],
            "passed",
            "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
        ),
        (
            0,
            ["========= RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)"],
            "failed",
            "RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)",
        ),
        (99, ["========= ERROR SUMMARY: 3 errors"], "failed", "ERROR SUMMARY: 3 errors"),
        (1, ["1 wrong", "========= ERROR SUMMARY: 0 errors"], "failed", "ERROR SUMMARY: 0 errors"),
        (0, ["========= Error: Device not supported"], "failed", None),
        (None, ["========= COMPUTE-SANITIZER"], "incomplete", "stopped at its time limit"),
    ],
)
def test_the_sanitizer_is_believed_only_if_program_and_tool_agree(
    code: int | None, lines: list[str], status: str, summary: str | None
) -> None:
    result = programs.judge_sanitizer(Ran(code, lines, 1.5))
    assert (result["status"], result["summary"], result["seconds"]) == (status, summary, 1.5)
    assert bool(result["findings"]) is (status == "failed")


@pytest.mark.parametrize(
    ("code", "lines", "status", "wrong"),
    [
        (0, ["ok gpu_nms", "ok gpu_roi_align"], "passed", []),
        (1, ["ok gpu_nms", "FAILED gpu_roi_align: off by 3"], "failed", ["FAILED gpu_roi_align: off by 3"]),
        (77, ["skipped gpu_nms: no GPU"], "skipped", []),
        (-11, ["ok gpu_nms"], "failed", ["status -11: ok gpu_nms"]),
        (None, ["ok gpu_nms"], "incomplete", []),
    ],
)
def test_the_hosts_lines_are_kept(code: int | None, lines: list[str], status: str, wrong: list[str]) -> None:
    record = programs.judge_host(Ran(code, lines, 1.0))
    assert (record["status"], record["lines"]) == (status, lines)
    assert [line for failure in record["failures"] for line in failure["wrong"]] == wrong


def test_without_plugins_the_host_is_skipped(tmp_path: Path) -> None:
    record = programs.host(settings_in(tmp_path), Deadline.after(60))
    assert record["status"] == "skipped"
    assert "TENSORRT_ROOT" in record["note"]


class TestSanitize:
    @pytest.fixture
    def answers(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Ran]:
        """What programs say, by a word of their command line."""
        passed = Ran(0, [], 1.0)
        says: dict[str, Ran] = {"": Ran(0, ["20 checks, 0 wrong"], 1.0)}

        def fake(command: list[str], **_: Any) -> Ran:
            return next((ran for word, ran in says.items() if word and word in command), says[""])

        monkeypatch.setattr(programs, "configure", lambda *_, **__: passed)
        monkeypatch.setattr(programs, "build_target", lambda *_, **__: passed)
        monkeypatch.setattr(programs, "find_sanitizer", lambda: "compute-sanitizer")
        monkeypatch.setattr(programs, "run", fake)
        for tool in ("memcheck", "synccheck"):
            says[tool] = Ran(0, ["========= ERROR SUMMARY: 0 errors"], 1.0)
        says["racecheck"] = Ran(0, ["========= RACECHECK SUMMARY: 0 hazards displayed"], 1.0)
        return says

    def test_all_tools_pass(self, tmp_path: Path, answers: dict[str, Ran]) -> None:  # noqa: ARG002
        record = programs.sanitize(settings_in(tmp_path), Deadline.after(60))
        assert record["status"] == "passed"
        assert list(record["tools"]) == ["memcheck", "synccheck", "racecheck"]
        assert record["program"] == "20 checks, 0 wrong"

    def test_a_finding_fails(self, tmp_path: Path, answers: dict[str, Ran]) -> None:
        lines = ["========= Invalid __global__ write of size 4 bytes", "========= ERROR SUMMARY: 1 error"]
        answers["memcheck"] = Ran(99, lines, 1.0)
        record = programs.sanitize(settings_in(tmp_path), Deadline.after(60))
        assert record["status"] == "failed"
        (failure,) = record["failures"]
        assert failure["check"] == "memcheck"
        assert "Invalid __global__ write of size 4 bytes" in failure["wrong"]

    def test_a_filter_that_is_not_understood_is_left_out(
        self, tmp_path: Path, answers: dict[str, Ran]
    ) -> None:
        answers.pop("racecheck")
        answers["--kernel-name"] = Ran(1, ["unrecognised option '--kernel-name'"], 1.0)
        answers["racecheck"] = Ran(0, ["========= RACECHECK SUMMARY: 0 hazards displayed"], 1.0)
        record = programs.sanitize(settings_in(tmp_path), Deadline.after(60))
        assert record["tools"]["racecheck"]["status"] == "passed"

    def test_a_wrong_program_is_not_sanitized(self, tmp_path: Path, answers: dict[str, Ran]) -> None:
        answers[""] = Ran(1, ["WRONG NMS of 33 boxes", "20 checks, 1 wrong"], 1.0)
        record = programs.sanitize(settings_in(tmp_path), Deadline.after(60))
        assert record["failures"] == [
            {
                "check": "the program by itself",
                "wrong": ["status 1: WRONG NMS of 33 boxes | 20 checks, 1 wrong"],
            }
        ]

    def test_without_the_sanitizer_it_is_skipped_with_a_note(
        self,
        tmp_path: Path,
        answers: dict[str, Ran],  # noqa: ARG002
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(programs, "find_sanitizer", lambda: None)
        record = programs.sanitize(settings_in(tmp_path), Deadline.after(60))
        assert record["status"] == "skipped"
        assert record["note"] == "compute-sanitizer is not found; the program passed by itself"


def test_the_sanitizers_program_compiles_and_looks_for_a_gpu(tmp_path: Path) -> None:
    require_kernels()
    try:
        build.require_tools()
    except MissingRequirementError as error:
        pytest.skip(str(error))
    settings = settings_in(tmp_path)
    settings.library.parent.mkdir(parents=True)
    settings.library.write_bytes(kernels_path().read_bytes())
    record = programs.sanitize(settings, Deadline.after(120))
    if torch.cuda.is_available():
        assert record["program"] == "26 checks, 0 wrong"
    else:
        assert record["failures"] == [{"check": "the program by itself", "wrong": ["status 77: no GPU"]}]
