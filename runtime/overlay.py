"""Detections drawn over their image."""

import colorsys
import math
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from mrcnn.errors import MrcnnError
from mrcnn.runtime.images import ImageLike, to_rgb
from mrcnn.runtime.masks import FloatArray
from mrcnn.runtime.result import Detections

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

Canvas = NDArray[np.uint8]
Color = tuple[int, int, int]

_MASK_OPACITY = 0.45
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_SMALLEST_TEXT = 7
# A heatmap's logit: less where a point is hidden or outside of the image. Detectron draws from 2, too.
_LEAST_POINT = 2.0
_OUTLINE: Color = (255, 255, 255)


def draw(
    image: ImageLike,
    detections: Detections,
    *,
    min_score: float = 0.0,
    min_point_score: float = _LEAST_POINT,
    color: str = "bgr",
) -> Canvas:
    """A copy of the image with masks or key points, boxes and labels drawn over it.

    Args:
        image: the image that was given to `Runtime.infer`.
        min_score: detections below are left out.
        min_point_score: of key points, logits; points below are left out, and lines to them.
        color: channel order of `image`, where it is an array, and of the result: "bgr" or "rgb".

    Returns:
        (height, width, 3) uint8.

    Raises:
        MrcnnError: the image is unreadable, or not of the size that the detections were found in.
    """
    canvas = np.array(to_rgb(image, color=color))
    height, width = canvas.shape[:2]
    if (height, width) != detections.image_size:
        raise MrcnnError(
            f"the detections belong to an image of {detections.image_size[1]}x{detections.image_size[0]} "
            f"pixels (got {width}x{height})"
        )
    # Scores fall along the list: drawn from the end, the surest come to lie on top.
    shown = [i for i in reversed(range(len(detections))) if detections.scores[i] >= min_score]
    # OpenCV takes 32-bit numbers; whatever lies this far outside is not to be seen.
    shown_boxes = _within_reach(detections.boxes.reshape(-1, 2, 2), width, height).reshape(-1, 4)
    thickness = max(1, round(math.sqrt(height * width) / 500))
    if detections.mask_probs is not None:
        for index in shown:
            _draw_mask(canvas, detections, index, thickness)
    for index in shown:
        x1, y1, x2, y2 = (round(side) for side in shown_boxes[index].tolist())
        cv2.rectangle(canvas, (x1, y1), (x2, y2), instance_color(index), thickness)
    if detections.keypoints is not None:
        points = _within_reach(detections.keypoints[..., :2], width, height)
        for index in shown:
            _draw_points(canvas, detections, index, points[index], thickness, min_point_score)
    for index in shown:
        _draw_label(canvas, detections, index)
    if color == "bgr":
        cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR, dst=canvas)
    return canvas


def instance_color(index: int) -> Color:
    """A colour (red, green, blue) for the detection at `index`; neighbours in the list differ strongly."""
    hue = (0.57 + index * _GOLDEN_RATIO) % 1
    saturation = (0.85, 0.6, 0.95)[index % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw_mask(canvas: Canvas, detections: Detections, index: int, thickness: int) -> None:
    left, top, crop = detections.run_lengths.crop(index)
    region = canvas[top : top + crop.shape[0], left : left + crop.shape[1]]
    tint = np.array(instance_color(index)) * _MASK_OPACITY
    region[crop] = region[crop] * (1 - _MASK_OPACITY) + tint
    outlines = detections.polygons[index]
    cv2.drawContours(canvas, outlines, -1, instance_color(index), thickness, cv2.LINE_AA)


def _within_reach(points: FloatArray, width: int, height: int) -> FloatArray:
    """Points (…, 2) x, y, moved to the image's surroundings where they are far outside."""
    size = np.array([width, height])
    reached: FloatArray = np.clip(points, -size - 99, 2 * size + 99)
    return reached


def _draw_points(
    canvas: Canvas,
    detections: Detections,
    index: int,
    points: FloatArray,
    thickness: int,
    min_point_score: float,
) -> None:
    """The skeleton between those of one detection's points (P, 2) that are sure enough."""
    rule, scores = detections.keypoint_rule, detections.keypoint_scores
    assert rule is not None
    assert scores is not None
    sure = scores[index] >= min_point_score
    places = [(round(x), round(y)) for x, y in points.tolist()]
    for first, second in rule.skeleton:
        if sure[first] and sure[second]:
            line = (places[first], places[second], instance_color(index), 2 * thickness, cv2.LINE_AA)
            cv2.line(canvas, *line)
    for place in (place for place, shown in zip(places, sure, strict=True) if shown):
        cv2.circle(canvas, place, 2 * thickness + 1, _OUTLINE, -1, cv2.LINE_AA)
        cv2.circle(canvas, place, 2 * thickness, instance_color(index), -1, cv2.LINE_AA)


def _draw_label(canvas: Canvas, detections: Detections, index: int) -> None:
    """The name and score on a coloured chip above the box, or inside it where the image ends."""
    height, width = canvas.shape[:2]
    text = f"{detections.class_names[detections.labels[index]]} {detections.scores[index]:.2f}"
    color = instance_color(index)
    size = round(min(max(math.sqrt(height * width) / 42, 11), 64))
    chip = _chip(text, color, size)
    if chip.shape[1] > width:
        chip = _chip(text, color, max(_SMALLEST_TEXT, size * width // chip.shape[1]))
    x1, y1 = (int(side) for side in detections.boxes[index, :2])
    x = min(max(x1, 0), max(0, width - chip.shape[1]))
    y = y1 - chip.shape[0] if y1 >= chip.shape[0] else max(y1, 0)
    y = min(y, max(0, height - chip.shape[0]))
    region = canvas[y : y + chip.shape[0], x : x + chip.shape[1]]
    region[:] = chip[: region.shape[0], : region.shape[1]]


def _chip(text: str, color: Color, size: int) -> Canvas:
    """`text` on `color`, (height, width, 3), in black or white, whichever is easier to read."""
    from PIL import Image, ImageDraw

    font = _font(size)
    padding = max(2, size // 4)
    _, top, _, bottom = font.getbbox("Åg")  # one height for every text
    width, height = math.ceil(font.getlength(text)), math.ceil(bottom - top)
    chip = Image.new("RGB", (width + 2 * padding, height + padding), color)
    # Perceived brightness of sRGB values, weights of ITU-R BT.601.
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 128
    ink = (0, 0, 0) if bright else (255, 255, 255)
    ImageDraw.Draw(chip).text((padding, padding // 2 - top), text, fill=ink, font=font)
    return np.array(chip)


@lru_cache(maxsize=16)
def _font(size: int) -> "FreeTypeFont | ImageFont":
    """Pillow's own typeface: no system has to bring one."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
