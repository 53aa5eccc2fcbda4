"""Runs an exported model on ONNX Runtime, after checking that the file is one of ours."""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.description import METADATA_KEY, Deployment
from mrcnn.errors import FORCE_ONNXRUNTIME_GPU, MissingRequirementError, MrcnnError
from mrcnn.runtime.backend import CLOSED, Batch, Finished
from mrcnn.runtime.ort import import_onnxruntime
from mrcnn.runtime.outputs import expected_outputs, keep_contract
from mrcnn.runtime.preprocess import make_batch
from mrcnn.runtime.sizes import InputRange, graph_range

_NOT_AS_TOLD = "the graph's inputs or outputs are not those that its metadata tells: export it again"

# How ONNX's protobuf names the file of a tensor stored elsewhere: field 1 (the key), 8 bytes, "location".
_EXTERNAL_DATA = b"\n\x08location"


# Images that a GPU works on together; a CPU is as fast with one, and one gives the same result each time.
_GPU_BATCH = 8


class OnnxBackend:
    """One ONNX file in one ONNX Runtime session: the `Backend` of machines without TensorRT.

    Args:
        path: the `.onnx` file.
        device: "cpu", "cuda", or "auto" for CUDA where ONNX Runtime has it, else the CPU.
        threads: for the work of one call; None for one per core.
        ranges: for a graph of any size, the sizes to run it at; None for any.

    Attributes:
        deployment: the metadata in the file.
        device: "cpu" or "cuda".
        ranges: what the graph takes, in batches of a sensible size.

    Raises:
        MrcnnError: the file is missing, damaged, or no model of this project; in `run`: it fails, or its
            outputs are not those of the contract.
        MissingRequirementError: CUDA was asked for and is not there.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str,
        threads: int | None,
        ranges: Sequence[InputRange] | None = None,
    ) -> None:
        _check_file(path)
        self._path = path
        session = _open_session(path, device=device, threads=threads)
        self._session: Any = session
        self.device = "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"
        try:
            self.deployment = _deployment(session)
        except MrcnnError as error:
            raise MrcnnError(f"{path}: {error}") from error
        most_images = 1 if self.device == "cpu" else _GPU_BATCH
        own = graph_range(self.deployment, most_images=most_images)
        self.ranges = (own,) if ranges is None or own.fixed_size else _one_image(ranges)
        self._outputs = [output.name for output in session.get_outputs()]

    @property
    def memory_bytes(self) -> dict[str, int]:
        """Empty: ONNX Runtime manages the memory."""
        return {}

    def take(self, image: object, *, color: str) -> None:
        """None: images are read on the CPU."""

    def prepare(self, batch: Batch) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """The graph's two inputs."""
        return make_batch(
            batch.images,
            resized=batch.resized,
            padded=batch.padded,
            batch=batch.rows,
            dtype=self.deployment.input_dtype,
        )

    def start(self, prepared: tuple[NDArray[Any], NDArray[np.int32]]) -> "Finished":
        """Runs at once: ONNX Runtime has nothing to wait for afterwards."""
        return Finished(self.run(*prepared))

    def close(self) -> None:
        """Frees the session when the last run that uses it has ended."""
        self._session = None

    def run(self, images: NDArray[Any], image_sizes: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
        """The graph's outputs by name, for its two inputs (see ARCHITECTURE.md)."""
        outputs = self.values(images, image_sizes)
        if not keep_contract(outputs, rows=len(images), deployment=self.deployment):
            raise MrcnnError(f"{self._path}: {_NOT_AS_TOLD}")
        return outputs

    def values(self, images: NDArray[Any], image_sizes: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
        """The outputs as the graph gives them, whatever they are."""
        session = self._session
        if session is None:
            raise MrcnnError(CLOSED)
        try:
            values = session.run(self._outputs, {"images": images, "image_sizes": image_sizes})
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            raise MrcnnError(f"{self._path}: ONNX Runtime cannot run it ({_reason(error)})") from error
        return dict(zip(self._outputs, values, strict=True))


def _one_image(ranges: Sequence[InputRange]) -> tuple[InputRange, ...]:
    return tuple(InputRange((1, *entry.least[1:]), (1, *entry.most[1:])) for entry in ranges)


def _check_file(path: Path) -> None:
    try:
        if not path.is_dir() and path.exists() and not path.is_file():
            raise MrcnnError(f"{path}: not a regular file")  # a pipe may never end
        with path.open("rb") as file:
            if not file.read(1):
                raise MrcnnError(f"{path}: the file is empty")
            # Weights in other files are not covered by what was validated; ONNX Runtime would open them.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content.find(_EXTERNAL_DATA) >= 0:
                    raise MrcnnError(f"{path}: its weights lie in another file: export it again")
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise MrcnnError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rpartition(" failed:")[2]


def _open_session(path: Path, *, device: str, threads: int | None) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # problems arrive as exceptions; the log would print them once more
    options.intra_op_num_threads = threads or 0
    # Plans of memory that are kept per input shape: no faster here, and a quarter more memory after one
    # shape of image, two thirds more after six.
    options.enable_mem_pattern = False
    providers = ["CPUExecutionProvider"]
    if device != "cpu" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise MrcnnError(
            f"{path}: not a complete ONNX model that ONNX Runtime can load ({_reason(error)})"
        ) from error
    if device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise MissingRequirementError(
            f"ONNX Runtime finds no CUDA here: {FORCE_ONNXRUNTIME_GPU}, or choose the device cpu"
        )
    return session


def _deployment(session: Any) -> Deployment:
    """The metadata in the file, after the graph was found to be what it says.

    Raises:
        MrcnnError: there is none, or inputs and outputs are other ones.
    """
    try:
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except UnicodeDecodeError as error:
        raise MrcnnError("its metadata is damaged: export it again") from error
    if text is None:
        raise MrcnnError("an ONNX model, but not one that `mrcnn export` wrote")
    deployment = Deployment.from_json(text)
    outputs = set(expected_outputs(deployment, rows=1, slots=1))
    pixels = {"float32": "tensor(float)", "uint8": "tensor(uint8)"}.get(deployment.input_dtype)
    expected = {"images": (pixels, 4), "image_sizes": ("tensor(int32)", 2)}
    found = {value.name: (value.type, len(value.shape)) for value in session.get_inputs()}
    if found != expected or not outputs <= {value.name for value in session.get_outputs()}:
        raise MrcnnError(_NOT_AS_TOLD)
    return deployment
