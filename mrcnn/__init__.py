"""Mask R-CNN from PyTorch to ONNX Runtime and TensorRT.

Importing this package is cheap: it loads neither torch nor an inference engine. The sub-packages are
`mrcnn.models` and `mrcnn.data` (torch), `mrcnn.export`, `mrcnn.runtime`, `mrcnn.plugins` and
`mrcnn.benchmarks`.
"""

from pathlib import Path

__version__ = "0.1.0"

# setup.py installs the sibling folders export/, runtime/, … as sub-packages of this one. In a checkout
# they lie beside this folder, so that `python` started there must be told where to look.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "setup.py").is_file() and (_checkout / "runtime" / "__init__.py").is_file():
    __path__.append(str(_checkout))
