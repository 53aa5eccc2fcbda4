"""The one entry: an exported model, ready to find objects in images."""

import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Thread, get_ident
from types import TracebackType
from typing import Any, TypeVar, overload

import numpy as np

from mrcnn.description import Deployment, ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.runtime.backend import CLOSED, Backend
from mrcnn.runtime.backend_onnx import OnnxBackend
from mrcnn.runtime.images import MAX_PIXELS, ImageLike
from mrcnn.runtime.jobs import Job, Jobs, Picture
from mrcnn.runtime.pipeline import Pipeline, in_order
from mrcnn.runtime.result import Detections
from mrcnn.runtime.sizes import (
    InputRange,
    Size,
    checked_image_size,
    checked_ranges,
    network_sizes,
    serving,
)
from mrcnn.runtime.sources import check_source, groups

AnyImage = TypeVar("AnyImage", bound=ImageLike)

# More than any machine has cores; ONNX Runtime would start whatever number it is told.
_MAX_THREADS = 1024
_MAX_CONTEXTS = 16

# Images between their submission and their result; few, since each may be a large photograph.
_UNDER_WAY = 8

_IN_CALLBACK = (
    "{} cannot be called in a callback of infer_async: submit with infer_async there, or hand the result to "
    "another thread"
)


class Runtime:
    """An exported model, loaded.

        with Runtime("model.onnx") as runtime:
            detections = runtime.infer("photo.jpg")

    May be used from several threads at once.

    Args:
        path: the file that `mrcnn export` wrote: `.onnx`, or `.engine` with its `.engine.json` beside it.
        device: "cpu", "cuda", or "auto" for CUDA where it is there. An engine runs on CUDA alone.
        threads: CPU threads for one call of ONNX Runtime; None for one per core.
        min_score: detections below are left out (the model's own threshold holds as well).
        contexts: runs that an engine holds on the GPU at once, each with its own memory; with two, copies and
            computation overlap.
        ranges: for an ONNX file of any input size, the sizes to run it at: with those of an engine
            (`Runtime.ranges`) it sees what the engine sees.

    Raises:
        MrcnnError: the file is missing, damaged or another model, or an argument is out of range.
        MissingRequirementError: the machine lacks what the file or `device` needs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        threads: int | None = None,
        min_score: float = 0.0,
        contexts: int = 2,
        ranges: Sequence[InputRange] | None = None,
    ) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise MrcnnError(f"device must be auto, cpu or cuda (got {device!r})")
        if not isinstance(path, str | os.PathLike):
            raise MrcnnError(f"a model is given by its path (got {type(path).__name__})")
        if threads is not None and (type(threads) is not int or not 1 <= threads <= _MAX_THREADS):
            raise MrcnnError(f"threads must be at least 1 and at most {_MAX_THREADS} (got {threads!r})")
        if type(contexts) is not int or not 1 <= contexts <= _MAX_CONTEXTS:
            raise MrcnnError(f"contexts must be at least 1 and at most {_MAX_CONTEXTS} (got {contexts!r})")
        if not _is_probability(min_score):
            raise MrcnnError(f"min_score must be between 0 and 1 (got {min_score!r})")
        if ranges is not None:
            ranges = checked_ranges(ranges)
        backend = _open_backend(Path(path), device=device, threads=threads, contexts=contexts, ranges=ranges)
        self._backend: Backend | None = backend
        self._jobs = Jobs(backend, min_score=min_score)
        self._pipeline: Pipeline[Job, Job, Job, Any] | None = None
        self._process = os.getpid()
        # Guards what is above and below, and is notified when a call of `infer` ends.
        self._changed = Condition()
        self._inferring: Counter[int] = Counter()  # calls by thread
        self._contexts = contexts
        self.deployment: Deployment = backend.deployment
        self.device: str = backend.device

    @property
    def description(self) -> ModelDescription:
        return self.deployment.description

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label; index 0 is the background."""
        return self.description.class_names

    @property
    def ranges(self) -> tuple[InputRange, ...]:
        """The network inputs that are run; images are resized and padded into them."""
        return self._opened().ranges

    @property
    def memory_bytes(self) -> dict[str, int]:
        """What an engine holds on the GPU, by purpose; empty where ONNX Runtime manages the memory."""
        return self._opened().memory_bytes

    def network_sizes(self, image_size: Size) -> tuple[Size, Size]:
        """Of an image of (height, width): the size that it is resized to, and that with its padding.

        Raises:
            MrcnnError: these are no two sides of an image.
        """
        ranges = self._opened().ranges
        return network_sizes(self.description.resize, ranges, checked_image_size(image_size))

    @overload
    def infer(self, image: ImageLike, *, color: str = "bgr") -> Detections: ...

    @overload
    def infer(
        self, image: list[AnyImage] | tuple[AnyImage, ...], *, color: str = "bgr"
    ) -> list[Detections]: ...

    def infer(
        self, image: ImageLike | list[AnyImage] | tuple[AnyImage, ...], *, color: str = "bgr"
    ) -> Detections | list[Detections]:
        """Finds the objects in one image, or in each of a list.

        Args:
            image: a path, a picture file's bytes, a PIL image, or a uint8 array (height, width, 3); or a
                list of those, of any sizes. What is found in one does not depend on the others. For an
                engine also an array on the GPU: whatever has `__cuda_array_interface__` or DLPack (PyTorch,
                CuPy, PyCUDA).
            color: channel order of arrays, "bgr" as OpenCV gives it, or "rgb".

        Returns:
            the detections, best score first; for a list, a list in its order.

        Raises:
            MrcnnError: an image is unreadable or of another shape or dtype, the runtime was closed, or this
                is a callback of one of its futures.
        """
        if isinstance(image, list | tuple):
            return self._infer_list(image, color)
        return self._infer_list([image], color)[0]

    def infer_async(self, image: ImageLike, *, color: str = "bgr") -> "Future[Detections]":
        """As `infer` for one image, without waiting for the result.

        Reading and resizing, the network, and what follows it work on successive images at the same time.
        Waits while many images are under way.

        Callbacks of the future run in the threads that do this work. They may call `infer_async` and `close`;
        what waits there for another image would wait forever, so `infer` and `stream` are refused.

        Returns:
            a future with the detections, or the error that `infer` would have raised.

        Raises:
            MrcnnError: the runtime was closed, or opened before this process was forked; or several images.
        """
        if isinstance(image, list | tuple):
            raise MrcnnError("infer_async takes one image: call it for each, or use stream")
        return self._submit([image], color, alone=True)

    def stream(
        self, source: Iterable[ImageLike], *, color: str = "bgr", errors: str = "raise"
    ) -> Iterator[Any]:
        """The detections of each image, in order; images are taken from `source` as they are needed.

        As fast as the slowest of reading, network and post-processing. A model that is built for several
        images at once gets that many.

        Args:
            errors: "raise" ends at the first image that cannot be used; "return" gives the MrcnnError in its
                place and goes on.

        Raises:
            MrcnnError: `source` is a single image or nothing that holds any; while iterating, as `infer`.
        """
        check_source(source)
        if errors not in ("raise", "return"):
            raise MrcnnError(f"errors must be raise or return (got {errors!r})")
        together = max(entry.least[0] for entry in self._opened().ranges)
        self._check_process()
        sizes: deque[int] = deque()  # of the groups under way

        def submit(group: list[ImageLike]) -> "Future[Any]":
            self._refuse_callback("stream")
            sizes.append(len(group))
            return self._submit(group, color)

        def flattened() -> Iterator[Any]:
            for found in in_order(submit, groups(source, together), ahead=_UNDER_WAY):
                size = sizes.popleft()
                for result in [found] * size if isinstance(found, Exception) else found:
                    if isinstance(result, Exception) and (
                        errors == "raise" or not isinstance(result, MrcnnError)
                    ):
                        raise result
                    yield result

        return flattened()

    def warm_up(self, image_size: Size = (480, 640)) -> None:
        """Makes the next calls as fast as later ones, for images of (height, width): runs on black ones.

        Raises:
            MrcnnError: as `network_sizes`, for more pixels than an image may have, and as `stream`.
        """
        height, width = checked_image_size(image_size)
        if height * width > MAX_PIXELS:
            raise MrcnnError(f"an image may have {MAX_PIXELS} pixels at most (got {height}x{width})")
        image = np.zeros((height, width, 3), np.uint8)
        # An engine's second run of a size is recorded, in each of its contexts, which the stream keeps busy.
        runs = 1 if self.device == "cpu" else 3 * self._contexts
        for _ in self.stream([image] * runs):
            pass

    def close(self) -> None:
        """Frees the model, after the calls that are running and all that was submitted; refuses later ones.

        Does not wait for them in a callback of a future, nor inside of `infer` in the same thread: there the
        model is freed when they have ended.
        """
        if os.getpid() != self._process:  # what is under way is so in the other process
            self._backend = self._pipeline = None
            return
        with self._changed:
            backend, pipeline = self._backend, self._pipeline
            self._backend = self._pipeline = None
            inside = self._inferring[get_ident()] > 0
        if backend is None:
            return
        if inside or (pipeline is not None and pipeline.works_here):
            try:
                Thread(target=self._free, args=(backend, pipeline), name="mrcnn-close").start()
            except RuntimeError:  # the program is ending
                if pipeline is not None:
                    pipeline.close()
        else:
            self._free(backend, pipeline)

    def _free(self, backend: Backend, pipeline: Pipeline[Job, Job, Job, Any] | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._inferring.total())
        if pipeline is not None:
            pipeline.close()
        backend.close()

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> Backend:
        backend = self._backend
        if backend is None:
            raise MrcnnError(CLOSED)
        return backend

    @contextmanager
    def _call(self) -> Iterator[Backend]:
        """For a call that uses the backend in its own thread: `close` waits for its end."""
        thread = get_ident()
        with self._changed:
            backend = self._opened()
            self._refuse_callback("infer")
            self._inferring[thread] += 1
        try:
            yield backend
        finally:
            with self._changed:
                self._inferring[thread] -= 1
                if not self._inferring[thread]:
                    del self._inferring[thread]
                self._changed.notify_all()

    def _refuse_callback(self, name: str) -> None:
        """The pipeline's threads are those that free what `name` would wait for."""
        pipeline = self._pipeline
        if pipeline is not None and pipeline.works_here:
            raise MrcnnError(_IN_CALLBACK.format(name))

    def _check_process(self) -> None:
        """Raises MrcnnError after a fork, which copies no threads."""
        if os.getpid() != self._process:
            raise MrcnnError(
                "this process was forked from the one that opened the model: open it in here, or start the "
                "process by 'spawn'"
            )

    def _submit(self, images: Sequence[ImageLike], color: str, *, alone: bool = False) -> "Future[Any]":
        self._check_process()
        with self._changed:
            self._opened()
            if self._pipeline is None:
                jobs = self._jobs
                self._pipeline = Pipeline(
                    prepare=jobs.prepare, start=jobs.start, finish=jobs.finish, waiting=_UNDER_WAY
                )
            pipeline = self._pipeline
        return pipeline.submit(Job(images, color, alone=alone))

    def _infer_list(self, images: Sequence[ImageLike], color: str) -> list[Detections]:
        with self._call() as backend:
            return self._infer_groups(backend, images, color)

    def _infer_groups(self, backend: Backend, images: Sequence[ImageLike], color: str) -> list[Detections]:
        """Runs images of one network size together, as soon as a batch of them is full."""
        jobs = self._jobs
        results: dict[int, Detections] = {}
        waiting: defaultdict[Size, list[Picture]] = defaultdict(list)
        for index, image in enumerate(images):
            try:
                picture = jobs.picture(index, image, color)
            except MrcnnError as error:
                if len(images) == 1:
                    raise
                raise MrcnnError(f"image {index} of the list: {error}") from error
            group = waiting[picture.padded]
            group.append(picture)
            if len(group) == serving(backend.ranges, picture.padded).most[0]:
                results.update(jobs.run(waiting.pop(picture.padded)))
        for group in waiting.values():
            results.update(jobs.run(group))
        return [results[index] for index in range(len(images))]


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float | np.number) and bool(0 <= value <= 1)


def _open_backend(
    path: Path,
    *,
    device: str,
    threads: int | None,
    contexts: int,
    ranges: Sequence[InputRange] | None,
) -> Backend:
    if path.suffix == ".onnx":
        return OnnxBackend(path, device=device, threads=threads, ranges=ranges)
    if path.suffix == ".engine":
        if device == "cpu":
            raise MrcnnError(
                f"{path}: an engine runs on a GPU: for the CPU open the .onnx file it was built from"
            )
        if ranges is not None:
            raise MrcnnError(f"{path}: an engine has ranges of its own: leave out `ranges`")
        from mrcnn.runtime.engine.backend import EngineBackend

        return EngineBackend(path, contexts=contexts)
    if path.suffix in (".pth", ".pt"):
        raise MrcnnError(f"{path}: a checkpoint must be exported before it runs here: mrcnn export {path}")
    raise MrcnnError(f"{path}: not an exported model, whose name ends in .onnx or .engine")
