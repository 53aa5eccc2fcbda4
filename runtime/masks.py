"""Instance masks: from the network's M x M probabilities to full-size masks, as run lengths.

torchvision's `paste_masks_in_image` interpolates each mask to the size of its box and paints it into an
image of its own, which for 100 detections on a large image means hundreds of millions of pixels, of
which the caller then keeps "> 0.5". Here the same masks come out without painting: down one column of
pixels the interpolated mask is a chain of straight lines between the mask's M samples ("knots"), so that
the places where it crosses 0.5 follow from a division each. Those places, column after column, are
COCO's run lengths.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from mrcnn.errors import MrcnnError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

THRESHOLD = HALF = np.float32(0.5)

# Columns of pixels that are worked on at a time, so that their arrays stay in the cache.
_CHUNK = 1 << 12

# Of one painted mask: 2 GiB, a byte each.
_MAX_PIXELS = 1 << 31

_FAR = np.float32(1 << 40)

# Of one number in COCO's text: 30 bits. Longer ones overflow the 32 bits that pycocotools has for them.
_MOST_CHARACTERS = 6


class CocoRle(TypedDict):
    """COCO's compressed run-length encoding, as in its JSON files. `size` is [height, width]."""

    size: list[int]
    counts: str


@dataclass(frozen=True, eq=False)
class RunLengths:
    """The masks of one image, each as alternating lengths of outside and inside runs, outside first.

    Pixels are counted column by column, as COCO does.

    Attributes:
        counts: int64 (total,), the run lengths of all masks, one after the other.
        offsets: int64 (n + 1,), where each mask's runs begin and end in `counts`.
        size: (height, width) of the image.
    """

    counts: IntArray
    offsets: IntArray
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> IntArray:
        """The run lengths of one mask."""
        return self.counts[self.offsets[index] : self.offsets[index + 1]]

    def to_coco(self) -> list[CocoRle]:
        """Each mask as COCO's RLE dictionary, equal to what `pycocotools.mask.encode` gives, as str."""
        size = list(self.size)
        return [CocoRle(size=size.copy(), counts=text) for text in _compress(self.counts, self.offsets)]

    def crop(self, index: int) -> tuple[int, int, BoolArray]:
        """One mask's left column, top row, and the bitmap of its bounding box (empty for an empty mask)."""
        height = self.size[0]
        runs = self[index]
        if not runs[1::2].any():
            return 0, 0, np.zeros((0, 0), np.bool_)
        ends = np.cumsum(runs)
        # The last outside run, if there is one, ends the list.
        first, last = ends[0], ends[-1 - len(ends) % 2]
        left, right = int(first // height), int((last - 1) // height) + 1
        ends = np.minimum(ends - left * height, (right - left) * height)
        columns = np.repeat(np.arange(len(ends)) % 2 == 1, np.diff(ends, prepend=0)).reshape(-1, height)
        rows = np.flatnonzero(columns.any(axis=0))
        top = int(rows[0])
        return left, top, columns[:, top : rows[-1] + 1].T

    def bitmaps(self) -> BoolArray:
        """All masks painted, bool (n, height, width)."""
        painted = np.zeros((len(self), *self.size), np.bool_)
        for index, canvas in enumerate(painted):
            left, top, crop = self.crop(index)
            canvas[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        return painted


def paste_masks(probs: FloatArray, boxes: FloatArray, image_size: tuple[int, int]) -> RunLengths:
    """Full-size masks of detections: where torchvision's `paste_masks_in_image` exceeds 0.5.

    The pixel nearest to a crossing is decided with torch's own float32 arithmetic, so that masks equal
    torchvision's, except for pixels whose value is 0.5 to float32 rounding.

    Args:
        probs: (n, M, M), probability of the object, row by row.
        boxes: (n, 4) xyxy, in pixels of the image. They may reach over its edges.
        image_size: (height, width).
    """
    area = image_size[0] * image_size[1]
    # One more than the pixels of a mask keeps "after the last pixel" apart from "the next mask's first".
    starts = np.arange(len(probs)) * (area + 1)
    toggles = np.concatenate([np.zeros(0, np.int64), *_toggles(probs, boxes, image_size, starts)])
    toggles.sort(kind="stable")  # rounding aside they are in order, which makes this sort linear
    toggles = _drop_pairs(toggles)
    place = np.searchsorted(toggles, starts + area)
    toggles = np.delete(toggles, place[np.append(toggles, -1)[place] == starts + area])

    first = np.searchsorted(toggles, starts)
    # A mask's runs lie between its start, its toggles and its end.
    counts = np.diff(np.insert(toggles, first, starts), append=len(starts) * (area + 1))
    offsets = np.append(first, len(toggles)) + np.arange(len(starts) + 1)
    counts[offsets[1:] - 1] -= 1
    return RunLengths(counts=counts, offsets=offsets, size=image_size)


def _toggles(
    probs: FloatArray, boxes: FloatArray, image_size: tuple[int, int], starts: IntArray
) -> Iterator[IntArray]:
    """Where masks go from outside to inside or back, counting pixels column by column from `starts`.

    Toggles at the same place annul each other in pairs.
    """
    height, width = image_size
    if len(probs) == 0:
        return
    side = probs.shape[1] + 2
    knots = np.zeros((len(probs), side, side), np.float32)
    knots[:, 1:-1, 1:-1] = probs.transpose(0, 2, 1)
    knots = knots.reshape(-1, side)  # one row per column of knots
    left, top, box_width, box_height = _paste_windows(boxes, side / (side - 2))
    scale_x = np.float32(side) / box_width.astype(np.float32)
    scale_y = np.float32(side) / box_height.astype(np.float32)

    # The pixel columns of all masks, one after the other.
    begin, end = np.clip(left, 0, width), np.clip(left + box_width, 0, width)
    mask = np.repeat(np.arange(len(probs)), end - begin)
    x = np.arange(len(mask)) + (end - np.cumsum(end - begin))[mask]
    for start in range(0, len(mask), _CHUNK):
        m, column = mask[start : start + _CHUNK], x[start : start + _CHUNK]
        position = _position((column - left[m]).astype(np.float32), scale_x[m])
        knot = np.minimum(position.astype(np.int64), side - 2)
        weight = _weight(position, knot.astype(np.float32))[:, None]
        knot += m * side
        profile = _lerp(knots.take(knot, axis=0), knots.take(knot + 1, axis=0), weight)

        # One flat list of knots: the first and the last of a column are outside, so that no crossing
        # lies between columns.
        profile = profile.ravel()
        inside = profile > THRESHOLD
        above = np.flatnonzero(inside[1:] != inside[:-1])
        line, row = np.divmod(above, side)
        upper, lower = profile[above], profile[above + 1]
        scale = scale_y[m][line]
        crossing = row.astype(np.float32) + (THRESHOLD - upper) / (lower - upper)
        nearest = np.rint((crossing + HALF) / scale - HALF)
        value = _lerp(upper, lower, _weight(_position(nearest, scale), row.astype(np.float32)))
        toggle = nearest.astype(np.int64) + ((value > THRESHOLD) != (lower > THRESHOLD))
        y = np.clip(toggle + top[m][line], 0, height)
        yield (starts[m] + column * height)[line] + y


def _paste_windows(boxes: FloatArray, scale: float) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Left, top, width and height of the pixels that each padded mask covers.

    torchvision's `expand_boxes` and `paste_mask_in_image`, with their float32 steps and truncation.
    """
    half = (boxes[:, 2:] - boxes[:, :2]) * HALF * np.float32(scale)
    centre = (boxes[:, 2:] + boxes[:, :2]) * HALF
    # Far outside of every image, yet within int64.
    low, high = (np.clip(side, -_FAR, _FAR).astype(np.int64) for side in (centre - half, centre + half))
    size = np.maximum(high - low + 1, 1)
    return low[:, 0], low[:, 1], size[:, 0], size[:, 1]


def _position(pixel: FloatArray, scale: FloatArray) -> FloatArray:
    """Where pixels lie among the knots (ATen, `area_pixel_compute_source_index`, in float32)."""
    return np.maximum(scale * (pixel + HALF) - HALF, np.float32(0))


def _weight(position: FloatArray, knot: FloatArray) -> FloatArray:
    """The share, 0…1, of the knot after `knot` at a position."""
    weight: FloatArray = np.clip(position - knot, np.float32(0), np.float32(1))
    return weight


def _lerp(first: FloatArray, second: FloatArray, weight: FloatArray) -> FloatArray:
    return (1 - weight) * first + weight * second


def _drop_pairs(values: IntArray) -> IntArray:
    """Of sorted values those that occur an odd number of times, once each."""
    first = np.ones(len(values), np.bool_)
    first[1:] = values[1:] != values[:-1]
    starts = np.flatnonzero(first)
    odd = np.diff(np.append(starts, len(values))) % 2 == 1
    kept: IntArray = values[starts[odd]]
    return kept


def _compress(counts: IntArray, offsets: IntArray) -> list[str]:
    """Run lengths to COCO's text, for many masks at once (`rleToString` in cocoapi's maskApi.c).

    From the fourth on, a run is written as its difference from the one before the last. A number goes,
    lowest bits first, into characters of five bits and a sixth that says that more follow; its sign is
    that of the last character's fifth bit.
    """
    numbers = counts.copy()
    numbers[2:] -= counts[:-2]
    heads = offsets[:-1, None] + np.arange(3)
    heads = heads[heads < offsets[1:, None]]
    numbers[heads] = counts[heads]

    magnitude = numbers ^ (numbers >> 63)
    lengths = np.ones(len(numbers), np.int8)
    for bits in range(4, int(magnitude.max(initial=0)).bit_length(), 5):
        lengths += magnitude >= 1 << bits
    ends = np.cumsum(lengths, dtype=np.int64)
    text = np.empty(ends[-1] if len(ends) else 0, np.uint8)
    position = ends - lengths
    while len(numbers):
        more = lengths > 1
        text[position] = (numbers & 31 | more * 32) + 48
        rest = np.flatnonzero(more)
        numbers, position, lengths = numbers[rest] >> 5, position[rest] + 1, lengths[rest] - 1

    limits = np.concatenate([[0], ends])[offsets].tolist()
    characters = text.tobytes().decode("ascii")
    return [characters[a:b] for a, b in pairwise(limits)]


def decode_rle(rle: CocoRle) -> BoolArray:
    """The mask (height, width) of one of COCO's RLE dictionaries, for example from a results file.

    Raises:
        MrcnnError: this is no such dictionary, or its text no run-length encoding of an image of that size.
    """
    bitmap: BoolArray = parse_rle(rle).bitmaps()[0]
    return bitmap


def parse_rle(rle: CocoRle) -> RunLengths:
    """The same mask as run lengths, checked, and cheap where its pixels are not needed. Raises the same."""
    size, text = (rle.get("size"), rle.get("counts")) if isinstance(rle, dict) else (None, None)
    pair = isinstance(size, list | tuple) and len(size) == 2
    if not (pair and all(type(side) is int and side > 0 for side in size) and isinstance(text, str)):
        raise MrcnnError('an RLE must be {"size": [height, width], "counts": text}, as COCO has it')
    height, width = size
    if height * width > _MAX_PIXELS:
        raise MrcnnError(f"an RLE of {height}x{width} pixels is too large to be painted")
    counts = _decompress(text)
    if counts.min(initial=0) < 0 or counts.sum() != height * width:
        raise MrcnnError(f"this RLE does not describe a mask of {height}x{width} pixels")
    return RunLengths(counts=counts, offsets=np.array([0, len(counts)]), size=(height, width))


def _decompress(text: str) -> IntArray:
    """The inverse of `_compress` for one mask; empty for a text that is none."""
    characters = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not (text and text.isascii()) or characters.min() < 0 or characters.max() > 63 or characters[-1] & 32:
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(characters & 32 == 0) + 1
    starts = np.concatenate([[0], ends[:-1]])
    if (ends - starts).max() > _MOST_CHARACTERS:
        return np.zeros(0, np.int64)
    place = 5 * (np.arange(len(characters)) - np.repeat(starts, ends - starts))
    numbers = np.add.reduceat((characters & 31) << place, starts)
    negative = characters[ends - 1] & 16 != 0
    numbers[negative] -= 1 << (5 * (ends - starts)[negative])
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
