"""The command `mrcnn`: finds the sub-command's module, runs it, and turns errors into a line and a status."""

import argparse
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO, cast

from mrcnn import __version__
from mrcnn.errors import MrcnnError, missing_package
from mrcnn.report import check_destination


class Command(Protocol):
    """What a sub-command's module offers. Its heavy imports belong inside `run`."""

    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


# name -> (module, one line of help). Only the module of the chosen command is imported.
COMMANDS = {
    "train": ("mrcnn.train", "train a model on COCO-format or synthetic images"),
    "evaluate": ("mrcnn.evaluate", "COCO box and mask AP of a checkpoint or an exported model"),
    "export": ("mrcnn.export.to_trt", "checkpoint to ONNX and TensorRT, validated"),
    "infer": ("mrcnn.runtime.command", "run an exported model on images, folders and videos"),
    "parity": (
        "mrcnn.benchmarks.parity",
        "compare an exported model with its checkpoint, detection by detection",
    ),
    "bench": ("mrcnn.benchmarks.latency", "time an exported model against its checkpoint"),
    "compare": (
        "mrcnn.benchmarks.compare",
        "accuracy, agreement, size and time of several models, side by side",
    ),
    "dense": ("mrcnn.benchmarks.dense", "time the layers of exported models alone, on a CPU"),
    "doctor": ("mrcnn.doctor", "what this machine has and misses, and what to do about it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        _top_parser().print_help()
        return 2
    name = arguments[0]
    if name not in COMMANDS:
        _top_parser().parse_args(arguments)  # answers --help and --version, refuses the rest
    return guard(f"mrcnn {name}", lambda: run_command(name, arguments[1:]))


def guard(name: str, command: Callable[[], int]) -> int:
    """The exit status of a command, of which errors become one line that begins with its `name`."""
    _prepare_streams()
    try:
        try:
            with _terminable():
                return _run(name, command)
        finally:
            sys.stdout.flush()  # here, since an error of the flush at exit could not be told in one line
    except BrokenPipeError:
        # The reader of our output went away.
        _discard(sys.stdout)
        return 141
    except OSError as error:
        if error.filename is not None:  # not one of writing to a stream: a bug of ours
            raise
        _discard(sys.stdout)
        _complain(f"{name}: error: cannot write the output: {error.strerror or error}")
        return 2


def _run(name: str, command: Callable[[], int]) -> int:
    try:
        try:
            return command()
        except ModuleNotFoundError as error:
            raise missing_package(error) from error
    except MrcnnError as error:
        _complain(f"{name}: error: {error}")
        return error.exit_status
    except _Terminated:
        _complain(f"{name}: terminated")
        return 143
    except KeyboardInterrupt:
        _complain(f"{name}: interrupted")
        return 130
    except MemoryError:
        _complain(f"{name}: error: not enough memory: use a smaller input, or fewer at a time")
        return 2
    except RecursionError:
        _complain(f"{name}: error: an input is nested too deeply to be read")
        return 2


class _Terminated(KeyboardInterrupt):
    """SIGTERM; handled as Ctrl-C is, so that temporary files are removed on the way out."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Inside the block SIGTERM raises `_Terminated`; only the main thread may arrange that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _prepare_streams() -> None:
    """Makes every character printable, and gives a stream that the caller closed somewhere to write to."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Open for the rest of the process, like the stream that it stands for.
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard(stream: TextIO) -> None:
    """What is left in the stream's buffer must not raise again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _complain(line: str) -> None:
    """Prints an error where errors can be printed; the status tells it anyway.

    Names out of files may hold what breaks the line, or commands a terminal.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    try:
        print(shown, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Parses `arguments` for the command `name` and runs it; errors are raised, not printed."""
    module, summary = COMMANDS[name]
    command = cast(Command, importlib.import_module(module))
    parser = argparse.ArgumentParser(
        prog=f"mrcnn {name}",
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + command.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    args = parser.parse_args(arguments)
    if getattr(args, "json", None) not in (None, "-"):
        check_destination(Path(args.json))
    return command.run(args)


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="mrcnn",
        description="Mask R-CNN from PyTorch to ONNX Runtime and TensorRT, proven equal.",
        epilog=f"commands:\n{table}\n\n`mrcnn COMMAND --help` shows options and examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mrcnn {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    return parser


if __name__ == "__main__":
    sys.exit(main())
