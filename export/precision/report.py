"""What a conversion costs and brings, for people (a table, a plot) and for programs (JSON)."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn.files import atomic_path, write_json

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


def search_facts(outcome: "Outcome", work: Mapping[str, float], *, limit: float) -> dict[str, Any]:
    """A search, JSON-able."""
    return {
        "limit": limit,
        "reached": outcome.reached,
        "returned": list(outcome.chosen.keep),
        "groups": [
            {"name": name, "work": round(share, 5), "parity_gain": _rounded(outcome.gains.get(name))}
            for name, share in work.items()
        ],
        "steps": [_step(step, work) for step in outcome.steps],
    }


def write(model: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Writes the report beside the model, and the plot of a search; returns it with the paths of both."""
    report: dict[str, Any] = {"model": str(model), **found, "report": str(report_path(model)), "plot": None}
    if "search" in found and _plot(plot_path(model), found):
        report["plot"] = str(plot_path(model))
    write_json(report_path(model), report)
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
        "parity AP, boxes": "parity_box",
        "parity AP, masks": "parity_mask",
    }
    for title, key in rows.items():
        if before[key] is not None and after[key] is not None:
            yield f"  {title:<24}{before[key]:>10.2f}{after[key]:>10.2f}  ({after[key] - before[key]:+.2f})"
    times = before["milliseconds"], after["milliseconds"]
    if None not in times:
        faster = f"  ({times[0] / times[1]:.2f} times as fast)"
        yield f"  {'ms per picture, here':<24}{times[0]:>10.0f}{times[1]:>10.0f}{faster}"


def _search(report: Mapping[str, Any]) -> Iterator[str]:
    found = report["search"]
    measure = "AP" if report["annotated"] else "parity AP (there are no annotations)"
    told = "reached" if found["reached"] else "NOT reached, not even with all groups in floating point"
    yield f"  at most {found['limit']:g} points of {measure} may be lost: {told}"
    yield f"  {'groups returned to float':<30}{'drop':>8}{'INT8 work':>11}{'ms':>7}"
    for step in found["steps"]:
        mark = "  <- chosen" if step["returned"] == found["returned"] else ""
        count = str(len(step["returned"]))
        row = f"{step['ap_drop']:>8.2f}{step['int8_share']:>11.0%}{step['milliseconds']:>7.0f}"
        yield f"  {count:<30}{row}{mark}"
    if found["returned"]:
        yield f"  returned: {', '.join(found['returned'])}"


def _step(step: "Step", work: Mapping[str, float]) -> dict[str, Any]:
    return {
        "returned": list(step.keep),
        "ap_drop": _rounded(step.drop),
        "int8_share": int8_share(work, step.keep),
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

    steps = report["search"]["steps"]
    # On the CPU the time is what counts; of a GPU's nothing is known here but how much is INT8.
    on_cpu = report["target"] == "cpu"
    speeds = [step["milliseconds"] if on_cpu else 100 * step["int8_share"] for step in steps]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), width_ratios=(1, 1.4))
    left.plot(speeds, [step["ap_drop"] for step in steps], "o-")
    for step, speed in zip(steps, speeds, strict=True):
        left.annotate(
            str(len(step["returned"])), (speed, step["ap_drop"]), textcoords="offset points", xytext=(5, 5)
        )
    left.axhline(report["search"]["limit"], linestyle="--", color="grey")
    left.set_xlabel("ms per picture" if on_cpu else "share of the work in INT8, %")
    left.set_ylabel("points of AP lost" if report["annotated"] else "points of parity AP lost")
    left.set_title("number: groups returned to floating point")
    groups = [group for group in report["search"]["groups"] if group["parity_gain"] is not None]
    right.barh([g["name"] for g in groups], [g["parity_gain"] for g in groups])
    right.invert_yaxis()
    right.tick_params(axis="y", labelsize=6)
    right.set_title("parity AP gained by returning one group")
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
    return True
