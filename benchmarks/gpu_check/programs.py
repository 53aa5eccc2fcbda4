"""Steps that run programs of their own: compute-sanitizer over the kernels, and the plugins' host."""

import importlib.util
import json
import re
import sys
from typing import Any

from mrcnn.benchmarks.gpu_check.build import build_target, configure, plugins_path
from mrcnn.benchmarks.gpu_check.deadline import Deadline
from mrcnn.benchmarks.gpu_check.shell import Ran, run
from mrcnn.benchmarks.gpu_check.steps import FAILED, INCOMPLETE, PASSED, SKIPPED, Settings
from mrcnn.plugins import toolchain

SANITIZER_TOOLS = ("memcheck", "synccheck", "racecheck")

# What compute-sanitizer answers where it has found something, unlike any status of the program.
_FOUND = 99

# Both programs answer this where there is no GPU.
_NO_GPU = 77


# compute-sanitizer ----------------------------------------------------------------------------------------


def sanitize(settings: Settings, deadline: Deadline) -> dict[str, Any]:
    """Runs a small program over all kernels by itself and under each tool of compute-sanitizer."""
    folder = settings.build / "sanitize"
    options = {"MRCNN_KERNELS": str(settings.library), "CMAKE_BUILD_TYPE": "Release"}
    source = settings.root / "benchmarks" / "gpu_check"
    done = configure(source, folder, deadline=deadline, options=options)
    if done.code == 0:
        done = build_target(folder, None, deadline=deadline)
    if done.code != 0:
        return failure("build", done.last_words)
    program = str(folder / "mrcnn_sanitize")
    alone = run([program], deadline=deadline)
    if alone.code != 0:
        return failure("the program by itself", alone.last_words)
    record: dict[str, Any] = {"program": alone.lines[-1] if alone.lines else "", "tools": {}}
    sanitizer = find_sanitizer()
    if sanitizer is None:
        note = "compute-sanitizer is not found; the program passed by itself"
        return {"status": SKIPPED, "note": note, "failures": [], **record}
    for tool in SANITIZER_TOOLS if not settings.quick else SANITIZER_TOOLS[:1]:
        if deadline.passed:
            break
        record["tools"][tool] = _under(sanitizer, tool, program, deadline)
    failures = [
        {"check": tool, "wrong": result["findings"]}
        for tool, result in record["tools"].items()
        if result["status"] == FAILED
    ]
    wanted = 1 if settings.quick else len(SANITIZER_TOOLS)
    passed = [tool for tool, result in record["tools"].items() if result["status"] == PASSED]
    status = FAILED if failures else PASSED if len(passed) == wanted else INCOMPLETE
    return {"status": status, "failures": failures, **record}


def find_sanitizer() -> str | None:
    found = toolchain.find_program("compute-sanitizer", folders=toolchain.cuda_folders())
    return None if found is None else str(found)


def _under(sanitizer: str, tool: str, program: str, deadline: Deadline) -> dict[str, Any]:
    command = [sanitizer, "--tool", tool, "--error-exitcode", str(_FOUND), "--print-limit", "20"]
    if tool == "racecheck":
        # Of shared memory alone, and slow: CUB's kernels are NVIDIA's to check.
        named = [*command, "--kernel-name", "kernel_substring=mrcnn", program]
        ran = run(named, deadline=deadline)
        if ran.code is None or summary_line(ran.lines):
            return judge_sanitizer(ran)
    return judge_sanitizer(run([*command, program], deadline=deadline))


def judge_sanitizer(ran: Ran) -> dict[str, Any]:
    """Status, summary line, seconds, and what was found, from the output of compute-sanitizer."""
    said = summary_line(ran.lines)
    result: dict[str, Any] = {"summary": said, "seconds": ran.seconds, "findings": []}
    if ran.code is None:
        return {**result, "status": INCOMPLETE, "summary": "stopped at its time limit"}
    # A warning of racecheck is a hazard that the order of a warp's threads hides.
    clean = said is not None and re.search(r": 0 (errors|hazards)", said) is not None
    if ran.code == 0 and clean:
        return {**result, "status": PASSED}
    lines = [line.removeprefix("=========").strip() for line in ran.lines]
    findings = [line for line in lines if line][:40]
    return {**result, "status": FAILED, "findings": [ran.last_words, *findings]}


def summary_line(lines: list[str]) -> str | None:
    """The line in which compute-sanitizer counts what it has found."""
    found = [line for line in lines if re.search(r"(ERROR|RACECHECK) SUMMARY:", line)]
    return found[-1].removeprefix("=========").strip() if found else None


# The host of the TensorRT plugins -------------------------------------------------------------------------


def host(settings: Settings, deadline: Deadline) -> dict[str, Any]:
    """Builds the program that drives the plugins as TensorRT does, and runs its checks that need a GPU."""
    library, source = plugins_path(settings), settings.root / "tests" / "plugins" / "host"
    if not library.is_file():
        return skipped("the TensorRT plugins are not built: TENSORRT_ROOT=DIR with TensorRT's headers")
    if not (source / "CMakeLists.txt").is_file():
        return skipped("the host of the plugins is not in this checkout")
    folder = settings.build / "host"
    done = configure(source, folder, deadline=deadline, options={"CMAKE_BUILD_TYPE": "Release"})
    if done.code == 0:
        done = build_target(folder, None, deadline=deadline)
    if done.code != 0:
        return failure("build", done.last_words)
    return judge_host(run([str(folder / "mrcnn_plugin_host"), str(library), "--gpu"], deadline=deadline))


def judge_host(ran: Ran) -> dict[str, Any]:
    """The step's record from the host's output: `ok NAME`, `FAILED NAME: …` or `skipped NAME: …` a line."""
    checks = [line for line in ran.lines if line.startswith(("ok ", "FAILED ", "skipped "))]
    wrong = [line for line in checks if line.startswith("FAILED ")]
    record = {"checks": len(checks), "lines": checks}
    if ran.code is None:
        return {"status": INCOMPLETE, "note": "stopped at its time limit", "failures": [], **record}
    if ran.code == _NO_GPU:
        return {**skipped("the host finds no GPU"), **record}
    if ran.code != 0:
        return {**failure("host", *(wrong or [ran.last_words])), **record}
    return {"status": PASSED, "failures": [], **record}


# An engine -------------------------------------------------------------------------------------------------


def engine(settings: Settings, deadline: Deadline) -> dict[str, Any]:
    """Where TensorRT is installed: the demo model becomes an engine, which is compared and timed."""
    if importlib.util.find_spec("tensorrt") is None:
        return skipped("TensorRT is not installed")
    python, folder = sys.executable, settings.build / "engine"
    report, latency = folder / "report.json", folder / "latency.json"
    checkpoint = str(settings.root / "benchmarks" / "demo" / "coins.pth")
    record: dict[str, Any] = {}
    for name, command in (
        ("the plugins are built", ["mrcnn.plugins.build"]),
        (
            "the demo model becomes an engine that finds the same",
            ["mrcnn.cli", "export", checkpoint, "--output", str(folder), "--force", "--json", str(report)],
        ),
        (
            "it is timed",
            [
                *("mrcnn.cli", "bench", str(folder / "model.engine"), "--reference", checkpoint),
                *("--images", str(settings.root / "docs" / "coins.jpg"), "--json", str(latency)),
            ],
        ),
    ):
        ran = run([python, "-m", *command], deadline=deadline, folder=settings.root)
        if ran.code != 0:
            return {**failure(name, ran.last_words), **record}
        record[name] = ran.seconds
    figures = {path.stem: json.loads(path.read_text()) for path in (report, latency)}
    return {"status": PASSED, "failures": [], "checks": len(record), "seconds_of": record, **figures}


def failure(check: str, *wrong: str) -> dict[str, Any]:
    return {"status": FAILED, "failures": [{"check": check, "wrong": list(wrong)}]}


def skipped(why: str) -> dict[str, Any]:
    return {"status": SKIPPED, "note": why, "failures": []}
