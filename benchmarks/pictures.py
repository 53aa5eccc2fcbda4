"""A picture of where two programs disagree on an image."""

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mrcnn.benchmarks.agreement import ImageAgreement
from mrcnn.findings import Findings
from mrcnn.runtime.overlay import instance_color

Picture = NDArray[np.uint8]
Color = tuple[int, int, int]

# Orange and blue stay apart for colour-blind readers, too.
REFERENCE_COLOR: Color = (230, 97, 0)
EXPORTED_COLOR: Color = (26, 110, 255)

_PANEL_SIDE = 720
_CAPTION_HEIGHT = 32
_GAP = 8


def side_by_side(
    image: Picture, reference: Findings, exported: Findings, agreement: ImageAgreement
) -> Picture:
    """Reference | exported | difference, each captioned; (H, W, 3) uint8 RGB.

    In the third panel orange is what only the reference has, blue what only the exported model has: pixels
    that more of its masks cover, and the boxes of detections without a partner.

    Args:
        image: (height, width, 3) uint8 RGB.
    """
    counts = _coverage(reference, image), _coverage(exported, image)
    only_reference, only_exported = counts[0] > counts[1], counts[1] > counts[0]
    grey = np.repeat(image.mean(axis=2, keepdims=True) * 0.6 + 60, 3, axis=2)
    grey[only_reference], grey[only_exported] = REFERENCE_COLOR, EXPORTED_COLOR
    colors = {"reference": REFERENCE_COLOR, "exported": EXPORTED_COLOR}
    lone = [(one.box, colors[one.side]) for one in agreement.unmatched]
    pixels = int(only_reference.sum() + only_exported.sum())
    panels = (
        _panel(*_tinted(image, reference), f"PyTorch: {len(reference)} detections"),
        _panel(*_tinted(image, exported), f"exported: {len(exported)} detections"),
        _panel(grey, lone, f"difference: {pixels} mask pixels, {len(lone)} unmatched"),
    )
    gap = np.full((panels[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.hstack([panels[0], gap, panels[1], gap, panels[2]])


def _coverage(findings: Findings, image: Picture) -> NDArray[np.int32]:
    """How many masks cover each pixel, (height, width)."""
    count = np.zeros(image.shape[:2], np.int32)
    for rle in findings.rles or ():
        count += coco_mask.decode(rle)
    return count


def _tinted(image: Picture, findings: Findings) -> tuple[NDArray[Any], list[tuple[Any, Color]]]:
    """The image under its masks, and its boxes, each label in a colour of its own."""
    painted = image.astype(np.float32)
    colors = [instance_color(int(label)) for label in findings.labels]
    for rle, color in zip(findings.rles or (), colors, strict=False):
        inside = coco_mask.decode(rle).astype(bool)
        painted[inside] = 0.5 * painted[inside] + 0.5 * np.array(color, np.float32)
    return painted, list(zip(findings.boxes, colors, strict=True))


def _panel(picture: NDArray[Any], boxes: Iterable[tuple[Any, Color]], caption: str) -> Picture:
    scale = _PANEL_SIDE / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    canvas = cv2.resize(picture.astype(np.uint8), size, interpolation=way)
    for box, color in boxes:
        if np.isfinite(box).all():
            x1, y1, x2, y2 = (round(float(value) * scale) for value in box)
            cv2.rectangle(canvas, (x1, y1), (x2, y2), color, 1, cv2.LINE_AA)
    bar = np.full((_CAPTION_HEIGHT, canvas.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, caption, (4, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (30, 30, 30), 1, cv2.LINE_AA)
    return np.vstack([bar, canvas])
