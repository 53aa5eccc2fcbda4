"""Which size an image gets in the network: graphs of any size, of one size, engines with several."""

import random

import pytest

from mrcnn.description import Deployment, ModelDescription, ResizeRule
from mrcnn.errors import MrcnnError
from mrcnn.runtime.sizes import InputRange, graph_range, network_sizes, serving

RULE = ResizeRule()
ANY = InputRange((1, 1, 1), (1, 32768, 32768))


def fixed(height: int, width: int) -> InputRange:
    return InputRange((1, height, width), (1, height, width))


def deployment(height: int | None = None, width: int | None = None, batch: int | None = None) -> Deployment:
    description = ModelDescription(
        architecture="maskrcnn_resnet50_fpn", class_names=("__background__", "coin"), resize=RULE
    )
    return Deployment(description=description, height=height, width=width, batch=batch, mask_size=28)


def test_a_graph_of_any_size() -> None:
    entry = graph_range(deployment(), most_images=8)
    assert (entry.least[0], entry.most[0]) == (1, 8)
    assert entry.fixed_size is None
    assert network_sizes(RULE, [entry], (480, 640)) == ((800, 1066), (800, 1088))


def test_a_graph_of_one_size_and_batch() -> None:
    entry = graph_range(deployment(256, 320, batch=4), most_images=8)
    assert entry == ((4, 256, 320), (4, 256, 320))
    assert entry.fixed_size == (256, 320)


def test_an_image_too_long_for_torchvision_keeps_one_pixel() -> None:
    # torchvision computes 1333 x 0 here and fails; one column is the nearest that can be looked at.
    assert network_sizes(RULE, [ANY], (20000, 10)) == ((1333, 1), (1344, 32))


@pytest.mark.parametrize("image_size", [(480, 640), (640, 480), (1, 1), (10, 20000), (50, 60)])
def test_any_image_fits_one_size(image_size: tuple[int, int]) -> None:
    rule = ResizeRule(min_size=256, max_size=320)
    (height, width), padded = network_sizes(rule, [fixed(256, 320)], image_size)
    assert padded == (256, 320)
    assert 1 <= height <= 256
    assert 1 <= width <= 320


LANDSCAPE, PORTRAIT, SQUARE = fixed(800, 1344), fixed(1344, 800), fixed(1088, 1088)


@pytest.mark.parametrize(
    ("image_size", "resized", "padded"),
    [
        ((480, 640), (800, 1066), (800, 1344)),  # fits the landscape and the square: less padding wins
        ((640, 480), (1066, 800), (1344, 800)),
        ((500, 500), (800, 800), (800, 1344)),  # fits all three; 800x1344 is the smallest, and named first
        ((300, 900), (444, 1333), (800, 1344)),
    ],
)
def test_of_several_sizes_the_one_with_the_largest_image_and_the_least_padding(
    image_size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]
) -> None:
    assert network_sizes(RULE, [SQUARE, LANDSCAPE, PORTRAIT], image_size) == (resized, padded)


def test_an_image_that_fits_none_is_shrunk_as_little_as_possible() -> None:
    # 800x1066 in 512x1024: 0.64; in 640x640: 0.60.
    resized, padded = network_sizes(RULE, [fixed(640, 640), fixed(512, 1024)], (480, 640))
    assert (resized, padded) == ((512, 682), (512, 1024))


def test_a_range_keeps_the_image_as_it_is_and_pads_up_to_its_least() -> None:
    entry = InputRange((1, 256, 256), (1, 800, 1344))
    assert network_sizes(RULE, [entry], (480, 640)) == ((800, 1066), (800, 1088))
    assert network_sizes(RULE, [entry], (100, 2000)) == ((66, 1333), (256, 1344))


def test_landscape_and_portrait_ranges_change_nothing() -> None:
    ranges = [InputRange((1, 32, 32), (1, 800, 1344)), InputRange((1, 32, 32), (1, 1344, 800))]
    for _ in range(1000):
        size = (random.randint(1, 3000), random.randint(1, 3000))
        assert network_sizes(RULE, ranges, size) == network_sizes(RULE, [ANY], size)


def test_the_smallest_range_serves_a_size() -> None:
    wide, narrow = InputRange((1, 32, 32), (1, 800, 1344)), InputRange((2, 32, 32), (4, 800, 800))
    assert serving([wide, narrow], (640, 640)) == narrow
    assert serving([wide, narrow], (640, 1024)) == wide
    with pytest.raises(MrcnnError, match="not built for inputs of 1344x800 pixels"):
        serving([wide, narrow], (1344, 800))
