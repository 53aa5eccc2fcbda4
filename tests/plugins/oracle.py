"""RoIAlign and NMS as the definitions say them: slow, in plain Python, one value at a time."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def roi_align(
    features: Sequence[NDArray[Any]],
    rois: NDArray[np.float32],
    *,
    output_size: int,
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool = False,
    mode: str = "avg",
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> NDArray[np.float64]:
    """Positions in float32, as the kernels have them, values and sums in float64."""
    batch, channels = features[0].shape[:2]
    per_image = rois.shape[1]
    output = np.zeros((batch * per_image, channels, output_size, output_size))
    for n in range(batch * per_image):
        roi = rois.reshape(-1, 4)[n]
        level = level_of(roi, spatial_scales, canonical_size, canonical_level)
        image = features[level][n // per_image].astype(np.float64)
        scale = np.float32(spatial_scales[level])
        rows = axis(roi[1], roi[3], scale, aligned, output_size, sampling_ratio)
        columns = axis(roi[0], roi[2], scale, aligned, output_size, sampling_ratio)
        for y, in_y in enumerate(rows):
            for x, in_x in enumerate(columns):
                samples = [bilinear(image, row, column) for row in in_y for column in in_x]
                if samples:
                    pooled = np.mean(samples, axis=0) if mode == "avg" else np.max(samples, axis=0)
                    output[n, :, y, x] = pooled
    return output


def level_of(
    roi: NDArray[np.float32], scales: Sequence[float], canonical_size: float, canonical_level: int
) -> int:
    """Eqn. 1 of the FPN paper; only for RoIs that are not at the border between two levels."""
    area = float(roi[2] - roi[0]) * float(roi[3] - roi[1])
    if not area > 0 or not math.isfinite(area):
        return len(scales) - 1 if area == math.inf else 0
    level = math.floor(canonical_level + math.log2(math.sqrt(area) / canonical_size) + 1e-6)
    return min(max(level + round(math.log2(scales[0])), 0), len(scales) - 1)


def axis(
    low: np.float32, high: np.float32, scale: np.float32, aligned: bool, bins: int, sampling_ratio: int
) -> list[list[np.float32]]:
    """Per bin, where its samples lie."""
    with np.errstate(all="ignore"):
        offset = np.float32(0.5 if aligned else 0)
        start = low * scale - offset
        extent = high * scale - offset - start
        if not aligned and extent < 1:
            extent = np.float32(1)
        size = extent / np.float32(bins)
        if sampling_ratio > 0:
            count = sampling_ratio
        else:
            count = int(np.ceil(size)) if 1 <= np.ceil(size) <= 2**20 else 0
        return [
            [
                start + np.float32(b) * size + (np.float32(i) + np.float32(0.5)) * size / np.float32(count)
                for i in range(count)
            ]
            for b in range(bins)
        ]


def bilinear(image: NDArray[np.float64], y: np.float32, x: np.float32) -> NDArray[np.float64]:
    """(C,) at a position of an image (C, H, W): 0 more than a pixel outside, else clamped to its pixels."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(image))
    y, x = (np.clip(v, np.float32(0), np.float32(size - 1)) for v, size in ((y, height), (x, width)))
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = float(y) - top, float(x) - left
    value: NDArray[np.float64] = (
        (1 - down) * (1 - across) * image[:, top, left]
        + (1 - down) * across * image[:, top, right]
        + down * (1 - across) * image[:, bottom, left]
        + down * across * image[:, bottom, right]
    )
    return value


def nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    group: NDArray[np.int32],
    *,
    iou_threshold: float,
    score_threshold: float,
    max_output: int,
) -> list[int]:
    """One image: boxes (N, 4), scores (N,), group (N,) → indices, best first."""
    kept: list[int] = []
    candidates = [i for i in range(len(scores)) if scores[i] > score_threshold]
    for i in sorted(candidates, key=lambda i: (-float(scores[i]), i)):
        if len(kept) == max_output:
            break
        if not any(group[k] == group[i] and iou(boxes[k], boxes[i]) > iou_threshold for k in kept):
            kept.append(i)
    return kept


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> np.float32:
    """In float32, as torchvision computes it; NaN where it is 0/0."""
    zero = np.float32(0)
    with np.errstate(all="ignore"):
        width = max(zero, min(a[2], b[2]) - max(a[0], b[0]))
        height = max(zero, min(a[3], b[3]) - max(a[1], b[1]))
        intersection = width * height
        areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
        ratio: np.float32 = np.float32(intersection) / np.float32(areas - intersection)
    return ratio
