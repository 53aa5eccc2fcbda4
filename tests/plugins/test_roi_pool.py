"""RoIPool on the CPU: by hand, against torchvision, and what is refused."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.ops import roi_pool as torchvision_roi_pool

from mrcnn.plugins import interface
from mrcnn.plugins.kernels import KernelError, Kernels, installed_kernels, roi_pool_params
from tests.plugins.test_roi_align import STRANGE, ramp, random_rois


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return installed_kernels()


def torchvisions(
    features: NDArray[Any], rois: NDArray[np.float32], output_size: tuple[int, int], scale: float
) -> NDArray[Any]:
    boxes = [torch.from_numpy(image) for image in rois]
    pooled: NDArray[Any] = torchvision_roi_pool(
        torch.from_numpy(features), boxes, output_size, spatial_scale=scale
    ).numpy()
    return pooled


# By hand -------------------------------------------------------------------------------------------------


def one(kernels: Kernels, roi: list[float], bins: int = 1, scale: float = 1.0) -> list[list[list[float]]]:
    """Of the ramp 8 × 8: the largest x and the largest y of each bin."""
    pooled = kernels.roi_pool(
        ramp(8, 8), np.array([[roi]], np.float32), output_size=(bins, bins), spatial_scale=scale
    )
    result: list[list[list[float]]] = pooled[0].tolist()
    return result


def test_both_corners_belong_to_the_roi(kernels: Kernels) -> None:
    assert one(kernels, [1, 2, 5, 4]) == [[[5]], [[4]]]


def test_bins_overlap_where_they_do_not_divide(kernels: Kernels) -> None:
    """Three pixels in two bins: the middle one belongs to both."""
    assert one(kernels, [1, 1, 3, 3], bins=2) == [[[2, 3], [2, 3]], [[2, 2], [3, 3]]]


def test_more_bins_than_pixels_repeat_them(kernels: Kernels) -> None:
    assert one(kernels, [3, 5, 3, 5], bins=2) == [[[3, 3], [3, 3]], [[5, 5], [5, 5]]]


@pytest.mark.parametrize(("corner", "pixel"), [(0.49, 0), (0.5, 1), (1.5, 2), (2.5, 3), (2.49, 2)])
def test_halves_are_rounded_away_from_zero(kernels: Kernels, corner: float, pixel: int) -> None:
    """And not to even numbers, as NumPy and torch round."""
    assert one(kernels, [0, 0, corner, corner]) == [[[pixel]], [[pixel]]]
    assert one(kernels, [0, 0, 16 * corner, 0], scale=1 / 16)[0] == [[pixel]]


def test_corners_outside_are_rounded_before_they_are_cut(kernels: Kernels) -> None:
    assert one(kernels, [-0.5, -3, 100, 2]) == [[[7]], [[2]]]
    # From pixel -1 to 2 in two bins: the first one has pixel 0 alone.
    assert one(kernels, [-0.5, 0, 2, 0], bins=2)[0] == [[0, 2], [0, 2]]


@pytest.mark.parametrize("roi", [[9, 0, 12, 3], [-9, 0, -2, 3], [0, 8, 3, 8]])
def test_a_bin_without_pixels_is_zero(kernels: Kernels, roi: list[float]) -> None:
    features = np.full((1, 1, 8, 8), -3, np.float32)
    pooled = kernels.roi_pool(features, np.array([[roi]], np.float32), output_size=(2, 2), spatial_scale=1)
    assert not pooled.any()


def test_an_inverted_roi_is_one_pixel(kernels: Kernels) -> None:
    assert one(kernels, [5, 6, 2, 1]) == [[[5]], [[6]]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(4))
def test_a_roi_that_is_no_box_is_zero(kernels: Kernels, value: float, place: int) -> None:
    roi = [0.0, 0, 7, 7]
    roi[place] = value
    assert one(kernels, roi) == [[[0]], [[0]]]


def test_corners_beyond_all_integers(kernels: Kernels) -> None:
    assert one(kernels, [-3e38, -1e12, 3e38, 1e12]) == [[[7]], [[7]]]
    assert one(kernels, [-3e38, -3e38, 3e38, 3e38], scale=1e6) == [[[7]], [[7]]]


def test_nan_features_are_passed_over(kernels: Kernels) -> None:
    features = np.array([[[[np.nan, -2, np.nan, np.nan]]]], np.float32)
    rois = np.array([[[0, 0, 1, 0], [2, 0, 3, 0]]], np.float32)
    pooled = kernels.roi_pool(features, rois, output_size=(1, 1), spatial_scale=1)
    assert pooled.ravel().tolist() == [-2, np.finfo(np.float32).min]


def test_each_roi_reads_its_image(kernels: Kernels) -> None:
    features = np.zeros((2, 1, 4, 4), np.float32) + np.array([1, 10], np.float32)[:, None, None, None]
    rois = np.array([[[0, 0, 3, 3]] * 3] * 2, np.float32)
    pooled = kernels.roi_pool(features, rois, output_size=(1, 1), spatial_scale=1)
    assert pooled.ravel().tolist() == [1, 1, 1, 10, 10, 10]


# Against torchvision -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    batch: int = 2
    channels: int = 3
    output_size: tuple[int, int] = (7, 7)
    scale: float = 1 / 16
    dtype: str = "float32"


CASES = {
    "VGG-16's": Case(),
    "one image": Case(batch=1),
    "not square": Case(output_size=(3, 5)),
    "most bins": Case(output_size=(32, 32), channels=1),
    "one bin": Case(output_size=(1, 1)),
    "another scale": Case(scale=0.3),
    "float16": Case(dtype="float16"),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_torchvisions_bit_by_bit(kernels: Kernels, name: str) -> None:
    case = CASES[name]
    rng = np.random.default_rng(len(name))
    size = (case.batch, case.channels, round(256 * case.scale), round(384 * case.scale))
    features = rng.standard_normal(size, np.float32).astype(case.dtype)
    rois = random_rois(rng, batch=case.batch, count=200)
    rois[:, ::3] = np.round(rois[:, ::3] * case.scale * 2) / 2 / case.scale  # corners at halves of pixels
    pooled = kernels.roi_pool(features, rois, output_size=case.output_size, spatial_scale=case.scale)
    expected = torchvisions(features.astype(np.float32), rois, case.output_size, case.scale)
    assert pooled.dtype == case.dtype
    assert pooled.astype(np.float32).tobytes() == expected.tobytes()
    assert (pooled == 0).any() or case.output_size == (1, 1)


@pytest.mark.parametrize("name", [n for n, roi in STRANGE.items() if np.abs(roi).max() < 1e8])
def test_strange_rois_are_as_torchvisions(kernels: Kernels, name: str) -> None:
    features = np.random.default_rng(1).standard_normal((1, 2, 16, 24), np.float32)
    rois = np.array([[STRANGE[name]]], np.float32)
    pooled = kernels.roi_pool(features, rois, output_size=(7, 7), spatial_scale=1 / 16)
    assert pooled.tobytes() == torchvisions(features, rois, (7, 7), 1 / 16).tobytes()


# Nothing to do, and what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "count"), [(1, 0), (0, 5), (0, 0)])
def test_no_rois_and_no_images(kernels: Kernels, batch: int, count: int) -> None:
    features, rois = np.zeros((batch, 3, 4, 4), np.float32), np.zeros((batch, count, 4), np.float32)
    pooled = kernels.roi_pool(features, rois, output_size=(7, 7), spatial_scale=1)
    assert pooled.shape == (0, 3, 7, 7)
    params = interface.RoIPoolParams(batch, 3, 0, 0, count, 7, 7, interface.FLOAT32, 1.0)
    kernels.roi_pool_cpu(params, 0, 0, 0)


REFUSED = {
    "output_height": (0, r"pooled_shape must be 1 to 32 bins a side \(got 0, 7\)"),
    "output_width": (33, r"pooled_shape must be 1 to 32 bins a side \(got 7, 33\)"),
    "spatial_scale": (0.0, "spatial_scale must be between 1e-6 and 1e6"),
    "type": (interface.UINT8, "must be float32 or float16"),
    "batch": (-1, "batch must not be negative"),
    "channels": (0, r"expected 1 to 2\^17 channels"),
    "rois_per_image": (2**30, "at most"),
    "height": (0, "at least one pixel"),
    "width": (2**24 + 1, r"more than 2\^24 pixels"),
}


@pytest.mark.parametrize("field", REFUSED)
def test_wrong_calls_are_refused_before_memory_is_touched(kernels: Kernels, field: str) -> None:
    params = interface.RoIPoolParams(2, 3, 4, 4, 5, 7, 7, interface.FLOAT32, 1.0)
    value, words = REFUSED[field]
    setattr(params, field, value)
    for call in (kernels.roi_pool_cpu, lambda *a: kernels.roi_pool_cuda(*a, 0)):
        with pytest.raises(KernelError, match=f"RoIPool: .*{words}|no CUDA part"):
            call(params, 16, 16, 16)


@pytest.mark.parametrize(("missing", "name"), [(0, "features"), (1, "rois"), (2, "output")])
def test_null_is_refused(kernels: Kernels, missing: int, name: str) -> None:
    params = interface.RoIPoolParams(2, 3, 4, 4, 5, 7, 7, interface.FLOAT32, 1.0)
    addresses = [0 if i == missing else 16 for i in range(3)]
    with pytest.raises(KernelError, match=f"RoIPool: {name} is null"):
        kernels.roi_pool_cpu(params, *addresses)


def test_shapes_must_belong_together() -> None:
    right: dict[str, Any] = {
        "shape": (2, 3, 4, 4),
        "rois_shape": (2, 5, 4),
        "dtype": np.dtype(np.float32),
        "output_size": (7, 7),
        "spatial_scale": 1.0,
    }
    assert roi_pool_params(**right).rois_per_image == 5
    for name, value in (
        ("shape", (3, 4, 4)),
        ("rois_shape", (1, 5, 4)),
        ("rois_shape", (2, 5, 5)),
        ("dtype", np.dtype(np.float64)),
        ("output_size", (7,)),
    ):
        with pytest.raises(KernelError, match="RoIPool"):
            roi_pool_params(**{**right, name: value})
