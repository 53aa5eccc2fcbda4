"""The resizes that are checked: what they differ in, and their seeded images. NumPy alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mrcnn.plugins import interface
from mrcnn.plugins.kernels import resize_params

Dtype = Literal["float32", "uint8"]
Size = tuple[int, int]

DTYPES: tuple[Dtype, ...] = ("float32", "uint8")

SWEEP = 120
_QUICK_SWEEP = 20
_SWEEP_SEED = 50_000


@dataclass(frozen=True, kw_only=True)
class ResizeCase:
    """One call of the resize; sizes are (height, width).

    Attributes:
        gap: bytes between the rows of the source.
        shift: values by which source and output are moved away from alignment.
    """

    name: str = ""
    seed: int = 0
    source: Size = (48, 64)
    target: Size = (80, 106)
    padded: Size = (96, 128)
    dtype: Dtype = "float32"
    swap: bool = False
    gap: int = 0
    shift: int = 0

    @property
    def pitch(self) -> int:
        return 3 * self.source[1] + self.gap

    @property
    def words(self) -> str:
        """What the case is, in a few words."""
        sizes = (f"{height}x{width}" for height, width in (self.source, self.target, self.padded))
        swapped = ", channels swapped" if self.swap else ""
        return f"{self.dtype} {' to '.join(sizes)}{swapped}, gap {self.gap}, moved by {self.shift}"

    def parameters(self) -> interface.ResizeParams:
        return resize_params(
            shape=(*self.source, 3),
            pitch=self.pitch,
            target=self.target,
            padded=self.padded,
            swap_channels=self.swap,
            dtype=self.dtype,
        )


def rows_of(case: ResizeCase) -> NDArray[np.uint8]:
    """(height, pitch) bytes of the source, noise in the image and in the gaps."""
    generator = np.random.default_rng(case.seed)
    return generator.integers(0, 256, (case.source[0], case.pitch), np.uint8)


def resize_cases(*, quick: bool) -> list[ResizeCase]:
    """Named cases first; a quick run has these and a part of the sweep."""
    return [*named_cases(), *sweep_cases(_QUICK_SWEEP if quick else SWEEP)]


def named_cases() -> Iterator[ResizeCase]:
    for dtype in DTYPES:
        base = ResizeCase(seed=1, dtype=dtype)
        named = {
            "one pixel": replace(base, source=(1, 1), target=(1, 1), padded=(1, 1)),
            "one pixel made large": replace(base, source=(1, 1), target=(33, 129), padded=(64, 160)),
            "made one pixel": replace(base, source=(333, 517), target=(1, 1), padded=(1, 1)),
            "the same size": replace(base, target=(48, 64), padded=(48, 64)),
            "BGR": replace(base, swap=True),
            "a photograph made small": replace(
                base, source=(1080, 1920), target=(750, 1333), padded=(768, 1344)
            ),
            "a photograph made large, no padding": replace(
                base, source=(480, 640), target=(800, 1066), padded=(800, 1066)
            ),
            "12 megapixels": replace(base, source=(3000, 4000), target=(800, 1066), padded=(800, 1088)),
            "a row": replace(base, source=(1, 5000), target=(1, 65535), padded=(1, 65535)),
            "a column": replace(base, source=(5000, 1), target=(65535, 1), padded=(65535, 1)),
            "positions of few bits": replace(
                base, source=(2, 3_000_000), target=(3, 40_000), padded=(3, 40_000)
            ),
            "a pitch of 2^14": replace(base, gap=2**14 - 3 * 64),
            **{f"moved by {shift}": replace(base, shift=shift, gap=shift) for shift in (1, 2, 3)},
        }
        for name, case in named.items():
            yield replace(case, name=f"{dtype}, {name}")


def sweep_cases(count: int) -> Iterator[ResizeCase]:
    """Sizes around those of blocks and vectors, larger and smaller, whatever else there is to choose."""
    for number in range(count):
        generator = np.random.default_rng(_SWEEP_SEED + number)
        height, width, target_height, target_width = map(int, generator.integers(1, 400, 4))
        below, right, gap, shift = map(int, generator.integers(0, (40, 200, 9, 4)))
        yield ResizeCase(
            name=f"sweep {number}",
            seed=_SWEEP_SEED + number,
            source=(height, width),
            target=(target_height, target_width),
            padded=(target_height + below, target_width + right),
            dtype=DTYPES[number % 2],
            swap=bool(generator.integers(0, 2)),
            gap=gap,
            shift=shift,
        )
