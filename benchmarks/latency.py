"""`mrcnn bench`: how long the exported model takes, and its checkpoint or ONNX file, measured in turn."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn.benchmarks.arguments import add_programs_and_images, natural, positive
from mrcnn.benchmarks.images import read_images
from mrcnn.files import write_json

if TYPE_CHECKING:
    from mrcnn.description import Deployment

EXAMPLES = """\
  mrcnn bench model.onnx --reference ckpt.pth --images photos/
  mrcnn bench model.onnx --reference ckpt.pth --images photos/ --repeats 50 --json out/bench.json
  mrcnn bench model.onnx --reference ckpt.pth --images photo.jpg --threads 1
  mrcnn bench model.engine --reference ckpt.pth --images photos/
  mrcnn bench model.engine --reference model.onnx --images photos/       without PyTorch
"""

# Memory grows with the size of the image, not with their number.
_MEMORY_IMAGES = 4

NOT_MEASURED = (
    "reading files: each image's bytes are in memory before its round",
    "loading the models, and the first runs, which are warm-up",
    "several images at once: each program gets one image at a time",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_programs_and_images(
        parser, reference="the checkpoint it was exported from, or the ONNX file it was built from"
    )
    parser.add_argument(
        "--repeats", type=positive, default=20, metavar="N", help="timed rounds, one image each (20)"
    )
    parser.add_argument("--warmup", type=natural, default=3, metavar="N", help="rounds before, not timed (3)")
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="threads of both programs (default: the cores there are)",
    )


def run(args: argparse.Namespace) -> int:
    from mrcnn.report import document
    from mrcnn.runtime.images import image_files

    report = measure_latency(
        args.model,
        reference=args.reference,
        images=image_files(args.images),
        repeats=args.repeats,
        warmup=args.warmup,
        threads=args.threads,
        config=args.config,
    )
    if args.json:
        write_json(args.json, document("latency", report))
    if args.json != "-":
        print_table(report)
    return 1 if report["skipped"] else 0


def measure_latency(
    model: Path,
    *,
    reference: Path,
    images: Sequence[Path],
    repeats: int,
    warmup: int,
    threads: int | None = None,
    config: Path | None = None,
) -> dict[str, Any]:
    """Times both programs from an image file's bytes to masks of the image's size; the figures, JSON-able.

    A round takes the next image and runs, one after the other, the exported model to bitmaps, PyTorch to
    bitmaps, and the exported model to run-length encoding, all with the same number of threads. A model
    without masks runs to boxes, and not a third time.

    Args:
        threads: of each program; None for the cores that this process may use.
        config: what the reference's checkpoint was exported with.

    Raises:
        MrcnnError: the model, the checkpoint or an image cannot be used.
    """
    from mrcnn.benchmarks import memory, programs
    from mrcnn.benchmarks.contention import OtherWork
    from mrcnn.benchmarks.timing import percentiles_ms, speedup, take_turns
    from mrcnn.report import available_cores
    from mrcnn.runtime import Runtime

    threads = threads or available_cores()
    skipped: list[dict[str, str]] = []
    images = [path for path, _ in read_images(images, skipped, progress="reading")]
    with (
        Runtime(model, threads=threads) as runtime,
        programs.timed_reference(reference, runtime, threads=threads, config=config) as (other, doubts),
    ):
        deployment = runtime.deployment
        contenders: dict[str, Callable[[bytes], object]] = {
            "runtime": lambda data: programs.runtime_to_bitmaps(runtime, data),
            "reference": other,
        }
        if deployment.description.has_masks:
            contenders["rle"] = lambda data: programs.runtime_to_rles(runtime, data)
        data = [path.read_bytes() for path in images]
        with OtherWork() as other_work:
            seconds = take_turns(contenders, data, repeats=repeats, warmup=warmup, progress="timing")
        notes = [*doubts, *other_work.doubts()]
    rle: dict[str, float] = {}
    if "rle" in seconds:
        rle = percentiles_ms(seconds["rle"]) | speedup(seconds["rle"], seconds["reference"])
    return {
        "model": str(model),
        "reference": str(reference),
        "images": len(images),
        "repeats": repeats,
        "warmup": warmup,
        "threads": threads,
        **percentiles_ms(seconds["runtime"]),
        **_prefixed("reference", percentiles_ms(seconds["reference"])),
        **speedup(seconds["runtime"], seconds["reference"]),
        **_prefixed("rle", rle),
        "peak_rss_mb": memory.runtime_peak_rss_mb(model, images[:_MEMORY_IMAGES], threads=threads),
        "reference_peak_rss_mb": _reference_peak_rss_mb(
            reference, deployment, images[:_MEMORY_IMAGES], threads=threads, config=config
        ),
        "other_work_cores": other_work.cores,
        "not_measured": list(NOT_MEASURED),
        "notes": notes,
        "skipped": skipped,
    }


def _reference_peak_rss_mb(
    reference: Path, deployment: "Deployment", images: Sequence[Path], *, threads: int, config: Path | None
) -> float | None:
    from mrcnn.benchmarks import memory

    if reference.suffix == ".onnx":
        return memory.runtime_peak_rss_mb(reference, images, threads=threads)
    return memory.reference_peak_rss_mb(reference, deployment, images, threads=threads, config=config)


def print_table(report: dict[str, Any]) -> None:
    """The report in a few lines."""
    print(f"{report['images']} images, {report['repeats']} rounds, {report['threads']} threads each")
    for note in report["notes"]:
        print(f"  note: {note}")
    print(f"  {'file in memory to result':<26}{'median':>10}{'p90':>10}{'p99':>10}{'peak memory':>14}")
    other = "ONNX file" if report["reference"].endswith(".onnx") else "PyTorch"
    rows = ((other, "reference_"), ("exported", ""), ("exported, to RLE only", "rle_"))
    for name, prefix in rows:
        if f"{prefix}p50_ms" not in report:
            continue
        times = "".join(f"{report[f'{prefix}p{q}_ms']:>7.1f} ms" for q in (50, 90, 99))
        memory = report.get(f"{prefix}peak_rss_mb")
        print(f"  {name:<26}{times}" + ("" if memory is None else f"{memory:>11.0f} MB"))
    for name, prefix in rows[1:]:
        if f"{prefix}speedup" in report:
            low, high = report[f"{prefix}speedup_p10"], report[f"{prefix}speedup_p90"]
            spread = f"10 % to 90 % of the rounds: {low:.2f} to {high:.2f}"
            print(f"{name}: {report[f'{prefix}speedup']:.2f} times as fast ({spread})")


def _prefixed(prefix: str, figures: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in figures.items()}
