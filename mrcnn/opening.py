"""A model file of any kind, opened: a checkpoint in PyTorch, an exported model in the runtime."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mrcnn.description import ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.runtime.sizes import InputRange

if TYPE_CHECKING:
    from mrcnn.predictor import TorchPredictor
    from mrcnn.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A model that is ready to find objects.

    Attributes:
        predictor: runs it, with the settings of `description`.
        description: of the model, as its file has it.
        precision: "fp32", "fp16" or "int8"; a checkpoint always runs in float32.
        device: where it runs: "cpu", "cuda", …
        weights_sha256: hash of the checkpoint's weights; of an exported model, of those it was made from.
        ranges: the network inputs that an exported model is run at; none for a checkpoint, which takes any.
        quantized_for: of an INT8 graph, "tensorrt" or "cpu".
        assumptions: what the file left open and how it was decided, one line each.
    """

    predictor: "Runtime | TorchPredictor"
    description: ModelDescription
    precision: str
    device: str
    weights_sha256: str
    ranges: tuple[InputRange, ...] = ()
    assumptions: tuple[str, ...] = ()
    quantized_for: str | None = None


def is_exported(path: Path) -> bool:
    """Whether the file is an exported model, by its name."""
    return path.suffix in (".onnx", ".engine")


@contextmanager
def open_model(
    path: Path, *, device: str = "cpu", threads: int | None = None, config: Path | None = None
) -> Iterator[OpenModel]:
    """Opens a checkpoint, or an exported model, for which PyTorch is not needed.

    Args:
        device: where a checkpoint runs. ONNX files run on the CPU here, engines on a GPU.
        threads: CPU threads of one call; None for the library's own choice.
        config: for a checkpoint, what its weights do not tell; see `mrcnn.imports.given`.

    Raises:
        MrcnnError: the file is neither a checkpoint nor an exported model, or is not usable, or there is no
            such device for it.
    """
    if is_exported(path):
        from mrcnn.runtime import Runtime

        if device != "cpu":
            raise MrcnnError(
                f"--device {device}: is for checkpoints; ONNX files run on the CPU here, engines on a GPU"
            )
        if config is not None:
            raise MrcnnError("--config is for checkpoints: in an exported model that is decided already")
        with Runtime(path, threads=threads) as runtime:
            yield OpenModel(
                predictor=runtime,
                description=runtime.description,
                precision=runtime.deployment.precision,
                device=runtime.device,
                weights_sha256=runtime.deployment.weights_sha256,
                ranges=runtime.ranges,
                quantized_for=runtime.deployment.quantized_for,
            )
        return
    from mrcnn.checkpoint import load_checkpoint
    from mrcnn.devices import choose_device, cpu_threads
    from mrcnn.predictor import TorchPredictor

    chosen = str(choose_device(device))
    checkpoint = load_checkpoint(path, config=config)
    with cpu_threads(threads):
        yield OpenModel(
            predictor=TorchPredictor(checkpoint.build(), checkpoint.description, device=chosen),
            description=checkpoint.description,
            precision="fp32",
            device=chosen,
            weights_sha256=checkpoint.weights_sha256,
            assumptions=checkpoint.assumptions,
        )
