"""What the command line says of a model that its checkpoint does not, or says otherwise."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from mrcnn.description import BACKGROUND, ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.geometry import resized

_NAMES = (
    *("config", "class_names", "min_size", "max_size", "square"),
    *("score_threshold", "detections", "norm_eps"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "what a bare state dict does not say (these override a checkpoint's own)"
    )
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="JSON with fields of the model's description (anchors, normalization, …), detectron2's "
        "config.yaml, or mmdetection's .py",
    )
    group.add_argument("--class-names", type=Path, metavar="FILE", help="one name a line, without background")
    group.add_argument("--min-size", type=int, metavar="PX", help="shorter side of the resized image")
    group.add_argument("--max-size", type=int, metavar="PX", help="longest side of the resized image")
    group.add_argument(
        "--square",
        type=int,
        metavar="PX",
        help="fit images into such a square, as 1024, and pad them to fill it",
    )
    group.add_argument("--score-threshold", type=float, metavar="P", help="least score of a detection")
    group.add_argument("--detections", type=int, metavar="K", help="most detections per image")
    group.add_argument("--norm-eps", type=float, metavar="EPS", help="epsilon of the trunk's batch norm")


def given(args: argparse.Namespace) -> list[str]:
    """Which of these options were used, as they are written."""
    return ["--" + name.replace("_", "-") for name in _NAMES if getattr(args, name) is not None]


def described(description: ModelDescription, args: argparse.Namespace) -> ModelDescription:
    """The description with the command line's overrides.

    Raises:
        MrcnnError: a value is out of range, or the file of class names does not fit the model.
    """
    detections: dict[str, Any] = {}
    if args.score_threshold is not None:
        detections["score_threshold"] = args.score_threshold
    if args.detections is not None:
        detections["detections_per_image"] = args.detections
    changes: dict[str, Any] = {
        "resize": resized(
            description.resize, min_size=args.min_size, max_size=args.max_size, square=args.square
        ),
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
