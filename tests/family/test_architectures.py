"""Every architecture: built, trained a step, exported, equal to PyTorch, in batches and at any size.

The rows of the support table in the README are these.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from mrcnn.benchmarks.agreement import Tolerances
from mrcnn.benchmarks.parity import measure_parity
from mrcnn.checkpoint import load_checkpoint, save_checkpoint
from mrcnn.description import ModelDescription
from mrcnn.export.graph_builder import DOMAIN
from mrcnn.export.lower import lower, plugin_nodes
from mrcnn.export.to_onnx import InputRule, export_onnx
from mrcnn.models import architectures, build_model
from tests.export.photographs import make_photographs
from tests.family.rows import checkpoint_of, small_description


@pytest.fixture(scope="module", params=architectures())
def description(request: pytest.FixtureRequest) -> ModelDescription:
    return small_description(request.param)


def target(description: ModelDescription) -> dict[str, Tensor]:
    masks = torch.zeros(2, 96, 128, dtype=torch.uint8)
    masks[0, 10:50, 20:70] = masks[1, 40:90, 60:120] = 1
    boxes = torch.tensor([[20.0, 10, 70, 50], [60, 40, 120, 90]])
    labels = torch.tensor([1, 2])
    if description.keypoints is None:
        return {"boxes": boxes, "labels": labels, "masks": masks}
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    points = torch.cat([centres, torch.full((2, 1), 2.0)], dim=1)
    return {
        "boxes": boxes,
        "labels": labels,
        "keypoints": points[:, None].repeat(1, len(description.keypoints), 1),
    }


def test_a_training_step(description: ModelDescription) -> None:
    """Every loss is there and finite, and every weight that is to learn has a gradient."""
    model = build_model(description).train()
    losses = model([torch.rand(3, 96, 128), torch.rand(3, 96, 128)], [target(description)] * 2)
    expected = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    own = {"maskrcnn": {"loss_mask"}, "keypointrcnn": {"loss_keypoint"}}.get(description.detector, set())
    assert losses.keys() == expected | own
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    torch.autograd.backward(total)
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_it_is_exported_equal(description: ModelDescription, tmp_path: Path) -> None:
    """The export compares every stage, two images of different sizes in a batch; here the whole chain."""
    checkpoint = checkpoint_of(description)
    save_checkpoint(tmp_path / "c.pth", model=checkpoint.build(), description=description, training={})
    assert load_checkpoint(tmp_path / "c.pth").weights_sha256 == checkpoint.weights_sha256
    export_onnx(checkpoint, tmp_path / "m.onnx", inputs=InputRule(), on_step=lambda _: None)
    graph = onnx.load(tmp_path / "m.onnx")
    stored = sum(int(np.prod(tensor.dims)) for tensor in graph.graph.initializer)
    own = sum(parameter.numel() for parameter in checkpoint.build().parameters())
    assert stored < 1.01 * own + 10_000, "no weight is stored twice"
    wide = make_photographs(tmp_path / "wide", 2, size=(90, 160))
    high = make_photographs(tmp_path / "high", 1, size=(130, 100))
    report = measure_parity(
        tmp_path / "m.onnx",
        reference=tmp_path / "c.pth",
        images=[*sorted(wide.iterdir()), *sorted(high.iterdir())],
        tolerances=Tolerances(),
    )
    assert report["failures"] == []
    assert report["reference_detections"] > 5
    plugins = plugin_nodes(lower(graph))
    heads = 1 if description.detector == "fasterrcnn" else 2
    assert sorted(plugins.values()) == ["MrcnnNMS"] * 2 + ["MrcnnRoIAlign"] * heads
    assert not [
        node for node in lower(graph).graph.node if node.domain == DOMAIN and node.name not in plugins
    ]
