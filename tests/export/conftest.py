"""Checkpoints that several export tests share."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mrcnn.checkpoint import Checkpoint, save_checkpoint
from mrcnn.cli import main
from mrcnn.description import DetectionRule, ModelDescription, ProposalRule, ResizeRule
from mrcnn.models import build_model


def compact(seed: int = 0, **changes: object) -> Checkpoint:
    """A quarter-width model with random weights, whose few candidates keep the tests quick."""
    torch.manual_seed(seed)
    fields: dict[str, object] = {
        "architecture": "maskrcnn_mobilenet_v2_fpn",
        "class_names": ("__background__", "disc", "square"),
        "width": 0.25,
        "resize": ResizeRule(min_size=192, max_size=320),
        "proposals": ProposalRule(pre_nms_top_n=200, post_nms_top_n=100),
        "detections": DetectionRule(detections_per_image=20),
    }
    description = ModelDescription(**(fields | changes))  # type: ignore[arg-type]
    model = build_model(description)
    return Checkpoint(description=description, state_dict=model.state_dict(), training={})


@pytest.fixture(scope="session")
def make_compact() -> Callable[..., Checkpoint]:
    return compact


@pytest.fixture(scope="session")
def compact_checkpoint() -> Checkpoint:
    return compact()


@pytest.fixture(scope="session")
def compact_file(compact_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compact checkpoint as a file of our own format."""
    path = tmp_path_factory.mktemp("checkpoint") / "compact.pth"
    save_checkpoint(
        path, model=compact_checkpoint.build(), description=compact_checkpoint.description, training={}
    )
    return path


@pytest.fixture(scope="session")
def compact_onnx(compact_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of the compact checkpoint, of any size, for small images."""
    folder = tmp_path_factory.mktemp("exported")
    options = ["--onnx-only", "--output", str(folder), "--min-size", "96", "--max-size", "160"]
    assert main(["export", str(compact_file), *options]) == 0
    return folder / "model.onnx"
