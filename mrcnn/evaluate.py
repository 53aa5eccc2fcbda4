"""`mrcnn evaluate`."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn.errors import MrcnnError
from mrcnn.files import write_json

if TYPE_CHECKING:
    from mrcnn.evaluation import AveragePrecision, Evaluation

EXAMPLES = """\
  mrcnn evaluate weights.pth --data instances.json --images photos/
  mrcnn evaluate persons.onnx --data person_keypoints.json --images photos/
  mrcnn evaluate model.onnx --data instances.json --limit 100 --json result.json
  mrcnn evaluate benchmarks/demo/coins.pth --data coins
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", type=Path, help="a checkpoint (.pth) or an exported model (.onnx, .engine)")
    add("--data", required=True, metavar="D", help="a COCO document (.json), or coins or shapes")
    add("--images", metavar="DIR", help="image folder (default: images/ beside the document)")
    add("--limit", type=int, metavar="N", help="only the first N images")
    add("--device", default="cpu", help="for a checkpoint: cpu (default) or cuda")
    add("--config", metavar="FILE", type=Path, help="what a checkpoint's weights do not tell, as for export")
    add("--json", nargs="?", const="-", metavar="F", help="write the result as JSON (to standard output)")


def run(args: argparse.Namespace) -> int:
    from mrcnn.data.source import open_for_evaluation
    from mrcnn.evaluation import average_precision, detect, map_labels
    from mrcnn.opening import open_model
    from mrcnn.report import document

    if args.limit is not None and args.limit < 1:
        raise MrcnnError(f"--limit must be positive (got {args.limit})")
    with open_model(args.model, device=args.device, config=args.config) as model:
        data, indices = open_for_evaluation(args.data, images=args.images, limit=args.limit)
        category_ids, assumptions = map_labels(model.description.class_names, data)
        for line in (*model.assumptions, *assumptions):
            print(f"assumed: {line}", file=sys.stderr)
        results, seconds = detect(model.predictor, data, indices, category_ids)
    evaluation = average_precision(data.ground_truth(indices), results, description=model.description)
    if model.description.keypoints is not None and evaluation.keypoint is None:
        print("note: no AP of key points: it is of COCO's 17 points of persons, annotated", file=sys.stderr)
    if args.json != "-":
        print(_table(evaluation))
        print(f"{len(indices)} images, {1000 * seconds / len(indices):.0f} ms per image")
    if args.json is not None:
        figures = {
            "model": str(args.model),
            "precision": model.precision,
            "data": args.data,
            "images": len(indices),
            "detections": len(results),
            **asdict(evaluation),
            "seconds_per_image": seconds / len(indices),
        }
        write_json(args.json, document("accuracy", figures))
    return 0


def _table(evaluation: "Evaluation") -> str:
    columns = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    lines = ["".join(f"{title:>7}" for title in ("", *columns))]
    rows = (("box", evaluation.box), ("mask", evaluation.mask), ("points", evaluation.keypoint))
    for kind, scores in rows:
        if scores is not None:
            lines.append(f"{kind:>7}" + "".join(f"{_cell(scores, column):>7}" for column in columns))
    return "\n".join(lines)


def _cell(scores: "AveragePrecision", column: str) -> str:
    value: Any = getattr(scores, column)
    return "-" if value is None else f"{value:.1f}"
