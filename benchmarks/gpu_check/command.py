"""Checks the CUDA kernels on this machine's GPU and times them; needs no network and no installation."""

import argparse
import importlib.util
import re
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mrcnn.benchmarks.arguments import positive
from mrcnn.benchmarks.gpu_check import build, programs, steps, tables
from mrcnn.benchmarks.gpu_check.deadline import Deadline
from mrcnn.benchmarks.gpu_check.shell import run
from mrcnn.benchmarks.gpu_check.steps import INCOMPLETE, PASSED, SKIPPED, Settings
from mrcnn.diagnosis.machine import importable
from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.files import write_json
from mrcnn.report import document

EXAMPLES = """\
  python benchmarks/gpu_check                          everything, within 8 minutes
  python benchmarks/gpu_check --quick                  about a minute
  python benchmarks/gpu_check --only build,time        build, and time without checking
  python -m mrcnn.benchmarks.gpu_check.publish benchmarks/results/*/gpu_check.json
"""

PACKAGES = ("torch", "torchvision")

# In the order in which they run. Seconds that each may take: in full, and with --quick.
BUDGETS = {
    "build": (150, 150),
    "check": (120, 40),
    "graph": (40, 20),
    "runtime": (30, 20),
    "time": (130, 30),
    "sanitize": (110, 30),
    "host": (40, 20),
    "engine": (240, 120),
}

_CLOCKS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.draw", "power.limit",
           "temperature.gpu", "pstate")  # fmt: skip

NOT_MEASURED = (
    "other sizes, batches and GPUs",
    "allocating outputs and workspace, which are there before the first call",
    "torchvision in a CUDA graph, which most of it cannot be captured in",
    "the values of torchvision's float16 RoIAlign, which computes positions in float16: it is timed alone",
)


def main(
    argv: Sequence[str] | None = None,
    *,
    make_gpu: Callable[[], Any] = steps.first_gpu,
    load_kernels: Callable[[Path], Any] | None = None,
) -> int:
    """Returns the exit status: 0; 1 if something is wrong or was not reached; 2, arguments; 3, no GPU."""
    args = _parser().parse_args(argv)
    handler = signal.signal(signal.SIGTERM, _terminate)
    try:
        return _Command(args, make_gpu, load_kernels).run()
    except MrcnnError as error:
        print(f"gpu-check: error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("gpu-check: interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu-check",
        description=__doc__,
        epilog=f"examples:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer checks and rounds")
    parser.add_argument(
        "--only", type=_names, default=tuple(BUDGETS), metavar="STEPS", help=f"some of {','.join(BUDGETS)}"
    )
    parser.add_argument(
        "--deadline",
        type=positive,
        default=480,
        metavar="S",
        help="seconds in all, after which steps are recorded as not run (480)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="F",
        help="the result (default: benchmarks/results/GPU/gpu_check.json)",
    )
    parser.add_argument(
        "--library", type=Path, metavar="F", help="libmrcnn_kernels.so to check, instead of building it"
    )
    return parser


def _names(argument: str) -> tuple[str, ...]:
    wanted = argument.split(",")
    unknown = [name for name in wanted if name not in BUDGETS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown step {unknown[0]!r} (known: {', '.join(BUDGETS)})")
    return tuple(name for name in BUDGETS if name in wanted)


def _terminate(*_: object) -> None:
    sys.exit(143)  # as an exception, so that children end and the result is written


class _Command:
    """One run. `figures` is the result so far, written after each step."""

    def __init__(
        self,
        args: argparse.Namespace,
        make_gpu: Callable[[], Any],
        load_kernels: Callable[[Path], Any] | None,
    ) -> None:
        root = Path(__file__).resolve().parents[2]
        self._args = args
        self._deadline = Deadline.after(args.deadline)
        self._settings = Settings(
            root=root,
            build=root / "build" / "gpu-check",
            library=args.library or root / "build" / "gpu-check" / "plugins" / "libmrcnn_kernels.so",
            quick=args.quick,
            make_gpu=make_gpu,
            **({} if load_kernels is None else {"load_kernels": load_kernels}),
        )
        self.figures: dict[str, Any] = {"passed": False, "quick": args.quick, "steps": {}}

    def run(self) -> int:
        tools = self._requirements()
        facts = steps.gpu_facts(self._settings, self._deadline.part(90))
        self.figures["gpu"] = {**facts, "slug": slug(facts["name"]), **_driver(), "clocks_before": _clocks()}
        self.figures["software"] = {
            **{package: metadata.version(package) for package in PACKAGES},
            **tools,
        }
        output = self._args.output or (
            self._settings.root / "benchmarks" / "results" / slug(facts["name"]) / "gpu_check.json"
        )
        for name in BUDGETS:
            if name not in self._args.only:
                continue
            try:
                self.figures["steps"][name] = record = self._step(name)
            except BaseException:  # we are being stopped
                self.figures["steps"][name] = _not_run("interrupted")
                raise
            finally:
                write_json(output, document("gpu_check", {**self.figures, "passed": self._passed()}))
            count = f", {record['checks']} checks" if "checks" in record else ""
            say(f"{name}: {record['status']}{count}, {record['seconds']:.0f} s")
        self.figures["passed"] = self._passed()
        for line in tables.text(self.figures):
            print(line)
        print(
            f"{'all right' if self.figures['passed'] else 'NOT all right'}; written to {output}", flush=True
        )
        return 0 if self.figures["passed"] else 1

    def _requirements(self) -> dict[str, str]:
        """What is found out without a GPU: versions of tools. Raises MissingRequirementError."""
        root = self._settings.root
        if not (root / "plugins" / "CMakeLists.txt").is_file() or not (root / "setup.py").is_file():
            raise MissingRequirementError("the sources of the kernels are needed: run it in a checkout")
        for package in PACKAGES:
            if importlib.util.find_spec(package) is None:
                raise MissingRequirementError(f"{package} with CUDA is needed and not installed")
        tools: dict[str, str] = {}
        if self._args.library is None and "build" in self._args.only:
            tools = build.require_tools()
        elif not self._settings.library.is_file():
            raise MissingRequirementError(f"{self._settings.library} is missing: add build to --only")
        return tools

    def _step(self, name: str) -> dict[str, Any]:
        if self._deadline.passed:
            return _not_run("the deadline has passed")
        if name != "build" and not self._settings.library.is_file():
            return _not_run("there are no kernels to run")
        deadline = self._deadline.part(BUDGETS[name][self._args.quick])
        return steps.timed(lambda: getattr(self, f"_{name}")(deadline))

    def _build(self, deadline: Deadline) -> dict[str, Any]:
        if self._args.library is not None:
            return {"status": SKIPPED, "note": f"checking {self._args.library.name}", "failures": []}
        return build.build_kernels(self._settings, self.figures["gpu"], deadline)

    def _check(self, deadline: Deadline) -> dict[str, Any]:
        return tables.summed_up(steps.run_plan(steps.plan_check, self._settings, deadline, say=say))

    def _graph(self, deadline: Deadline) -> dict[str, Any]:
        return tables.summed_up(steps.run_plan(steps.plan_graph, self._settings, deadline, say=say))

    def _runtime(self, deadline: Deadline) -> dict[str, Any]:
        if not importable(["cuda.bindings"]):
            raise MissingRequirementError("cuda-python is not installed: pip install 'cuda-python>=12.9.1'")
        return tables.summed_up(steps.run_plan(steps.plan_runtime, self._settings, deadline, say=say))

    def _time(self, deadline: Deadline) -> dict[str, Any]:
        step = steps.run_plan(steps.plan_time, self._settings, deadline, say=say)
        self.figures["gpu"]["clocks_after_timing"] = _clocks()
        self.figures["time"] = {**tables.time_figures(step["records"]), "not_measured": list(NOT_MEASURED)}
        return tables.summed_up(step)

    def _sanitize(self, deadline: Deadline) -> dict[str, Any]:
        return programs.sanitize(self._settings, deadline)

    def _host(self, deadline: Deadline) -> dict[str, Any]:
        return programs.host(self._settings, deadline)

    def _engine(self, deadline: Deadline) -> dict[str, Any]:
        return programs.engine(self._settings, deadline)

    def _passed(self) -> bool:
        """Nothing wrong, and nothing that was asked for left out for want of time."""
        done = self.figures["steps"]
        return len(done) == len(self._args.only) and all(
            step["status"] in (PASSED, SKIPPED) for step in done.values()
        )


def _not_run(why: str) -> dict[str, Any]:
    return {"status": INCOMPLETE, "note": f"not run: {why}", "failures": [], "seconds": 0.0}


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def slug(name: str) -> str:
    """A GPU's name for files: nvidia-h100-80gb-hbm3."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _nvidia_smi(fields: Sequence[str]) -> dict[str, str]:
    """What nvidia-smi says of the first GPU; nothing is set."""
    if shutil.which("nvidia-smi") is None:
        return {}
    query = [f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    ran = run(["nvidia-smi", *query], deadline=Deadline.after(20))
    values = [value.strip() for value in ran.lines[0].split(",")] if ran.code == 0 and ran.lines else []
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}


def _driver() -> dict[str, str | None]:
    return {"driver": _nvidia_smi(["driver_version"]).get("driver_version")}


def _clocks() -> dict[str, str]:
    return _nvidia_smi(_CLOCKS)
