"""`mrcnn export`, also `python export/to_trt.py`: a checkpoint becomes a validated ONNX file."""

import argparse
import re
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    # Run as a file, Python looks for modules beside it; the packages are found from the checkout instead.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from mrcnn.description import BACKGROUND, ModelDescription
from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.files import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mrcnn.checkpoint import Checkpoint
    from mrcnn.export.to_onnx import InputRule

EXAMPLES = """\
  mrcnn export ckpt.pth --onnx-only                    ckpt/model.onnx, any image size, any batch
  mrcnn export ckpt.pth --onnx-only --shape 800x1344 --batch 1     fixed input, as TensorRT likes it
  mrcnn export ckpt.pth --onnx-only --class-names names.txt --min-size 640 --max-size 1024
"""

_STEPS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CKPT", help="mrcnn checkpoint, or torchvision state dict"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder to write to (default: CKPT's name)"
    )
    parser.add_argument("--onnx-only", action="store_true", help="write model.onnx and stop there")
    parser.add_argument(
        "--shape",
        type=_shape,
        default=None,
        metavar="HxW",
        help="network input in pixels, multiples of 32, or 'dynamic' (default)",
    )
    parser.add_argument(
        "--batch", type=_batch, default=None, metavar="N", help="images per run, or 'dynamic' (default)"
    )
    parser.add_argument(
        "--input-dtype",
        choices=("float32", "uint8"),
        default="float32",
        help="pixels of the graph's input; uint8 is a quarter of the bytes and rounds the resized image",
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="F", help="write a report ('-': standard output)"
    )
    bare = parser.add_argument_group(
        "what a bare state dict does not say (these override a checkpoint's own)"
    )
    bare.add_argument("--class-names", type=Path, metavar="FILE", help="one name a line, without background")
    bare.add_argument("--min-size", type=int, metavar="PX", help="shorter side of the resized image")
    bare.add_argument("--max-size", type=int, metavar="PX", help="longest side of the resized image")
    bare.add_argument("--score-threshold", type=float, metavar="P", help="least score of a detection")
    bare.add_argument("--detections", type=int, metavar="K", help="most detections per image")
    bare.add_argument("--norm-eps", type=float, metavar="EPS", help="epsilon of the trunk's batch norm")


def run(args: argparse.Namespace) -> int:
    from mrcnn.checkpoint import load_checkpoint
    from mrcnn.export.to_onnx import InputRule, export_onnx

    inputs = InputRule(size=args.shape, batch=args.batch, dtype=args.input_dtype)
    with _progress() as step:
        step("reading the checkpoint")
        checkpoint = load_checkpoint(args.checkpoint)
        checkpoint = replace(checkpoint, description=_described(checkpoint.description, args))
        path = (args.output or Path(args.checkpoint.stem)) / "model.onnx"
        deployment = export_onnx(checkpoint, path, inputs=inputs, on_step=step)
    if args.json:
        write_json(
            args.json,
            {
                "onnx": str(path),
                "assumptions": list(checkpoint.assumptions),
                "architecture": deployment.description.architecture,
                "weights_sha256": deployment.weights_sha256,
                "validated": True,
            },
        )
    if args.json != "-":
        _report(path, checkpoint, inputs)
    if not args.onnx_only:
        raise MissingRequirementError(
            f"{path} is written and validated, but this version builds no TensorRT engine yet: "
            "use the ONNX file, and --onnx-only to say so"
        )
    return 0


def _described(description: ModelDescription, args: argparse.Namespace) -> ModelDescription:
    """The description with the command line's overrides."""
    resize = {k: v for k in ("min_size", "max_size") if (v := getattr(args, k)) is not None}
    detections: dict[str, Any] = {}
    if args.score_threshold is not None:
        detections["score_threshold"] = args.score_threshold
    if args.detections is not None:
        detections["detections_per_image"] = args.detections
    changes: dict[str, Any] = {
        "resize": replace(description.resize, **resize),
        "detections": replace(description.detections, **detections),
    }
    if args.norm_eps is not None:
        changes["norm_eps"] = args.norm_eps
    if args.class_names is not None:
        changes["class_names"] = _class_names(args.class_names, description.num_classes)
    return replace(description, **changes)


def _class_names(path: Path, num_classes: int) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise MrcnnError(f"{path}: cannot be read as class names, one a line: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if len(names) != num_classes - 1:
        raise MrcnnError(
            f"{path}: {len(names)} class names, but the model has {num_classes - 1} (background not counted)"
        )
    return (BACKGROUND, *names)


def _report(path: Path, checkpoint: "Checkpoint", inputs: "InputRule") -> None:
    description = checkpoint.description
    size = f"{inputs.size[0]}x{inputs.size[1]} pixels" if inputs.size else "any image size"
    batch = "any batch" if inputs.batch is None else f"batch {inputs.batch}"
    print(f"{description.architecture}, {description.num_classes - 1} classes")
    for assumption in checkpoint.assumptions:
        print(f"assumed: {assumption}")
    print(
        f"wrote {path} ({path.stat().st_size / 1e6:.0f} MB): {size}, {batch}, every stage equal to PyTorch's"
    )
    print(f"next: mrcnn infer {path} PHOTO.jpg --output overlays")


@contextmanager
def _progress() -> "Iterator[Callable[[str], None]]":
    from tqdm import tqdm

    with tqdm(total=_STEPS, leave=False, bar_format="{desc} [{n_fmt}/{total_fmt}] {elapsed}") as bar:

        def step(words: str) -> None:
            bar.set_description_str(words, refresh=False)
            bar.update()

        yield step


def _shape(text: str) -> tuple[int, int] | None:
    if text == "dynamic":
        return None
    match = re.fullmatch(r"(\d{1,6})[x×](\d{1,6})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected HxW such as 800x1344, or dynamic (got {text!r})")
    return int(match[1]), int(match[2])


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if re.fullmatch(r"\d{1,9}", text) is None:
        raise argparse.ArgumentTypeError(f"expected a number or dynamic (got {text!r})")
    return int(text)


if __name__ == "__main__":
    from mrcnn.cli import main

    sys.exit(main(["export", *sys.argv[1:]]))
