"""What a run leaves to look at: log.jsonl, metrics.json and curves.png."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrcnn.files import atomic_path, write_json, write_text

Record = Mapping[str, Any]

_SMOOTHING = 20  # iterations per point of the loss curves, at least


def write_report(folder: Path, *, history: Sequence[Record], metrics: Record) -> None:
    """Writes the three files into `folder`, each atomically.

    Args:
        history: records {"iteration", "losses": {name: value}, "learning_rate"} of the iterations, and
            {"iteration", "box": {"AP": …}, "mask", "keypoint": {…} or None} of the evaluations, in order.
    """
    write_text(folder / "log.jsonl", "".join(json.dumps(record) + "\n" for record in history))
    write_json(folder / "metrics.json", dict(metrics))
    with atomic_path(folder / "curves.png") as temporary:
        _draw_curves(temporary, history)


def _draw_curves(path: Path, history: Sequence[Record]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    losses, precision = figure.subplots(1, 2)
    steps = [record for record in history if "losses" in record]
    chunk = max(_SMOOTHING, len(steps) // 200)
    chunks = [steps[first : first + chunk] for first in range(0, len(steps), chunk)]
    for name in steps[0]["losses"] if steps else ():
        x = [part[-1]["iteration"] for part in chunks]
        y = [sum(record["losses"][name] for record in part) / len(part) for part in chunks]
        losses.plot(x, y, label=name, marker="." if len(x) < 3 else "")
    losses.set(xlabel="iteration", ylabel=f"loss, mean of {chunk} iterations", yscale="log")
    if steps:
        losses.legend(fontsize="small")
    evaluations = [record for record in history if "box" in record]
    for kind in ("box", "mask", "keypoint"):
        points = [(r["iteration"], r[kind]["AP"]) for r in evaluations if r[kind] is not None]
        if points:
            precision.plot(*zip(*points, strict=True), label=f"{kind} AP", marker="o")
    precision.set(xlabel="iteration", ylabel="validation AP", ylim=(0, 100))
    if evaluations:
        precision.legend(fontsize="small", loc="lower right")
    for axes in (losses, precision):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
