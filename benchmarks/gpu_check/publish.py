"""Writes docs/kernels.md's figures and plots from results of `make gpu-check`, one per GPU.

python -m mrcnn.benchmarks.gpu_check.publish benchmarks/results/*/gpu_check.json
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrcnn.benchmarks.gpu_check.tables import REFERENCE, Row, Spread, rows
from mrcnn.cli import guard
from mrcnn.errors import MrcnnError
from mrcnn.files import atomic_path, write_text

BEGIN, END = "<!-- gpu-check: begin -->", "<!-- gpu-check: end -->"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "kernels.md"

_COLOURS = {"call": "#3b6ea8", "graph_cold": "#7fb0dd", REFERENCE: "#c2703d", "floor": "#8a8a8a"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="publish", description="Write docs/kernels.md from results.")
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="F", help="(docs/kernels.md)")
    args = parser.parse_args(argv)

    def command() -> int:
        for path in publish([read(path) for path in args.results], args.page):
            print(f"wrote {path}")
        return 0

    return guard("publish", command)


def read(path: Path) -> dict[str, Any]:
    """A result.

    Raises:
        MrcnnError: it is none, or one that must not be published: something failed, or nothing was timed.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MrcnnError(f"{path}: cannot be read as a result of gpu-check: {error}") from error
    if not isinstance(result, dict) or result.get("kind") != "gpu_check":
        raise MrcnnError(f"{path}: not a result of gpu-check")
    if not result["passed"]:
        wrong = [name for name, step in result["steps"].items() if step["status"] in ("failed", "incomplete")]
        raise MrcnnError(f"{path}: not all right ({', '.join(wrong) or 'ended early'}): it is not published")
    if not result.get("time", {}).get("workloads"):
        raise MrcnnError(f"{path}: nothing was timed: run gpu-check with its step time")
    return result


def publish(results: Sequence[Mapping[str, Any]], page: Path) -> list[Path]:
    """Puts a section for each result between the page's markers, and plots beside it; returns the files.

    Raises:
        MrcnnError: the page is missing or has no markers.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise MrcnnError(f"{page}: cannot be read: {error.strerror}") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise MrcnnError(f"{page}: the lines {BEGIN} and {END} are missing")
    written = []
    for result in results:
        plot = page.with_name(f"kernels-{result['gpu']['slug']}.png")
        draw(result, plot)
        written.append(plot)
    sections = "\n".join(section(result) for result in results)
    write_text(page, f"{before}{BEGIN}\n\n{sections}\n{END}{after}")
    return [*written, page]


def section(result: Mapping[str, Any]) -> str:
    """Markdown for one GPU."""
    gpu, clocks = result["gpu"], result["gpu"].get("clocks_after_timing", {})
    software = ", ".join(f"{name} {version}" for name, version in result["software"].items())
    lines = [
        f"### {gpu['name']}",
        "",
        f"Driver {gpu.get('driver') or 'unknown'}, {software}, "
        f"{result['steps'].get('build', {}).get('kernels') or 'kernels built elsewhere'}. "
        f"Multiprocessors at {clocks.get('clocks.sm', 'an unknown clock')} after timing. "
        f"Commit {(result.get('git_commit') or 'unknown')[:12]}, {result['created'][:10]}.",
        "",
        f"Copying moves {result['time']['copy_gb_per_s']} GB/s. Times in microseconds: the median, and in "
        "parentheses what 80 % of the runs lie between.",
        "",
        *_checks(result),
        "",
        "| workload | kernel | one call | in a CUDA graph | and L2 cold | floor | times floor "
        f"| times as fast as {REFERENCE} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    workload = None
    for row in rows(result):
        shown, workload = ("" if row.workload == workload else row.workload), row.workload
        cells = [_spread(time) for time in (row.call, row.graph, row.graph_cold)]
        cells += [_digits(value) for value in (row.floor, row.times_floor, row.times_reference)]
        lines.append(f"| {shown} | {row.contender} | {' | '.join(cells)} |")
    lines += ["", f"![Times on the {gpu['name']}](kernels-{gpu['slug']}.png)", ""]
    return "\n".join(lines)


def _checks(result: Mapping[str, Any]) -> list[str]:
    """What was checked before, as a list."""
    found = []
    for name, step in result["steps"].items():
        words = f"{step['checks']} checks right" if step.get("checks") else step["status"]
        if name == "sanitize" and step.get("tools"):
            words = ", ".join(f"{tool}: {figures['summary']}" for tool, figures in step["tools"].items())
        if step.get("worst"):
            words += "; RoIAlign at most " + ", ".join(
                f"{w:.1e} off in {t}" for t, w in step["worst"].items()
            )
        note = f" ({step['note']})" if step.get("note") else ""
        found.append(f"* {name}: {words}{note}")
    return found


def _spread(time: Spread | None) -> str:
    if time is None:
        return ""
    return f"{_digits(time.median)} ({_digits(time.low)}–{_digits(time.high)})"


def _digits(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """A group of bars for each of our contenders: its call, the same in a graph, torchvision's, the floor."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = [(_label(row), _bars(row, result)) for row in rows(result) if row.contender != REFERENCE]
    figure, axes = pyplot.subplots(figsize=(9, 0.62 * len(groups) + 1.2), layout="constrained")
    height = 0.8 / len(_COLOURS)
    for i, (name, colour) in enumerate(_COLOURS.items()):
        places = [group + (i - 1.5) * height for group in range(len(groups))]
        values = [bars[name] or 0.0 for _, bars in groups]
        axes.barh(places, values, height, color=colour, label=_LEGEND[name])
    axes.set_yticks(range(len(groups)), [label for label, _ in groups], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(left=1)  # NMS moves hardly any bytes: its floor is far below
    axes.set_xlabel("microseconds (logarithmic)")
    axes.set_title(result["gpu"]["name"], fontsize=10)
    figure.legend(loc="outside lower center", ncols=len(_COLOURS), fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)


_LEGEND = {
    "call": "ours, one call",
    "graph_cold": "ours, in a CUDA graph, L2 cold",
    REFERENCE: f"{REFERENCE}, one call",
    "floor": "floor: copying as many bytes",
}


def _label(row: Row) -> str:
    return row.workload if row.contender == "ours" else f"{row.workload}\n{row.contender}"


def _bars(row: Row, result: Mapping[str, Any]) -> dict[str, float | None]:
    times = result["time"]["workloads"][row.workload]["contenders"].get(REFERENCE)
    return {
        "call": row.call.median,
        "graph_cold": row.graph_cold.median if row.graph_cold else None,
        REFERENCE: times["wall"]["median"] if times else None,
        "floor": row.floor,
    }


if __name__ == "__main__":
    sys.exit(main())
