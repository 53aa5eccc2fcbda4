"""A calibration cache that was tampered with is one line, and nothing else's file is replaced by one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn.errors import MrcnnError
from mrcnn.export.precision.cache import StaleCacheError, check_destination, load_cache, save_cache
from mrcnn.export.precision.statistics import BINS, Statistics

BINDING = {"weights": "w", "graph": "g", "images": "i", "settings": "s"}
CHANNELS = {"a": 2, "b": None}


def statistics(means: Any = (0.5, -0.5), **fields: Any) -> Statistics:
    counts = np.zeros(BINS, np.int64)
    counts[[0, BINS // 2, BINS - 1]] = 3
    plain: dict[str, Any] = {"low": -1.0, "high": 1.0, "counts": counts, "elements": 9.0}
    return Statistics(**(plain | fields), means=None if means is None else np.array(means, np.float32))


def written(path: Path, **fields: Any) -> Path:
    save_cache(path, {"a": statistics(**fields), "b": statistics(means=None)}, BINDING)
    return path


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    assert load_cache(tmp_path / "none", BINDING, channels=CHANNELS) is None
    found = load_cache(written(tmp_path / "c"), BINDING, channels=CHANNELS)
    assert found is not None
    assert (found["a"].low, found["a"].high, found["a"].elements) == (-1, 1, 9)
    assert found["a"].means == pytest.approx([0.5, -0.5])
    assert found["b"].means is None
    assert (found["a"].counts == statistics().counts).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"means": [np.nan, 0]},
        {"means": [1e30, 0]},
        {"means": [0.5]},
        {"means": [0.5, 0.5, 0.5]},
        {"elements": 0},
        {"elements": -5.0},
        {"elements": np.inf},
        {"elements": np.nan},
        {"low": 2.0},
        {"low": np.nan},
        {"low": -1e308, "high": 1e308},
        {"low": 0.9},
        {"high": -0.9},
        {"counts": np.zeros(BINS, np.int64)},
    ],
)
def test_numbers_that_no_picture_gives_are_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(MrcnnError, match="not a calibration cache, or a damaged one"):
        load_cache(written(tmp_path / "c", **fields), BINDING, channels=CHANNELS)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("weights", "other weights"),
        ("images", "other pictures, or another --calib-limit"),
        ("graph", "another graph"),
    ],
)
def test_a_cache_of_something_else_is_refused(key: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(StaleCacheError, match=f"was made from {words}: --recalibrate"):
        load_cache(written(tmp_path / "c"), BINDING | {key: "other"}, channels=CHANNELS)


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Its arrays, of which the header is a dict, written again."""

    def edit(path: Path) -> None:
        with np.load(path) as file:
            arrays: dict[str, Any] = dict(file)
        arrays["header"] = json.loads(arrays["header"].tobytes())
        change(arrays)
        arrays["header"] = np.frombuffer(json.dumps(arrays["header"]).encode(), np.uint8)
        with path.open("wb") as out:
            np.savez_compressed(out, **arrays)

    return edit


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[60:160] = bytes(byte ^ 0xFF for byte in content[60:160])
    path.write_bytes(content)


def _directory(offset: int, value: int) -> Callable[[Path], object]:
    """Every entry of the archive's directory with this byte."""

    def edit(path: Path) -> None:
        content = bytearray(path.read_bytes())
        place = content.find(b"PK\x01\x02")
        while place >= 0:
            content[place + offset] = value
            place = content.find(b"PK\x01\x02", place + 4)
        path.write_bytes(content)

    return edit


@pytest.mark.parametrize(
    "tamper",
    [
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n"),
        lambda path: path.write_bytes(path.read_bytes().replace(b"header", b"hunter")),
        _flip,
        _directory(10, 99),  # compressed in a way that there is not
        _directory(8, 1),  # encrypted
        _edit(lambda d: d["header"]["values"][0].update(low=-(10**400))),
        _edit(lambda d: d["header"].update(values={"a": 1})),
        _edit(lambda d: d["header"].update(values=[]) or d.update(counts=d["counts"][:0])),
        _edit(lambda d: d["header"].update(binding=[1])),
        _edit(lambda d: d["header"]["values"][0].update(name="c")),
        _edit(lambda d: d.update(counts=-d["counts"].astype(np.int64))),
        _edit(lambda d: d.update(counts=d["counts"].astype(np.float32))),
        _edit(lambda d: d.update(means0=np.array(["x", "y"]))),
        _edit(lambda d: d.pop("means0")),
    ],
)
def test_what_was_tampered_with_is_refused(tamper: Callable[[Path], object], tmp_path: Path) -> None:
    tamper(written(tmp_path / "c"))
    with pytest.raises(MrcnnError, match="not a calibration cache, or a damaged one"):
        load_cache(tmp_path / "c", BINDING, channels=CHANNELS)


def test_only_a_cache_is_replaced(tmp_path: Path) -> None:
    check_destination(written(tmp_path / "c"))
    check_destination(tmp_path / "none")
    for content in (b"", b'{"images": []}', b"PK\x03\x04" + bytes(60)):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(MrcnnError, match="no calibration cache, so it is not replaced"):
            check_destination(tmp_path / "other")
