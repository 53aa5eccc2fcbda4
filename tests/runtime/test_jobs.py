"""The three steps by hand: each run is taken, and each error is of its own images alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn.errors import MrcnnError
from mrcnn.runtime.backend import Batch
from mrcnn.runtime.backend_onnx import OnnxBackend
from mrcnn.runtime.jobs import Job, Jobs
from mrcnn.runtime.result import Detections

TinyModel = Callable[..., Path]


class Spoilt(OnnxBackend):
    """One whose steps raise for black images; it counts the runs that nobody took."""

    spoilt, error = "", Exception("spoilt")
    under_way = 0

    def fail(self, step: str, value: Any) -> None:
        if step == self.spoilt and np.max(value) == 0:
            raise self.error

    def prepare(self, batch: Batch) -> Any:
        self.fail("prepare", [image.max() for image in batch.images])
        return super().prepare(batch)

    def start(self, prepared: Any) -> Any:
        self.fail("start", prepared[0])
        return Run(self, super().start(prepared), prepared)


class Run:
    def __init__(self, backend: Spoilt, run: Any, prepared: Any) -> None:
        self.backend, self.run, self.prepared = backend, run, prepared
        backend.under_way += 1

    def outputs(self) -> Any:
        self.backend.under_way -= 1
        self.backend.fail("outputs", self.prepared[0])
        found = dict(self.run.outputs())
        if self.backend.spoilt == "detect" and self.prepared[0].max() == 0:
            del found["boxes"]
        return found


def work(jobs: Jobs, job: Job) -> Any:
    return jobs.finish(jobs.start(jobs.prepare(job)))


@pytest.mark.parametrize("step", ["prepare", "start", "outputs", "detect"])
@pytest.mark.parametrize("error", [MrcnnError("spoilt"), ValueError("spoilt"), MemoryError()])
@pytest.mark.parametrize("black", [0, 1, 2])
def test_an_error_of_a_group_is_the_result_of_its_images_alone(
    tiny_model: TinyModel, step: str, error: Exception, black: int
) -> None:
    backend = Spoilt(tiny_model(), device="cpu", threads=1)
    backend.spoilt, backend.error = step, error
    jobs = Jobs(backend, min_score=0)
    images = [np.full((40 + 30 * place, 60, 3), 0 if place == black else 9, np.uint8) for place in range(3)]
    found = work(jobs, Job(images, "rgb"))
    assert [isinstance(one, Detections) for one in found] == [place != black for place in range(3)]
    assert backend.under_way == 0
    if step == "detect":
        assert isinstance(found[black], KeyError)
    else:
        assert found[black] is error
        with pytest.raises(type(error)):
            work(jobs, Job([images[black]], "rgb", alone=True))


def test_a_picture_that_raises_whatever_it_likes_is_alone(tiny_model: TinyModel) -> None:
    class Unwilling(np.ndarray):
        @property
        def dtype(self) -> Any:  # type: ignore[override]
            raise ZeroDivisionError

    jobs = Jobs(OnnxBackend(tiny_model(), device="cpu", threads=1), min_score=0)
    good = np.zeros((40, 60, 3), np.uint8)
    found = work(jobs, Job([good, good.view(Unwilling), good], "rgb"))
    assert [type(one) for one in found] == [Detections, ZeroDivisionError, Detections]


def test_what_is_no_exception_leaves_no_run_behind(tiny_model: TinyModel) -> None:
    backend = Spoilt(tiny_model(), device="cpu", threads=1)
    backend.spoilt, backend.error = "outputs", SystemExit()  # type: ignore[assignment]
    jobs = Jobs(backend, min_score=0)
    job = jobs.start(jobs.prepare(Job([np.zeros((40, 60, 3), np.uint8)], "rgb")))
    with pytest.raises(SystemExit):
        jobs.finish(job)
    assert not job.running
