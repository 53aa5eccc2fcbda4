"""A result as rows, for the terminal and for docs/kernels.md."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mrcnn.benchmarks.gpu_check.steps import FAILED, MOST_LINES, worst_differences

REFERENCE = "torchvision"


class Spread(NamedTuple):
    """A median and what 80 % of the runs lie between, in microseconds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One contender of one workload; times in microseconds, None where it was not measured.

    Attributes:
        call: one call and the wait for it, by the host's clock.
        graph, graph_cold: one call within a CUDA graph, with inputs in the L2 and without.
        times_reference: how many times as fast as torchvision's call.
        floor: in which as many bytes as needed are copied.
    """

    workload: str
    contender: str
    call: Spread
    graph: Spread | None
    graph_cold: Spread | None
    times_reference: float | None
    floor: float | None

    @property
    def times_floor(self) -> float | None:
        """The time of a call with cold inputs over the floor."""
        return self.graph_cold.median / self.floor if self.graph_cold and self.floor else None


def time_figures(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The part `time` of a result: the copy's bandwidth, and by workload what was measured and its floor."""
    bandwidth = records.get("copy", {}).get("copy_bytes_per_s")
    workloads = {}
    for name, record in records.items():
        if "contenders" in record:
            floor = round(1e6 * record["floor_bytes"] / bandwidth, 3) if bandwidth else None
            kept = {key: value for key, value in record.items() if key != "failures"}
            workloads[name] = {"floor_us": floor, **kept}
    kernels = {name: record["kernels"] for name, record in records.items() if record.get("kernels")}
    return {
        "copy_gb_per_s": round(bandwidth / 1e9) if bandwidth else None,
        "unit": "microseconds",
        "workloads": workloads,
        "kernels": kernels,
    }


def rows(result: Mapping[str, Any]) -> Iterator[Row]:
    """The timed contenders of a result."""
    for workload, figures in result.get("time", {}).get("workloads", {}).items():
        for contender, times in figures["contenders"].items():
            yield Row(
                workload=workload,
                contender=contender,
                call=_spread(times["wall"]),
                graph=_spread(times["graph"]) if "graph" in times else None,
                graph_cold=_spread(times["graph_cold"]) if "graph_cold" in times else None,
                times_reference=times.get("times_reference", {}).get("speedup"),
                floor=figures["floor_us"],
            )


def _spread(figures: Mapping[str, float]) -> Spread:
    return Spread(figures["median"], figures["p10"], figures["p90"])


def text(result: Mapping[str, Any]) -> list[str]:
    """What the command prints last."""
    gpu = result["gpu"]
    software = ", ".join(f"{name} {version}" for name, version in result["software"].items())
    lines = [f"{gpu['name']}, driver {gpu.get('driver') or 'unknown'}, {software}"]
    for name, step in result["steps"].items():
        count = f", {step['checks']} checks" if "checks" in step else ""
        note = f": {step['note']}" if step.get("note") else ""
        left = f", {len(step['not_run'])} not run" if step.get("not_run") else ""
        lines.append(f"  {name:<9}{step['status']}{count}{left}, {step['seconds']:.0f} s{note}")
    if "worst" in result["steps"].get("check", {}):
        worst = result["steps"]["check"]["worst"]
        lines.append(
            "  largest difference of RoIAlign: " + ", ".join(f"{t} {w:.1e}" for t, w in worst.items())
        )
    lines += _time_table(result)
    wrong = [
        f"WRONG {name}: {failure['check']}: {failure['wrong'][0]}"
        for name, step in result["steps"].items()
        if step["status"] == FAILED
        for failure in step["failures"]
    ]
    return [*lines, *wrong[:MOST_LINES]]


def _time_table(result: Mapping[str, Any]) -> list[str]:
    found = list(rows(result))
    if not found:
        return []
    copy = result["time"]["copy_gb_per_s"]
    lines = [f"medians in us; the floor at the copy's {copy} GB/s"]
    head = ("call", "in a graph", "cold L2", f"x {REFERENCE}", "floor", "x floor")
    lines.append(f"  {'':<46}" + "".join(f"{word:>14}" for word in head))
    workload = None
    for row in found:
        if row.workload != workload:
            workload = row.workload
            lines.append(f"  {workload}")
        medians = (time and time.median for time in (row.call, row.graph, row.graph_cold))
        values = (*medians, row.times_reference, row.floor, row.times_floor)
        cells = "".join(f"{'-' if value is None else format(value, '.2f'):>14}" for value in values)
        lines.append(f"    {row.contender:<44}{cells}")
    return lines


def summed_up(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step of many checks without their records, which only the largest difference is kept of."""
    kept = {key: value for key, value in step.items() if key != "records"}
    worst = worst_differences(step.get("records", {}))
    return {**kept, "worst": worst} if worst else kept
