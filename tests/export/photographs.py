"""Pictures for tests that calibrate."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_photographs(folder: Path, number: int, *, size: tuple[int, int] = (120, 160)) -> Path:
    """A folder of smooth noise: `number` pictures of (height, width)."""
    folder = folder / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for index in range(number):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), np.uint8))
        coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(folder / f"{index:03}.png")
    return folder
