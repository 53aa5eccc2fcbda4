"""Builds the native libraries with CMake: at `pip install`, and by hand with `python -m mrcnn.plugins.build`.

What a machine lacks is left out and named in one line, in the output and in `build.json` beside the
libraries. setup.py loads this file by its path, when there is no package yet: it needs the standard library
alone, and `toolchain.py`.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from mrcnn.plugins import toolchain
else:
    _spec = importlib.util.spec_from_file_location(
        "mrcnn_toolchain", Path(__file__).with_name("toolchain.py")
    )
    sys.modules[_spec.name] = toolchain = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(toolchain)

SOURCES = Path(__file__).resolve().parent
KERNELS, PLUGINS = "libmrcnn_kernels.so", "libmrcnn_plugins.so"
REPORT, LOG = "build.json", "build.log"

# What of a compiler's line goes into a message of one line, in characters.
_LONGEST_REASON = 200

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a build gave.

    Args:
        tensorrt_root: the folder that was named for TensorRT's headers.
        libraries: a library's file name -> what its mrcnnBuildInfo says.
        compilers: the name of each program that took part -> its version.
    """

    architectures: str
    tensorrt_root: str | None = None
    libraries: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[toolchain.LeftOut, ...] = ()
    compilers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0

    @property
    def failed(self) -> bool:
        """Whether something does not work, rather than being absent."""
        return any(part.failed for part in self.left_out)

    def lines(self) -> list[str]:
        """One line for what was built, and one for each part that was left out."""
        built = []
        if self.libraries:
            info = list(self.libraries.values())[-1]
            built = [f"built {' and '.join(self.libraries)} ({info}) in {self.seconds:.0f} s"]
        return built + [str(part) for part in self.left_out]

    def document(self) -> dict[str, Any]:
        """What `build.json` holds."""
        return {
            "schema_version": 1,
            "mrcnn": package_version(),
            "architectures": self.architectures,
            "tensorrt_root": self.tensorrt_root,
            "libraries": dict(self.libraries),
            "left_out": [str(part) for part in self.left_out],
            "compilers": dict(self.compilers),
            "seconds": round(self.seconds, 1),
            "summary": self.lines(),
        }


def build(
    options: toolchain.Options, output: Path, *, keep: bool = False, progress: Progress | None = None
) -> Report:
    """Builds what this machine can into the folder `output`, and removes there what it cannot.

    Args:
        keep: leave the libraries in `output` as they are where none could be built.
        progress: called with each line that CMake and the compilers print.

    Raises:
        OSError: `output` or the temporary folder cannot be written.
    """
    started = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    machine = toolchain.find_toolchain(options)
    with tempfile.TemporaryDirectory(prefix="native-", dir=_work_folder()) as work:
        job = _Job(machine, options.architectures, Path(work), progress)
        libraries, left_out = job.run() if machine.cmake else ({}, machine.missing)
        report = Report(
            architectures=options.architectures,
            tensorrt_root=options.tensorrt_root,
            libraries={path.name: info for path, info in libraries.items()},
            left_out=left_out,
            compilers=machine.versions(),
            seconds=time.monotonic() - started,
        )
        if libraries or not keep:
            install(list(libraries), report, output)
    if job.log and report.failed:
        _replace(output / LOG, "\n".join(job.log) + "\n")
    else:
        (output / LOG).unlink(missing_ok=True)
    return report


def install(libraries: Sequence[Path], report: Report, output: Path) -> None:
    """Makes `output` hold these libraries and this report, and no library of an earlier build.

    Raises:
        OSError: it cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    for name in {KERNELS, PLUGINS} - {path.name for path in libraries}:
        (output / name).unlink(missing_ok=True)
    for path in libraries:
        _replace(output / path.name, path.read_bytes(), mode=0o755)
    _replace(output / REPORT, json.dumps(report.document(), indent=2) + "\n")


def install_step(
    output: Path, *, editable: bool, environment: Mapping[str, str], progress: Progress | None = None
) -> list[str]:
    """What `pip install` does; returns the lines that say it.

    Args:
        output: the folder of the libraries in the package that is being made.
        editable: `output` is that of the checkout, which may hold libraries of an earlier build.
        environment: MRCNN_NATIVE is 0 to skip the step, or "require" to make a failure an error;
            MRCNN_ARCHITECTURES and TENSORRT_ROOT are passed on.

    Raises:
        BuildError: a variable has no meaning, or a build was required and failed.
    """
    native = environment.get("MRCNN_NATIVE") or "1"
    if native not in ("0", "1", "require"):
        raise toolchain.BuildError(f"MRCNN_NATIVE must be 0, 1 or require (got {native!r})")
    options = toolchain.Options(
        architectures=environment.get("MRCNN_ARCHITECTURES") or "native",
        tensorrt_root=environment.get("TENSORRT_ROOT") or None,
    )
    try:
        if native != "0":
            report = build(options, output, progress=progress)
        else:
            skipped = toolchain.LeftOut("native libraries", "MRCNN_NATIVE=0", f"later: {toolchain.AGAIN}")
            report = Report(architectures=options.architectures, left_out=(skipped,))
            if not editable:
                install([], report, output)
    except OSError as error:
        reason = f"{error.filename or output}: {error.strerror or error}"
        wrong = toolchain.LeftOut("native libraries", reason, f"run: {toolchain.AGAIN}", failed=True)
        report = Report(architectures=options.architectures, left_out=(wrong,))
    if native == "require" and (report.failed or not report.libraries):
        raise toolchain.BuildError(f"MRCNN_NATIVE=require: {'; '.join(report.lines())}")
    return report.lines()


def package_version() -> str:
    """The version of mrcnn, which lies beside this folder in a checkout, and around it once installed."""
    beside = SOURCES.parent / "mrcnn" / "__init__.py"
    return _version_in(beside if beside.is_file() else SOURCES.parent / "__init__.py")


def _version_in(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return str(re.findall(r'^__version__ = "(.+)"', text, re.MULTILINE)[0])


def installed_package() -> Path | None:
    """The folder mrcnn/plugins in this environment, where it is not that of this file.

    Started in a checkout, Python finds the `mrcnn` there first; the command `mrcnn` uses the installed one.
    After an editable installation there is none.
    """
    for scheme in ("platlib", "purelib"):
        folder = Path(sysconfig.get_path(scheme), "mrcnn", "plugins")
        if (folder / "build.py").is_file() and folder.resolve() != SOURCES:
            return folder
    return None


def library_info(path: Path, *, functions: Sequence[str] = (), timeout: float = 10) -> str:
    """What the mrcnnBuildInfo of a library says.

    Raises:
        ToolError: it cannot be loaded here, or lacks one of `functions`.
    """
    answer = toolchain.probe("library", path.resolve(), *functions, timeout=timeout)
    if answer["error"] is not None:
        raise toolchain.ToolError(answer["error"])
    return str(answer["info"])


class _Job:
    """One build in a temporary folder; `log` collects what CMake and the compilers print."""

    def __init__(
        self, machine: toolchain.Toolchain, architectures: str, work: Path, progress: Progress | None
    ) -> None:
        self.log: list[str] = []
        self._machine = machine
        self._architectures = architectures
        self._work = work
        self._progress = progress or (lambda _: None)

    def run(self) -> tuple[dict[Path, str], tuple[toolchain.LeftOut, ...]]:
        """The libraries with their build info, and what was left out.

        What compiles is kept: without TensorRT's plugins where only they fail, for the CPU where nvcc fails.
        """
        nvcc, tensorrt, left_out = self._machine.nvcc, self._machine.tensorrt, self._machine.missing
        built, error = self._compile(nvcc=nvcc, tensorrt=tensorrt)
        if nvcc and not _holds(built, KERNELS):
            left_out = (_failed("CUDA kernels and TensorRT plugins", f"{error} (nvcc {nvcc.text})"),)
            built, error = self._compile(nvcc=None, tensorrt=None)
        elif tensorrt and not _holds(built, PLUGINS):
            left_out = (_failed("TensorRT plugins", f"{error} (TensorRT {tensorrt.text})"),)
        if not _holds(built, KERNELS):
            return {}, (_failed("native libraries", error),)
        return built, left_out

    def _compile(
        self, *, nvcc: toolchain.Tool | None, tensorrt: toolchain.Tool | None
    ) -> tuple[dict[Path, str], str]:
        """The libraries that compile and load, with their build info; the first error, if not all do."""
        assert self._machine.cmake
        assert self._machine.generator
        cmake, (generator, program) = self._machine.cmake.path, self._machine.generator
        folder = self._work / ("cuda" if nvcc else "cpu")
        begin = len(self.log)
        definitions = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_MAKE_PROGRAM": program,
            "MRCNN_VERSION": package_version(),
            "MRCNN_CUDA": "ON" if nvcc else "OFF",
            "MRCNN_ARCHITECTURES": self._wanted_gpus() if nvcc else "native",
            # Looked for above; CMake is not to find others.
            "TENSORRT_ROOT": tensorrt.path if tensorrt else "",
            "TENSORRT_INCLUDE_DIR": tensorrt.path if tensorrt else "OFF",
        }
        if nvcc:
            definitions["CMAKE_CUDA_COMPILER"] = nvcc.path
        settings = [f"-D{name}={value}" for name, value in definitions.items()]
        if self._call([cmake, "-S", SOURCES, "-B", folder, "-G", generator, *settings]):
            # After an error it goes on, so that the kernels are there where only the plugins fail.
            go_on = ["-k", "0"] if generator == "Ninja" else ["-k"]
            jobs = str(len(os.sched_getaffinity(0)))
            self._call([cmake, "--build", folder, "--parallel", jobs, "--", *go_on])
        built, error = {}, _first_error(self.log[begin:], folder)
        for path in [folder / KERNELS, folder / PLUGINS][: 2 if tensorrt else 1]:
            if path.is_file():
                try:
                    built[path] = library_info(path)
                except toolchain.ToolError as unusable:
                    error = f"{path.name} cannot be loaded: {unusable}"
        return built, error

    def _wanted_gpus(self) -> str:
        """The architectures, as numbers where "native" GPUs answer: CMake finds none on a Jetson."""
        if self._architectures != "native":
            return self._architectures
        try:
            gpus = toolchain.probe("gpus")["gpus"]
        except toolchain.ToolError:
            gpus = []
        numbers = {"{}{}".format(*gpu["capability"]) for gpu in gpus}
        return ";".join(sorted(numbers, key=int)) or "native"

    def _call(self, command: Sequence[str | Path]) -> bool:
        """Runs one step; whether it succeeded."""
        with subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},  # errors are recognised by their English words
        ) as process:
            assert process.stdout
            for line in process.stdout:
                self.log.append(line.rstrip())
                self._progress(self.log[-1])
        return process.returncode == 0


def _holds(libraries: Mapping[Path, str], name: str) -> bool:
    return any(path.name == name for path in libraries)


def _failed(part: str, error: str) -> toolchain.LeftOut:
    remedy = f"{LOG} beside {REPORT} says more; repair it and run: {toolchain.AGAIN}"
    return toolchain.LeftOut(part, error, remedy, failed=True)


def _first_error(log: Sequence[str], folder: Path) -> str:
    """What of a log says best what went wrong: a compiler's first error, else CMake's."""
    error = next((line for line in log if re.search(r"\b(fatal|error)\s*:|: undefined ref", line)), "")
    for i, line in enumerate(log):
        if not error and line.startswith("CMake Error"):
            following = [text for text in log[i + 1 : i + 9] if text.strip()]
            error = line.removeprefix("CMake Error: ") if ": " in line else " ".join(following[:3])
    error = error.replace(f"{SOURCES}/", "").replace(f"{folder}/", "")
    return " ".join(error.split())[:_LONGEST_REASON] or "it does not compile"


def _replace(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Writes a file that appears whole or not at all; setup.py has no `mrcnn.files` yet."""
    temporary = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _work_folder() -> Path:
    """Where temporary folders go: build/ of the checkout, else where the system has them."""
    root = SOURCES.parent
    if not (root / "setup.py").is_file():
        return Path(tempfile.gettempdir())
    (root / "build").mkdir(exist_ok=True)
    return root / "build"


class _StatusLine:
    """Paints how far the build is over one line of a terminal, and nothing elsewhere."""

    _STEP = re.compile(r"\[\s*(\d+/\d+|\d+%)\]")

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._shown = sys.stderr.isatty()

    def __call__(self, line: str) -> None:
        step = self._STEP.match(line)
        if self._shown and step:
            seconds = time.monotonic() - self._started
            print(f"\r\x1b[Kcompiling {step[1]}, {seconds:.0f} s", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Builds by hand; 0 done, 1 a part failed, 2 unusable options, 3 there is nothing to build with."""
    parser = argparse.ArgumentParser(prog=toolchain.AGAIN, description="Build the native libraries again.")
    add = parser.add_argument
    add(
        "--architectures",
        metavar="native|all|'87;90'",
        help="GPUs (default: MRCNN_ARCHITECTURES, else as last)",
    )
    add("--tensorrt-root", metavar="DIR", help="folder with TensorRT's headers (default: TENSORRT_ROOT)")
    add("--cpu-only", action="store_true", help="without CUDA and TensorRT")
    add("--output", metavar="DIR", type=Path, help="default: inside the package that this environment has")
    add("--show", action="store_true", help="say what the last build gave, and build nothing")
    args = parser.parse_args(argv)
    elsewhere = installed_package() if args.output is None else None
    if elsewhere is not None:
        print(f"for the installed mrcnn in {elsewhere.parent}, not for {SOURCES.parent}")
    output: Path = args.output or (elsewhere or SOURCES) / "lib"
    if args.show:
        return _show(output)
    if elsewhere is not None:
        theirs, ours = _version_in(elsewhere.parent / "__init__.py"), package_version()
        if theirs != ours:
            return _refuse(
                f"that one is {theirs}, this one {ours}: install this one, or start in another folder"
            )
    status, last = _StatusLine(), _last_options(output)
    try:
        options = toolchain.Options(
            architectures=args.architectures or os.environ.get("MRCNN_ARCHITECTURES") or last.architectures,
            tensorrt_root=args.tensorrt_root or os.environ.get("TENSORRT_ROOT") or last.tensorrt_root,
            cpu_only=args.cpu_only,
        )
        toolchain.check(options)
        report = build(options, output, keep=True, progress=status)
    except toolchain.BuildError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{error.filename or output}: {error.strerror or error}")
    except KeyboardInterrupt:
        return 130
    finally:
        status.end()
    print("\n".join(report.lines()))
    if report.libraries:
        print(f"they are in {output}")
    return 1 if report.failed else 0 if report.libraries else 3


def _refuse(reason: str) -> int:
    print(f"{toolchain.AGAIN}: error: {reason}", file=sys.stderr)
    return 2


def _last_report(folder: Path) -> dict[str, Any]:
    """The report of the last build into `folder`; empty without a readable one."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def _last_options(folder: Path) -> toolchain.Options:
    """Those of the last build, so that one without options repeats it; TensorRT's while it is still there."""
    report = _last_report(folder)
    architectures, root = report.get("architectures"), report.get("tensorrt_root")
    if not isinstance(root, str) or toolchain.find_tensorrt(root) is None:
        root = None
    try:
        return toolchain.Options(architectures=str(architectures or "native"), tensorrt_root=root)
    except toolchain.BuildError:
        return toolchain.Options(tensorrt_root=root)


def _show(folder: Path) -> int:
    summary = _last_report(folder).get("summary")
    if not isinstance(summary, list) or not summary:
        summary = [f"the native libraries were not built yet; run: {toolchain.AGAIN}"]
    print("\n".join(map(str, summary)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
