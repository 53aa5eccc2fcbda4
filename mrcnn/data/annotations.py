"""What a COCO annotation must be before anything works with it.

pycocotools trusts what it is given: coordinates far outside the image end the process, damaged run lengths
keep it busy for ever, and run lengths of another size give wrong figures.
"""

from collections.abc import Mapping
from typing import Any

from mrcnn.errors import MrcnnError
from mrcnn.runtime.masks import CocoRle, parse_rle

# Larger numbers are no pixels, and their products leave the range of a float; NaN is not below it either.
_LARGEST = 1e12


def check_annotation(annotation: Mapping[str, Any], *, height: int, width: int) -> None:
    """Checks box, area, crowd flag, key points and segmentation of one annotation of an image of that size.

    All but the box may be absent; so may the content of the segmentation (`[]`, None).

    Raises:
        MrcnnError: something is wrong; the line lacks the file and the annotation.
    """
    box = annotation["bbox"]
    if len(box) != 4 or not all(map(_is_number, box)):
        raise MrcnnError(f"has a bbox that is not [x, y, width, height]: {_shown(box)}")
    if min(box[2:]) < 0:
        raise MrcnnError(f"has a bbox of negative size: {_shown(box)}")
    area, crowd = annotation.get("area", 0), annotation.get("iscrowd", 0)
    if not _is_number(area) or area < 0:
        raise MrcnnError(f"has an area that is no number of pixels: {_shown(area)}")
    if type(crowd) is not int or crowd not in (0, 1):
        raise MrcnnError(f"has an iscrowd that is neither 0 nor 1: {_shown(crowd)}")
    if "keypoints" in annotation:
        _check_keypoints(annotation["keypoints"])
    segmentation = annotation.get("segmentation")
    if segmentation in (None, []):
        return
    if isinstance(segmentation, list):
        for polygon in segmentation:
            _check_polygon(polygon, height, width)
    elif isinstance(segmentation, dict):
        _check_run_lengths(segmentation, height, width)
    else:
        raise MrcnnError(f"has a segmentation that is neither polygons nor an RLE: {_shown(segmentation)}")


def _check_keypoints(numbers: Any) -> None:
    if not isinstance(numbers, list) or not all(map(_is_number, numbers)) or len(numbers) % 3:
        raise MrcnnError(f"has keypoints that are no list of numbers x1, y1, v1, x2, …: {_shown(numbers)}")
    if not set(numbers[2::3]) <= {0, 1, 2}:
        raise MrcnnError(f"has keypoints whose visibility is not 0, 1 or 2: {_shown(numbers[2::3])}")


def _check_polygon(polygon: Any, height: int, width: int) -> None:
    if not isinstance(polygon, list) or not all(map(_is_number, polygon)):
        raise MrcnnError(f"has a polygon that is no list of numbers x1, y1, x2, y2, …: {_shown(polygon)}")
    if len(polygon) < 6 or len(polygon) % 2:
        raise MrcnnError(f"has a polygon of {len(polygon)} numbers: three points or more need 6, 8, 10, …")
    # Real polygons exceed the border a little. One image size is more than that, and harmless.
    for axis, side in (("x", width), ("y", height)):
        values = polygon[axis == "y" :: 2]
        if min(values) < -side or max(values) > 2 * side:
            raise MrcnnError(
                f"has a polygon far outside its image of {width}x{height} pixels: "
                f"{axis} from {min(values):g} to {max(values):g}"
            )


def _check_run_lengths(rle: dict[str, Any], height: int, width: int) -> None:
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width]:
        raise MrcnnError(f"has an RLE of the size {_shown(size)}, but its image has {[height, width]}")
    if isinstance(counts, str):
        try:
            parse_rle(CocoRle(size=[height, width], counts=counts))
        except MrcnnError as error:
            raise MrcnnError(f"has a damaged RLE: its text does not give {height}x{width} pixels") from error
    elif not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise MrcnnError(f"has an RLE whose counts are neither text nor whole numbers: {_shown(counts)}")
    elif sum(counts) != height * width:
        raise MrcnnError(f"has a damaged RLE: its counts do not add up to {height}x{width} pixels")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST


def _shown(value: Any) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
