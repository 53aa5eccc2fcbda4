"""Runs an exported model on ONNX Runtime, after checking that the file is one of ours."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.description import Deployment
from mrcnn.errors import MissingRequirementError, MrcnnError

METADATA_KEY = "mrcnn"


class OnnxBackend:
    """One ONNX file in one ONNX Runtime session. `run` may be called from several threads at once.

    Args:
        path: the `.onnx` file.
        device: "cpu", "cuda", or "auto" for CUDA where ONNX Runtime has it, else the CPU.
        threads: for the work of one call; None for one per core.

    Attributes:
        deployment: the metadata in the file.
        device: "cpu" or "cuda".

    Raises:
        MrcnnError: the file is missing, damaged, or no model of this project.
        MissingRequirementError: CUDA was asked for and is not there.
    """

    def __init__(self, path: Path, *, device: str, threads: int | None) -> None:
        _check_file(path)
        self._session = _open_session(path, device=device, threads=threads)
        self.device = "cuda" if "CUDAExecutionProvider" in self._session.get_providers() else "cpu"
        try:
            self.deployment = _deployment(self._session)
        except MrcnnError as error:
            raise MrcnnError(f"{path}: {error}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, images: NDArray[Any], image_sizes: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
        """The graph's outputs by name, for its two inputs (see ARCHITECTURE.md)."""
        values = self._session.run(self._outputs, {"images": images, "image_sizes": image_sizes})
        return dict(zip(self._outputs, values, strict=True))


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise MrcnnError(f"{path}: the file is empty")
    except OSError as error:
        raise MrcnnError(f"{path}: {error.strerror}") from error


def _open_session(path: Path, *, device: str, threads: int | None) -> Any:
    import onnxruntime

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
        reason = " ".join(str(error).split()).rpartition(" failed:")[2]
        raise MrcnnError(
            f"{path}: not a complete ONNX model that ONNX Runtime can load ({reason})"
        ) from error
    if device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise MissingRequirementError(
            "ONNX Runtime finds no CUDA here: pip uninstall onnxruntime, pip install 'mrcnn[gpu]', "
            "or choose the device cpu"
        )
    return session


def _deployment(session: Any) -> Deployment:
    """The metadata in the file, after the graph was found to be what it says.

    Raises:
        MrcnnError: there is none, or inputs and outputs are other ones.
    """
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise MrcnnError("an ONNX model, but not one that `mrcnn export` wrote")
    deployment = Deployment.from_json(text)
    outputs = {"num_detections", "boxes", "scores", "labels"}
    if deployment.mask_size is not None:
        outputs.add("masks")
    pixels = {"float32": "tensor(float)", "uint8": "tensor(uint8)"}.get(deployment.input_dtype)
    expected = {"images": pixels, "image_sizes": "tensor(int32)"}
    found = {value.name: value.type for value in session.get_inputs()}
    if found != expected or not outputs <= {value.name for value in session.get_outputs()}:
        raise MrcnnError(
            "the graph's inputs or outputs are not those that its metadata tells: export it again"
        )
    return deployment
