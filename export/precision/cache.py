"""Statistics in a file, bound to the weights, the pictures and the settings that they come from."""

import io
import json
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn.errors import MrcnnError
from mrcnn.export.precision.statistics import BINS, Statistics
from mrcnn.files import atomic_path, read_regular

# A file of one of our largest models has a few megabytes.
_LARGEST = 256 << 20
_FORMAT = 1

# What NumPy and our own reading raise for a file that was tampered with.
_DAMAGE = (
    ValueError,
    KeyError,
    TypeError,
    OSError,
    EOFError,
    zipfile.BadZipFile,
    RecursionError,
    MemoryError,
)

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


def load_cache(
    path: Path, binding: Mapping[str, str], *, names: Collection[str]
) -> dict[str, Statistics] | None:
    """The statistics in the file, which are of values with these names; None where there is no file.

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
                if not statistics or not statistics.keys() <= set(names):
                    raise ValueError("names")
                return statistics
    except _DAMAGE as error:
        raise MrcnnError(f"{path}: not a calibration cache, or a damaged one: {remedy}") from error
    origin = other[0] if other else _BINDINGS["settings"]
    raise StaleCacheError(f"{path}: was made from {origin}: {remedy}", origin)


def _statistics(values: Any, arrays: Any) -> dict[str, Statistics]:
    counts = arrays["counts"].astype(np.int64)
    if counts.shape != (len(values), BINS):
        raise ValueError("counts")
    result = {}
    for number, value in enumerate(values):
        statistics = Statistics(
            low=float(value["low"]),
            high=float(value["high"]),
            counts=counts[number],
            elements=float(value["elements"]),
            means=arrays[f"means{number}"].astype(np.float32) if value["has_means"] else None,
        )
        if not np.isfinite([statistics.low, statistics.high]).all() or statistics.low > statistics.high:
            raise ValueError("range")
        result[str(value["name"])] = statistics
    return result
