"""The coins photograph that scikit-image ships, and where its coins lie.

Greek coins from Pompeii, Brooklyn Museum Collection; no known copyright restrictions. Nothing in this project
is trained on it.
"""

import numpy as np
from numpy.typing import NDArray

from mrcnn.runtime import Detections

# The 24 coins as ellipses: around what is brighter than the ground in a box read off by hand, then compared
# with the rims by eye, at four times the size. x and y of the centre and the half-axes in pixels, the angle
# of the first axis in degrees.
COINS = np.array(
    [
        (44.7, 54.8, 22.8, 19.6, 169.3),
        (100.8, 56.8, 20.1, 18.0, -174.4),
        (155.7, 51.4, 23.9, 22.6, -171.1),
        (215.7, 51.7, 24.1, 22.0, -179.7),
        (276.6, 53.0, 21.1, 19.1, -171.0),
        (335.3, 43.8, 30.0, 28.4, -177.2),
        (45.4, 125.0, 21.5, 20.2, 144.2),
        (102.8, 126.0, 19.7, 18.2, 155.4),
        (154.1, 127.7, 20.2, 17.7, 175.3),
        (205.8, 124.2, 20.9, 19.2, 154.9),
        (271.2, 119.6, 26.0, 24.3, 179.2),
        (336.9, 125.0, 20.1, 19.5, 144.4),
        (44.0, 197.4, 19.4, 18.8, -165.4),
        (102.2, 196.0, 22.5, 21.5, -176.6),
        (154.6, 198.2, 19.9, 19.1, 178.0),
        (213.1, 193.6, 24.4, 23.5, -177.4),
        (274.4, 194.4, 24.1, 21.3, -144.7),
        (347.8, 187.0, 32.8, 31.2, -175.4),
        (46.4, 260.4, 29.0, 27.8, 160.8),
        (114.3, 266.1, 22.0, 21.0, -173.3),
        (172.9, 261.7, 29.1, 26.1, -178.0),
        (244.5, 263.7, 24.7, 23.4, 161.4),
        (301.5, 263.6, 26.8, 24.2, 147.7),
        (358.6, 268.5, 23.2, 20.8, 179.9),
    ]
)

# A ring one pixel wide around a coin of radius 22 is 9 % of its area, and the coins are not quite ellipses.
RIM_IOU = 0.85


def coins_photograph() -> NDArray[np.uint8]:
    """The photograph, (303, 384, 3) uint8; grey, so that RGB and BGR are the same."""
    from skimage import data

    return np.repeat(data.coins()[..., None], 3, axis=2)  # type: ignore[no-untyped-call]


def coin_masks(height: int, width: int) -> NDArray[np.bool_]:
    """The coins as masks (24, height, width)."""
    x0, y0, a, b, degrees = COINS.T[:, :, None, None]
    y, x = np.mgrid[:height, :width] + 0.5
    angle = np.radians(degrees)
    along = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
    across = (y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)
    inside: NDArray[np.bool_] = (along / a) ** 2 + (across / b) ** 2 <= 1
    return inside


def coins_found(detections: Detections, *, min_score: float) -> int:
    """How many of the coins some detection covers with a mask whose IoU with the coin exceeds `RIM_IOU`.

    Coins do not overlap, so that no mask can cover two of them.
    """
    masks = detections.masks[detections.scores >= min_score].reshape(-1, np.prod(detections.image_size))
    truth = coin_masks(*detections.image_size).reshape(len(COINS), -1)
    common = truth.astype(np.float32) @ masks.T.astype(np.float32)
    iou = common / (truth.sum(axis=1)[:, None] + masks.sum(axis=1)[None] - common)
    return int((iou.max(axis=1, initial=0) > RIM_IOU).sum())
