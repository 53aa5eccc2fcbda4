"""What a conversion costs and brings, for people (a table, a plot) and for programs (JSON)."""

import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn.errors import MrcnnError
from mrcnn.export.precision.search import FEW
from mrcnn.files import atomic_path

if TYPE_CHECKING:
    from mrcnn.export.precision.search import Outcome, Step


def report_path(model: Path) -> Path:
    """`model.int8.onnx` → `model.int8.report.json`."""
    return model.with_suffix(".report.json")


def plot_path(model: Path) -> Path:
    """`model.int8.onnx` → `model.int8.search.png`."""
    return model.with_suffix(".search.png")


def search_path(model: Path) -> Path:
    """`model.int8.onnx` → `model.int8.search.json`: what a search has measured, to go on from."""
    return model.with_suffix(".search.json")


def int8_share(work: Mapping[str, float], returned: Collection[str]) -> float:
    """Of all multiplications, those in groups that were not returned to floating point; 0…1."""
    return round(sum(share for group, share in work.items() if group not in returned), 4)


def search_facts(
    outcome: "Outcome", work: Mapping[str, float], milliseconds: Sequence[float] | None, *, limit: float
) -> dict[str, Any]:
    """A search, JSON-able; `milliseconds` are those of its steps, where they were taken."""
    return {
        "limit": limit,
        "reached": outcome.reached,
        "returned": list(outcome.chosen.keep),
        "groups": [
            {"name": name, "work": round(share, 5), "parity_gain": _rounded(outcome.gains.get(name))}
            for name, share in work.items()
        ],
        "steps": [
            _step(step, work, None if milliseconds is None else milliseconds[number])
            for number, step in enumerate(outcome.steps)
        ],
    }


def complete(model: Path, found: dict[str, Any]) -> dict[str, Any]:
    """The report with its own path and that of the plot, which is drawn of a search.

    A plot that cannot be written costs nothing but itself: a note says so.
    """
    report: dict[str, Any] = {"model": str(model), **found, "report": str(report_path(model)), "plot": None}
    try:
        if "search" in found and _plot(plot_path(model), report):
            report["plot"] = str(plot_path(model))
        else:
            plot_path(model).unlink(missing_ok=True)  # that of another file of this name
    except (MrcnnError, OSError) as error:
        report["notes"] = [*report["notes"], f"no plot: {error}"]
    return report


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report as text."""
    size = Path(report["model"]).stat().st_size / 1e6
    yield f"wrote {report['model']} ({size:.0f} MB): {_kind(report)}"
    for name, reason in report["kept_fp32"].items():
        yield f"  stays float32: {name} ({reason})"
    yield from _table(report)
    for note in report["notes"]:
        yield f"  note: {note}"
    if report.get("unseen"):
        names = ", ".join(report["unseen"])
        yield f"  note: no region came there on these pictures, so it stays float: {names}"
    if "search" in report:
        yield from _search(report)
    yield f"  figures: {report['report']}" + (f", plot: {report['plot']}" if report["plot"] else "")


def _kind(report: Mapping[str, Any]) -> str:
    if report["precision"] == "fp16":
        return "FP16"
    layers, kept = len(report["layers_int8"]), len(report["layers_float"])
    where = {"tensorrt": "TensorRT", "cpu": "ONNX Runtime on a CPU"}[report["target"]]
    return f"INT8 for {where}, {layers} of {layers + kept} layers, {report['int8_share']:.0%} of the work"


def _table(report: Mapping[str, Any]) -> Iterator[str]:
    """Accuracy before and after."""
    before, after = report["float32"], report["accuracy"]
    yield f"  {'on ' + str(report['images']) + ' pictures':<24}{'float32':>10}{report['precision']:>10}"
    rows = {
        "box AP": "box",
        "mask AP": "mask",
        "key point AP": "keypoint",
        "parity AP, boxes": "parity_box",
        "parity AP, masks": "parity_mask",
    }
    for title, key in rows.items():
        if before[key] is not None and after[key] is not None:
            yield f"  {title:<24}{before[key]:>10.2f}{after[key]:>10.2f}  ({after[key] - before[key]:+.2f})"
    if (times := report["milliseconds"]) is not None:
        faster = f"  ({times[0] / times[1]:.2f} times as fast)"
        yield f"  {'ms per picture, here':<24}{times[0]:>10.0f}{times[1]:>10.0f}{faster}"


def _search(report: Mapping[str, Any]) -> Iterator[str]:
    found = report["search"]
    measure = "AP" if report["annotated"] else "parity AP (there are no annotations)"
    told = "reached" if found["reached"] else "NOT reached, not even with all groups in floating point"
    yield f"  at most {found['limit']:g} points of {measure} may be lost: {told}"
    timed = report["milliseconds"] is not None
    yield f"  {'groups returned to float':<30}{'drop':>8}{'INT8 work':>11}" + (f"{'ms':>7}" if timed else "")
    for step in found["steps"]:
        mark = "  <- chosen" if step["returned"] == found["returned"] else ""
        row = f"{len(step['returned']):<30}{step['ap_drop']:>8.2f}{step['int8_share']:>11.0%}"
        yield f"  {row}" + (f"{step['milliseconds']:>7.0f}" if timed else "") + mark
    if found["returned"]:
        yield "  returned, the most useful first:"
        names = textwrap.wrap(", ".join(found["returned"]), 100)
        yield from (f"    {line}" for line in names)


def _step(step: "Step", work: Mapping[str, float], milliseconds: float | None) -> dict[str, Any]:
    return {
        "returned": list(step.keep),
        "ap_drop": _rounded(step.drop),
        "int8_share": int8_share(work, step.keep),
        "milliseconds": _rounded(milliseconds),
        **step.accuracy.to_dict(),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _plot(path: Path, report: Mapping[str, Any]) -> bool:
    """Draws what each variant loses against its speed; False where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    found = report["search"]
    groups = [group for group in found["groups"] if group["parity_gain"] is not None]
    figure, axes = plt.subplots(1, 2 if groups else 1, figsize=(13 if groups else 6, 5), squeeze=False)
    figure.suptitle(f"{Path(report['model']).name}: {report['images']} pictures")
    _plot_steps(axes[0, 0], report)
    if groups:
        bars = axes[0, 1]
        bars.barh([group["name"] for group in groups], [group["parity_gain"] for group in groups])
        bars.invert_yaxis()
        bars.tick_params(axis="y", labelsize=6)
        bars.set_xlabel("points of parity AP; below 0: chance")
        bars.set_title(f"what one group in floating point gains, on {min(FEW, report['images'])} pictures")
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
    return True


def _plot_steps(axes: Any, report: Mapping[str, Any]) -> None:
    """Each variant's loss against its speed, and the limit."""
    found = report["search"]
    timed = report["milliseconds"] is not None
    # On the CPU the time is what counts; of a GPU's nothing is known here but how much is INT8.
    speed = [step["milliseconds"] if timed else 100 * step["int8_share"] for step in found["steps"]]
    drop = [step["ap_drop"] for step in found["steps"]]
    axes.plot(speed, drop, "o", label="variant, with its number of groups in floating point")
    for step, x, y in zip(found["steps"], speed, drop, strict=True):
        axes.annotate(str(len(step["returned"])), (x, y), textcoords="offset points", xytext=(5, 5))
        if step["returned"] == found["returned"]:
            axes.plot([x], [y], "*", markersize=16, label="chosen")
    axes.axhline(found["limit"], linestyle="--", color="grey", label="limit")
    axes.margins(0.15)
    axes.set_xlabel("ms per picture" if timed else "share of the work in INT8, %")
    axes.set_ylabel("points of AP lost" if report["annotated"] else "points of parity AP lost")
    axes.legend(fontsize=8)
