"""The programs that are compared: an exported model in the runtime, and its checkpoint or ONNX file.

PyTorch is imported by `load_reference` alone: the memory of a process that only runs exported models does not
count it, and a machine without it can compare an engine with its ONNX file.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.description import ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.findings import Findings, findings_of
from mrcnn.runtime import Runtime, read_image
from mrcnn.runtime.sizes import InputRange, Size

if TYPE_CHECKING:
    from mrcnn.checkpoint import Checkpoint
    from mrcnn.predictor import TorchPredictor


# A picture file's bytes to whatever is to be timed.
Timed = Callable[[bytes], object]


@dataclass(frozen=True)
class Reference:
    """What an exported model is compared with.

    Attributes:
        findings: of an image (H, W, 3) uint8 RGB.
        notes: what speaks against comparing the two, one line each.
    """

    findings: Callable[[NDArray[np.uint8]], Findings]
    notes: tuple[str, ...]


@contextmanager
def open_reference(
    path: Path, runtime: Runtime, *, same_input: bool, config: Path | None = None
) -> Iterator[Reference]:
    """The model in `path` with the settings of the exported one: a checkpoint in PyTorch, or an ONNX file.

    Args:
        same_input: resize and pad images as the exported model does, not as torchvision.
        config: what a checkpoint was exported with.

    Raises:
        MrcnnError: it cannot be used, or its weights do not fit the description: they are another model's.
    """
    if path.suffix == ".onnx":
        if config is not None:
            raise MrcnnError("--config is for checkpoints: in an exported model that is decided already")
        with Runtime(path, ranges=runtime.ranges if same_input else None) as exported:
            notes = doubts(exported.description, exported.deployment.weights_sha256, runtime)
            yield Reference(lambda pixels: findings_of(exported.infer(pixels, color="rgb")), notes)
        return
    from mrcnn.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path, config=config)
    sizes = runtime.network_sizes if same_input else None
    predictor = load_reference(checkpoint, runtime.description, network_sizes=sizes)
    notes = doubts(checkpoint.description, checkpoint.weights_sha256, runtime)
    yield Reference(lambda pixels: _reference_findings(predictor, pixels), notes)


@contextmanager
def timed_reference(
    path: Path, runtime: Runtime, *, threads: int, config: Path | None = None
) -> Iterator[tuple[Timed, tuple[str, ...]]]:
    """What a file's bytes take to masks with the reference in `path`, and what speaks against comparing.

    Args:
        threads: of each call; PyTorch's own number is set back afterwards.
        config: what a checkpoint was exported with.

    Raises:
        MrcnnError: as `open_reference`.
    """
    if path.suffix == ".onnx":
        if config is not None:
            raise MrcnnError("--config is for checkpoints: in an exported model that is decided already")
        with Runtime(path, threads=threads) as exported:
            notes = doubts(exported.description, exported.deployment.weights_sha256, runtime)
            yield (lambda data: runtime_to_bitmaps(exported, data)), notes
        return
    from mrcnn.checkpoint import load_checkpoint
    from mrcnn.devices import cpu_threads

    checkpoint = load_checkpoint(path, config=config)
    predictor = load_reference(checkpoint, runtime.description)
    notes = doubts(checkpoint.description, checkpoint.weights_sha256, runtime)
    with cpu_threads(threads):
        yield (lambda data: pytorch_to_bitmaps(predictor, data)), notes


def load_reference(
    checkpoint: "Checkpoint",
    description: ModelDescription,
    *,
    network_sizes: Callable[[Size], tuple[Size, Size]] | None = None,
) -> "TorchPredictor":
    """The checkpoint's weights in torchvision's model, with the settings that the exported model has.

    Args:
        description: the exported model's.
        network_sizes: `Runtime.network_sizes`, to resize and pad images as that does; None: as torchvision.

    Raises:
        MrcnnError: the weights do not fit the description: they are those of another model.
    """
    from mrcnn.predictor import TorchPredictor

    model = replace(checkpoint, description=description).build()
    if network_sizes is not None:
        from mrcnn.benchmarks.fixed_input import FixedInputTransform

        model.transform = FixedInputTransform(description, network_sizes).eval()
    return TorchPredictor(model, description)


def doubts(description: ModelDescription, weights_sha256: str, runtime: Runtime) -> tuple[str, ...]:
    """What speaks against comparing the reference with that description and weights, one line each."""
    lines = []
    if runtime.deployment.weights_sha256 != weights_sha256:
        lines.append("the model was exported from other weights than the reference's")
    if changed := changed_rules(description, runtime.description):
        lines.append(
            f"the model was exported with another {changed} than the reference's; "
            "the reference runs with the model's"
        )
    if fixed := fixed_input(runtime.ranges):
        lines.append(f"the model's {fixed} (parity --same-input leaves that out)")
    return tuple(lines)


def changed_rules(description: ModelDescription, other: ModelDescription) -> str:
    """The names of what the two descriptions have different, "" where they are equal."""
    ours, theirs = asdict(description), asdict(other)
    return ", ".join(name for name, value in ours.items() if value != theirs[name])


def fixed_input(ranges: Sequence[InputRange]) -> str:
    """What a model's fixed input sizes do to its images, "" where it has none."""
    fixed = [entry.fixed_size for entry in ranges]
    sizes = [f"{size[0]}x{size[1]}" for size in fixed if size is not None]
    if not sizes:
        return ""
    return (
        f"input is fixed at {' or '.join(sizes)} pixels: images are shrunk to fit and padded to fill it, "
        "which changes what is found"
    )


def _reference_findings(predictor: "TorchPredictor", pixels: NDArray[np.uint8]) -> Findings:
    """What PyTorch finds in an image (H, W, 3) RGB: torchvision's forward, its own paste, masks > 0.5."""
    from pycocotools import mask as coco_mask

    found, bitmaps = _reference_output(predictor, pixels)
    rles = None
    if bitmaps is not None:
        rles = tuple(coco_mask.encode(np.asfortranarray(bitmap, np.uint8)) for bitmap in bitmaps)
    return Findings(
        boxes=found["boxes"],
        scores=found["scores"],
        labels=found["labels"],
        rles=rles,
        keypoints=found.get("keypoints"),
    )


def file_to_bitmaps(predictor: "Runtime | TorchPredictor") -> Timed:
    """What takes an image file's bytes to masks (N, H, W) with this program."""
    if isinstance(predictor, Runtime):
        return lambda data: runtime_to_bitmaps(predictor, data)
    return lambda data: pytorch_to_bitmaps(predictor, data)


def pytorch_to_bitmaps(predictor: "TorchPredictor", data: bytes) -> NDArray[np.bool_] | None:
    """An image file's bytes to masks (N, H, W), as torchvision gives them; the decoder is the runtime's."""
    return _reference_output(predictor, read_image(data))[1]


def runtime_to_bitmaps(runtime: Runtime, data: bytes) -> NDArray[np.bool_] | None:
    """An image file's bytes to masks (N, H, W)."""
    found = runtime.infer(data)
    return None if found.mask_probs is None else found.masks


def runtime_to_rles(runtime: Runtime, data: bytes) -> list[Any] | None:
    """An image file's bytes to N masks in COCO's run-length encoding; no bitmap is painted."""
    found = runtime.infer(data)
    return None if found.mask_probs is None else list(found.rles)


def _reference_output(
    predictor: "TorchPredictor", pixels: NDArray[np.uint8]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_] | None]:
    found = predictor.reference(pixels, color="rgb")
    return found, found["masks"][:, 0] > 0.5 if "masks" in found else None
