"""The two programs that are compared: a checkpoint in PyTorch, and its exported model in the runtime.

PyTorch is imported by `load_reference` alone, so that the memory of a process that only runs the exported
model does not count it.
"""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.benchmarks.matching import Findings
from mrcnn.description import Deployment
from mrcnn.runtime import Detections, Runtime, read_image

if TYPE_CHECKING:
    from mrcnn.checkpoint import Checkpoint
    from mrcnn.predictor import TorchPredictor


def load_reference(
    checkpoint: "Checkpoint", deployment: Deployment, *, same_input: bool = False
) -> "TorchPredictor":
    """The checkpoint's weights in torchvision's model, with the settings that the exported model has.

    Args:
        same_input: resize and pad images as a model with a fixed input does, not as torchvision.

    Raises:
        MrcnnError: the weights do not fit the description: they are those of another model.
    """
    from mrcnn.predictor import TorchPredictor

    model = replace(checkpoint, description=deployment.description).build()
    if same_input and deployment.height is not None and deployment.width is not None:
        from mrcnn.benchmarks.fixed_input import FixedInputTransform

        model.transform = FixedInputTransform(deployment, (deployment.height, deployment.width)).eval()
    return TorchPredictor(model, deployment.description)


def doubts(checkpoint: "Checkpoint", deployment: Deployment) -> tuple[str, ...]:
    """What speaks against comparing the two, one line each."""
    lines = []
    if deployment.weights_sha256 != checkpoint.weights_sha256:
        lines.append("the model was exported from other weights than the reference's")
    own, exported = asdict(checkpoint.description), asdict(deployment.description)
    changed = [name for name, value in own.items() if value != exported[name]]
    if changed:
        lines.append(
            f"the model was exported with another {', '.join(changed)} than the reference's; "
            "the reference runs with the model's"
        )
    if deployment.height is not None:
        lines.append(
            f"the model's input is fixed at {deployment.height}x{deployment.width} pixels: images are shrunk "
            "to fit and padded to fill it, which changes what is found (parity --same-input leaves that out)"
        )
    return tuple(lines)


def reference_findings(predictor: "TorchPredictor", pixels: NDArray[np.uint8]) -> Findings:
    """What PyTorch finds in an image (H, W, 3) RGB: torchvision's forward, its own paste, masks > 0.5."""
    from pycocotools import mask as coco_mask

    found, bitmaps = _reference_output(predictor, pixels)
    rles = None
    if bitmaps is not None:
        rles = tuple(coco_mask.encode(np.asfortranarray(bitmap, np.uint8)) for bitmap in bitmaps)
    return Findings(boxes=found["boxes"], scores=found["scores"], labels=found["labels"], rles=rles)


def exported_findings(detections: Detections) -> Findings:
    """What the runtime found."""
    return Findings(
        boxes=detections.boxes,
        scores=detections.scores,
        labels=detections.labels,
        rles=None if detections.mask_probs is None else tuple(dict(rle) for rle in detections.rles),
    )


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
