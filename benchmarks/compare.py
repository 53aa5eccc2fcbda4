"""`mrcnn compare`: accuracy, agreement, size and time of several models, side by side."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrcnn.benchmarks.arguments import natural, positive
from mrcnn.errors import MrcnnError
from mrcnn.files import write_json

EXAMPLES = """\
  mrcnn compare ckpt.pth model.onnx model.int8.onnx --data val.json
  mrcnn compare model.onnx model.engine --data val.json --images photos/ --limit 200      without PyTorch
  mrcnn compare ckpt.pth model.onnx --images photos/ c.png --repeats 50 --json out/compare.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "models",
        nargs="+",
        type=Path,
        metavar="MODEL",
        help="checkpoints (.pth), exported models (.onnx, .engine); the first is the others' reference",
    )
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="what the weights of all the checkpoints do not tell, as for export; exported models hold it",
    )
    add("--data", metavar="D", help="to measure AP: a COCO document (.json), or coins or shapes")
    add(
        "--images",
        nargs="+",
        type=Path,
        metavar="DIR|FILE",
        help="with --data the folder of its images (default: images/ beside the document), "
        "without it folders and image files",
    )
    add("--limit", type=positive, metavar="N", help="only the first N images")
    add("--repeats", type=positive, default=10, metavar="N", help="timed rounds, one image each (10)")
    add("--warmup", type=natural, default=2, metavar="N", help="rounds before, not timed (2)")
    add("--threads", type=positive, metavar="N", help="threads of each model (default: the cores there are)")
    add("--json", nargs="?", const="-", metavar="F", help="write the figures ('-': standard output)")


def run(args: argparse.Namespace) -> int:
    if len(args.models) < 2:
        raise MrcnnError(f"{args.models[0]}: needs another model to be compared with")
    if args.data is None and args.images is None:
        raise MrcnnError("nothing to run the models on: name --data or --images")
    if args.data is not None and args.images is not None and len(args.images) > 1:
        raise MrcnnError(f"--images takes one folder, that of --data (got {len(args.images)})")
    from mrcnn.opening import is_exported

    if args.config is not None and all(map(is_exported, args.models)):
        raise MrcnnError("--config is for checkpoints: in an exported model that is decided already")

    from mrcnn.benchmarks.comparison import measure_models, pictures_of_data, pictures_of_files
    from mrcnn.data.source import open_for_evaluation
    from mrcnn.report import available_cores, document
    from mrcnn.runtime.images import image_files

    data = None
    if args.data is None:
        pictures = pictures_of_files(image_files(args.images, limit=args.limit))
    else:
        folder = None if args.images is None else str(args.images[0])
        data, indices = open_for_evaluation(args.data, images=folder, limit=args.limit)
        pictures = pictures_of_data(data, indices)
    figures = measure_models(
        args.models,
        pictures,
        data=data,
        repeats=args.repeats,
        warmup=args.warmup,
        threads=args.threads or available_cores(),
        config=args.config,
    )
    report = {"data": args.data, **figures}
    if args.json is not None:
        write_json(args.json, document("compare", report))
    if args.json != "-":
        print_table(report)
    return 1 if report["skipped"] else 0


def print_table(report: dict[str, Any]) -> None:
    """One line for each model, and what speaks against comparing them."""
    count = f"{report['images']} images" + ("" if report["data"] is None else f" of {report['data']}")
    print(f"{count}; {report['repeats']} rounds, {report['threads']} threads each")
    notes = [(entry["name"], note) for entry in report["models"] for note in entry["notes"]]
    for name, note in notes:
        print(f"  note: {name}: {note}")
    for note in report["notes"]:
        print(f"  note: {note}")
    rows = [_row(entry, first=number == 0) for number, entry in enumerate(report["models"])]
    # Of no data, or of models without masks or key points, there is nothing to show.
    titles = [t for t in rows[0] if not t.endswith(" AP") or any(row[t] != "-" for row in rows)]
    cells = [titles, *([row[title] for title in titles] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  " + _aligned(line, widths))
    print(
        "against the first model: differences, parity AP (100 = equal), speed (median of the rounds' ratios)"
    )


def _row(entry: dict[str, Any], *, first: bool) -> dict[str, str]:
    """The cells by the titles of their columns."""
    from mrcnn.benchmarks.comparison import KINDS

    return {
        "model": entry["name"],
        "precision": entry["precision"],
        "size": f"{entry['size_mb']:.1f} MB",
        **{
            f"{kind} AP": _average_precision(entry[kind], None if first else entry[f"{kind}_difference"])
            for kind in KINDS
        },
        "parity AP, boxes": _number(entry["parity_ap_box"], ".2f"),
        "masks": _number(entry["parity_ap_mask"], ".2f"),
        "median": f"{entry['p50_ms']:.1f} ms",
        "times as fast": f"{entry['speedup']:.2f}",
    }


def _average_precision(scores: dict[str, float | None] | None, difference: float | None) -> str:
    shown = _number(None if scores is None else scores["AP"], ".2f")
    # A hundredth is what an export may lose; adding 0 makes 0 of -0.
    return shown if difference is None else f"{shown} ({round(difference, 2) + 0.0:+.2f})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Names to the left, figures to the right."""
    name, *figures = cells
    columns = [f"{figure:>{width}}" for figure, width in zip(figures, widths[1:], strict=True)]
    return "  ".join([f"{name:<{widths[0]}}", *columns])
