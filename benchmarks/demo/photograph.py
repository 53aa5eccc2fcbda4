"""The coins photograph that scikit-image ships, and where its coins lie.

Brooklyn Museum Collection, Greek coins from Pompeii; no known copyright restrictions. Nothing in this project
is trained on it.
"""

import numpy as np
from numpy.typing import NDArray

from mrcnn.runtime import Detections

# x and y of the centre and radius of each coin, in pixels: centroid and area of the regions that a watershed
# of the Sobel gradient gives (scikit-image's own example), looked over by eye. The coins are not quite round:
# the IoU of a region with its disc is between 0.90 and 0.98.
COINS = (
    (44.2, 54.3, 20.7),
    (100.2, 56.1, 18.7),
    (155.3, 50.8, 22.9),
    (215.2, 51.1, 22.7),
    (276.2, 52.4, 19.7),
    (334.7, 43.5, 28.8),
    (44.7, 124.2, 20.2),
    (102.3, 125.7, 18.7),
    (153.6, 127.2, 18.5),
    (205.3, 123.8, 19.6),
    (270.5, 118.8, 24.7),
    (336.2, 124.4, 19.3),
    (43.6, 197.4, 18.9),
    (101.7, 195.5, 21.6),
    (154.1, 197.8, 19.1),
    (212.4, 193.1, 23.5),
    (273.4, 193.5, 21.7),
    (347.0, 186.7, 31.6),
    (45.9, 259.8, 28.0),
    (113.9, 265.6, 21.2),
    (172.3, 261.2, 27.4),
    (244.0, 263.3, 23.7),
    (300.6, 263.2, 25.2),
    (358.2, 267.9, 21.7),
)

# Less than that of a mask that follows the rim, and about that of a disc shifted by a fifth of its radius.
LEAST_IOU = 0.75


def coins_photograph() -> NDArray[np.uint8]:
    """The photograph, (303, 384, 3) uint8; grey, so that RGB and BGR are the same."""
    from skimage import data

    return np.repeat(data.coins()[..., None], 3, axis=2)  # type: ignore[no-untyped-call]


def coins_found(detections: Detections, *, min_score: float) -> int:
    """How many of the coins some detection covers with a mask of an IoU of at least `LEAST_IOU`.

    Coins do not overlap, so that no mask can cover two of them.
    """
    height, width = detections.image_size
    y, x = np.mgrid[:height, :width]
    masks = detections.masks[detections.scores >= min_score]
    return sum(_covered(masks, (x - cx) ** 2 + (y - cy) ** 2 <= radius**2) for cx, cy, radius in COINS)


def _covered(masks: NDArray[np.bool_], disc: NDArray[np.bool_]) -> bool:
    overlap = (masks & disc).sum(axis=(1, 2))
    union = (masks | disc).sum(axis=(1, 2))
    return bool((overlap >= LEAST_IOU * union).any())
