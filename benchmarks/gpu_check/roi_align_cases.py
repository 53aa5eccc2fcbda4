"""The RoIAlign calls that are checked: what they differ in, and their seeded inputs. NumPy alone."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mrcnn.plugins import interface
from mrcnn.plugins.kernels import Layout, roi_align_params, stored_channels

Floats = NDArray[np.float32]
Dtype = Literal["float32", "float16"]
Mode = Literal["avg", "max"]

DTYPES: tuple[Dtype, ...] = ("float32", "float16")
MODES: tuple[Mode, ...] = ("avg", "max")
LAYOUTS: tuple[tuple[Layout, Layout], ...] = (
    ("linear", "linear"),
    ("channels_last", "linear"),
    ("channels_last", "channels_last"),
)

# Each draws the rest of the product anew.
PRODUCT_SEEDS = (100, 101, 102)

# A case is cut down to this much work for the CPU: products of samples and channels, and features.
_MAX_WORK = 2e7
_MAX_FEATURES = 4e6


@dataclass(frozen=True, kw_only=True)
class RoIAlignCase:
    """One call of RoIAlign.

    Attributes:
        image: (height, width) in pixels; level i is this over 2^(i + first_level), rounded up.
        rois: which RoIs, see `rois_of`.
        values: "normal", or "special" with NaN and infinities among the features.
        shift: elements by which what is linear, features or output, is moved away from alignment.
    """

    name: str = ""
    seed: int = 0
    dtype: Dtype = "float32"
    layouts: tuple[Layout, Layout] = LAYOUTS[0]
    batch: int = 1
    channels: int = 8
    rois_per_image: int = 7
    output_size: int = 7
    sampling_ratio: int = 2
    aligned: bool = False
    mode: Mode = "avg"
    image: tuple[int, int] = (333, 517)
    levels: int = 4
    first_level: int = 2
    rois: Literal["usual", "inside", "strange", "thresholds", "huge"] = "usual"
    values: Literal["normal", "special"] = "normal"
    shift: int = 0

    @property
    def scales(self) -> tuple[float, ...]:
        return tuple(2.0 ** -(i + self.first_level) for i in range(self.levels))

    @property
    def shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        """Per level (batch, channels, height, width), whatever the layout."""
        sides = ((math.ceil(side * scale) for side in self.image) for scale in self.scales)
        return tuple((self.batch, self.channels, height, width) for height, width in sides)

    @property
    def work(self) -> float:
        """Samples times channels; for adaptive sampling an estimate."""
        samples = (self.sampling_ratio or 3) * self.output_size
        return self.batch * self.rois_per_image * self.channels * samples**2

    @property
    def words(self) -> str:
        """What the case is, in a few words."""
        source, target = self.layouts
        return (
            f"{self.dtype} {source}>{target}, {self.batch}x{self.rois_per_image} {self.rois} RoIs, "
            f"{self.channels} channels, {self.levels} levels of {self.image[0]}x{self.image[1]}, "
            f"{self.mode} of {self.output_size} bins, sampling {self.sampling_ratio}"
            + (", aligned" if self.aligned else "")
        )

    def parameters(self, addresses: list[int], layouts: tuple[Layout, Layout]) -> interface.RoIAlignParams:
        """The parameters of the call for features at these addresses."""
        return roi_align_params(
            shapes=self.shapes,
            rois_shape=(self.batch, self.rois_per_image, 4),
            dtype=np.dtype(self.dtype),
            addresses=addresses,
            output_size=self.output_size,
            spatial_scales=self.scales,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
            mode=self.mode,
            canonical_size=224,
            canonical_level=4,
            feature_layout=layouts[0],
            output_layout=layouts[1],
        )


def stored(array: "NDArray[Any]", layout: Layout, padding: float) -> "NDArray[Any]":
    """A tensor (N, C, H, W) as the layout has it in memory, channels that fill it up holding `padding`."""
    if layout == "linear":
        return np.ascontiguousarray(array)
    count, channels, height, width = array.shape
    wide = stored_channels(channels, array.dtype, layout)
    result = np.full((count, height, width, wide), padding, array.dtype)
    result[..., :channels] = np.moveaxis(array, 1, -1)
    return result


def features_of(case: RoIAlignCase) -> "list[NDArray[Any]]":
    """Per level (B, C, H, W) about N(0, 1)."""
    generator = np.random.default_rng(case.seed)
    levels = []
    for shape in case.shapes:
        level = generator.standard_normal(shape, np.float32).astype(case.dtype)
        if case.values == "special":
            flat = level.reshape(-1)
            for value in (np.nan, np.inf, -np.inf, 6e-8, 65504.0 if case.dtype == "float16" else 1e-40):
                flat[generator.integers(flat.size, size=max(1, flat.size // 50))] = value
        levels.append(level)
    return levels


def rois_of(case: RoIAlignCase, thresholds: Floats) -> Floats:
    """(B, R, 4) RoIs.

    usual       as proposals are: most inside the image, of all sizes
    inside      the same, all inside the image
    strange     NaN, infinite, inverted, empty, far away and gigantic ones, then usual ones
    thresholds  with the sides at which the level changes, and their neighbours among the floats
    huge        much larger than the image, so that adaptive sampling takes many samples

    Args:
        thresholds: sides from `mrcnnRoIAlignLevelThresholds`.
    """
    generator = np.random.default_rng(case.seed + 1)
    count = case.batch * case.rois_per_image
    rois = usual_rois(count, case.image, generator)
    if case.rois == "inside":
        rois = np.clip(rois, 0, np.array([*case.image[::-1]] * 2, np.float32))
    elif case.rois == "strange":
        odd = strange_rois(case.image)
        chosen = odd if count >= len(odd) else odd[generator.permutation(len(odd))[:count]]
        rois[: len(chosen)] = chosen
    elif case.rois == "thresholds":
        sides = [np.float32(side) for side in thresholds] or [np.float32(224)]
        near = [
            s
            for side in sides
            for s in (np.nextafter(side, np.float32(0)), side, np.nextafter(side, side * 2))
        ]
        for row, side in zip(rois, itertools.cycle(near), strict=False):
            row[:] = (0, 0, side, side)
    elif case.rois == "huge":
        factors = generator.uniform(2, 60, (count, 1)).astype(np.float32)
        rois = (rois - np.float32(100)) * factors
    return rois.reshape(case.batch, case.rois_per_image, 4).astype(np.float32)


def usual_rois(count: int, image: tuple[int, int], generator: np.random.Generator) -> Floats:
    """(count, 4) xyxy with sides from 4 pixels to the image's, a tenth of them beyond its border."""
    height, width = image
    sides = np.exp(generator.uniform(np.log(4), np.log(max(height, width)), count))
    ratio = np.exp(generator.uniform(-0.7, 0.7, count))
    centre = generator.uniform(0, 1, (count, 2)) * (width, height)
    half = np.stack([sides * ratio, sides / ratio], axis=1) / 2
    rois = np.concatenate([centre - half, centre + half], axis=1)
    inside = np.clip(rois, 0, [width, height, width, height])
    return np.where(generator.uniform(size=(count, 1)) < 0.9, inside, rois).astype(np.float32)


def strange_rois(image: tuple[int, int]) -> Floats:
    """RoIs that no detector should make, and those at the borders of the rules."""
    height, width = (float(side) for side in image)
    nan, inf, big = math.nan, math.inf, 3e38
    rows = [
        *[[nan if i == k else v for i, v in enumerate((10, 10, 50, 50))] for k in range(4)],
        [nan] * 4,
        *[[inf if i == k else v for i, v in enumerate((10, 10, 50, 50))] for k in range(4)],
        *[[-inf if i == k else v for i, v in enumerate((10, 10, 50, 50))] for k in range(4)],
        [-inf, -inf, inf, inf],
        [inf, inf, -inf, -inf],
        [50, 10, 10, 50],  # inverted
        [10, 50, 50, 10],
        [50, 50, 10, 10],
        [30, 30, 30, 30],  # empty
        [30, 10, 30, 60],
        [0, 0, 0, 0],
        [-0.0, -0.0, 0, 0],
        [1, 1, 1.001, 1.001],
        [1e-40, 1e-40, 2e-40, 2e-40],
        [0, 0, width, height],
        [width - 1, height - 1, width, height],
        [width, height, width + 1, height + 1],
        [-1, -1, 0, 0],
        [-9, -9, -1, -1],
        [-500, 10, -400, 60],  # far outside
        [width + 400, 10, width + 500, 60],
        [10, -9000, 60, -8000],
        [-width, -height, 2 * width, 2 * height],
        [-9 * width, -9 * height, 9 * width, 9 * height],
        [-1e6, 5, 1e6, 20],
        [-1e10, -1e10, 1e10, 1e10],
        [-big, -big, big, big],
        [1e10, 1e10, 1.00001e10, 1.00001e10],
        [10.5, 10.5, 20.5, 20.5],
    ]
    return np.array(rows, np.float32)


def product_cases(seed: int) -> Iterator[RoIAlignCase]:
    """Every combination of type, layout, sampling, alignment and mode, the rest drawn from decks."""
    generator = np.random.default_rng(seed)
    combinations = list(itertools.product(DTYPES, LAYOUTS, (0, 2, 3), (False, True), MODES))
    decks = {
        "levels": (1, 2, 3, 4, 5),
        "rois_per_image": (1, 7, 300, 1000, 4000),
        "batch": (1, 2, 3, 5, 8),
        "channels": (1, 3, 8, 13, 16, 40, 64),
        "output_size": (7, 14, 7, 5, 1),
        "image": ((96, 128), (333, 517), (64, 64), (800, 1344)),
        "shift": (0, 1),
    }
    drawn = {name: deal(deck, len(combinations), generator) for name, deck in decks.items()}
    for i, (dtype, layouts, sampling, aligned, mode) in enumerate(combinations):
        chosen = {name: deck[i] for name, deck in drawn.items()}
        case = RoIAlignCase(
            name=f"product {seed}.{i}",
            seed=1000 * seed + 10 * i,
            dtype=dtype,
            layouts=layouts,
            sampling_ratio=sampling,
            aligned=aligned,
            mode=mode,
            **chosen,
        )
        yield _affordable(case)


def deal(deck: tuple[Any, ...], count: int, generator: np.random.Generator) -> list[Any]:
    """`count` cards of shuffled copies of the deck, so that each comes about equally often."""
    order = [i for _ in range(-(-count // len(deck))) for i in generator.permutation(len(deck))]
    return [deck[i] for i in order[:count]]


def _affordable(case: RoIAlignCase) -> RoIAlignCase:
    """The case with fewer images, then fewer channels, until the CPU can follow; odd channels stay odd."""
    while case.batch > 1 and (case.work > _MAX_WORK or _features(case) > _MAX_FEATURES):
        case = replace(case, batch=case.batch - 1)
    while case.channels > 3 and (case.work > _MAX_WORK or _features(case) > _MAX_FEATURES):
        case = replace(case, channels=max(3, case.channels // 2 | case.channels % 2))
    return case


def _features(case: RoIAlignCase) -> float:
    return float(sum(math.prod(shape) for shape in case.shapes))


def named_cases() -> Iterator[RoIAlignCase]:
    """What the product does not reach, on every path through the kernel."""
    for (i, dtype), layouts in itertools.product(enumerate(DTYPES), LAYOUTS):
        seed = 7000 + 100 * i + 10 * LAYOUTS.index(layouts)
        path = f"{dtype} {layouts[0]}>{layouts[1]}"
        base = RoIAlignCase(seed=seed, dtype=dtype, layouts=layouts, channels=16)
        for sampling, aligned in itertools.product((0, 2), (False, True)):
            mode = MODES[(sampling // 2 + aligned) % 2]
            yield replace(
                base,
                name=f"strange RoIs, {path}, sampling {sampling}{', aligned' * aligned}",
                rois="strange",
                batch=2,
                rois_per_image=60,
                sampling_ratio=sampling,
                aligned=aligned,
                mode=mode,
                channels=13 if aligned else 16,
            )
        for mode in MODES:
            yield replace(base, name=f"huge adaptive RoIs, {path}, {mode}", rois="huge", rois_per_image=20,
                          sampling_ratio=0, mode=mode, image=(200, 300), batch=2)  # fmt: skip
            yield replace(base, name=f"NaN and infinite features, {path}, {mode}", values="special",
                          rois_per_image=50, mode=mode, image=(96, 128))  # fmt: skip
        yield replace(
            base, name=f"sides at thresholds, {path}", rois="thresholds", rois_per_image=30, levels=5
        )
        yield replace(base, name=f"no RoIs, {path}", rois_per_image=0)
        yield replace(base, name=f"no images, {path}", batch=0)
        yield replace(base, name=f"many slabs, {path}", channels=1025 - i, output_size=14, rois_per_image=3,
                      sampling_ratio=1, image=(96, 128))  # fmt: skip
        yield replace(base, name=f"32 bins, {path}", output_size=32, channels=9 - i, rois_per_image=4)
        yield replace(base, name=f"more samples than tables hold, {path}", sampling_ratio=64, output_size=3,
                      channels=3, rois_per_image=5)  # fmt: skip
        yield replace(base, name=f"eight levels down to a pixel, {path}", levels=8, first_level=0,
                      image=(100, 70), rois_per_image=40)  # fmt: skip
    for dtype, layouts in ((DTYPES[0], LAYOUTS[0]), (DTYPES[1], LAYOUTS[0]), (DTYPES[1], LAYOUTS[2])):
        yield RoIAlignCase(name=f"full size, {dtype} {layouts[0]}>{layouts[1]}", seed=9000, dtype=dtype,
                           layouts=layouts, channels=256, rois_per_image=1000, image=(800, 1344))  # fmt: skip


def roi_align_cases(*, quick: bool) -> list[RoIAlignCase]:
    """All cases; quick: those that are small, and some of the product."""
    if not quick:
        return [*named_cases(), *(case for seed in PRODUCT_SEEDS for case in product_cases(seed))]
    named = [case for case in named_cases() if not case.name.startswith(("full size", "many slabs"))]
    return [*named, *list(product_cases(PRODUCT_SEEDS[0]))[::4]]
