"""`mrcnn train`."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from mrcnn import __version__
from mrcnn.description import BACKGROUND, ModelDescription, RoiRule
from mrcnn.errors import MrcnnError
from mrcnn.families import describe
from mrcnn.geometry import change_anchors, resized
from mrcnn.training.recipes import RECIPES, Recipe, find_recipe, misfit, recipe_for, recipe_table

if TYPE_CHECKING:
    from torch import Tensor

    from mrcnn.data.sample import DetectionDataset
    from mrcnn.training.options import TrainingOptions

EXAMPLES = """\
  mrcnn train --data shapes --iterations 500 --output out/shapes
  mrcnn train --data train.json --images photos/ --val val.json --epochs 24 --batch-size 8 --output out/mine
  mrcnn train --data person_keypoints.json --architecture keypointrcnn_resnet50_fpn --output out/persons
  mrcnn train --data train.json --init weights.pth --lr 0.002 --epochs 12 --output out/tuned
  mrcnn train --data train.json --init coco.pth --recipe fpn --batch-size 8 --output out/as-in-the-paper
  mrcnn train --data train.json --square 1024 --anchor-sizes 16,32,64,128,256 --output out/small-objects
  torchrun --nproc-per-node 4 -m mrcnn.cli train --data train.json --amp --epochs 24 --output out/big
  mrcnn train --data shapes --iterations 500 --output out/shapes --resume
"""

T = TypeVar("T")

_DEFAULT_ARCHITECTURE = "maskrcnn_mobilenet_v2_fpn"
_DEFAULT_EPOCHS = 12
_DEFAULT_BATCH_SIZE = 4
_WARMUP = 500  # iterations
_SYNTHETIC_VALIDATION = 40  # images
_LONGEST_SIDE = 4096  # of a synthetic image
# Beyond these an argument is a slip, and what follows would end in an overflow or never.
_MOST = {
    "epochs": 1e6,
    "iterations": 10**9,
    "batch_size": 10**5,
    "lr": 1e3,
    "momentum": 1.0,
    "weight_decay": 1e3,
    "warmup": 10**9,
    "rois_per_image": 10**5,
    "seed": 2**63 - 1,
    "workers": 1024,
    "synthetic_images": 10**9,
}
_RECORDED = ("torch", "torchvision", "numpy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_model_arguments(parser.add_argument_group("model"))
    _add_data_arguments(parser.add_argument_group("data"))
    _add_recipe_arguments(
        parser.add_argument_group(
            "recipe",
            "How the papers train the architecture's family, fitted to 12 epochs in batches of 4; or,\n"
            "with --recipe NAME, in the paper's own batches and for as long. Options override it, and\n"
            "the learning rate stays in proportion to the batch.",
        )
    )
    add = parser.add_argument
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


def _add_model_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--architecture", help="default: that of --init, else maskrcnn_mobilenet_v2_fpn")
    add("--width", type=float, help="channel multiplier of a MobileNet trunk (default 1.0)")
    add("--min-size", type=int, metavar="PX", help="shorter image side (default 800)")
    add("--max-size", type=int, metavar="PX", help="longest image side (default 1333)")
    add(
        "--square",
        type=int,
        metavar="PX",
        help="instead of --max-size: images fit into such a square, as 1024, and are padded to fill it",
    )
    add(
        "--anchor-sizes",
        type=_integers,
        metavar="PX,PX",
        help="one per feature level, the finest first, as 16,32,64,128,256; all on the one level of a C4, "
        "VGG-16 or MobileNetV2 (default: the family's, or those of --init)",
    )
    add(
        "--anchor-ratios",
        type=_numbers,
        metavar="R,R",
        help="height / width of the anchors of every level (default 0.5,1,2)",
    )
    add(
        "--roi-mode",
        choices=("avg", "max", "pool"),
        help="of VGG-16: RoIAlign with the mean (default) or the largest of its samples, or RoIPool",
    )
    add(
        "--head-stride",
        type=int,
        choices=(1, 2),
        help="of conv5, the head of C4: 2 as in detectron2 (default), or 1, for masks twice as fine",
    )
    add("--init", metavar="CKPT", help="start from these weights; heads of other shapes anew")
    add("--config", type=Path, metavar="FILE", help="what the weights of --init do not tell, as for export")


def _add_data_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--data", required=True, metavar="D", help="coins, shapes, or a COCO document (.json)")
    add("--images", metavar="DIR", help="image folder (default: images/ beside the document)")
    add("--val", metavar="D", help="as --data; synthetic data bring their own")
    add("--val-images", metavar="DIR", help="image folder of --val")
    add("--synthetic-images", type=int, default=1000, metavar="N", help="synthetic images per epoch (1000)")
    add("--synthetic-size", type=_size, default=(256, 320), metavar="HxW", help="their size (256x320)")


def _add_recipe_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--recipe", metavar="NAME", help=f"one of {', '.join(recipe.name for recipe in RECIPES)}")
    add("--list-recipes", action=_ListRecipes, nargs=0, help="what each recipe is, and where it comes from")
    run_length = group.add_mutually_exclusive_group()
    run_length.add_argument("--epochs", type=float, help="length of the training")
    run_length.add_argument("--iterations", type=int, help="the same in iterations")
    add("--batch-size", type=int, metavar="N", help="images per iteration, all processes together")
    add("--lr", type=float, help="learning rate, as it is for any batch")
    add("--warmup", type=int, help="iterations of linear warm-up (default 500, at most a tenth of the run)")
    add(
        "--steps",
        type=_integers,
        metavar="I,J",
        help="iterations where the learning rate falls to a tenth (default: the recipe's share of the run)",
    )
    add("--momentum", type=float)
    add("--weight-decay", type=float)
    add(
        "--rois-per-image",
        type=int,
        metavar="N",
        help="proposals per image that train the heads (fewer are faster, and enough for few objects)",
    )


class _ListRecipes(argparse.Action):
    """Like --help: prints and ends, whatever else is given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(recipe_table())
        parser.exit()


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
        architecture = start.description.architecture
        recipe = recipe_for(architecture) if args.recipe is None else find_recipe(args.recipe)
        data, validation = _datasets(args, start.description)
        description = replace(start.description, class_names=data.class_names, keypoints=data.keypoint_rule)
        torch.manual_seed(args.seed)
        model = build_model(description)
        if start.weights is not None:
            fresh = initialize(model, start.weights)
            if fresh and world.is_leader:
                print(f"random start weights, since shapes differ: {', '.join(fresh)}", file=sys.stderr)
        options = _options(args, recipe, images=len(data.training_indices()))
        if world.is_leader:
            print(_told(recipe, options), flush=True)
            if (line := misfit(recipe, architecture)) is not None:
                print(f"note: {line}", file=sys.stderr)
        metrics = train(
            model,
            Run(
                description=description,
                options=options,
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
        if args.config is not None:
            raise MrcnnError("--config is for the checkpoint of --init, and there is none")
        weights = None
        description = describe(args.architecture or _DEFAULT_ARCHITECTURE, (BACKGROUND, "object"))
    else:
        from mrcnn.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(args.init, config=args.config)
        weights = checkpoint.state_dict
        description = checkpoint.description
        if args.architecture not in (None, description.architecture):
            # The trunk's weights may fit; sizes of anchors and regions are those of the other family.
            description = describe(
                args.architecture,
                description.class_names,
                **{name: getattr(description, name) for name in ("width", "norm", "norm_eps", "resize")},
            )
    description = replace(
        description,
        width=_given(args.width, description.width),
        resize=resized(
            description.resize, min_size=args.min_size, max_size=args.max_size, square=args.square
        ),
        anchors=change_anchors(description.anchors, sizes=args.anchor_sizes, ratios=args.anchor_ratios),
        rois=_rois(args, description),
    )
    return _Start(description, weights)


def _rois(args: argparse.Namespace, description: ModelDescription) -> RoiRule:
    if args.head_stride is not None and not description.architecture.endswith("_c4"):
        raise MrcnnError(f"--head-stride is for C4 models, and {description.architecture} is none")
    rule = description.rois
    return replace(
        rule,
        mode=_given(args.roi_mode, rule.mode),
        head_stride=_given(args.head_stride, rule.head_stride),
    )


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
    validation = open_split(source, args.val_images, "val", min(_SYNTHETIC_VALIDATION, args.synthetic_images))
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


def _options(args: argparse.Namespace, recipe: Recipe, *, images: int) -> "TrainingOptions":
    """The recipe, fitted to what the arguments say; in its own size where it was named."""
    from mrcnn.training.options import TrainingOptions

    named = args.recipe is not None
    batch_size = _given(args.batch_size, recipe.batch_size if named else _DEFAULT_BATCH_SIZE)
    epoch = max(1, round(images / batch_size))
    if named and args.epochs is None:
        length = recipe.iterations_for(batch_size)
    else:
        length = max(1, round(_given(args.epochs, _DEFAULT_EPOCHS) * epoch))
    iterations = _given(args.iterations, length)
    rois = _given(args.rois_per_image, recipe.sampling.rois_per_image)
    return TrainingOptions(
        iterations=iterations,
        batch_size=batch_size,
        learning_rate=_given(args.lr, recipe.learning_rate_for(batch_size)),
        warmup=_given(args.warmup, min(_WARMUP, iterations // 10)),
        steps=_given(args.steps, recipe.steps_for(iterations)),
        snapshot_every=_given(args.snapshot_every, epoch),
        momentum=_given(args.momentum, recipe.momentum),
        weight_decay=_given(args.weight_decay, recipe.weight_decay),
        recipe=recipe.name,
        sampling=replace(recipe.sampling, rois_per_image=rois),
        amp=args.amp,
        seed=args.seed,
        workers=args.workers,
    )


def _told(recipe: Recipe, options: "TrainingOptions") -> str:
    """The line that says how the model is about to be trained."""
    falls = f", a tenth from {' and '.join(map(str, options.steps))} on" if options.steps else ""
    return (
        f"recipe {recipe.name} ({recipe.source}): {options.iterations} steps of {options.batch_size} images, "
        f"learning rate {options.learning_rate:g}{falls}, {options.sampling.rois_per_image} RoIs an image"
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _facts(args: argparse.Namespace) -> dict[str, Any]:
    """What is stored in the checkpoints about their origin."""
    return {
        "data": args.data,
        "init": args.init,
        "config": None if args.config is None else str(args.config),
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


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, such as 32,64") from error


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, such as 0.5,1,2") from error
