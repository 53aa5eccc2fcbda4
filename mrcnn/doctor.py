"""`mrcnn doctor`: what this machine has and misses, and what to do about each."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mrcnn import __version__
from mrcnn.files import write_json
from mrcnn.report import SCHEMA_VERSION

if TYPE_CHECKING:
    from mrcnn.diagnosis.machine import Machine
    from mrcnn.diagnosis.row import Row

EXAMPLES = """\
  mrcnn doctor
  mrcnn doctor --json | jq '.rows[] | select(.state == "problem")'

states:
  ok        there, and works
  missing   not there; only what needs it does without
  problem   there, and does not work: the exit status is 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", nargs="?", const="-", metavar="F", help="write JSON (to standard output)")


def run(args: argparse.Namespace) -> int:
    from mrcnn.diagnosis.machine import survey

    machine = survey()
    rows = examine(machine)
    if args.json is not None:
        write_json(args.json, document(machine, rows))
    if args.json != "-":
        print("\n".join(table(rows)))
    return 1 if any(row.state == "problem" for row in rows) else 0


def examine(machine: "Machine") -> list["Row"]:
    """The verdict on each thing, from the facts alone."""
    from mrcnn.diagnosis import gpu, native, packages
    from mrcnn.diagnosis.row import Row

    board = f", {machine.jetson}" if machine.jetson else ""
    return [
        Row("mrcnn", "ok", f"{__version__}, Python {machine.python}, {machine.system}{board}"),
        packages.required(machine),
        packages.onnxruntime(machine),
        packages.torch(machine),
        packages.export(machine),
        gpu.gpu(machine),
        packages.tensorrt(machine),
        packages.tensorrt_lean(machine),
        packages.cuda_python(machine),
        native.headers(machine),
        native.nvcc(machine),
        native.compiler(machine),
        native.cmake(machine),
        native.kernels(machine),
        native.plugins(machine),
    ]


def table(rows: Sequence["Row"]) -> Iterator[str]:
    """The lines to print: name, state and detail of each, what to do below it, and a summary."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        yield f"{row.name:<{width}}  {row.state:<7}  {row.detail}"
        if row.do is not None:
            yield f"{'':<{width}}  {'do:':>7}  {row.do}"
    problems, missing = (sum(row.state == state for row in rows) for state in ("problem", "missing"))
    yield f"{problems or 'no'} problem{'' if problems == 1 else 's'}, {missing or 'nothing'} missing"


def document(machine: "Machine", rows: Sequence["Row"]) -> dict[str, Any]:
    """What --json writes."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "doctor",
        "mrcnn": __version__,
        "ok": not any(row.state == "problem" for row in rows),
        "jetson": machine.jetson,
        "gpus": [asdict(gpu) for gpu in machine.driver.gpus],
        "rows": [asdict(row) for row in rows],
    }
