"""From the statistics of a value to the range that its 8 bits are to cover.

A wide range clips nothing and makes the steps coarse, a narrow one the other way round. All but "minmax"
trade one for the other.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mrcnn.export.precision.statistics import BINS, Statistics

Range = tuple[float, float]

# Share of elements that "percentile" leaves outside, on each side.
_OUTSIDE = 1e-4

# Shares of the full range that "mse" tries.
_SHRINKS = np.linspace(0.2, 1.0, 81)

# Of TensorRT's calibrator: bins of the histogram of magnitudes, and levels of a signed byte without its sign.
_ENTROPY_BINS, _ENTROPY_LEVELS = 2048, 128


def minmax(statistics: Statistics, *, symmetric: bool) -> Range:  # noqa: ARG001 - as the others
    """All that was seen."""
    return statistics.low, statistics.high


def percentile(statistics: Statistics, *, symmetric: bool) -> Range:
    """All but the outermost 0.01 % on each side; of magnitudes where `symmetric`."""
    if symmetric:
        counts = _magnitudes(statistics)
        limit = float((np.searchsorted(np.cumsum(counts), (1 - _OUTSIDE) * counts.sum()) + 1) / len(counts))
        return _clipped(statistics, limit * statistics.limit)
    total = np.cumsum(statistics.counts)
    first = np.searchsorted(total, _OUTSIDE * total[-1], side="right")
    last = np.searchsorted(total, (1 - _OUTSIDE) * total[-1])
    edges = np.linspace(-statistics.limit, statistics.limit, BINS + 1)
    return max(statistics.low, float(edges[first])), min(statistics.high, float(edges[last + 1]))


def mse(statistics: Statistics, *, symmetric: bool) -> Range:
    """The range with the least squared error between values and their 8-bit selves."""
    best = min(_SHRINKS, key=lambda share: _squared_error(statistics, _scaled(statistics, share), symmetric))
    return _scaled(statistics, best)


def entropy(statistics: Statistics, *, symmetric: bool) -> Range:  # noqa: ARG001 - magnitudes in any case
    """The threshold at which the histogram of magnitudes loses least information (Kullback-Leibler).

    As TensorRT's former calibrator (Migacz, 8-bit Inference with TensorRT, 2017).
    """
    counts = _magnitudes(statistics).reshape(_ENTROPY_BINS, -1).sum(1).astype(np.float64)
    counts[0] = 0  # zeros, which ReLU makes most of, are exact in any range
    divergences = {bins: _divergence(counts, bins) for bins in range(_ENTROPY_LEVELS, _ENTROPY_BINS + 1, 16)}
    best = min(divergences, key=lambda bins: divergences[bins])
    return _clipped(statistics, best / _ENTROPY_BINS * statistics.limit)


OBSERVERS: dict[str, Callable[..., Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def _magnitudes(statistics: Statistics) -> NDArray[np.int64]:
    half = BINS // 2
    return statistics.counts[half:] + statistics.counts[:half][::-1]


def _clipped(statistics: Statistics, limit: float) -> Range:
    return max(statistics.low, -limit), min(statistics.high, limit)


def _scaled(statistics: Statistics, share: float) -> Range:
    return statistics.low * float(share), statistics.high * float(share)


def _squared_error(statistics: Statistics, extent: Range, symmetric: bool) -> float:
    low, high = min(extent[0], 0.0), max(extent[1], 0.0)
    if symmetric:
        low, high, levels = -max(-low, high), max(-low, high), 254
    else:
        levels = 255
    step = (high - low) / levels or 1.0
    centres = statistics.centres
    rounded = np.clip(np.rint((centres - low) / step), 0, levels) * step + low
    return float((statistics.counts * (centres - rounded) ** 2).sum())


def _divergence(counts: NDArray[np.float64], bins: int) -> float:
    """KL divergence of the first `bins`, with all beyond in the last, from themselves in few levels."""
    reference = counts[:bins].copy()
    reference[-1] += counts[bins:].sum()
    if not reference.sum():
        return np.inf
    level = np.arange(bins) * _ENTROPY_LEVELS // bins
    filled = counts[:bins] > 0
    sums = np.bincount(level, counts[:bins], _ENTROPY_LEVELS)
    members = np.bincount(level, filled, _ENTROPY_LEVELS)
    spread = np.where(filled, sums[level] / np.maximum(members[level], 1), 0)
    if not spread.sum():
        return np.inf
    p, q = reference / reference.sum(), spread / spread.sum()
    present = p > 0
    return float((p[present] * np.log(p[present] / np.maximum(q[present], 1e-9))).sum())
