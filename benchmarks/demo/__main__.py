"""Runs the demo; see `make demo`."""

import argparse
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn.cli import guard
from mrcnn.errors import MissingRequirementError
from mrcnn.files import atomic_path, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mrcnn.runtime import Detections

CHECKPOINT = Path(__file__).with_name("coins.pth")
MIN_SCORE = 0.5
LEAST_COINS = 20
_SYNTHETIC_IMAGES = 5
_BENCH_ROUNDS = 10


def main() -> int:
    """Returns the exit status: 0, or 1 where the exported model differs or too few coins are found."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/demo"), metavar="DIR", help="(out/demo)")
    output = parser.parse_args().output
    return guard("demo", lambda: run_demo(output))


def run_demo(output: Path) -> int:
    """Writes model.onnx, overlay.png and report.json to `output` and prints a table."""
    if not CHECKPOINT.exists():
        raise MissingRequirementError(
            f"{CHECKPOINT} is missing: run the demo in a checkout of the repository"
        )
    from mrcnn.benchmarks.agreement import Tolerances
    from mrcnn.benchmarks.latency import measure_latency
    from mrcnn.benchmarks.parity import measure_parity
    from mrcnn.report import document

    model = output / "model.onnx"
    with _step("exporting the checkpoint to ONNX, every stage compared with PyTorch"):
        _export(model)
    with _step("comparing the model with PyTorch on a photograph and synthetic images"):
        images = _write_images(output / "images")
        parity = measure_parity(
            model, reference=CHECKPOINT, images=images, tolerances=Tolerances(), output=output
        )
    with _step("looking for the coins"):
        found = _find_coins(model, output / "overlay.png")
    with _step("timing both in turn"):
        bench = measure_latency(
            model, reference=CHECKPOINT, images=images[:1], repeats=_BENCH_ROUNDS, warmup=2
        )
    report = document("demo", {**found, "parity": parity, "bench": bench})
    write_json(output / "report.json", report)
    print_table(report, output)
    if not parity["passed"]:
        print(f"demo: outside tolerance: {'; '.join(parity['failures'])}", file=sys.stderr)
    if found["coins_found"] < LEAST_COINS:
        print(f"demo: {found['coins_found']} coins found, but {LEAST_COINS} are expected", file=sys.stderr)
    return 0 if parity["passed"] and found["coins_found"] >= LEAST_COINS else 1


def _export(model: Path) -> None:
    from mrcnn.checkpoint import load_checkpoint
    from mrcnn.export.to_onnx import InputRule, export_onnx

    export_onnx(load_checkpoint(CHECKPOINT), model, inputs=InputRule(), on_step=lambda _: None)


def _write_images(folder: Path) -> list[Path]:
    """The photograph and some synthetic images as files; the photograph is the first."""
    from mrcnn.benchmarks.demo.photograph import coins_photograph
    from mrcnn.data.synthetic import SyntheticDataset

    dataset = SyntheticDataset("coins", length=_SYNTHETIC_IMAGES, split="val")
    paths = [folder / "coins.png"]
    _save(coins_photograph(), paths[0])
    for index in range(_SYNTHETIC_IMAGES):
        paths.append(folder / f"synthetic-{index}.png")
        _save(dataset.image(index), paths[-1])
    return paths


def _find_coins(model: Path, overlay: Path) -> dict[str, int]:
    """What the runtime finds in the photograph, drawn into the file `overlay`."""
    from mrcnn.benchmarks.demo.photograph import COINS, coins_found, coins_photograph
    from mrcnn.runtime import Runtime, draw

    image = coins_photograph()
    with Runtime(model) as runtime:
        detections: Detections = runtime.infer(image, color="rgb")
    _save(draw(image, detections, min_score=MIN_SCORE, color="rgb"), overlay)
    return {
        "coins": len(COINS),
        "coins_found": coins_found(detections, min_score=MIN_SCORE),
        "detections": int((detections.scores >= MIN_SCORE).sum()),
    }


def _save(image: Any, path: Path) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary)


@contextmanager
def _step(words: str) -> "Iterator[None]":
    print(f"{words} …", flush=True)
    start = time.perf_counter()
    yield
    print(f"    {time.perf_counter() - start:.0f} s", flush=True)


def print_table(report: dict[str, Any], output: Path) -> None:
    parity, bench = report["parity"], report["bench"]
    rows = [
        ("coins found", f"{report['coins_found']} of {report['coins']}, {report['detections']} detections"),
        ("equal to PyTorch", "yes" if parity["passed"] else "NO"),
        ("  matched", f"{parity['matched']} of {parity['reference_detections']} detections"),
        ("  boxes, scores", f"within {parity['box_px_max']:.1e} px, {parity['score_max']:.1e}"),
        ("  masks, mean IoU", f"{parity['mask_iou_mean']:.5f}"),
        ("file to masks", f"{bench['p50_ms']:.0f} ms, PyTorch {bench['reference_p50_ms']:.0f} ms"),
        ("  times as fast", f"{bench['speedup']:.2f}, to run-length masks {bench['rle_speedup']:.2f}"),
    ]
    if bench["peak_rss_mb"] is not None:
        memory = f"{bench['peak_rss_mb']:.0f} MB, PyTorch {bench['reference_peak_rss_mb']:.0f} MB"
        rows.append(("peak memory", memory))
    line = "-" * 64
    print(f"\n{line}")
    for name, value in rows:
        print(f"  {name:<20} {value}")
    print(line)
    for note in (*parity["notes"], *bench["notes"]):
        print(f"note: {note}")
    print(f"the coins, drawn: {output / 'overlay.png'}    all figures: {output / 'report.json'}")
    print(
        "\nNow with a checkpoint of your own (a torchvision state dict will do):\n"
        "  source .venv/bin/activate\n"
        "  mrcnn export ckpt.pth --onnx-only --output out/mine\n"
        "  mrcnn parity out/mine/model.onnx --reference ckpt.pth --images photos/ --output out/mine\n"
        "  mrcnn infer  out/mine/model.onnx photos/ --output out/mine/found\n"
        "  mrcnn bench  out/mine/model.onnx --reference ckpt.pth --images photos/"
    )


if __name__ == "__main__":
    sys.exit(main())
