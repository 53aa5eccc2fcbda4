"""`infer_async` and `stream`: the same results as `infer`, in order, each error in its own place."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn.errors import MrcnnError
from mrcnn.runtime import Detections, Runtime
from mrcnn.runtime.backend_onnx import OnnxBackend

TinyModel = Callable[..., Path]

SECONDS = 60  # until a test that hangs is given up


def flat(value: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def images(count: int) -> list[np.ndarray]:
    """Wide and high ones, told apart by their brightness, which is the first score."""
    return [flat(value + 1, *((40, 60) if value % 3 else (60, 40))) for value in range(count)]


def brightness(found: Detections) -> int:
    return round(float(found.scores[0]) * 255)


def test_a_future_holds_what_infer_gives(tiny_model: TinyModel) -> None:
    with Runtime(tiny_model()) as runtime:
        future = runtime.infer_async(flat(200))
        found = future.result(SECONDS)
        expected = runtime.infer(flat(200))
    assert isinstance(found, Detections)
    assert (found.boxes == expected.boxes).all()
    assert found.rles == expected.rles


def test_an_error_reaches_its_own_future_alone(tiny_model: TinyModel) -> None:
    with Runtime(tiny_model()) as runtime:
        wanted: list[Any] = [flat(1), "missing.jpg", flat(3), np.zeros(7), flat(5)]
        futures = [runtime.infer_async(image) for image in wanted]
        wait(futures, SECONDS)
    assert [brightness(futures[i].result()) for i in (0, 2, 4)] == [1, 3, 5]
    with pytest.raises(MrcnnError, match=r"missing\.jpg: No such file"):
        futures[1].result()
    with pytest.raises(MrcnnError, match="must be"):
        futures[3].result()


def test_an_error_of_the_network_reaches_its_own_future_alone(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(tiny_model())
    backend = runtime._backend
    assert isinstance(backend, OnnxBackend)
    run = backend.run

    def failing(pixels: Any, sizes: Any) -> Any:
        if pixels.max() == 2:
            raise MrcnnError("the GPU is on fire")
        return run(pixels, sizes)

    monkeypatch.setattr(backend, "run", failing)
    with runtime:
        futures = [runtime.infer_async(flat(value)) for value in (1, 2, 3)]
        wait(futures, SECONDS)
        assert [brightness(futures[i].result()) for i in (0, 2)] == [1, 3]
        with pytest.raises(MrcnnError, match="on fire"):
            futures[1].result()
        given = list(runtime.stream([flat(1), flat(2), flat(3)], errors="return"))
    assert [type(one).__name__ for one in given] == ["Detections", "MrcnnError", "Detections"]


def test_close_loses_nothing(tiny_model: TinyModel) -> None:
    runtime = Runtime(tiny_model())
    futures: list[Future[Detections]] = [runtime.infer_async(image) for image in images(20)]
    runtime.close()
    assert all(future.done() for future in futures)
    assert [brightness(future.result()) for future in futures] == list(range(1, 21))
    for call in (
        lambda: runtime.infer_async(flat(1)),
        lambda: runtime.stream([]),
        lambda: runtime.infer(flat(1)),
    ):
        with pytest.raises(MrcnnError, match="this Runtime is closed"):
            call()
    runtime.close()


@pytest.mark.parametrize(
    "model", [{}, {"height": 96, "width": 128}, {"batch": 3}, {"height": 64, "width": 64, "batch": 2}]
)
def test_a_stream_keeps_the_order(tiny_model: TinyModel, model: dict[str, int]) -> None:
    with Runtime(tiny_model(**model)) as runtime:
        found = list(runtime.stream(images(50)))
    assert [brightness(one) for one in found] == list(range(1, 51))
    assert [one.image_size for one in found] == [image.shape[:2] for image in images(50)]


def test_a_stream_takes_images_as_it_needs_them(tiny_model: TinyModel) -> None:
    taken = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal taken
        for image in images(200):
            taken += 1
            yield image

    with Runtime(tiny_model()) as runtime:
        results = runtime.stream(source())
        assert taken == 0
        assert brightness(next(results)) == 1
        assert 1 <= taken <= 10
        results.close()  # type: ignore[attr-defined]
    assert taken <= 10


@pytest.mark.parametrize("model", [{}, {"batch": 2}])
def test_a_bad_image_in_a_stream(tiny_model: TinyModel, model: dict[str, int]) -> None:
    source: list[Any] = [flat(1), flat(2), "missing.jpg", flat(4), flat(5)]
    with Runtime(tiny_model(**model)) as runtime:
        kept = list(runtime.stream(source, errors="return"))
        assert isinstance(kept[2], MrcnnError)
        assert [brightness(one) for i, one in enumerate(kept) if i != 2] == [1, 2, 4, 5]
        seen: list[int] = []
        with pytest.raises(MrcnnError, match=r"missing\.jpg"):
            seen.extend(brightness(one) for one in runtime.stream(source))
        assert seen == [1, 2]
        with pytest.raises(MrcnnError, match="errors must be raise or return"):
            runtime.stream(source, errors="ignore")


def test_an_error_of_the_source_comes_after_its_images(tiny_model: TinyModel) -> None:
    def source() -> Iterator[np.ndarray]:
        yield from (flat(1), flat(2), flat(3))
        raise OSError("the camera was unplugged")

    for model in ({}, {"batch": 2}):
        seen: list[int] = []
        with Runtime(tiny_model(**model)) as runtime, pytest.raises(OSError, match="unplugged"):
            seen.extend(brightness(one) for one in runtime.stream(source()))
        assert seen == [1, 2, 3]


def test_threads_share_one_runtime(tiny_model: TinyModel) -> None:
    found: dict[int, list[int]] = {}

    def work(which: int) -> None:
        values = range(1 + which, 200, 8)
        if which % 2:
            found[which] = [brightness(one) for one in runtime.stream(flat(value) for value in values)]
        else:
            found[which] = [brightness(runtime.infer(flat(value))) for value in values]

    with Runtime(tiny_model()) as runtime:
        threads = [threading.Thread(target=work, args=(which,), daemon=True) for which in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
    assert found == {which: list(range(1 + which, 200, 8)) for which in range(8)}
