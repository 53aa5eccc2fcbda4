"""RoIAlign on the CPU: by hand, against torchvision, and against the definition in plain Python."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.ops import roi_align as torchvision_roi_align
from torchvision.ops.poolers import LevelMapper, _multiscale_roi_align

from mrcnn.export.ops import level_thresholds
from mrcnn.plugins import interface
from mrcnn.plugins.kernels import (
    KernelError,
    Kernels,
    installed_kernels,
    roi_align_params,
    stored_channels,
)
from tests.plugins import oracle

# The same products in the same order; only the division by the count is a multiplication here.
AGAINST_TORCHVISION = 1e-6
# The oracle sums in float64: four products and up to 400 samples, each rounded to 6e-8 of values up to 5.
AGAINST_ORACLE = 1e-5

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return installed_kernels()


def pyramid(
    rng: np.random.Generator, *, levels: int, batch: int = 1, channels: int = 3, size: int = 256
) -> list[NDArray[np.float32]]:
    """Levels of an image of `size` x 1.5 `size` pixels, with values ~ N(0, 1)."""
    return [
        rng.standard_normal((batch, channels, round(size * s), round(1.5 * size * s)), np.float32)
        for s in SCALES[:levels]
    ]


def random_rois(rng: np.random.Generator, *, batch: int, count: int, size: int = 256) -> NDArray[np.float32]:
    """RoIs of 2 to 500 pixels a side, some of them reaching out of the image."""
    centre = rng.uniform(-0.1, 1.1, (batch, count, 2)) * (1.5 * size, size)
    side = np.exp(rng.uniform(0.7, 6.2, (batch, count, 2)))
    return np.concatenate([centre - side / 2, centre + side / 2], axis=2).astype(np.float32)


def ramp(height: int, width: int) -> NDArray[np.float32]:
    """(1, 2, H, W): each pixel's x in the first channel, its y in the second."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([x, y])[None]


# By hand -------------------------------------------------------------------------------------------------


def test_the_mean_of_a_ramp_is_the_centre_of_the_bin(kernels: Kernels) -> None:
    pooled = kernels.roi_align(
        [ramp(8, 8)], np.array([[[1, 2, 5, 4]]], np.float32), output_size=2, spatial_scales=[1.0]
    )
    # 4 x 2 pixels in 2 x 2 bins: bins are 2 wide and 1 high.
    assert pooled[0, 0].tolist() == [[2, 4], [2, 4]]
    assert pooled[0, 1].tolist() == [[2.5, 2.5], [3.5, 3.5]]


def test_aligned_moves_by_half_a_pixel(kernels: Kernels) -> None:
    rois = np.array([[[1, 2, 5, 4]]], np.float32)
    pooled = kernels.roi_align([ramp(8, 8)], rois, output_size=1, spatial_scales=[1.0], aligned=True)
    assert pooled.ravel().tolist() == [3 - 0.5, 3 - 0.5]


def test_max_is_the_largest_interpolated_sample_and_not_a_pixel(kernels: Kernels) -> None:
    rois = np.array([[[1, 1, 3, 3]]], np.float32)
    pooled = kernels.roi_align([ramp(8, 8)], rois, output_size=1, spatial_scales=[1.0], mode="max")
    assert pooled.ravel().tolist() == [2.5, 2.5]  # samples at 1.5 and 2.5


def test_a_sample_outside_counts_as_zero(kernels: Kernels) -> None:
    ones = np.full((1, 1, 4, 4), -3, np.float32)
    half_outside = np.array([[[-8, 0, 8, 4]]], np.float32)
    average = kernels.roi_align([ones], half_outside, output_size=1, spatial_scales=[1.0], sampling_ratio=2)
    largest = kernels.roi_align(
        [ones], half_outside, output_size=1, spatial_scales=[1.0], sampling_ratio=2, mode="max"
    )
    assert average.item() == -1.5  # of samples at x = -4 and 4, the second is clamped to the last pixel
    assert largest.item() == 0


def test_a_roi_below_a_pixel_is_one_pixel_unless_aligned(kernels: Kernels) -> None:
    rois = np.array([[[2, 3, 2, 3]]], np.float32)
    grown = kernels.roi_align([ramp(8, 8)], rois, output_size=1, spatial_scales=[1.0])
    assert grown.ravel().tolist() == [2.5, 3.5]
    point = kernels.roi_align([ramp(8, 8)], rois, output_size=1, spatial_scales=[1.0], aligned=True)
    assert point.ravel().tolist() == [1.5, 2.5]


def test_each_roi_reads_its_image_and_its_level(kernels: Kernels) -> None:
    features = [np.zeros((2, 1, 64 >> i, 64 >> i), np.float32) for i in range(3)]
    for level, array in enumerate(features):
        array += np.array([1, 10])[:, None, None, None] * (level + 1)
    rois = np.array([[[0, 0, 60, 60], [0, 0, 120, 120], [0, 0, 240, 240]]] * 2, np.float32)
    pooled = kernels.roi_align(features, rois, output_size=1, spatial_scales=SCALES[:3])
    assert pooled.ravel().tolist() == [1, 2, 3, 10, 20, 30]


# Levels --------------------------------------------------------------------------------------------------


def thresholds(
    kernels: Kernels, scales: Sequence[float], size: float, level: int, aligned: bool
) -> list[float]:
    params = interface.RoIAlignParams(
        output_size=1,
        aligned=int(aligned),
        canonical_size=size,
        canonical_level=level,
        num_levels=len(scales),
    )
    for place, scale in zip(params.levels, scales, strict=False):
        place.spatial_scale = scale
    return list(kernels.level_thresholds(params))


@pytest.mark.parametrize(("size", "level"), [(224, 4), (100, 3), (333, 5), (56.5, 2)])
@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_roi_changes_its_level_where_torchvisions_does(
    kernels: Kernels, size: float, level: int, first: int
) -> None:
    scales = [2.0**-i for i in range(first, first + 4)]
    mapper = LevelMapper(first, first + 3, canonical_scale=size, canonical_level=level)
    for number, side in enumerate(thresholds(kernels, scales, size, level, aligned=False)):
        # A RoI whose area is exactly the square of the float, so that its root is the float.
        for value, expected in ((np.nextafter(np.float32(side), np.float32(0)), number), (side, number + 1)):
            corner = float(np.float32(value))
            box = torch.tensor([[0.0, 0.0, corner, corner]])
            assert float(torch.sqrt(box[0, 2] * box[0, 3])) == corner
            assert int(mapper([box])) == expected


@pytest.mark.parametrize("canonical", [4, 13, 20])
@pytest.mark.parametrize("aligned", [False, True])
def test_a_roi_changes_its_level_where_detectron2s_formula_does(
    kernels: Kernels, aligned: bool, canonical: int
) -> None:
    epsilon = (1e-8, 0.0) if aligned else (0.0, 1e-6)  # detectron2, torchvision
    for number, side in enumerate(thresholds(kernels, SCALES[:4], 224, canonical, aligned=aligned)):
        for value, expected in ((np.nextafter(np.float32(side), np.float32(0)), number), (side, number + 1)):
            ratio = torch.tensor(value) / 224 + epsilon[0]
            assert int(torch.floor(canonical + torch.log2(ratio) + epsilon[1])) - 2 == expected


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("size", "level"), [(224, 4), (100, 3), (640, 5)])
def test_the_graph_and_the_kernel_have_the_same_levels(
    kernels: Kernels, size: int, level: int, aligned: bool
) -> None:
    expected = level_thresholds(SCALES, size, level, aligned=aligned)
    assert thresholds(kernels, SCALES, size, level, aligned=aligned) == expected


# Against the references ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("output_size", [1, 2, 7, 14])
@pytest.mark.parametrize(("levels", "batch"), [(1, 3), (2, 1), (4, 2), (5, 1)])
def test_equals_torchvisions_multi_scale_roi_align(
    kernels: Kernels, sampling_ratio: int, output_size: int, levels: int, batch: int
) -> None:
    rng = np.random.default_rng(levels * 100 + sampling_ratio * 10 + output_size)
    features = pyramid(rng, levels=levels, batch=batch)
    rois = random_rois(rng, batch=batch, count=40)
    expected = _multiscale_roi_align(
        [torch.from_numpy(level) for level in features],
        [torch.from_numpy(image) for image in rois],
        (output_size, output_size),
        sampling_ratio,
        list(SCALES[:levels]),
        LevelMapper(2, 1 + levels),
    )
    pooled = kernels.roi_align(
        features,
        rois,
        output_size=output_size,
        spatial_scales=SCALES[:levels],
        sampling_ratio=sampling_ratio,
    )
    assert np.abs(pooled - expected.numpy()).max() <= AGAINST_TORCHVISION


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 5, 64])
@pytest.mark.parametrize("output_size", [1, 3, 7])
@pytest.mark.parametrize("scale", [1.0, 0.25, 1 / 16, 0.3])
def test_equals_torchvisions_roi_align(
    kernels: Kernels, aligned: bool, sampling_ratio: int, output_size: int, scale: float
) -> None:
    rng = np.random.default_rng(7)
    features = rng.standard_normal((2, 5, 40, 30), np.float32)
    rois = random_rois(rng, batch=2, count=60, size=40) / np.float32(scale)
    flat = np.concatenate([np.repeat([0, 1], 60)[:, None], rois.reshape(-1, 4)], axis=1).astype(np.float32)
    expected = torchvision_roi_align(
        torch.from_numpy(features), torch.from_numpy(flat), output_size, scale, sampling_ratio, aligned
    )
    pooled = kernels.roi_align(
        [features],
        rois,
        output_size=output_size,
        spatial_scales=[scale],
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )
    assert np.abs(pooled - expected.numpy()).max() <= AGAINST_TORCHVISION


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_equals_the_definition(kernels: Kernels, mode: Any, aligned: bool, sampling_ratio: int) -> None:
    rng = np.random.default_rng(3)
    features = pyramid(rng, levels=3, batch=2, channels=2, size=128)
    options: dict[str, Any] = {
        "output_size": 3,
        "spatial_scales": SCALES[:3],
        "sampling_ratio": sampling_ratio,
        "aligned": aligned,
        "mode": mode,
    }
    rois = random_rois(rng, batch=2, count=12, size=128)
    difference = kernels.roi_align(features, rois, **options) - oracle.roi_align(features, rois, **options)
    assert np.abs(difference).max() <= AGAINST_ORACLE


coordinates = st.floats(-60, 90, width=32)


@settings(max_examples=150, deadline=None)
@given(
    corners=st.tuples(coordinates, coordinates, coordinates, coordinates),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    bins=st.integers(1, 4),
    sampling_ratio=st.integers(0, 3),
    aligned=st.booleans(),
    mode=st.sampled_from(["avg", "max"]),
)
def test_equals_the_definition_for_any_box(
    corners: tuple[float, ...],
    height: int,
    width: int,
    bins: int,
    sampling_ratio: int,
    aligned: bool,
    mode: Any,
) -> None:
    features = np.random.default_rng(height * 10 + width).standard_normal((1, 2, height, width), np.float32)
    rois = np.array(corners, np.float32).reshape(1, 1, 4)
    options: dict[str, Any] = {
        "output_size": bins,
        "spatial_scales": [0.5],
        "sampling_ratio": sampling_ratio,
        "aligned": aligned,
        "mode": mode,
    }
    pooled = installed_kernels().roi_align([features], rois, **options)
    assert np.abs(pooled - oracle.roi_align([features], rois, **options)).max() <= AGAINST_ORACLE


# RoIs that no image has ----------------------------------------------------------------------------------

STRANGE = {
    "nan": [np.nan, 0, 10, 10],
    "all nan": [np.nan] * 4,
    "infinite": [0, 0, np.inf, np.inf],
    "infinite on both sides": [-np.inf, -np.inf, np.inf, np.inf],
    "inverted": [30, 30, 10, 10],
    "far outside": [1e6, 1e6, 1e6 + 10, 1e6 + 10],
    "beyond float": [-3e38, -3e38, 3e38, 3e38],
    "of 10 million pixels": [-5e6, -5e6, 5e6, 5e6],
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_strange_rois_end_soon_and_are_defined(
    kernels: Kernels, name: str, aligned: bool, sampling_ratio: int
) -> None:
    """A sample that is not inside the map is 0; so is a RoI with more than 2^16 samples per bin and side."""
    features = pyramid(np.random.default_rng(0), levels=2, size=64)
    rois = np.array(STRANGE[name], np.float32).reshape(1, 1, 4)
    pooled = kernels.roi_align(
        features,
        rois,
        output_size=7,
        spatial_scales=SCALES[:2],
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )
    assert np.isfinite(pooled).all()
    if name not in {"inverted", "of 10 million pixels"}:
        assert not pooled.any()


@pytest.mark.parametrize("corners", [[60, 60, 20, 20], [60, 20, 20, 60], [90.5, 3, 90.50001, 9]])
@pytest.mark.parametrize("sampling_ratio", [2, 33, 64])
def test_many_samples_of_inverted_and_tiny_rois(
    kernels: Kernels, corners: list[float], sampling_ratio: int
) -> None:
    """Their steps are negative, or below the last bit of a position."""
    features = np.random.default_rng(1).standard_normal((1, 2, 70, 90), np.float32)
    rois = np.array([[corners]], np.float32)
    # torchvision's CPU operator refuses aligned inverted RoIs, so the definition is the reference.
    options: dict[str, Any] = {
        "output_size": 2,
        "spatial_scales": [1.0],
        "sampling_ratio": sampling_ratio,
        "aligned": True,
    }
    expected = oracle.roi_align([features], rois, **options)
    assert np.abs(expected).max() > 0
    assert np.abs(kernels.roi_align([features], rois, **options) - expected).max() <= AGAINST_ORACLE


def test_a_large_adaptive_roi_skips_what_is_outside_without_a_difference(kernels: Kernels) -> None:
    features = np.random.default_rng(1).standard_normal((1, 2, 20, 30), np.float32)
    rois = np.array([[[-150, -90, 170, 400], [-400, 3, 900, 9]]], np.float32)
    expected = torchvision_roi_align(
        torch.from_numpy(features), [torch.from_numpy(rois[0])], 3, 1.0, 0, aligned=False
    )
    pooled = kernels.roi_align([features], rois, output_size=3, spatial_scales=[1.0], sampling_ratio=0)
    assert np.abs(pooled - expected.numpy()).max() <= AGAINST_TORCHVISION


# Types and layouts ---------------------------------------------------------------------------------------


def test_every_half_goes_through_unchanged(kernels: Kernels) -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    pooled = kernels.roi_align(
        [halves.reshape(1, -1, 1, 1)],
        np.array([[[0, 0, 1, 1]]], np.float32),
        output_size=1,
        spatial_scales=[1.0],
        sampling_ratio=1,
    )
    assert (pooled.ravel() == halves).all()


def test_half_rounds_the_float_result_once(kernels: Kernels) -> None:
    rng = np.random.default_rng(5)
    features = [level.astype(np.float16) for level in pyramid(rng, levels=3, channels=4)]
    rois = random_rois(rng, batch=1, count=50)
    options: dict[str, Any] = {"output_size": 7, "spatial_scales": SCALES[:3]}
    exact = kernels.roi_align([level.astype(np.float32) for level in features], rois, **options)
    assert (kernels.roi_align(features, rois, **options) == exact.astype(np.float16)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("channels", [1, 3, 8, 13])
@pytest.mark.parametrize("output_layout", ["linear", "channels_last"])
def test_channels_last_equals_linear(kernels: Kernels, dtype: Any, channels: int, output_layout: Any) -> None:
    rng = np.random.default_rng(11)
    features = [level.astype(dtype) for level in pyramid(rng, levels=2, batch=2, channels=channels, size=64)]
    rois = random_rois(rng, batch=2, count=9, size=64)
    expected = kernels.roi_align(features, rois, output_size=5, spatial_scales=SCALES[:2])

    stored = stored_channels(channels, np.dtype(dtype), "channels_last")
    padded = [to_channels_last(level, stored, fill=np.nan) for level in features]
    params = roi_align_params(
        shapes=[level.shape for level in features],
        rois_shape=rois.shape,
        dtype=np.dtype(dtype),
        addresses=[level.ctypes.data for level in padded],
        output_size=5,
        spatial_scales=SCALES[:2],
        sampling_ratio=2,
        aligned=False,
        mode="avg",
        canonical_size=224,
        canonical_level=4,
        feature_layout="channels_last",
        output_layout=output_layout,
    )
    last = output_layout == "channels_last"
    shape = (18, 5, 5, stored) if last else (18, channels, 5, 5)
    pooled = aligned(shape, dtype)
    pooled[:] = np.nan
    kernels.roi_align_cpu(params, rois.ctypes.data, pooled.ctypes.data)
    if last:
        assert not pooled[..., channels:].any(), "the padding is zero"
        pooled = np.moveaxis(pooled[..., :channels], -1, 1)
    assert (pooled == expected).all()


def to_channels_last(level: NDArray[Any], stored: int, *, fill: float) -> NDArray[Any]:
    """(B, C, H, W) → (B, H, W, stored), aligned to 16 bytes; `fill` in the channels added."""
    batch, channels, height, width = level.shape
    result = aligned((batch, height, width, stored), level.dtype)
    result[:] = fill
    result[..., :channels] = np.moveaxis(level, 1, -1)
    return result


def aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Room for an array that begins at a multiple of 16 bytes."""
    size = int(np.prod(shape))
    room = np.empty(size + 16, dtype)
    start = -room.ctypes.data % 16 // room.itemsize
    return room[start : start + size].reshape(shape)


@pytest.mark.parametrize("which", ["feature level 0", "output"])
def test_channels_last_memory_must_be_aligned(kernels: Kernels, which: str) -> None:
    features, output = aligned((1, 4, 4, 9), np.float32), aligned((1, 7, 7, 9), np.float32)
    address = {"feature level 0": features.ctypes.data, "output": output.ctypes.data}
    address[which] += 4
    rois = np.zeros((1, 1, 4), np.float32)
    params = roi_align_params(
        shapes=[(1, 8, 4, 4)],
        rois_shape=rois.shape,
        dtype=features.dtype,
        addresses=[address["feature level 0"]],
        output_size=7,
        spatial_scales=[0.25],
        sampling_ratio=2,
        aligned=False,
        mode="avg",
        canonical_size=224,
        canonical_level=4,
        feature_layout="channels_last",
        output_layout="channels_last",
    )
    with pytest.raises(KernelError, match=f"channels-last {which} is not aligned to 16 bytes"):
        kernels.roi_align_cpu(params, rois.ctypes.data, address["output"])


# Refusals ------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"output_size": 7, "spatial_scales": (0.25, 0.125)}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"output_size": 0}, "output_size must be 1 to 32 bins (got 0)"),
        ({"output_size": -1}, "output_size must be 1 to 32 bins (got -1)"),
        ({"output_size": 33}, "output_size must be 1 to 32 bins (got 33)"),
        ({"output_size": 2**32 + 7}, "output_size must be a whole number of 32 bits (got 4294967303)"),
        ({"output_size": 7.5}, "output_size must be a whole number of 32 bits (got 7.5)"),
        ({"sampling_ratio": 2**32 + 2}, "sampling_ratio must be a whole number of 32 bits"),
        ({"output_size": 10**6}, "output_size must be 1 to 32 bins (got 1000000)"),
        ({"sampling_ratio": -1}, "sampling_ratio must be 0 (adaptive) to 64 (got -1)"),
        ({"sampling_ratio": 65}, "sampling_ratio must be 0 (adaptive) to 64 (got 65)"),
        ({"aligned": 2}, "aligned must be 0 or 1 (got 2)"),
        ({"mode": "sum"}, "mode must be avg or max (got 'sum')"),
        ({"spatial_scales": (0.25, 0.0)}, "spatial_scales[1] must be between 1e-6 and 1e6 (got 0)"),
        ({"spatial_scales": (np.nan, 0.5)}, "spatial_scales[0] must be between 1e-6 and 1e6 (got nan)"),
        ({"spatial_scales": (0.25,)}, "a scale for each (got 2 levels and 1 scales)"),
        ({"canonical_size": 0}, "canonical_size must be a side in pixels, above 0, at most 1e6 (got 0)"),
        ({"canonical_size": np.inf}, "canonical_size must be a side in pixels"),
        ({"canonical_level": -1}, "canonical_level must be 0 to 32 (got -1)"),
    ],
)
def test_wrong_attributes_are_named(kernels: Kernels, changed: dict[str, Any], words: str) -> None:
    features = [np.zeros((1, 2, 4, 4), np.float32)] * 2
    with pytest.raises(KernelError) as caught:
        kernels.roi_align(features, np.zeros((1, 1, 4), np.float32), **{**GOOD, **changed})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("batch", -1, "batch must not be negative (got -1)"),
        ("channels", 0, "expected 1 to 2^17 channels (got 0)"),
        ("channels", 2**17 + 1, "expected 1 to 2^17 channels (got 131073)"),
        ("rois_per_image", -5, "rois_per_image must not be negative (got -5)"),
        ("rois_per_image", 2**31 - 1, "at most 2^31 - 1 RoIs in a batch (got 4294967294)"),
        ("num_levels", 0, "expected 1 to 8 feature levels (got 0)"),
        ("num_levels", 9, "expected 1 to 8 feature levels (got 9)"),
        ("type", 7, "features must be float32 or float16 (got type 7)"),
        ("mode", 2, "mode must be avg or max (got 2)"),
        ("feature_layout", 3, "feature_layout must be linear or channels last (got 3)"),
        ("output_layout", 1, "output_layout must be linear, or channels last where the features are (got 1)"),
        ("height", 0, "feature level 0 must have at least one pixel (got height 0, width 4)"),
        ("width", -3, "feature level 0 must have at least one pixel (got height 4, width -3)"),
        (
            "height",
            2**24 + 1,
            "feature level 0 has a side of more than 2^24 pixels (height 16777217, width 4)",
        ),
        ("data", None, "the data of feature level 0 is null"),
        ("rois", 0, "rois is null"),
        ("output", 0, "output is null"),
        ("params", None, "params is null"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_wrong_calls_are_refused_before_memory_is_touched(
    kernels: Kernels, field: str, value: Any, words: str, device: str
) -> None:
    features = np.zeros((2, 2, 4, 4), np.float32)
    rois, output = np.zeros((2, 3, 4), np.float32), np.full((6, 2, 7, 7), 5, np.float32)
    params = roi_align_params(
        shapes=[features.shape],
        rois_shape=rois.shape,
        dtype=features.dtype,
        addresses=[features.ctypes.data],
        output_size=7,
        spatial_scales=[0.25],
        sampling_ratio=2,
        aligned=False,
        mode="avg",
        canonical_size=224,
        canonical_level=4,
    )
    pointers: dict[str, Any] = {"params": params, "rois": rois.ctypes.data, "output": output.ctypes.data}
    if field in pointers:
        pointers[field] = value
    elif field in {"data", "height", "width"}:
        setattr(params.levels[0], field, value)
    else:
        setattr(params, field, value)
    if device == "cuda":
        skip_without_cuda(kernels)
        run: Any = lambda *arguments: kernels.roi_align_cuda(*arguments, 0)  # noqa: E731
    else:
        run = kernels.roi_align_cpu
    with pytest.raises(KernelError) as caught:
        run(pointers["params"], pointers["rois"], pointers["output"])
    assert words in str(caught.value)
    assert (output == 5).all()


def skip_without_cuda(kernels: Kernels) -> None:
    if "CUDA" not in kernels.build_info:
        pytest.skip("the kernels were built without nvcc")


@pytest.mark.parametrize(("batch", "count"), [(0, 5), (2, 0), (0, 0)])
def test_nothing_to_pool_is_no_error(kernels: Kernels, batch: int, count: int) -> None:
    pooled = kernels.roi_align(
        [np.zeros((batch, 3, 4, 4), np.float32)],
        np.zeros((batch, count, 4), np.float32),
        output_size=7,
        spatial_scales=[0.25],
    )
    assert pooled.shape == (0, 3, 7, 7)


@pytest.mark.parametrize(
    ("features", "rois", "words"),
    [
        ([(1, 2, 4, 4), (1, 3, 2, 2)], (1, 5, 4), "the levels must be (B, C, H, W) with one B and C"),
        ([(1, 2, 4, 4), (2, 2, 2, 2)], (1, 5, 4), "the levels must be (B, C, H, W) with one B and C"),
        ([(1, 2, 4, 4), (1, 2, 2)], (1, 5, 4), "the levels must be (B, C, H, W) with one B and C"),
        ([(1, 2, 4, 4), (1, 2, 2, 2)], (2, 5, 4), "rois must be (B, R, 4) with B = 1 (got (2, 5, 4))"),
        ([(1, 2, 4, 4), (1, 2, 2, 2)], (5, 4), "rois must be (B, R, 4) with B = 1 (got (5, 4))"),
    ],
)
def test_shapes_must_belong_together(
    kernels: Kernels, features: list[tuple[int, ...]], rois: tuple[int, ...], words: str
) -> None:
    with pytest.raises(KernelError) as caught:
        kernels.roi_align([np.zeros(shape, np.float32) for shape in features], np.zeros(rois), **GOOD)
    assert words in str(caught.value)
