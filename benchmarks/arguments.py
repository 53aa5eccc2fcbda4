"""Command-line arguments that the benchmarks share."""

import argparse
from pathlib import Path


def add_programs_and_images(parser: argparse.ArgumentParser, *, reference: str) -> None:
    """MODEL, --reference with that help, --config, --images and --json."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="exported model (.onnx, .engine)")
    parser.add_argument("--reference", type=Path, required=True, metavar="CKPT", help=reference)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="what it was exported with: of the reference's checkpoint"
    )
    parser.add_argument(
        "--images", nargs="+", type=Path, required=True, metavar="DIR|FILE", help="folders and image files"
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="F", help="write the figures ('-': standard output)"
    )


def positive(text: str) -> int:
    """An argument that counts something there must be one of."""
    value = natural(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be at least 1 (got 0)")
    return value


def natural(text: str) -> int:
    """An argument that counts something there may be none of."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number (got {text!r})")
    return int(text)
