"""The one entry: an exported model, ready to find objects in images."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np

from mrcnn.description import Deployment, ModelDescription
from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.runtime.backend_onnx import OnnxBackend
from mrcnn.runtime.images import ImageLike, RgbArray, to_rgb
from mrcnn.runtime.preprocess import Size, make_batch, network_sizes, rescale_boxes
from mrcnn.runtime.result import Detections

AnyImage = TypeVar("AnyImage", bound=ImageLike)

# Images that a GPU works on together; a CPU is as fast with one, and one gives the same result each time.
_GPU_BATCH = 8

# More than any machine has cores; ONNX Runtime would start whatever number it is told.
_MAX_THREADS = 1024


class _Prepared(NamedTuple):
    """An image waiting for its turn: its place in the caller's list, its pixels, its size in the network."""

    place: int
    pixels: RgbArray
    resized: Size


class Runtime:
    """An exported model, loaded.

        with Runtime("model.onnx") as runtime:
            detections = runtime.infer("photo.jpg")

    May be used from several threads at once.

    Args:
        path: the file that `mrcnn export` wrote.
        device: "cpu", "cuda", or "auto" for CUDA where it is there.
        threads: CPU threads for one call; None for one per core.
        min_score: detections below are left out (the model's own threshold holds as well).

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
    ) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise MrcnnError(f"device must be auto, cpu or cuda (got {device!r})")
        if not isinstance(path, str | os.PathLike):
            raise MrcnnError(f"a model is given by its path (got {type(path).__name__})")
        if threads is not None and (type(threads) is not int or not 1 <= threads <= _MAX_THREADS):
            raise MrcnnError(f"threads must be at least 1 and at most {_MAX_THREADS} (got {threads!r})")
        if not _is_probability(min_score):
            raise MrcnnError(f"min_score must be between 0 and 1 (got {min_score!r})")
        self._backend: OnnxBackend | None = _open_backend(Path(path), device=device, threads=threads)
        self._min_score = min_score
        self.deployment: Deployment = self._backend.deployment
        self.device: str = self._backend.device

    @property
    def description(self) -> ModelDescription:
        return self.deployment.description

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label; index 0 is the background."""
        return self.description.class_names

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
                list of those, of any sizes. What is found in one does not depend on the others.
            color: channel order of arrays, "bgr" as OpenCV gives it, or "rgb".

        Returns:
            the detections, best score first; for a list, a list in its order.

        Raises:
            MrcnnError: an image is unreadable or of another shape or dtype, or the runtime was closed.
        """
        if isinstance(image, list | tuple):
            return self._infer_list(image, color)
        return self._infer_list([image], color)[0]

    def warm_up(self, image_size: Size = (480, 640)) -> None:
        """Runs once on a black image of (height, width), so that the next call is as fast as later ones."""
        self.infer(np.zeros((*image_size, 3), np.uint8))

    def close(self) -> None:
        """Frees the model. Calls that are running end normally; later ones are refused."""
        self._backend = None

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _infer_list(self, images: Sequence[ImageLike], color: str) -> list[Detections]:
        """Runs images of one network size together, as soon as a batch of them is full."""
        backend = self._backend
        if backend is None:
            raise MrcnnError("this Runtime is closed")
        batch = self.deployment.batch or (1 if self.device == "cpu" else _GPU_BATCH)
        results: dict[int, Detections] = {}
        waiting: defaultdict[Size, list[_Prepared]] = defaultdict(list)
        for index, image in enumerate(images):
            try:
                pixels = to_rgb(image, color=color)
            except MrcnnError as error:
                if len(images) == 1:
                    raise
                raise MrcnnError(f"image {index} of the list: {error}") from error
            resized, padded = network_sizes(self.deployment, pixels.shape[:2])
            waiting[padded].append(_Prepared(index, pixels, resized))
            if len(waiting[padded]) == batch:
                results.update(self._run(backend, waiting.pop(padded), padded))
        for padded, group in waiting.items():
            results.update(self._run(backend, group, padded))
        return [results[index] for index in range(len(images))]

    def _run(self, backend: OnnxBackend, group: list[_Prepared], padded: Size) -> dict[int, Detections]:
        inputs = make_batch(
            [image.pixels for image in group],
            resized=[image.resized for image in group],
            padded=padded,
            batch=self.deployment.batch or len(group),
            dtype=self.deployment.input_dtype,
        )
        outputs = backend.run(*inputs)
        return {
            image.place: self._detections({name: value[row] for name, value in outputs.items()}, image)
            for row, image in enumerate(group)
        }

    def _detections(self, row: dict[str, Any], image: _Prepared) -> Detections:
        """The outputs for one image, without their padding, in pixels of that image."""
        height, width = image.pixels.shape[:2]
        kept = row["scores"] >= self._min_score
        kept[row["num_detections"] :] = False
        # Indexing with `kept` copies: what is returned does not keep the padded outputs alive.
        return Detections(
            boxes=rescale_boxes(row["boxes"][kept], network_size=image.resized, image_size=(height, width)),
            scores=row["scores"][kept],
            labels=row["labels"][kept].astype(np.int64),
            class_names=self.class_names,
            image_size=(height, width),
            mask_probs=row["masks"][kept] if self.deployment.mask_size is not None else None,
        )


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float | np.number) and bool(0 <= value <= 1)


def _open_backend(path: Path, *, device: str, threads: int | None) -> OnnxBackend:
    if path.suffix == ".onnx":
        return OnnxBackend(path, device=device, threads=threads)
    if path.suffix == ".engine":
        raise MissingRequirementError(
            f"{path}: this version does not run TensorRT engines: use the .onnx file it was built from"
        )
    if path.suffix in (".pth", ".pt"):
        raise MrcnnError(f"{path}: a checkpoint must be exported before it runs here: mrcnn export {path}")
    raise MrcnnError(f"{path}: not an exported model, whose name ends in .onnx")
