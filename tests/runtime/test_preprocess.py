"""Images into the network, boxes back: against torch and torchvision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from mrcnn.description import ModelDescription, Normalization, ResizeRule
from mrcnn.errors import MissingRequirementError
from mrcnn.runtime import preprocess
from mrcnn.runtime.images import read_image
from mrcnn.runtime.preprocess import make_batch, rescale_boxes, resize_bilinear

# Pixel values of 255 have float32 steps of 1.5e-5; torch and NumPy round three products and two sums apart.
PIXEL_TOLERANCE = 1e-4
# The same after division by 255 and by the smallest standard deviation, 0.224, plus rounding of values < 3.
NORMALISED_TOLERANCE = 5e-6
# Depending on torch's version and on its number of threads, the compiler has fused the multiplication and the
# subtraction that give a sampling position, or not. Where that rounds the other way (few places), a position
# below 2048 moves by 2^-13, and between pixels that are 255 apart the value by 0.031.
MOVED_SHARE = 0.01
MOVED_PIXELS = 255 * 2**-13


def description(min_size: int = 800, max_size: int = 1333) -> ModelDescription:
    return ModelDescription(
        architecture="maskrcnn_resnet50_fpn",
        class_names=("__background__", "thing"),
        resize=ResizeRule(min_size=min_size, max_size=max_size),
    )


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    out = np.full((height, width, 3), np.nan, np.float32)
    resize_bilinear(image, out=out)
    return out


def test_two_pixels_become_four() -> None:
    image = np.array([[[0, 10, 0], [100, 10, 200]]], np.uint8)
    expected = [[0, 10, 0], [25, 10, 50], [75, 10, 150], [100, 10, 200]]
    assert resized(image, 1, 4).tolist() == [expected]


def test_rows_are_resized_like_columns() -> None:
    image = random_image(5, 7)
    turned = resized(np.ascontiguousarray(image.transpose(1, 0, 2)), 20, 11).transpose(1, 0, 2)
    np.testing.assert_allclose(resized(image, 11, 20), turned, rtol=0, atol=PIXEL_TOLERANCE)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((480, 640), (800, 1066)),
        ((1080, 1920), (749, 1333)),
        ((1, 1), (40, 50)),
        ((3, 2000), (1, 1333)),
        ((20000, 10), (1333, 1)),
        ((33, 17), (33, 17)),
        ((2400, 3200), (60, 80)),
    ],
)
def test_equals_torch(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = random_image(*source)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float().contiguous()
    expected = interpolate(tensor, size=target, mode="bilinear", align_corners=False)
    actual = resized(image, *target)
    assert_resized_alike(actual, expected[0].permute(1, 2, 0).numpy(), PIXEL_TOLERANCE, MOVED_PIXELS)


def assert_resized_alike(actual: np.ndarray, expected: np.ndarray, tolerance: float, moved: float) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=moved)
    assert (np.abs(actual - expected) > tolerance).mean() <= MOVED_SHARE


def assert_equals_transform(images: list[np.ndarray], rule: ModelDescription) -> None:
    """The padded, normalised batch of torchvision is ours, normalised."""
    normalization = Normalization()
    transform = GeneralizedRCNNTransform(
        rule.resize.min_size, rule.resize.max_size, list(normalization.mean), list(normalization.std)
    )
    tensors = [torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in images]
    expected, _ = transform.eval()(tensors)
    resized = [rule.resize.output_size(*image.shape[:2]) for image in images]
    assert resized == expected.image_sizes
    padded = rule.resize.padded_size(*np.max(resized, axis=0).tolist())
    batch, sizes = make_batch(images, resized=resized, padded=padded, batch=len(images))
    assert batch.shape == tuple(expected.tensors.permute(0, 2, 3, 1).shape)
    for values, size, reference in zip(batch, sizes, expected.tensors, strict=True):
        height, width = size
        normalised = (values / np.float32(255) - np.float32(normalization.mean)) / np.float32(
            normalization.std
        )
        normalised[height:] = 0  # what the graph does with the padding
        normalised[:, width:] = 0
        moved = MOVED_PIXELS / 255 / min(normalization.std)
        assert_resized_alike(normalised, reference.permute(1, 2, 0).numpy(), NORMALISED_TOLERANCE, moved)


def test_batch_equals_torchvision_transform() -> None:
    images = [random_image(90, 130), random_image(200, 77, seed=1), random_image(64, 64, seed=2)]
    assert_equals_transform(images, description(160, 256))


def test_photographs_equal_torchvision_transform(coco_mini: Path) -> None:
    for path in sorted((coco_mini / "images").iterdir())[:4]:
        assert_equals_transform([read_image(path)], description())


def test_rows_without_an_image_are_black_and_padding_is_zero() -> None:
    image = np.full((10, 20, 3), 200, np.uint8)
    batch, sizes = make_batch([image], resized=[(10, 20)], padded=(32, 32), batch=2)
    assert batch.shape == (2, 32, 32, 3)
    assert batch.dtype == np.float32
    assert (batch[0, :10, :20] == 200).all()
    assert batch.sum() == 200 * 10 * 20 * 3
    assert sizes.dtype == np.int32
    assert sizes.tolist() == [[10, 20], [32, 32]]


def test_uint8_input_is_rounded_not_cut() -> None:
    image = np.array([[[0, 0, 0], [3, 30, 255]]], np.uint8)
    batch, _ = make_batch([image], resized=[(1, 4)], padded=(1, 4), batch=1, dtype="uint8")
    assert batch.dtype == np.uint8
    # 0.75 and 2.25; 7.5 and 22.5 to the even neighbour; 63.75 and 191.25.
    assert batch[0, 0].tolist() == [[0, 0, 0], [1, 8, 64], [2, 22, 191], [3, 30, 255]]


def test_boxes_equal_torchvision_resize_boxes() -> None:
    boxes = np.random.default_rng(0).uniform(0, 800, (50, 4)).astype(np.float32)
    expected = resize_boxes(torch.from_numpy(boxes), [800, 1066], [481, 641])
    actual = rescale_boxes(boxes, network_size=(800, 1066), image_size=(481, 641))
    assert actual.dtype == np.float32
    assert (actual == expected.numpy()).all()


def test_no_boxes() -> None:
    assert rescale_boxes(np.zeros((0, 4), np.float32), network_size=(8, 8), image_size=(4, 4)).shape == (0, 4)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_with_and_without_the_native_kernel_alike(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    images = [
        random_image(90, 130),
        random_image(200, 77, seed=1)[::-1, ::-1],  # a view whose rows lie backwards
        random_image(64, 128, seed=2)[:, 10:75],  # one whose rows have gaps
    ]
    resized = [(70, 96), (96, 37), (1, 90)]

    def batch() -> tuple[np.ndarray, np.ndarray]:
        return make_batch(images, resized=resized, padded=(96, 96), batch=4, dtype=dtype)

    native = batch()
    monkeypatch.setattr(preprocess, "_kernels", lambda: None)
    numpy = batch()
    assert native[0].dtype == numpy[0].dtype == np.dtype(dtype)
    assert (native[0] == numpy[0]).all()
    assert (native[1] == numpy[1]).all()


def test_a_size_that_the_native_kernel_refuses() -> None:
    image = random_image(2, 3)
    out = np.full((1, 70_000, 3), np.nan, np.float32)
    preprocess.resize_and_pad(image, size=(1, 69_999), out=out)
    assert (out[:, 69_999] == 0).all()
    expected = np.empty((1, 69_999, 3), np.float32)
    resize_bilinear(image, out=expected)
    assert (out[:, :69_999] == expected).all()


def test_no_kernel_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingRequirementError("not built")

    monkeypatch.setattr("mrcnn.plugins.kernels.installed_kernels", missing)
    preprocess._kernels.cache_clear()
    assert preprocess._kernels() is None
    preprocess._kernels.cache_clear()
