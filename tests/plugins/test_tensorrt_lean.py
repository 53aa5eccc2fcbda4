"""libmrcnn_plugins.so in NVIDIA's own plugin registries, of several versions of TensorRT.

The lean runtime is on the package registry, and its plugin registry works without a GPU. Each version is
installed once, into `build/tensorrt-lean/`, and used by a process of its own. Whatever headers the library
was built with, it is to load in all of them.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.host.build import HERE, REPOSITORY, Build, locked

# The oldest with wheels for CUDA 13, the last 10.x at hand, and two of 11.x.
VERSIONS = ("10.15.1.29", "10.16.1.11", "11.1.0.106", "11.4.0.106")
PACKAGES = ("tensorrt-lean-cu13-libs", "tensorrt-lean-cu13-bindings")
CACHE = REPOSITORY / "build" / "tensorrt-lean"

Fields = list[tuple[str, str, Any]]

ROI_ALIGN: Fields = [
    ("output_size", "INT32", [7]),
    ("sampling_ratio", "INT32", [2]),
    ("aligned", "INT32", [0]),
    ("mode", "CHAR", "avg\0"),
    ("spatial_scales", "FLOAT32", [0.25, 0.125, 0.0625, 0.03125]),
    ("canonical_size", "FLOAT32", [224]),
    ("canonical_level", "INT32", [4]),
]
NMS: Fields = [
    ("iou_threshold", "FLOAT32", [0.5]),
    ("score_threshold", "FLOAT32", [0.05]),
    ("max_output", "INT32", [100]),
]
ROI_POOL: Fields = [("pooled_shape", "INT32", [7, 7]), ("spatial_scale", "FLOAT32", [0.0625])]
OPS = {"MrcnnRoIAlign": ROI_ALIGN, "MrcnnRoIPool": ROI_POOL, "MrcnnNMS": NMS}

NAN, INFINITY = float("nan"), float("inf")


def changed(op: str, name: str, kind: str, values: Any) -> dict[str, Any]:
    """A case: the op's fields with one that is different."""
    return {"op": op, "fields": [(name, kind, values) if f[0] == name else f for f in OPS[op]]}


# Name -> case; the first of each op is what the exporter writes.
LEGAL: dict[str, dict[str, Any]] = {
    "RoIAlign": {"op": "MrcnnRoIAlign", "fields": ROI_ALIGN},
    "RoIAlign, fields in reverse": {"op": "MrcnnRoIAlign", "fields": ROI_ALIGN[::-1]},
    "RoIAlign, 32 bins": changed("MrcnnRoIAlign", "output_size", "INT32", [32]),
    "RoIAlign, adaptive": changed("MrcnnRoIAlign", "sampling_ratio", "INT32", [0]),
    "RoIAlign, aligned": changed("MrcnnRoIAlign", "aligned", "INT32", [1]),
    "RoIAlign, max": changed("MrcnnRoIAlign", "mode", "CHAR", "max\0"),
    "RoIAlign, mode without its zero": changed("MrcnnRoIAlign", "mode", "CHAR", "avg"),
    "RoIAlign, one level": changed("MrcnnRoIAlign", "spatial_scales", "FLOAT32", [0.0625]),
    "RoIAlign, eight levels": changed("MrcnnRoIAlign", "spatial_scales", "FLOAT32", [0.25] * 8),
    "RoIPool": {"op": "MrcnnRoIPool", "fields": ROI_POOL},
    "RoIPool, not square": changed("MrcnnRoIPool", "pooled_shape", "INT32", [7, 14]),
    "NMS": {"op": "MrcnnNMS", "fields": NMS},
    "NMS, every score": changed("MrcnnNMS", "score_threshold", "FLOAT32", [-INFINITY]),
    "NMS, one box": changed("MrcnnNMS", "max_output", "INT32", [1]),
}
# Those that mean the same as another one.
SAME = {"RoIAlign, fields in reverse": "RoIAlign", "RoIAlign, mode without its zero": "RoIAlign"}

# (op, attribute, type, values): what must be refused with a line that names the attribute.
WRONG_VALUES: list[tuple[str, str, str, Any]] = [
    ("MrcnnRoIAlign", "output_size", "INT32", [0]),
    ("MrcnnRoIAlign", "output_size", "INT32", [33]),
    ("MrcnnRoIAlign", "output_size", "INT32", [7, 7]),
    ("MrcnnRoIAlign", "output_size", "INT64", [7]),
    ("MrcnnRoIAlign", "output_size", "FLOAT32", [7]),
    ("MrcnnRoIAlign", "sampling_ratio", "INT32", [-1]),
    ("MrcnnRoIAlign", "sampling_ratio", "INT16", [2]),
    ("MrcnnRoIAlign", "aligned", "INT32", [2]),
    ("MrcnnRoIAlign", "aligned", "INT8", [1]),
    ("MrcnnRoIAlign", "mode", "CHAR", "mean\0"),
    ("MrcnnRoIAlign", "mode", "INT32", [0]),
    ("MrcnnRoIAlign", "spatial_scales", "FLOAT32", [0.25] * 9),
    ("MrcnnRoIAlign", "spatial_scales", "FLOAT32", [0.25, -0.125]),
    ("MrcnnRoIAlign", "spatial_scales", "FLOAT64", [0.25]),
    ("MrcnnRoIAlign", "spatial_scales", "INT32", [1]),
    ("MrcnnRoIAlign", "canonical_size", "FLOAT32", [NAN]),
    ("MrcnnRoIAlign", "canonical_size", "INT32", [224]),
    ("MrcnnRoIAlign", "canonical_level", "INT32", [-1]),
    ("MrcnnRoIPool", "pooled_shape", "INT32", [7]),
    ("MrcnnRoIPool", "pooled_shape", "INT32", [7, 0]),
    ("MrcnnRoIPool", "pooled_shape", "FLOAT32", [7, 7]),
    ("MrcnnRoIPool", "spatial_scale", "FLOAT32", [0]),
    ("MrcnnNMS", "iou_threshold", "FLOAT32", [1.5]),
    ("MrcnnNMS", "iou_threshold", "FLOAT16", [0.5]),
    ("MrcnnNMS", "score_threshold", "FLOAT32", [NAN]),
    ("MrcnnNMS", "score_threshold", "INT32", [0]),
    ("MrcnnNMS", "max_output", "INT32", [0]),
    ("MrcnnNMS", "max_output", "FLOAT32", [100]),
]


def illegal_cases() -> dict[str, tuple[dict[str, Any], str]]:
    """Name -> case and the attribute that its refusal must name."""
    cases = {
        f"{op}.{name} {kind} {values}": (changed(op, name, kind, values), name)
        for op, name, kind, values in WRONG_VALUES
    }
    for op, fields in OPS.items():
        for given in fields:
            rest = [f for f in fields if f is not given]
            cases[f"{op} without {given[0]}"] = ({"op": op, "fields": rest}, given[0])
            cases[f"{op} with {given[0]} twice"] = ({"op": op, "fields": [*fields, given]}, given[0])
        extra = [*fields, ("pooled_size", "INT32", [7])]
        cases[f"{op} with pooled_size"] = ({"op": op, "fields": extra}, "pooled_size")
    return cases


ILLEGAL = illegal_cases()


def install(version: str) -> Path:
    """The folder of that version's packages, for PYTHONPATH; skips where they cannot be had."""
    folder = CACHE / f"{version}-py{sys.version_info.major}{sys.version_info.minor}"
    with locked(folder.with_name(f"{folder.name}.lock")):
        if folder.is_dir():
            return folder
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        options = [
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            "--retries",
            "1",
            "--timeout",
            "15",
        ]
        options += ["--no-deps", "--only-binary", ":all:", "--no-compile", "--target", str(part)]
        ran = subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, *(f"{name}=={version}" for name in PACKAGES)],
            capture_output=True,
            text=True,
        )
        if ran.returncode != 0:
            lines = ran.stderr.strip().splitlines() or ["pip says nothing"]
            pytest.skip(f"tensorrt-lean {version} cannot be installed: {lines[-1]}")
        part.rename(folder)
    return folder


@pytest.fixture(scope="module")
def incomplete(
    tmp_path_factory: pytest.TempPathFactory, compile_library: Callable[[Path, str], Path]
) -> dict[str, str]:
    """Libraries that a registry must refuse."""
    folder = tmp_path_factory.mktemp("incomplete")
    finder = 'extern "C" void setLoggerFinder(void*) {}\n'
    getter = 'extern "C" void* const* getCreators(int& count) { count = 0; return nullptr; }\n'
    sources = {"neither": "int nothing;\n", "no getCreators": finder, "no setLoggerFinder": getter}
    paths = {}
    for name, source in sources.items():
        (folder / name).mkdir()
        paths[name] = str(compile_library(folder / name, source))
    return {**paths, "no file": str(folder / "no_such_file.so")}


@pytest.fixture(scope="module", params=VERSIONS)
def report(request: pytest.FixtureRequest, plain_build: Build, incomplete: dict[str, str]) -> dict[str, Any]:
    """What `host/lean_registry.py` saw with that version."""
    packages = install(request.param)
    cases = [*LEGAL.values(), *(case for case, _ in ILLEGAL.values())]
    asked = {"library": str(plain_build.library), "refused": incomplete, "cases": cases}
    ran = subprocess.run(
        [sys.executable, str(HERE / "lean_registry.py")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(packages)},
    )
    assert ran.returncode == 0, f"status {ran.returncode}: {ran.stderr[-4000:]}"
    answer: dict[str, Any] = json.loads(ran.stdout)
    assert answer["version"] == request.param
    return answer


def legal(report: dict[str, Any], phase: str) -> dict[str, dict[str, Any]]:
    """Name -> what became of the legal case."""
    return dict(zip(LEGAL, report[phase][: len(LEGAL)], strict=True))


def test_loads(report: dict[str, Any]) -> None:
    assert report["loaded"]


def test_creators(report: dict[str, Any]) -> None:
    assert set(report["creators"]) == set(OPS)
    for op, creator in report["creators"].items():
        assert creator["version"] == "1"
        assert creator["kind"] == "PLUGIN CREATOR_V3ONE"
        assert creator["fields"] == [[name, kind, 1] for name, kind, _ in OPS[op]]


def test_lookup(report: dict[str, Any]) -> None:
    """Found by name, version 1 and namespace mrcnn, and in no other way."""
    right = {"right": True, "other version": False, "no namespace": False, "other name": False}
    assert report["found"] == dict.fromkeys(OPS, right)


@pytest.mark.parametrize("phase", ["BUILD", "RUNTIME"])
def test_legal_fields(report: dict[str, Any], phase: str) -> None:
    for name, answer in legal(report, phase).items():
        plugin, op = answer["plugin"], LEGAL[name]["op"]
        assert plugin is not None, f"{name}: {answer['stderr']}"
        assert answer["stderr"] == "", name
        assert plugin["identity"] == [op, "1", "mrcnn"], name
        assert plugin["num_outputs"] == {"MrcnnRoIAlign": 1, "MrcnnRoIPool": 1, "MrcnnNMS": 2}[op], name
        assert plugin["format_combination_limit"] >= 6, name
        assert plugin["kinds"] == ["PLUGIN", *(f"PLUGIN_V3ONE_{k}" for k in ("CORE", "BUILD", "RUNTIME"))], (
            name
        )


@pytest.mark.parametrize("phase", ["BUILD", "RUNTIME"])
@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_fields(report: dict[str, Any], case: str, phase: str) -> None:
    """No plugin, and one line that names the attribute."""
    answer = report[phase][len(LEGAL) + list(ILLEGAL).index(case)]
    (op, attribute) = ILLEGAL[case][0]["op"], ILLEGAL[case][1]
    assert answer["plugin"] is None
    assert answer["stderr"].startswith(f"mrcnn plugin: {op}: ")
    assert attribute in answer["stderr"]
    assert answer["stderr"].count("\n") == 1


def test_timing_cache_ids(report: dict[str, Any]) -> None:
    """Equal if and only if the attributes mean the same."""
    ids = {name: answer["plugin"]["timing_cache_id"] for name, answer in legal(report, "BUILD").items()}
    for name, other in SAME.items():
        assert ids.pop(name) == ids[other]
    assert all(ids.values())
    assert len(set(ids.values())) == len(ids)


def test_second_load(report: dict[str, Any]) -> None:
    """TensorRT refuses what is registered already, and the first registration stays."""
    assert not report["loaded_twice"]
    assert all(answer["plugin"] for answer in legal(report, "BUILD").values())


def test_deregister_and_reload(report: dict[str, Any]) -> None:
    assert report["creators_after_deregister"] == []
    assert not report["mapped_after_deregister"], (
        "the library stays in memory, so that no newer one can replace it"
    )
    assert report["reloaded"]
    assert report["creators_after_reload"] == report["creators"]
    assert report["after_reload"]["plugin"] == legal(report, "BUILD")["RoIAlign"]["plugin"]


def test_incomplete_libraries(report: dict[str, Any], incomplete: dict[str, str]) -> None:
    assert report["refused"] == dict.fromkeys(incomplete, True)
