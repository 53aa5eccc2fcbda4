"""Every row of the support table: trained a step, exported, equal to PyTorch, in batches and at any size."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from mrcnn.benchmarks.agreement import Tolerances
from mrcnn.benchmarks.parity import measure_parity
from mrcnn.checkpoint import Checkpoint, save_checkpoint
from mrcnn.description import ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.export.graph_builder import DOMAIN
from mrcnn.export.lower import lower, plugin_nodes
from mrcnn.export.to_onnx import InputRule, export_onnx
from mrcnn.models import build_model
from mrcnn.runtime.backend import Batch
from mrcnn.runtime.backend_onnx import OnnxBackend
from tests.export.photographs import make_photographs
from tests.family.rows import ROWS, checkpoint_of

# Heads of another row in a batch are summed by other kernels, in another order.
SCORE, BOX_PX = 1e-4, 0.02


@dataclass(frozen=True)
class Row:
    checkpoint: Checkpoint
    path: Path
    onnx: Path


@pytest.fixture(scope="module", params=ROWS)
def row(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Row:
    """Exported at any size; the export compares every stage, for two images of different sizes in a batch."""
    folder = tmp_path_factory.mktemp("row")
    checkpoint = checkpoint_of(ROWS[request.param]())
    save_checkpoint(
        folder / "c.pth", model=checkpoint.build(), description=checkpoint.description, training={}
    )
    export_onnx(checkpoint, folder / "m.onnx", inputs=InputRule(), on_step=lambda _: None)
    return Row(checkpoint, folder / "c.pth", folder / "m.onnx")


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


@pytest.mark.parametrize("name", ROWS)
def test_a_training_step(name: str) -> None:
    """Every loss is there and finite, and every weight that is to learn has a gradient."""
    description: ModelDescription = ROWS[name]()
    model = build_model(description).train()
    model.roi_heads.fg_bg_sampler.batch_size_per_image = 16
    losses = model([torch.rand(3, 96, 128), torch.rand(3, 96, 128)], [target(description)] * 2)
    expected = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    own = {"maskrcnn": {"loss_mask"}, "keypointrcnn": {"loss_keypoint"}}.get(description.detector, set())
    assert losses.keys() == expected | own
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    torch.autograd.backward(total)
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_images_of_any_size_are_equal(row: Row, tmp_path: Path) -> None:
    wide = make_photographs(tmp_path / "wide", 2, size=(90, 160))
    high = make_photographs(tmp_path / "high", 1, size=(130, 100))
    report = measure_parity(
        row.onnx,
        reference=row.path,
        images=[*sorted(wide.iterdir()), *sorted(high.iterdir())],
        tolerances=Tolerances(),
    )
    assert report["failures"] == []
    assert report["reference_detections"] > 5


def test_a_batch_of_two_is_two_images(row: Row) -> None:
    backend = OnnxBackend(row.onnx, device="cpu", threads=1)
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (96, 128, 3), np.uint8) for _ in range(2)]

    def run(chosen: list[np.ndarray]) -> dict[str, np.ndarray]:
        batch = Batch(images=chosen, resized=[(96, 128)] * len(chosen), padded=(96, 128), rows=len(chosen))
        return dict(backend.run(*backend.prepare(batch)))

    both = run(images)
    for place, image in enumerate(images):
        alone = run([image])
        count = int(alone["num_detections"][0])
        assert both["num_detections"][place] == count > 0
        assert both["scores"][place] == pytest.approx(alone["scores"][0], abs=SCORE)
        assert both["boxes"][place][:count] == pytest.approx(alone["boxes"][0][:count], abs=BOX_PX)


def test_what_tensorrt_gets(row: Row) -> None:
    """Plugins, and nothing else of ours; no weight twice."""
    graph = onnx.load(row.onnx)
    description = row.checkpoint.description
    stored = sum(int(np.prod(tensor.dims)) for tensor in graph.graph.initializer)
    own = sum(parameter.numel() for parameter in row.checkpoint.build().parameters())
    assert stored < 1.01 * own + 10_000
    if description.rois.mode == "pool":
        with pytest.raises(MrcnnError, match="RoIPool has no plugin for TensorRT"):
            lower(graph)
        return
    lowered = lower(graph)
    plugins = plugin_nodes(lowered)
    heads = 1 if description.detector == "fasterrcnn" else 2
    assert sorted(plugins.values()) == ["MrcnnNMS"] * 2 + ["MrcnnRoIAlign"] * heads
    assert {node.name for node in lowered.graph.node if node.domain == DOMAIN} == plugins.keys()
