"""A result of gpu-check as a table for the terminal, as a page and as a plot."""

import json
from pathlib import Path
from typing import Any

import pytest

from mrcnn.benchmarks.gpu_check import publish, tables
from tests.conftest import REPOSITORY

BANDWIDTH = 2e12
PNG = b"\x89PNG"


def statistics(median: float) -> dict[str, float]:
    return {"median": median, "p10": median * 0.9, "p90": median * 1.2, "runs": 60}


def contenders(names: tuple[str, ...], call: float) -> dict[str, Any]:
    ours = {
        **{key: statistics(call / divisor) for key, divisor in (("wall", 1), ("events", 1.1), ("cold", 1.2))},
        "graph": statistics(call / 3),
        "graph_cold": statistics(call / 2),
        "times_reference": {"speedup": 4.25, "speedup_p10": 4.0, "speedup_p90": 4.5},
    }
    theirs = {key: statistics(4.25 * call) for key in ("wall", "events", "cold")}
    return {**dict.fromkeys(names, ours), "torchvision": theirs}


@pytest.fixture
def result() -> dict[str, Any]:
    """As the command writes it, of a GPU that does not exist."""
    records: dict[str, Any] = {
        "copy": {"failures": [], "copy_bytes_per_s": BANDWIDTH},
        "RoIAlign float16 1000 RoIs, 7x7": {
            "failures": [],
            "floor_bytes": 64_000_000,
            "sets": 3,
            "contenders": contenders(("linear", "channels last to linear", "channels last"), 120.0),
        },
        "NMS of the RPN": {
            "failures": [],
            "floor_bytes": 120_000,
            "sets": 99,
            "contenders": contenders(("ours",), 88.0),
        },
        "kernels of NMS of the RPN": {
            "failures": [],
            "kernels": [{"kernel": "resolve", "launches": 1.0, "us": 20.5}],
        },
    }
    return {
        "schema_version": 1,
        "kind": "gpu_check",
        "passed": True,
        "gpu": {
            "name": "NVIDIA Test 100",
            "slug": "nvidia-test-100",
            "driver": "600.1",
            "clocks_after_timing": {"clocks.sm": "1980 MHz"},
        },
        "software": {"torch": "2.11.0", "torchvision": "0.26.0", "nvcc": "13.0"},
        "steps": {
            "build": {
                "status": "passed",
                "seconds": 20.0,
                "failures": [],
                "kernels": "mrcnn 0.1.0, CUDA 13.0",
            },
            "check": {
                "status": "passed",
                "checks": 573,
                "seconds": 60.0,
                "failures": [],
                "not_run": [],
                "worst": {"float32": 2.4e-7, "float16": 1e-3},
            },
            "sanitize": {
                "status": "passed",
                "seconds": 50.0,
                "failures": [],
                "tools": {"memcheck": {"summary": "ERROR SUMMARY: 0 errors"}},
            },
            "host": {"status": "skipped", "seconds": 0.0, "failures": [], "note": "no plugins"},
        },
        "time": tables.time_figures(records),
        "git_commit": "0123456789abcdef-dirty",
        "created": "2026-01-02T03:04:05+00:00",
    }


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "kernels.md"
    path.write_text(f"# Title\n\n{publish.BEGIN}\nnone yet\n{publish.END}\n\nThe end.\n")
    return path


def test_the_floor_is_bytes_over_the_copys_bandwidth(result: dict[str, Any]) -> None:
    assert result["time"]["copy_gb_per_s"] == 2000
    row = next(iter(tables.rows(result)))
    assert (row.workload, row.contender) == ("RoIAlign float16 1000 RoIs, 7x7", "linear")
    assert row.floor == 32.0
    assert row.times_floor == 60.0 / 32.0
    assert result["time"]["kernels"]["kernels of NMS of the RPN"][0]["kernel"] == "resolve"


def test_without_a_copy_there_is_no_floor(result: dict[str, Any]) -> None:
    timed = result["time"]["workloads"]["NMS of the RPN"]["contenders"]
    figures = tables.time_figures({"x": {"failures": [], "floor_bytes": 1, "contenders": timed}})
    assert figures["copy_gb_per_s"] is None
    (ours, theirs) = tables.rows({"time": figures})
    assert (ours.floor, ours.times_floor, theirs.graph) == (None, None, None)


def test_the_terminals_table_has_all_contenders(result: dict[str, Any]) -> None:
    lines = tables.text(result)
    assert lines[0] == "NVIDIA Test 100, driver 600.1, torch 2.11.0, torchvision 0.26.0, nvcc 13.0"
    assert "  check    passed, 573 checks, 60 s" in lines
    assert "  host     skipped, 0 s: no plugins" in lines
    assert sum(line.startswith("    torchvision ") for line in lines) == 2
    (linear,) = (line for line in lines if line.startswith("    linear "))
    assert linear.split()[1:] == ["120.00", "40.00", "60.00", "4.25", "32.00", "1.88"]


def test_the_terminal_says_what_is_wrong(result: dict[str, Any]) -> None:
    result["steps"]["check"] |= {
        "status": "failed",
        "failures": [{"check": f"NMS {i}", "wrong": ["image 0: wrong", "run 2 differs"]} for i in range(50)],
    }
    lines = tables.text(result)
    assert "WRONG check: NMS 0: image 0: wrong" in lines
    assert sum(line.startswith("WRONG") for line in lines) == 20


def test_the_page_gets_the_section_and_keeps_the_rest(result: dict[str, Any], page: Path) -> None:
    written = publish.publish([result], page)
    text = page.read_text()
    assert written == [page.with_name("kernels-nvidia-test-100.png"), page]
    assert written[0].read_bytes().startswith(PNG)
    assert text.startswith(f"# Title\n\n{publish.BEGIN}\n\n### NVIDIA Test 100\n")
    assert text.endswith(f"{publish.END}\n\nThe end.\n")
    assert "none yet" not in text
    times = "120 (108–144) | 40 (36–48) | 60 (54–72) | 32 | 1.88 | 4.25 |"
    assert f"| RoIAlign float16 1000 RoIs, 7x7 | linear | {times}" in text
    assert "|  | torchvision | 510 (459–612) |  |  | 32 |  |  |" in text
    assert (
        "* check: 573 checks right; RoIAlign at most 2.4e-07 off in float32, 1.0e-03 off in float16" in text
    )
    assert "* sanitize: memcheck: ERROR SUMMARY: 0 errors" in text
    assert "* host: skipped (no plugins)" in text
    assert "Commit 0123456789ab, 2026-01-02" in text
    assert "](kernels-nvidia-test-100.png)" in text


def test_publishing_again_replaces_and_several_gpus_stand_below_each_other(
    result: dict[str, Any], page: Path
) -> None:
    other = {**result, "gpu": {**result["gpu"], "name": "Orin", "slug": "orin"}}
    publish.publish([result], page)
    publish.publish([result, other], page)
    headings = [line for line in page.read_text().splitlines() if line.startswith("### ")]
    assert headings == ["### NVIDIA Test 100", "### Orin"]


def test_the_command_reads_files(
    result: dict[str, Any], page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = page.with_name("gpu_check.json")
    path.write_text(json.dumps(result))
    assert publish.main([str(path), "--page", str(page)]) == 0
    assert f"wrote {page}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"kind": "latency"}, "not a result of gpu-check"),
        ({"passed": False}, "not all right (ended early): it is not published"),
        ({"passed": False, "steps": {"time": {"status": "failed"}}}, "not all right (time)"),
        ({"time": {"workloads": {}}}, "nothing was timed"),
        (None, "cannot be read as a result"),
    ],
)
def test_what_must_not_be_published_is_refused(
    change: dict[str, Any] | None,
    line: str,
    result: dict[str, Any],
    page: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, before = page.with_name("gpu_check.json"), page.read_text()
    path.write_text("{" if change is None else json.dumps(result | change))
    assert publish.main([str(path), "--page", str(page)]) == 2
    assert line in capsys.readouterr().err
    assert page.read_text() == before


def test_a_page_without_markers_is_left_alone(result: dict[str, Any], page: Path) -> None:
    page.write_text("# Title\n")
    with pytest.raises(publish.MrcnnError, match="are missing"):
        publish.publish([result], page)
    assert list(page.parent.iterdir()) == [page]


def test_the_page_of_the_repository_can_be_written_to(result: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "kernels.md"
    copy.write_text((REPOSITORY / "docs" / "kernels.md").read_text(encoding="utf-8"), encoding="utf-8")
    publish.publish([result], copy)
    assert "### NVIDIA Test 100" in copy.read_text(encoding="utf-8")
    assert "no GPU has run this" not in copy.read_text(encoding="utf-8")
