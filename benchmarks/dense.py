"""`mrcnn dense`: times what a graph is mostly made of, backbone, FPN and RPN head, several files in turn.

ONNX Runtime runs each of them, and OpenVINO too, where it is installed. What follows (proposals, pooling,
masks) is the same in every precision, so that `mrcnn compare` cannot tell what the layers have gained.
"""

import argparse
from pathlib import Path
from typing import Any

from mrcnn.benchmarks.arguments import positive
from mrcnn.export.arguments import sides
from mrcnn.files import write_json
from mrcnn.report import available_cores, document

EXAMPLES = """\
  mrcnn dense model.onnx model.int8-cpu.onnx --shape 800x1088
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("models", nargs="+", type=Path, metavar="ONNX", help="exported models; the first is the reference")
    add("--shape", type=sides, default=(800, 1088), metavar="HxW", help="of the input (800x1088)")
    add("--repeats", type=positive, default=10, metavar="N", help="timed rounds (10)")
    add("--threads", type=positive, metavar="N", help="of each program (default: the cores there are)")
    add("--json", nargs="?", const="-", metavar="F", help="write the figures ('-': standard output)")


def run(args: argparse.Namespace) -> int:
    from mrcnn.benchmarks.dense_part import measure

    report = measure(
        args.models, shape=args.shape, repeats=args.repeats, threads=args.threads or available_cores()
    )
    if args.json is not None:
        write_json(args.json, document("dense", report))
    if args.json != "-":
        _print(report)
    return 0


def _print(report: dict[str, Any]) -> None:
    height, width = report["shape"]
    print(f"dense part, {height}x{width}; {report['repeats']} rounds, {report['threads']} threads each")
    for note in report["notes"]:
        print(f"  note: {note}")
    widest = max(len(entry["name"]) for entry in report["programs"])
    for entry in report["programs"]:
        print(f"  {entry['name']:<{widest}}{entry['p50_ms']:>10.1f} ms{entry['speedup']:>8.2f} times as fast")
