"""`mrcnn train`."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mrcnn import __version__
from mrcnn.description import BACKGROUND, ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.families import describe

if TYPE_CHECKING:
    from torch import Tensor

    from mrcnn.data.sample import DetectionDataset
    from mrcnn.training.options import TrainingOptions

EXAMPLES = """\
  mrcnn train --data shapes --iterations 500 --output out/shapes
  mrcnn train --data train.json --images photos/ --val val.json --epochs 24 --batch-size 8 --output out/mine
  mrcnn train --data person_keypoints.json --architecture keypointrcnn_resnet50_fpn --output out/persons
  mrcnn train --data train.json --init weights.pth --lr 0.002 --epochs 12 --output out/tuned
  torchrun --nproc-per-node 4 -m mrcnn.cli train --data train.json --amp --epochs 24 --output out/big
  mrcnn train --data shapes --iterations 500 --output out/shapes --resume
"""

T = TypeVar("T")

_DEFAULT_ARCHITECTURE = "maskrcnn_mobilenet_v2_fpn"
_DEFAULT_EPOCHS = 12
_LR_PER_IMAGE = 0.0025  # torchvision's references: 0.02 for 8 images
_SYNTHETIC_VALIDATION = 40  # images
_LONGEST_SIDE = 4096  # of a synthetic image
# Beyond these an argument is a slip, and what follows would end in an overflow or never.
_MOST = {
    "epochs": 1e6,
    "iterations": 10**9,
    "batch_size": 10**5,
    "lr": 1e3,
    "warmup": 10**9,
    "rois_per_image": 10**5,
    "seed": 2**63 - 1,
    "workers": 1024,
    "synthetic_images": 10**9,
}
_RECORDED = ("torch", "torchvision", "numpy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    model = parser.add_argument_group("model")
    model.add_argument("--architecture", help="default: that of --init, else maskrcnn_mobilenet_v2_fpn")
    model.add_argument("--width", type=float, help="channel multiplier of a MobileNet trunk (default 1.0)")
    model.add_argument("--min-size", type=int, metavar="PX", help="shorter image side (default 800)")
    model.add_argument("--max-size", type=int, metavar="PX", help="longest image side (default 1333)")
    model.add_argument("--init", metavar="CKPT", help="start from these weights; heads of other shapes anew")
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, metavar="D", help="coins, shapes, or a COCO document (.json)")
    data.add_argument("--images", metavar="DIR", help="image folder (default: images/ beside the document)")
    data.add_argument("--val", metavar="D", help="as --data; synthetic data bring their own")
    data.add_argument("--val-images", metavar="DIR", help="image folder of --val")
    data.add_argument(
        "--synthetic-images", type=int, default=1000, metavar="N", help="synthetic images per epoch (1000)"
    )
    data.add_argument(
        "--synthetic-size", type=_size, default=(256, 320), metavar="HxW", help="their size (256x320)"
    )
    run_length = parser.add_mutually_exclusive_group()
    run_length.add_argument("--epochs", type=float, help="length of the training (default 12 epochs)")
    run_length.add_argument("--iterations", type=int, help="the same in iterations")
    add(
        "--batch-size",
        type=int,
        default=4,
        metavar="N",
        help="images per iteration, all processes together (4)",
    )
    add("--lr", type=float, help="learning rate (default 0.0025 per image of the batch)")
    add("--warmup", type=int, help="iterations of linear warm-up (default 500, at most a tenth of the run)")
    add(
        "--steps",
        type=_steps,
        metavar="I,J",
        help="iterations where the learning rate falls to a tenth (default: after 2/3 and 8/9 of the run)",
    )
    add(
        "--rois-per-image",
        type=int,
        default=512,
        metavar="N",
        help="proposals per image that train the heads (512; fewer are faster, and enough for few objects)",
    )
    add("--amp", action="store_true", help="mixed precision: float16 on a GPU, bfloat16 on a CPU")
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=2, metavar="N", help="processes that load images (2)")
    add("--device", help="cpu or cuda (default: cuda where there is one)")
    add("--snapshot-every", type=int, metavar="I", help="iterations between snapshots (default: an epoch)")
    add("--half", action="store_true", help="store the weights of model.pth and best.pth as float16")
    add(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="model.pth, best.pth, log.jsonl, curves.png …",
    )
    add("--resume", action="store_true", help="continue the run in --output from its last snapshot")


def run(args: argparse.Namespace) -> int:
    import torch

    from mrcnn.models import build_model
    from mrcnn.training.distributed import join_world
    from mrcnn.training.initialize import initialize
    from mrcnn.training.loop import Run, train

    _check_ranges(args)
    if args.output.exists() and not args.output.is_dir():
        raise MrcnnError(f"--output {args.output}: is a file, but a folder is needed")
    if (args.output / "resume.pth").exists() and not args.resume:
        raise MrcnnError(f"{args.output} holds a run already: add --resume, or choose another --output")
    with join_world(args.device) as world:
        start = _start(args)
        data, validation = _datasets(args, start.description)
        description = replace(start.description, class_names=data.class_names, keypoints=data.keypoint_rule)
        torch.manual_seed(args.seed)
        model = build_model(description)
        if start.weights is not None:
            fresh = initialize(model, start.weights)
            if fresh and world.is_leader:
                print(f"random start weights, since shapes differ: {', '.join(fresh)}", file=sys.stderr)
        metrics = train(
            model,
            Run(
                description=description,
                options=_options(args, images=len(data.training_indices())),
                world=world,
                output=args.output,
                facts=_facts(args),
                half=args.half,
            ),
            data=data,
            validation=validation,
            resume=args.resume,
        )
    if world.is_leader:
        print(_summary(metrics, args.output))
    return 0


@dataclass(frozen=True)
class _Start:
    """The model to train, still with the classes of the start weights."""

    description: ModelDescription
    weights: "Mapping[str, Tensor] | None"


def _start(args: argparse.Namespace) -> _Start:
    """The description that the arguments ask for, and the weights of --init."""
    if args.init is None:
        weights = None
        description = describe(args.architecture or _DEFAULT_ARCHITECTURE, (BACKGROUND, "object"))
    else:
        from mrcnn.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(args.init)
        weights = checkpoint.state_dict
        description = checkpoint.description
        if args.architecture not in (None, description.architecture):
            # The trunk's weights may fit; sizes of anchors and regions are those of the other family.
            description = describe(
                args.architecture,
                description.class_names,
                **{name: getattr(description, name) for name in ("width", "norm", "norm_eps", "resize")},
            )
    min_size = _given(args.min_size, description.resize.min_size)
    max_size = _given(args.max_size, max(min_size, description.resize.max_size))
    description = replace(
        description,
        width=_given(args.width, description.width),
        resize=replace(description.resize, min_size=min_size, max_size=max_size),
    )
    return _Start(description, weights)


def _datasets(
    args: argparse.Namespace, description: ModelDescription
) -> "tuple[DetectionDataset, DetectionDataset | None]":
    """The images to train that model on, and those to evaluate."""
    from mrcnn.data.source import open_dataset
    from mrcnn.data.synthetic import KINDS

    def open_split(source: str, images: str | None, split: str, length: int) -> "DetectionDataset":
        return open_dataset(
            source,
            images=images,
            masks=description.has_masks,
            keypoints=description.keypoints is not None,
            split=split,
            length=length,
            size=args.synthetic_size,
            seed=args.seed,
        )

    data = open_split(args.data, args.images, "train", args.synthetic_images)
    source = args.val or (args.data if args.data in KINDS else None)
    if source is None:
        return data, None
    validation = open_split(source, args.val_images, "val", _SYNTHETIC_VALIDATION)
    if validation.class_names != data.class_names:
        raise MrcnnError(f"--data {args.data} and --val {source} have different categories")
    if validation.keypoint_rule != data.keypoint_rule:
        raise MrcnnError(f"--data {args.data} and --val {source} have different key points")
    return data, validation


def _check_ranges(args: argparse.Namespace) -> None:
    for name, most in _MOST.items():
        value, option = getattr(args, name), f"--{name.replace('_', '-')}"
        if value is not None and not value <= most:  # NaN is not
            raise MrcnnError(f"{option} must be at most {most:g} (got {value})")
        if name in ("batch_size", "epochs", "synthetic_images") and value is not None and not value > 0:
            raise MrcnnError(f"{option} must be positive (got {value})")
    if max(args.synthetic_size) > _LONGEST_SIDE:
        height, width = args.synthetic_size
        raise MrcnnError(f"--synthetic-size must be at most {_LONGEST_SIDE} pixels (got {height}x{width})")


def _options(args: argparse.Namespace, *, images: int) -> "TrainingOptions":
    from mrcnn.training.options import TrainingOptions

    epoch = max(1, round(images / args.batch_size))
    iterations = _given(args.iterations, max(1, round(_given(args.epochs, _DEFAULT_EPOCHS) * epoch)))
    return TrainingOptions(
        iterations=iterations,
        batch_size=args.batch_size,
        learning_rate=_given(args.lr, _LR_PER_IMAGE * args.batch_size),
        warmup=_given(args.warmup, min(500, iterations // 10)),
        steps=_given(args.steps, tuple(sorted({iterations * 2 // 3, iterations * 8 // 9} - {0}))),
        snapshot_every=_given(args.snapshot_every, epoch),
        rois_per_image=args.rois_per_image,
        amp=args.amp,
        seed=args.seed,
        workers=args.workers,
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _facts(args: argparse.Namespace) -> dict[str, Any]:
    """What is stored in the checkpoints about their origin."""
    return {
        "data": args.data,
        "init": args.init,
        "versions": {"mrcnn": __version__, **{name: version(name) for name in _RECORDED}},
    }


def _summary(metrics: dict[str, Any], output: Path) -> str:
    parts = [f"{metrics['iteration']} iterations in {metrics['seconds']:.0f} s"]
    for kind in ("box", "mask", "keypoint"):
        scores = metrics[kind]
        if scores is not None and scores["AP"] is not None:
            parts.append(f"{kind} AP {scores['AP']:.1f}")
    return f"{', '.join(parts)}: {output / 'model.pth'}"


def _size(text: str) -> tuple[int, int]:
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 256x320")
    return int(height), int(width)


def _steps(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of iterations, such as 600,800") from error
