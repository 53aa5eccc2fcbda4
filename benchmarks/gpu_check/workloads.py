"""What is timed: inputs like those of Mask R-CNN on an image of 800x1344, seeded. NumPy alone."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

IMAGE = (800, 1344)
STRIDES = (4, 8, 16, 32)
CHANNELS = 256

# Of the RPN: boxes that each level proposes; the coarsest has only 13 x 21 positions of 3 anchors.
LEVEL_BOXES = (1000, 1000, 1000, 1000, 819)
CLASSES = 91


def level_sizes() -> tuple[tuple[int, int], ...]:
    """(height, width) of each level of the pyramid, finest first."""
    return tuple((math.ceil(IMAGE[0] / stride), math.ceil(IMAGE[1] / stride)) for stride in STRIDES)


def proposals(count: int, seed: int) -> Floats:
    """(count, 4) xyxy, sides log-uniform in 16 … 700 pixels: about half go to the finest level, a tenth to
    the coarsest."""
    generator = np.random.default_rng(seed)
    sides = np.exp(generator.uniform(math.log(16), math.log(700), count))
    return _boxes_at(generator.uniform(0, 1, (count, 2)), sides, generator)


def touched_pixels(rois: Floats, output_size: int, sampling_ratio: int) -> int:
    """Pixels of the pyramid that pooling reads at least once: what must come from memory."""
    height, width = IMAGE
    side = np.sqrt((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1]))
    # Eqn. 1 of the FPN paper.
    levels = np.clip(np.floor(4 + np.log2(np.maximum(side, 1e-6) / 224) + 1e-6), 2, 5).astype(int) - 2
    steps = (np.arange(output_size * sampling_ratio) + 0.5) / (output_size * sampling_ratio)
    total = 0
    for level, (height, width) in enumerate(level_sizes()):
        read = np.zeros((height, width), bool)
        for x1, y1, x2, y2 in rois[levels == level] / STRIDES[level]:
            rows = _neighbours(y1 + steps * max(y2 - y1, 1), height)
            columns = _neighbours(x1 + steps * max(x2 - x1, 1), width)
            read[np.ix_(rows, columns)] = True
        total += int(read.sum())
    return total


def _neighbours(positions: NDArray[np.float64], size: int) -> NDArray[np.intp]:
    """The pixels beside these positions."""
    low = np.clip(positions[(positions >= -1) & (positions <= size)], 0, size - 1).astype(np.intp)
    return np.unique(np.concatenate([low, np.minimum(low + 1, size - 1)]))


def sampled_pixels(source: tuple[int, int], target: tuple[int, int]) -> int:
    """Pixels of an image of size `source` that a bilinear resize to `target` reads at least once."""
    read = []
    for pixels, result in zip(source, target, strict=True):
        positions = np.maximum((np.arange(result) + 0.5) * (pixels / result) - 0.5, 0)
        read.append(len(_neighbours(positions, pixels)))
    return math.prod(read)


@dataclass(frozen=True)
class Candidates:
    """Input of NMS for one image: boxes (N, 4) xyxy, scores (N,), no two equal, and group (N,).

    Boxes lie at whole pixels. Their areas are exact then, so that torchvision, which moves each group to a
    place of its own and fuses operations, comes to the same result and can be compared with.
    """

    boxes: Floats
    scores: Floats
    group: Ints


def rpn_candidates(seed: int) -> Candidates:
    """What the RPN hands to NMS: per level its best boxes, most of them around a few objects."""
    generator = np.random.default_rng(seed)
    parts = []
    for level, count in enumerate(LEVEL_BOXES):
        sides = 32 * 2.0**level * np.exp(generator.normal(0, 0.25, count))
        parts.append(_boxes_at(_around_objects(count, generator), sides, generator))
    group = np.repeat(np.arange(len(LEVEL_BOXES)), LEVEL_BOXES).astype(np.int32)
    boxes = np.round(np.concatenate(parts)).astype(np.float32)
    return Candidates(boxes, _distinct(len(group), generator), group)


def class_candidates(seed: int, *, confident: bool) -> Candidates:
    """What the box head hands to NMS: each of 1000 proposals once for each of 91 classes.

    Args:
        confident: scores as a trained head gives them, few above 0.05; else all of them are candidates.
    """
    generator = np.random.default_rng(seed)
    count = 1000
    sides = np.exp(generator.uniform(math.log(24), math.log(500), count))
    proposed = _boxes_at(_around_objects(count, generator), sides, generator)
    extent = np.tile(proposed[:, 2:] - proposed[:, :2], 2)[:, None]
    boxes = proposed[:, None] + generator.normal(0, 0.05, (count, CLASSES, 4)) * extent
    boxes = np.clip(np.round(boxes), 0, np.array([*IMAGE[::-1]] * 2))
    scores = _distinct(count * CLASSES, generator)
    if confident:
        logits = generator.normal(0, 1, (count, CLASSES))
        logits[:, 0] += 9  # background
        found = np.flatnonzero(generator.uniform(size=count) < 0.3)
        logits[found, generator.integers(1, min(9, CLASSES), len(found))] += 10
        shares = _softmax(logits)
        shares[:, 0] = 0  # nobody looks for the background
        scores = shares.reshape(-1).astype(np.float32)
    group = np.tile(np.arange(CLASSES), count).astype(np.int32)
    return Candidates(boxes.reshape(-1, 4).astype(np.float32), scores, group)


def _around_objects(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """(count, 2) places as shares of the image's width and height, two of three near one of 25 objects."""
    places = generator.uniform(0, 1, (25, 2))
    near = places[generator.integers(len(places), size=count)] + generator.normal(0, 0.01, (count, 2))
    anywhere = generator.uniform(0, 1, (count, 2))
    return np.clip(np.where(generator.uniform(size=(count, 1)) < 2 / 3, near, anywhere), 0, 1)


def _boxes_at(
    places: NDArray[np.float64], sides: NDArray[np.float64], generator: np.random.Generator
) -> Floats:
    """Boxes of sqrt(area) `sides` and ratios around 1, inside the image."""
    height, width = IMAGE
    stretch = np.exp(generator.normal(0, 0.3, len(sides)))
    half = np.stack([sides * stretch, sides / stretch], axis=1) / 2
    centre = places * (width, height)
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    return np.clip(boxes, 0, np.array([width, height] * 2, np.float32))


def _distinct(count: int, generator: np.random.Generator) -> Floats:
    """(count,) scores in 0 … 1 in random order, no two equal."""
    scores: Floats = (np.arange(1, count + 1) / (count + 1)).astype(np.float32)
    generator.shuffle(scores)
    return scores


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
    return result
