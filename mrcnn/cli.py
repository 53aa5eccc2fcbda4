"""The command `mrcnn`: finds the sub-command's module, runs it, and turns errors into a line and a status."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from mrcnn import __version__
from mrcnn.errors import MrcnnError, missing_package


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
    try:
        return run_command(name, arguments[1:])
    except MrcnnError as error:
        print(f"mrcnn {name}: error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"mrcnn {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away; what is left in the buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


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
    try:
        return command.run(args)
    except ModuleNotFoundError as error:
        raise missing_package(error) from error


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
