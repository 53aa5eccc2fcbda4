"""Runs exported models without PyTorch: `Runtime("model.onnx").infer(image) -> Detections`.

Importing this package loads nothing but the standard library; NumPy and OpenCV come with the first name
that is used, the inference engine with the first `Runtime`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrcnn.runtime.images import read_image
    from mrcnn.runtime.masks import decode_rle
    from mrcnn.runtime.overlay import draw
    from mrcnn.runtime.result import Detections
    from mrcnn.runtime.runtime import Runtime

_MODULES = {
    "Detections": "mrcnn.runtime.result",
    "Runtime": "mrcnn.runtime.runtime",
    "decode_rle": "mrcnn.runtime.masks",
    "draw": "mrcnn.runtime.overlay",
    "read_image": "mrcnn.runtime.images",
}

__all__ = ["Detections", "Runtime", "decode_rle", "draw", "read_image"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value
