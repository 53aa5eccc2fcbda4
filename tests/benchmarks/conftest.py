"""A small model, exported once, with images on which it finds something."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn.checkpoint import load_checkpoint, save_checkpoint
from mrcnn.description import DetectionRule, ModelDescription, ProposalRule, ResizeRule
from mrcnn.export.to_onnx import InputRule, export_onnx
from mrcnn.models import build_model


@dataclass(frozen=True)
class Exported:
    """A checkpoint and the ONNX file made from it."""

    checkpoint: Path
    model: Path


def description(**changes: object) -> ModelDescription:
    fields: dict[str, object] = {
        "architecture": "maskrcnn_mobilenet_v2_fpn",
        "class_names": ("__background__", "disc", "square"),
        "width": 0.25,
        "resize": ResizeRule(min_size=128, max_size=192),
        "proposals": ProposalRule(pre_nms_top_n=100, post_nms_top_n=50),
        "detections": DetectionRule(detections_per_image=20),
    }
    return ModelDescription(**(fields | changes))  # type: ignore[arg-type]


def write_checkpoint(path: Path, *, seed: int) -> Path:
    torch.manual_seed(seed)
    model = build_model(description())
    save_checkpoint(path, model=model, description=description(), training={})
    return path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = write_checkpoint(folder / "compact.pth", seed=0)
    model = folder / "model.onnx"
    export_onnx(load_checkpoint(checkpoint), model, inputs=InputRule(), on_step=lambda _: None)
    return Exported(checkpoint, model)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with other weights."""
    return write_checkpoint(tmp_path_factory.mktemp("other") / "other.pth", seed=1)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three images of different sizes, coarse random colours."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, (height, width) in {"a": (90, 120), "b": (150, 100), "c": (64, 200)}.items():
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder
