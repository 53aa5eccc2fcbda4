"""`mrcnn parity`: does the exported model find what its checkpoint or its ONNX file finds?"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn.benchmarks.agreement import ImageAgreement, Tolerances, compare, failures, summarise
from mrcnn.benchmarks.arguments import add_programs_and_images, positive
from mrcnn.benchmarks.images import read_images
from mrcnn.errors import MrcnnError
from mrcnn.files import atomic_path, write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mrcnn.findings import Findings
    from mrcnn.runtime import Runtime

EXAMPLES = """\
  mrcnn parity model.onnx --reference ckpt.pth --images photos/
  mrcnn parity model.onnx --reference ckpt.pth --images photos/ --limit 20 --output out --json out/parity.json
  mrcnn parity model.engine --reference model.onnx --images photos/       without PyTorch
  mrcnn parity model.onnx --reference ckpt.pth --images a.jpg b.png --max-box-px 0.5 --max-score 0.01
"""

_DEFAULTS = Tolerances()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_programs_and_images(
        parser, reference="the checkpoint it was exported from, or the ONNX file it was built from"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="compare the first N images only")
    parser.add_argument(
        "--same-input",
        action="store_true",
        help="for models with a fixed input: the reference gets images resized and padded in the same way",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for a picture of the worst image")
    limits = parser.add_argument_group("tolerances (exit status 1 when one is exceeded)")

    def add(option: str, default: float, metavar: str, text: str) -> None:
        limits.add_argument(
            option, type=float, default=default, metavar=metavar, help=f"{text} ({default:g})"
        )

    add("--min-matched", _DEFAULTS.matched_share, "SHARE", "least share of detections with a partner")
    add("--max-box-px", _DEFAULTS.box_px, "PX", "largest difference of a box side, original pixels")
    add("--max-score", _DEFAULTS.score, "P", "largest difference of a score")
    add("--min-mask-iou", _DEFAULTS.mask_iou_mean, "IOU", "least mean IoU of matched masks")
    add(
        "--max-keypoint-px",
        _DEFAULTS.keypoint_px,
        "PX",
        "largest distance of a key point, for 99 of 100 of them, original pixels",
    )
    add("--match-iou", _DEFAULTS.match_iou, "IOU", "least box IoU at which two detections can be partners")


def run(args: argparse.Namespace) -> int:
    from mrcnn.report import document
    from mrcnn.runtime.images import image_files

    if args.output is not None and args.output.exists() and not args.output.is_dir():
        raise MrcnnError(f"--output {args.output}: is a file, but a folder is needed")
    tolerances = Tolerances(
        match_iou=args.match_iou,
        matched_share=args.min_matched,
        box_px=args.max_box_px,
        score=args.max_score,
        mask_iou_mean=args.min_mask_iou,
        keypoint_px=args.max_keypoint_px,
    )
    report = measure_parity(
        args.model,
        reference=args.reference,
        images=image_files(args.images, limit=args.limit),
        tolerances=tolerances,
        same_input=args.same_input,
        output=args.output,
        config=args.config,
    )
    if args.json:
        write_json(args.json, document("parity", report))
    if args.json != "-":
        print_table(report)
    if report["failures"]:
        print(f"mrcnn parity: outside tolerance: {'; '.join(report['failures'])}", file=sys.stderr)
    return 1 if report["failures"] or report["skipped"] else 0


@dataclass(frozen=True)
class _Comparison:
    """What was seen, image by image; `skipped` holds the unreadable files with the reason."""

    paths: list[Path]
    reference: list["Findings"]
    exported: list["Findings"]
    agreements: list[ImageAgreement]
    skipped: list[dict[str, str]]


def measure_parity(
    model: Path,
    *,
    reference: Path,
    images: Sequence[Path],
    tolerances: Tolerances,
    same_input: bool = False,
    output: Path | None = None,
    config: Path | None = None,
) -> dict[str, Any]:
    """Runs both on every image, each at its own size, and gives the figures, JSON-able.

    Args:
        same_input: see `mrcnn.benchmarks.programs.open_reference`.
        output: folder in which the picture of the worst image is saved; None for none.
        config: what the reference's checkpoint was exported with.

    Raises:
        MrcnnError: the model or the checkpoint cannot be used, they do not belong together, or no image
            can be read.
    """
    from mrcnn.benchmarks.programs import open_reference
    from mrcnn.runtime import Runtime

    with (
        Runtime(model) as runtime,
        open_reference(reference, runtime, same_input=same_input, config=config) as other,
    ):
        notes = other.notes
        seen = _compare_all(runtime, other.findings, images, tolerances)
    figures = summarise(seen.agreements)
    exceeded = failures(figures, tolerances)
    worst = max(range(len(seen.agreements)), key=lambda i: seen.agreements[i].badness)
    return {
        "model": str(model),
        "reference": str(reference),
        "same_input": same_input,
        "passed": not exceeded,
        "failures": list(exceeded),
        **figures,
        **_average_precision(seen),
        "worst_image": str(seen.paths[worst]),
        "worst_picture": None if output is None else str(_save_picture(seen, worst, output)),
        "tolerances": vars(tolerances),
        "notes": list(notes),
        "skipped": seen.skipped,
        "per_image": [agreement.figures() for agreement in seen.agreements],
    }


def _compare_all(
    runtime: "Runtime",
    reference_findings: "Callable[[NDArray[np.uint8]], Findings]",
    images: Sequence[Path],
    tolerances: Tolerances,
) -> _Comparison:
    from mrcnn.findings import findings_of

    seen = _Comparison([], [], [], [], [])
    rule = runtime.deployment.description.detections
    for path, pixels in read_images(images, seen.skipped, progress="comparing"):
        reference = reference_findings(pixels)
        exported = findings_of(runtime.infer(pixels, color="rgb"))
        agreement = compare(reference, exported, image=path.name, rule=rule, tolerances=tolerances)
        seen.paths.append(path)
        seen.reference.append(reference)
        seen.exported.append(exported)
        seen.agreements.append(agreement)
    return seen


def _average_precision(seen: _Comparison) -> dict[str, float | None]:
    """`parity_ap` is that of the masks where there are any: they depend on the boxes, too."""
    from mrcnn.parity_ap import parity_ap

    box = parity_ap(seen.reference, seen.exported, kind="bbox")
    has_masks = seen.reference[0].rles is not None
    mask = parity_ap(seen.reference, seen.exported, kind="segm") if has_masks else None
    return {"parity_ap": mask if has_masks else box, "parity_ap_box": box, "parity_ap_mask": mask}


def _save_picture(seen: _Comparison, index: int, output: Path) -> Path:
    from PIL import Image

    from mrcnn.benchmarks.pictures import side_by_side
    from mrcnn.runtime import read_image

    path = output / "parity-worst.png"
    image = read_image(seen.paths[index])
    picture = side_by_side(image, seen.reference[index], seen.exported[index], seen.agreements[index])
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary)
    return path


def print_table(report: dict[str, Any]) -> None:
    """The report in a dozen lines."""
    print(f"{report['model']} against {report['reference']}, {report['images']} images")
    for note in report["notes"]:
        print(f"  note: {note}")
    for row in _rows(report):
        print("  {:<22} {:>12}   {}".format(*row).rstrip())
    print(f"  worst image: {report['worst_image']}", end="")
    print("" if report["worst_picture"] is None else f", shown in {report['worst_picture']}")
    print("equal within the tolerances" if report["passed"] else "NOT equal within the tolerances")


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(name, value, remark)"""
    limits = report["tolerances"]
    borderline = report["borderline"]
    counts = f"{report['reference_detections']} in the reference, {report['exported_detections']} exported"
    yield "matched", _number(report["matched_share"], ".5f"), f">= {limits['matched_share']:g}   of {counts}"
    yield "box, largest", _number(report["box_px_max"], ".2e", " px"), f"<= {limits['box_px']:g} px"
    yield "box, 99th percentile", _number(report["box_px_p99"], ".2e", " px"), ""
    yield "score, largest", _number(report["score_max"], ".2e"), f"<= {limits['score']:g}"
    if report["mask_iou_mean"] is not None:
        yield "mask IoU, mean", _number(report["mask_iou_mean"], ".5f"), f">= {limits['mask_iou_mean']:g}"
        yield "mask IoU, worst", _number(report["mask_iou_min"], ".5f"), ""
    if report["keypoint_px_max"] is not None:
        limit = f"<= {limits['keypoint_px']:g} px"
        yield "key point, largest", _number(report["keypoint_px_max"], ".2e", " px"), ""
        yield "key point, 99th perc.", _number(report["keypoint_px_p99"], ".2e", " px"), limit
    yield "other label", str(report["label_mismatches"]), ""
    yield "parity AP, boxes", _number(report["parity_ap_box"], ".2f"), "100 = equal"
    if report["parity_ap_mask"] is not None:
        yield "parity AP, masks", _number(report["parity_ap_mask"], ".2f"), "100 = equal"
    if report["unmatched"]:
        at_cut = (
            f"{borderline['score_threshold']} at the score threshold, {borderline['top_k']} at the best K"
        )
        yield "unmatched", str(report["unmatched"]), f"of these {at_cut}"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"
