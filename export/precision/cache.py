"""Statistics in a file, bound to the weights, the pictures and the settings that they come from."""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn.errors import MrcnnError
from mrcnn.export.precision.statistics import BINS, Statistics
from mrcnn.files import atomic_path, read_regular

# A file of one of our largest models has a few megabytes.
_LARGEST = 256 << 20
_FORMAT = 1
_MOST = float(np.finfo(np.float32).max)
_LEAST = 1e-30

# What zipfile, NumPy and our own reading raise for a file that was tampered with.
_DAMAGE = (
    ValueError,
    LookupError,
    TypeError,
    OSError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
# How such a file begins: a ZIP archive with the header in front.
_START = (b"PK\x03\x04", b"header.npy")

# Key of the binding → what it is to a user.
_BINDINGS = {
    "weights": "other weights",
    "graph": "another graph",
    "images": "other pictures, or another --calib-limit",
    "settings": "another version of mrcnn or of its settings",
}


class StaleCacheError(MrcnnError):
    """A cache that was made from something else.

    Attributes:
        origin: what that is, as "other weights".
    """

    def __init__(self, message: str, origin: str) -> None:
        super().__init__(message)
        self.origin = origin


def save_cache(path: Path, statistics: Mapping[str, Statistics], binding: Mapping[str, str]) -> None:
    """Writes statistics with what they depend on.

    Raises:
        MrcnnError: the file cannot be written.
    """
    names = sorted(statistics)
    header = {
        "format": _FORMAT,
        "binding": dict(binding),
        "values": [
            {
                "name": name,
                "low": statistics[name].low,
                "high": statistics[name].high,
                "elements": statistics[name].elements,
                "has_means": statistics[name].means is not None,
            }
            for name in names
        ],
    }
    arrays: dict[str, Any] = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
    arrays["counts"] = np.stack([statistics[name].counts for name in names]).astype(np.uint32)
    for number, name in enumerate(names):
        if (means := statistics[name].means) is not None:
            arrays[f"means{number}"] = means
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getvalue())


def check_destination(path: Path) -> None:
    """Refuses a file that holds something else than a cache, which would be lost.

    Raises:
        MrcnnError: it does, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        return
    except OSError as error:
        raise MrcnnError(f"{path}: {error.strerror or error}") from error
    if not (start.startswith(_START[0]) and _START[1] in start):
        raise MrcnnError(
            f"{path}: is there and no calibration cache, so it is not replaced: name another file "
            "with --calib-cache"
        )


def load_cache(
    path: Path, binding: Mapping[str, str], *, channels: Mapping[str, int | None]
) -> dict[str, Statistics] | None:
    """The statistics in the file; None where there is no file.

    Args:
        channels: of each value that may be in it; None for one that is read by no layer.

    Raises:
        StaleCacheError: it was made from something else.
        MrcnnError: the file is damaged.
    """
    try:
        content = read_regular(path, most_bytes=_LARGEST)
    except FileNotFoundError:
        return None
    remedy = "--recalibrate replaces it, --calib-cache names another"
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            found = header["binding"]
            other = [what for key, what in _BINDINGS.items() if found[key] != binding[key]]
            if not other and header["format"] == _FORMAT:
                statistics = _statistics(header["values"], arrays)
                if not statistics or not statistics.keys() <= channels.keys():
                    raise ValueError("names")
                for name, one in statistics.items():
                    _check(one, channels[name])
                return statistics
    except _DAMAGE as error:
        raise MrcnnError(f"{path}: not a calibration cache, or a damaged one: {remedy}") from error
    origin = other[0] if other else _BINDINGS["settings"]
    raise StaleCacheError(f"{path}: was made from {origin}: {remedy}", origin)


def _statistics(values: Any, arrays: Any) -> dict[str, Statistics]:
    counts = arrays["counts"]
    if counts.shape != (len(values), BINS) or counts.dtype.kind != "u":
        raise ValueError("counts")
    counts = counts.astype(np.int64)
    result = {}
    for number, value in enumerate(values):
        statistics = Statistics(
            low=float(value["low"]),
            high=float(value["high"]),
            counts=counts[number],
            elements=float(value["elements"]),
            means=arrays[f"means{number}"].astype(np.float32) if value["has_means"] else None,
        )
        result[str(value["name"])] = statistics
    return result


def _check(statistics: Statistics, channels: int | None) -> None:
    """Raises ValueError for numbers that no picture can give."""
    low, high, limit = statistics.low, statistics.high, statistics.limit
    if not -_MOST <= low <= high <= _MOST:
        raise ValueError("range")
    if not 0 < statistics.elements < np.inf:
        raise ValueError("elements")
    # What was kept lies between the extremes, but for the width of a bin.
    seen = statistics.centres[statistics.counts > 0]
    slack = 2 * max(limit, _LEAST) / BINS
    if not len(seen) or seen[0] < low - slack or seen[-1] > high + slack:
        raise ValueError("counts")
    if statistics.means is None:
        return
    if channels is None or statistics.means.shape != (channels,):
        raise ValueError("channels")
    slack = 1e-3 * max(limit, _LEAST)
    if not ((statistics.means >= low - slack) & (statistics.means <= high + slack)).all():
        raise ValueError("means")
