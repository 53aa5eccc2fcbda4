"""Whether an engine finds what the ONNX file and the checkpoint find, as `mrcnn parity` tells it."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from mrcnn.cli import run_command
from mrcnn.sidecar import Profile

# Enough to see a fault; PyTorch on a small machine takes seconds for each.
_MOST_IMAGES = 16
_DRAWN = ((480, 640), (640, 480), (600, 600), (360, 960))


def verify(
    engine: Path,
    references: Sequence[Path],
    *,
    images: Sequence[Path],
    profiles: Sequence[Profile],
    quiet: bool,
) -> tuple[list[Path], bool]:
    """Compares the engine with each reference and writes the figures beside it.

    Args:
        references: an ONNX file, a checkpoint.
        images: photographs and folders; drawn shapes where there are none.
        profiles: of the engine; where they are of fixed shape the references get the same input.
        quiet: tables go to standard error.

    Returns:
        the files with the figures, and whether all are within the tolerances.
    """
    reports: list[Path] = []
    passed = True
    with _images(images) as paths:
        for reference in references:
            kind = "onnx" if reference.suffix == ".onnx" else "pytorch"
            report = engine.with_name(f"{engine.stem}.parity.{kind}.json")
            options = ["--reference", str(reference), "--limit", str(_MOST_IMAGES), "--json", str(report)]
            if any(profile.least[1:] == profile.most[1:] for profile in profiles):
                options.append("--same-input")
            with redirect_stdout(sys.stderr if quiet else sys.stdout):
                passed &= run_command("parity", [str(engine), *options, "--images", *map(str, paths)]) == 0
            reports.append(report)
    return reports, passed


@contextmanager
def _images(given: Sequence[Path]) -> Iterator[Sequence[Path]]:
    if given:
        yield given
        return
    with TemporaryDirectory(prefix="mrcnn-") as folder:
        yield draw_images(Path(folder))


def draw_images(folder: Path) -> list[Path]:
    """A few pictures of shapes, wide, high and square: the same on every machine."""
    from PIL import Image

    from mrcnn.data import shapes
    from mrcnn.data.drawing import Draws

    paths = []
    for index, (height, width) in enumerate(_DRAWN):
        pixels, _, _ = shapes.draw(Draws(2024, index), height, width)
        paths.append(folder / f"drawn-{height}x{width}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths
