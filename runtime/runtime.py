"""The one entry: an exported model, ready to find objects in images."""

import os
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, TypeVar, overload

import numpy as np

from mrcnn.description import Deployment, ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.runtime.backend import CLOSED, Backend
from mrcnn.runtime.backend_onnx import OnnxBackend
from mrcnn.runtime.images import ImageLike
from mrcnn.runtime.jobs import Job, Jobs, Picture
from mrcnn.runtime.pipeline import Pipeline, in_order
from mrcnn.runtime.result import Detections
from mrcnn.runtime.sizes import InputRange, Size, network_sizes, serving

AnyImage = TypeVar("AnyImage", bound=ImageLike)

# More than any machine has cores; ONNX Runtime would start whatever number it is told.
_MAX_THREADS = 1024
_MAX_CONTEXTS = 16

# Images between their submission and their result; few, since each may be a large photograph.
_UNDER_WAY = 8


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
        backend = _open_backend(Path(path), device=device, threads=threads, contexts=contexts, ranges=ranges)
        self._backend: Backend | None = backend
        self._jobs = Jobs(backend, min_score=min_score)
        self._pipeline: Pipeline[Job, Job, Job, Any] | None = None
        self._lock = Lock()
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
        return dict(getattr(self._opened(), "memory_bytes", {}))

    def network_sizes(self, image_size: Size) -> tuple[Size, Size]:
        """Of an image of (height, width): the size that it is resized to, and that with its padding."""
        return network_sizes(self.description.resize, self._opened().ranges, image_size)

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
            MrcnnError: an image is unreadable or of another shape or dtype, or the runtime was closed.
        """
        if isinstance(image, list | tuple):
            return self._infer_list(image, color)
        return self._infer_list([image], color)[0]

    def infer_async(self, image: ImageLike, *, color: str = "bgr") -> "Future[Detections]":
        """As `infer` for one image, without waiting for the result.

        Reading and resizing, the network, and what follows it work on successive images at the same time.
        Waits while many images are under way.

        Returns:
            a future with the detections, or the error that `infer` would have raised.

        Raises:
            MrcnnError: the runtime was closed.
        """
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
            MrcnnError: while iterating, as `infer`.
        """
        if errors not in ("raise", "return"):
            raise MrcnnError(f"errors must be raise or return (got {errors!r})")
        together = max(entry.least[0] for entry in self._opened().ranges)
        sizes: deque[int] = deque()  # of the groups under way

        def submit(group: list[ImageLike]) -> "Future[Any]":
            sizes.append(len(group))
            return self._submit(group, color)

        def flattened() -> Iterator[Any]:
            for found in in_order(submit, _groups(source, together), ahead=_UNDER_WAY):
                size = sizes.popleft()
                for result in [found] * size if isinstance(found, Exception) else found:
                    if isinstance(result, Exception) and (
                        errors == "raise" or not isinstance(result, MrcnnError)
                    ):
                        raise result
                    yield result

        return flattened()

    def warm_up(self, image_size: Size = (480, 640)) -> None:
        """Makes the next calls as fast as later ones, for images of (height, width): runs on black ones."""
        image = np.zeros((*image_size, 3), np.uint8)
        # An engine's second run of a size is recorded, in each of its contexts, which the stream keeps busy.
        runs = 1 if self.device == "cpu" else 3 * self._contexts
        for _ in self.stream([image] * runs):
            pass

    def close(self) -> None:
        """Frees the model. Calls that are running end normally; later ones are refused."""
        with self._lock:
            backend, pipeline = self._backend, self._pipeline
            self._backend = self._pipeline = None
        if pipeline is not None:
            pipeline.close()
        if backend is not None:
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

    def _submit(self, images: Sequence[ImageLike], color: str, *, alone: bool = False) -> "Future[Any]":
        with self._lock:
            self._opened()
            if self._pipeline is None:
                jobs = self._jobs
                self._pipeline = Pipeline(
                    prepare=jobs.prepare, start=jobs.start, finish=jobs.finish, waiting=_UNDER_WAY
                )
            pipeline = self._pipeline
        return pipeline.submit(Job(images, color, alone=alone))

    def _infer_list(self, images: Sequence[ImageLike], color: str) -> list[Detections]:
        """Runs images of one network size together, as soon as a batch of them is full."""
        backend, jobs = self._opened(), self._jobs
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


def _groups(source: Iterable[ImageLike], size: int) -> Iterator[list[ImageLike]]:
    """Lists of `size` images, the last one shorter; also where the source fails, which is raised after it."""
    images, failure = iter(source), None
    more = True
    while more:
        group: list[ImageLike] = []
        try:
            while len(group) < size:
                group.append(next(images))
        except StopIteration:
            more = False
        except Exception as error:
            more, failure = False, error
        if group:
            yield group
    if failure is not None:
        raise failure


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
        from mrcnn.runtime.engine.backend import EngineBackend

        return EngineBackend(path, contexts=contexts)
    if path.suffix in (".pth", ".pt"):
        raise MrcnnError(f"{path}: a checkpoint must be exported before it runs here: mrcnn export {path}")
    raise MrcnnError(f"{path}: not an exported model, whose name ends in .onnx or .engine")
