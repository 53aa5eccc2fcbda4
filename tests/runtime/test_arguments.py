"""What cannot be meant is refused in one line: sources of streams, ranges, sizes."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrcnn.errors import MrcnnError
from mrcnn.runtime import Runtime
from mrcnn.runtime.sizes import InputRange

TinyModel = Callable[..., Path]


@pytest.fixture
def runtime(tiny_model: TinyModel) -> Any:
    with Runtime(tiny_model()) as opened:
        yield opened


SINGLE = [
    "photo.jpg",
    b"\xff\xd8",
    Path("photo.jpg"),
    np.zeros((40, 60, 3), np.uint8),
    np.zeros((4, 6), np.uint8),
]


@pytest.mark.parametrize("source", [*SINGLE, Image.new("RGB", (4, 4)), 5, None])
def test_a_stream_of_one_image_is_refused(runtime: Runtime, source: Any) -> None:
    with pytest.raises(MrcnnError, match="stream takes several images: give a list of them"):
        runtime.stream(source)


def test_a_stream_takes_whatever_gives_images(runtime: Runtime) -> None:
    class Old:
        def __getitem__(self, index: int) -> np.ndarray:
            return np.zeros((3, 40, 60, 3), np.uint8)[index]

    sources: list[Any] = [Old(), np.zeros((3, 40, 60, 3), np.uint8), iter([np.zeros((40, 60), np.uint8)] * 3)]
    for source in sources:
        assert len(list(runtime.stream(source))) == 3


def test_infer_async_takes_one_image(runtime: Runtime) -> None:
    several: list[Any] = [[np.zeros((40, 60, 3), np.uint8)], (), []]
    for images in several:
        with pytest.raises(MrcnnError, match="infer_async takes one image"):
            runtime.infer_async(images)


GOOD = ((1, 32, 32), (2, 64, 96))


@pytest.mark.parametrize(
    "ranges", [[GOOD], (InputRange(*GOOD),), [[list(part) for part in GOOD]], iter([GOOD])]
)
def test_ranges_are_pairs(tiny_model: TinyModel, ranges: Any) -> None:
    with Runtime(tiny_model(), ranges=ranges) as runtime:
        assert runtime.ranges == (InputRange((1, 32, 32), (1, 64, 96)),)


@pytest.mark.parametrize(
    "ranges",
    [
        [],
        (),
        5,
        "ranges",
        [5],
        [None],
        [(1, 32, 32)],
        GOOD,
        InputRange(*GOOD),
        [((32, 32), (64, 96))],
        [((1, 32, 32), (2, 64))],
        [((1, 32, 32), (2, 64.0, 96))],
        [((1, 32, 32), (2, float("nan"), 96))],
        [((1, 32, "32"), (2, 64, 96))],
        [((0, 32, 32), (2, 64, 96))],
        [((1, -32, 32), (2, 64, 96))],
        [((1, 96, 32), (2, 64, 96))],
        [((3, 32, 32), (2, 64, 96))],
        [((1, 32, 32), (1, 64, 10**5000))],
    ],
)
@pytest.mark.parametrize("model", [{}, {"height": 96, "width": 128}])
def test_other_ranges_are_refused(tiny_model: TinyModel, ranges: Any, model: dict[str, int]) -> None:
    with pytest.raises(MrcnnError, match="range") as caught:
        Runtime(tiny_model(**model), ranges=ranges)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_engine_has_its_own_ranges(tmp_path: Path) -> None:
    with pytest.raises(MrcnnError, match=r"model\.engine: an engine has ranges of its own"):
        Runtime(tmp_path / "model.engine", ranges=[InputRange(*GOOD)])


SIZES = [(0, 5), (5, 0), (-4, 5), (4.0, 5), (float("nan"), 5), None, 5, (5,), (4, 5, 3), "45", ("4", "5")]


@pytest.mark.parametrize("size", [*SIZES, (10**400, 5), (10**5000, 5), ((1 << 24) + 1, 1)])
def test_sizes_of_no_image_are_refused(runtime: Runtime, size: Any) -> None:
    for call in (runtime.network_sizes, runtime.warm_up):
        with pytest.raises(MrcnnError, match="image") as caught:
            call(size)
        assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_sizes(runtime: Runtime) -> None:
    assert runtime.network_sizes((np.int64(40), np.uint16(60))) == runtime.network_sizes((40, 60))  # type: ignore[arg-type]
    runtime.warm_up(np.array([40, 60]))  # type: ignore[arg-type]


def test_more_pixels_than_an_image_may_have_are_not_warmed_up(runtime: Runtime) -> None:
    with pytest.raises(MrcnnError, match="80000000 pixels at most"):
        runtime.warm_up((1 << 20, 1 << 20))
    assert runtime.network_sizes((1 << 20, 1 << 20))


def test_bytes_of_a_picture_are_still_an_image(runtime: Runtime) -> None:
    file = io.BytesIO()
    Image.new("RGB", (60, 40)).save(file, "PNG")
    assert len(list(runtime.stream([file.getvalue()]))) == 1
