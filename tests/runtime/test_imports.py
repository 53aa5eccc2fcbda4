"""What the runtime loads: nothing at import, and never PyTorch."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mrcnn.runtime


def loaded_after(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after `code`."""
    listing = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", f"{code}\n{listing}"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_the_package_alone_loads_nothing() -> None:
    assert not loaded_after("import mrcnn.runtime") & {"numpy", "cv2", "PIL", "onnxruntime", "onnx", "torch"}


def test_the_engine_waits_for_the_first_runtime() -> None:
    loaded = loaded_after("from mrcnn.runtime import Runtime, Detections, draw, read_image, decode_rle")
    assert "numpy" in loaded
    assert not loaded & {"onnxruntime", "onnx", "torch", "torchvision", "pycocotools", "supervision"}


def test_inference_needs_neither_torch_nor_onnx(tiny_model: Callable[..., Path]) -> None:
    loaded = loaded_after(
        "import numpy as np\n"
        "from mrcnn.runtime import Runtime, draw\n"
        "image = np.zeros((40, 50, 3), np.uint8)\n"
        f"with Runtime({str(tiny_model())!r}) as runtime:\n"
        "    found = runtime.infer(image)\n"
        "found.masks, found.rles, found.polygons, draw(image, found)\n"
    )
    assert "onnxruntime" in loaded
    assert not loaded & {"onnx", "torch", "torchvision", "pycocotools", "supervision", "matplotlib"}


@pytest.mark.parametrize("name", mrcnn.runtime.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(mrcnn.runtime, name).__doc__


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Detector'"):
        mrcnn.runtime.Detector  # noqa: B018 - the access is what is tested
