"""Whether an engine finds what the ONNX file and the checkpoint find, as `mrcnn parity` tells it."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from mrcnn.cli import run_command
from mrcnn.export.outputs import report_path
from mrcnn.files import scratch_folder

# Enough to see a fault; PyTorch on a small machine takes seconds for each.
MOST_IMAGES = 16
# TensorRT and ONNX Runtime round the same graph in other places, and what lies between two steps of 8 or 11
# bits falls to either side: detections near a threshold come and go. A broken engine matches next to nothing.
_TOLERANCES = {
    "fp32": (),
    "fp16": (
        *("--min-matched", "0.9", "--max-box-px", "16", "--max-score", "0.2", "--min-mask-iou", "0.95"),
        *("--max-keypoint-px", "16"),
    ),
    "int8": (
        *("--min-matched", "0.7", "--max-box-px", "64", "--max-score", "0.5", "--min-mask-iou", "0.9"),
        *("--max-keypoint-px", "64"),
    ),
}
_DRAWN = ((480, 640), (640, 480), (600, 600), (360, 960))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a comparison.

    Attributes:
        reports: the files with the figures, one for each reference.
        equal: whether all are within the tolerances; None where neither side has found anything in the drawn
            pictures, which says nothing.
    """

    reports: tuple[Path, ...]
    equal: bool | None


def verify(
    engine: Path,
    references: Sequence[Path],
    *,
    images: Sequence[Path],
    same_input: bool,
    precision: str,
    quiet: bool,
    config: Path | None = None,
) -> Verdict:
    """Compares the engine with each reference and writes the figures beside it.

    Args:
        references: an ONNX file, a checkpoint.
        images: photographs and folders; drawn shapes where there are none.
        same_input: the references get images resized and padded as the engine does.
        precision: of the engine and of an ONNX file among the references.
        quiet: tables go to standard error.
        config: of the checkpoint, as it was exported.
    """
    reports = tuple(report_path(engine, reference) for reference in references)
    verdicts: list[bool | None] = []
    with _images(images) as paths:
        for reference, report in zip(references, reports, strict=True):
            options = ["--limit", str(MOST_IMAGES), *(["--same-input"] if same_input else [])]
            options += _TOLERANCES[precision]
            if config is not None and reference.suffix != ".onnx":
                options += ["--config", _word(config)]
            files = ["--reference", _word(reference), "--json", _word(report), "--images", *map(_word, paths)]
            with redirect_stdout(sys.stderr if quiet else sys.stdout):
                run_command("parity", [_word(engine), *options, *files])
            verdicts.append(_verdict(json.loads(report.read_text(encoding="utf-8")), drawn=not images))
    found = None if None in verdicts else all(verdicts)
    return Verdict(reports=reports, equal=False if False in verdicts else found)


def _verdict(figures: dict[str, object], *, drawn: bool) -> bool | None:
    """An unreadable picture among others is told, and no difference."""
    nothing = figures["reference_detections"] == figures["exported_detections"] == 0
    return None if drawn and nothing else bool(figures["passed"])


def _word(path: Path) -> str:
    """A path as an argument: one that begins with a dash would be an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


@contextmanager
def _images(given: Sequence[Path]) -> Iterator[Sequence[Path]]:
    if given:
        yield given
        return
    with scratch_folder() as folder:
        yield draw_images(folder)


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
