"""The options of `mrcnn export` that decide on an engine, from and to their written form."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn.description import Deployment
from mrcnn.errors import MrcnnError
from mrcnn.export.profiles import SizeWishes

if TYPE_CHECKING:
    from mrcnn.export.precision.options import PrecisionOptions

_FLAGS = (
    "tf32",
    "version_compatible",
    "hardware_compatible",
    "embed_plugins",
    "refit",
    "inspect",
    "force",
    "no_verify",
)


def add_sizes(group: Any) -> None:
    add = group.add_argument
    add("--shape", type=_size, default=None, metavar="HxW", help="one size for all images; default: any size")
    add("--bucket", type=sides, action="append", default=[], metavar="HxW", help="one of several sizes")
    add("--min-shape", type=_shape, metavar="[Bx]HxW", help="the least of a range of sizes")
    add("--opt-shape", type=_shape, metavar="[Bx]HxW", help="the size for which TensorRT tunes the range")
    add("--max-shape", type=_shape, metavar="[Bx]HxW", help="the largest")
    add("--batch", type=_batch, default=None, metavar="N", help="images per run; default: any, an engine 1")
    add(
        "--input-dtype",
        choices=("float32", "uint8"),
        default=None,
        help="pixels of the graph's input; uint8 is a quarter of the bytes and rounds the resized image",
    )


def add_precision(group: Any) -> None:
    from mrcnn.export.precision.options import DEFAULT_IMAGES, OBSERVER_NAMES, PRECISIONS, TARGETS

    add = group.add_argument
    add("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    add(
        "--target",
        choices=TARGETS,
        default=None,
        help="of int8, whose kernels it is laid out for: tensorrt (default), or cpu for ONNX Runtime",
    )
    add(
        "--calib",
        type=named,
        metavar="DIR|COCO.json",
        help="pictures to choose the ranges by; with annotations the loss is told in AP",
    )
    add("--calib-images", type=named, metavar="DIR", help="folder of the COCO document's pictures")
    add(
        "--calib-limit",
        type=int,
        metavar="N",
        help=f"at most so many pictures, spread evenly (default: {DEFAULT_IMAGES['int8']} for int8, "
        f"{DEFAULT_IMAGES['fp16']} for fp16)",
    )
    add(
        "--observer",
        choices=OBSERVER_NAMES,
        default=None,
        help="how int8 chooses a range (default: mse)",
    )
    add(
        "--max-ap-drop",
        type=float,
        metavar="POINTS",
        help="return layers to floating point until int8 loses at most so many points of AP (0…100); without "
        "annotations of parity AP, which is far stricter",
    )
    add(
        "--calib-cache",
        type=named,
        metavar="FILE",
        help="keep the ranges there; one of other pictures or weights is refused (default: model.calibration "
        "beside what is written, which is replaced then)",
    )
    add("--recalibrate", action="store_true", help="replace the cache, whatever it was made from")


def precision_options(args: argparse.Namespace, *, cache: Path) -> "PrecisionOptions | None":
    """What is asked of the precision; None for float32.

    Raises:
        MrcnnError: an option would change nothing, or a value is out of range.
    """
    from mrcnn.export.precision.options import DEFAULT_IMAGES, PrecisionOptions

    needs: dict[str, tuple[str, ...]] = {
        **dict.fromkeys(("target", "observer", "max_ap_drop"), ("int8",)),
        **dict.fromkeys(
            ("calib", "calib_images", "calib_limit", "calib_cache", "recalibrate"), ("fp16", "int8")
        ),
    }
    for name, precisions in needs.items():
        if args.precision not in precisions and getattr(args, name) not in (None, False):
            wanted = " or ".join(precisions)
            remedy = "add it" if args.precision == "fp32" else f"not {args.precision}"
            raise MrcnnError(f"--{name.replace('_', '-')} is for --precision {wanted}: {remedy}")
    if args.precision == "fp32":
        return None
    return PrecisionOptions(
        precision=args.precision,
        cache=cache,
        target=args.target or "tensorrt",
        source=args.calib,
        folder=args.calib_images,
        images=DEFAULT_IMAGES[args.precision] if args.calib_limit is None else args.calib_limit,
        observer=args.observer or "mse",
        max_ap_drop=args.max_ap_drop,
        is_own_cache=args.calib_cache is not None,
        recalibrate=args.recalibrate,
    )


def add_engine(group: Any) -> None:
    add = group.add_argument
    add("--workspace", type=_megabytes, metavar="MB", help="most scratch memory of a layer")
    add("--effort", type=int, choices=range(6), help="TensorRT's optimization level (its default: 3)")
    add("--tf32", action="store_true", help="faster convolutions from Ampere on, no longer exact float32")
    add("--version-compatible", action="store_true", help="runs on later TensorRT of the same major version")
    add("--hardware-compatible", action="store_true", help="runs on every GPU from Ampere on, more slowly")
    add("--embed-plugins", action="store_true", help="put the plugin library into the engine")
    add("--refit", action="store_true", help="weights can be exchanged later; slower")
    add("--timing-cache", type=named, metavar="FILE", help="default: model.engine.timing")
    add("--inspect", action="store_true", help="write model.layers.json: what TensorRT made of each layer")
    add("--force", action="store_true", help="build also where an engine of the same inputs is there")


def wishes(args: argparse.Namespace) -> SizeWishes:
    return SizeWishes(
        batch=args.batch,
        shape=args.shape,
        buckets=tuple(args.bucket),
        least=args.min_shape,
        best=args.opt_shape,
        most=args.max_shape,
    )


def engine_options(args: argparse.Namespace, deployment: Deployment | None) -> list[str]:
    """The options that decide on the engine, as they are written; not those that the graph holds already."""
    options: list[str] = []

    def add(option: str, *values: Any) -> None:
        options.extend([option, *map(str, values)])

    if deployment is not None and deployment.height is None and args.shape is not None:
        add("--shape", _words(args.shape))
    if deployment is not None and deployment.batch is None and args.batch is not None:
        add("--batch", args.batch)
    for bucket in args.bucket:
        add("--bucket", _words(bucket))
    for name in ("min_shape", "opt_shape", "max_shape"):
        if (shape := getattr(args, name)) is not None:
            add("--" + name.replace("_", "-"), _words(shape))
    for name in ("workspace", "effort", "timing_cache"):
        if (value := getattr(args, name)) is not None:
            add("--" + name.replace("_", "-"), value)
    for name in _FLAGS:
        if getattr(args, name):
            add("--" + name.replace("_", "-"))
    if args.images:
        add("--images", *args.images)
    return options


def _words(shape: tuple[int | None, ...]) -> str:
    return "x".join(str(side) for side in shape if side is not None)


def named(text: str) -> Path:
    """Not the current folder, where a variable of a script is empty."""
    if not text:
        raise argparse.ArgumentTypeError("no name was given")
    return Path(text)


def _size(text: str) -> tuple[int, int] | None:
    return None if text == "dynamic" else sides(text)


def sides(text: str) -> tuple[int, int]:
    """An argument HxW: (height, width) in pixels."""
    match = re.fullmatch(r"(\d{1,6})[x×](\d{1,6})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected HxW such as 800x1344 (got {text!r})")
    return int(match[1]), int(match[2])


def _shape(text: str) -> tuple[int | None, int, int]:
    match = re.fullmatch(r"(?:(\d{1,4})[x×])?(\d{1,6})[x×](\d{1,6})", text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"expected HxW or BxHxW such as 800x1344 or 4x800x1344 (got {text!r})"
        )
    return (None if match[1] is None else int(match[1])), int(match[2]), int(match[3])


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if re.fullmatch(r"\d{1,9}", text) is None:
        raise argparse.ArgumentTypeError(f"expected a number or dynamic (got {text!r})")
    return int(text)


def _megabytes(text: str) -> int:
    if re.fullmatch(r"[1-9]\d{0,6}", text) is None:
        raise argparse.ArgumentTypeError(f"expected a number of megabytes (got {text!r})")
    return int(text)
