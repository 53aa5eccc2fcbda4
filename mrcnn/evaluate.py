"""`mrcnn evaluate`."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn.errors import MrcnnError
from mrcnn.files import write_json

if TYPE_CHECKING:
    from mrcnn.description import ModelDescription
    from mrcnn.evaluation import AveragePrecision, Evaluation, Predictor

EXAMPLES = """\
  mrcnn evaluate weights.pth --data instances.json --images photos/
  mrcnn evaluate model.onnx --data instances.json --limit 100 --json result.json
  mrcnn evaluate benchmarks/demo/coins.pth --data coins
"""

_SYNTHETIC_IMAGES = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", type=Path, help="a checkpoint (.pth) or an exported model (.onnx, .engine)")
    add("--data", required=True, metavar="D", help="a COCO document (.json), or coins or shapes")
    add("--images", metavar="DIR", help="image folder (default: images/ beside the document)")
    add("--limit", type=int, metavar="N", help="only the first N images")
    add("--device", default="cpu", help="for a checkpoint: cpu (default) or cuda")
    add("--json", nargs="?", const="-", metavar="F", help="write the result as JSON (to standard output)")


def run(args: argparse.Namespace) -> int:
    from mrcnn.data.source import open_dataset
    from mrcnn.evaluation import detect, evaluate_detections, map_labels

    if args.limit is not None and args.limit < 1:
        raise MrcnnError(f"--limit must be positive (got {args.limit})")
    with open_model(args.model, device=args.device) as (predictor, description):
        data = open_dataset(
            args.data, images=args.images, masks=False, split="val", length=args.limit or _SYNTHETIC_IMAGES
        )
        category_ids, assumptions = map_labels(description.class_names, data)
        for line in assumptions:
            print(f"assumed: {line}", file=sys.stderr)
        indices = range(len(data))[: args.limit]
        results, seconds = detect(predictor, data, indices, category_ids)
    truth = data.ground_truth(indices)
    has_masks = description.has_masks and any(a.get("segmentation") for a in truth["annotations"])
    evaluation = evaluate_detections(truth, results, iou_types=("bbox", "segm") if has_masks else ("bbox",))
    if args.json != "-":
        print(_table(evaluation))
        print(f"{len(indices)} images, {1000 * seconds / len(indices):.0f} ms per image")
    if args.json is not None:
        write_json(
            args.json,
            {
                "model": str(args.model),
                "data": args.data,
                "images": len(indices),
                **asdict(evaluation),
                "seconds_per_image": seconds / len(indices),
            },
        )
    return 0


@contextmanager
def open_model(path: Path, *, device: str) -> "Iterator[tuple[Predictor, ModelDescription]]":
    """What runs the model in the file, and the model's description.

    Raises:
        MrcnnError: the file is neither a checkpoint nor an exported model, or is not usable, or there is no
            such device for it.
    """
    if path.suffix in (".onnx", ".engine"):
        from mrcnn.runtime import Runtime

        if device != "cpu":
            raise MrcnnError(
                f"--device {device}: is for checkpoints; ONNX files run on the CPU here, engines on a GPU"
            )
        with Runtime(path) as runtime:
            yield runtime, runtime.description
        return
    from mrcnn.checkpoint import load_checkpoint
    from mrcnn.devices import choose_device
    from mrcnn.predictor import TorchPredictor

    chosen = str(choose_device(device))
    checkpoint = load_checkpoint(path)
    for line in checkpoint.assumptions:
        print(f"assumed: {line}", file=sys.stderr)
    yield TorchPredictor(checkpoint.build(), checkpoint.description, device=chosen), checkpoint.description


def _table(evaluation: "Evaluation") -> str:
    columns = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    lines = ["".join(f"{title:>7}" for title in ("", *columns))]
    for kind, scores in (("box", evaluation.box), ("mask", evaluation.mask)):
        if scores is not None:
            lines.append(f"{kind:>7}" + "".join(f"{_cell(scores, column):>7}" for column in columns))
    return "\n".join(lines)


def _cell(scores: "AveragePrecision", column: str) -> str:
    value: Any = getattr(scores, column)
    return "-" if value is None else f"{value:.1f}"
