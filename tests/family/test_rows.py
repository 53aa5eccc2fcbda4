"""Every row of the support table: trained a step, exported, equal to PyTorch, in batches and at any size.

`table.py` makes the table in README.md of these tests.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from mrcnn.benchmarks.agreement import Tolerances
from mrcnn.benchmarks.parity import measure_parity
from mrcnn.checkpoint import Checkpoint, save_checkpoint
from mrcnn.description import ModelDescription
from mrcnn.export import to_onnx, validate
from mrcnn.export.graph_builder import DOMAIN
from mrcnn.export.lower import lower, plugin_nodes
from mrcnn.export.to_onnx import InputRule, export_onnx
from mrcnn.models.parts import DETECTORS
from mrcnn.runtime.backend import Batch
from mrcnn.runtime.backend_onnx import OnnxBackend
from mrcnn.runtime.engine.tensorrt import PLUGINS
from tests.export import rules
from tests.export.photographs import make_photographs
from tests.family.rows import LIKE, ROWS, checkpoint_of, plugins_of
from tests.family.tracing import SharedTraces

# Heads of another row in a batch are summed by other kernels, in another order.
SCORE, BOX_PX = 1e-4, 0.02


@dataclass(frozen=True)
class Built:
    """A row's model, which tests leave as it is."""

    name: str
    checkpoint: Checkpoint
    model: GeneralizedRCNN

    @property
    def description(self) -> ModelDescription:
        return self.checkpoint.description


@dataclass(frozen=True)
class Exported:
    """Its files."""

    path: Path
    onnx: Path


@pytest.fixture(scope="module", params=ROWS)
def built(request: pytest.FixtureRequest) -> Built:
    checkpoint = checkpoint_of(ROWS[request.param]())
    return Built(request.param, checkpoint, checkpoint.build())


@pytest.fixture(scope="module")
def traces() -> SharedTraces:
    return SharedTraces()


@pytest.fixture(scope="module")
def exported(built: Built, traces: SharedTraces, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """At any size; the export compares every stage for two images of different sizes in a batch."""
    folder = tmp_path_factory.mktemp("row")
    files = Exported(folder / "c.pth", folder / "m.onnx")
    save_checkpoint(files.path, model=built.model, description=built.description, training={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_onnx, "trace", traces)
        patch.setattr(validate, "_CANVAS", (96, 160))
        if built.name in LIKE:  # parity is left to show what these differ in
            patch.setattr(validate, "validate", lambda *_: None)
        export_onnx(built.checkpoint, files.onnx, inputs=InputRule(), on_step=lambda _: None)
    return files


def target(description: ModelDescription) -> dict[str, Tensor]:
    masks = torch.zeros(2, 64, 96, dtype=torch.uint8)
    masks[0, 5:30, 10:50] = masks[1, 20:60, 40:90] = 1
    boxes = torch.tensor([[10.0, 5, 50, 30], [40, 20, 90, 60]])
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


def test_it_is_built(built: Built) -> None:
    assert type(built.model) is DETECTORS[built.description.detector]
    assert built.model.roi_heads.box_predictor.cls_score.out_features == built.description.num_classes


def test_a_training_step(built: Built) -> None:
    """Every loss is there and finite, and every weight that is to learn has a gradient."""
    model = copy.deepcopy(built.model).train()
    model.roi_heads.fg_bg_sampler.batch_size_per_image = 4
    losses = model([torch.rand(3, 64, 96), torch.rand(3, 64, 96)], [target(built.description)] * 2)
    expected = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    own = {"maskrcnn": {"loss_mask"}, "keypointrcnn": {"loss_keypoint"}}
    assert losses.keys() == expected | own.get(built.description.detector, set())
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    torch.autograd.backward(total)
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_the_file_has_no_weight_twice(built: Built, exported: Exported) -> None:
    graph = onnx.load(exported.onnx).graph
    stored = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    own = sum(parameter.numel() for parameter in built.model.parameters())
    assert stored < 1.01 * own + 10_000


def test_images_of_any_size_are_equal(exported: Exported, tmp_path: Path) -> None:
    wide = make_photographs(tmp_path / "wide", 1, size=(90, 160))
    high = make_photographs(tmp_path / "high", 1, size=(130, 100))
    report = measure_parity(
        exported.onnx,
        reference=exported.path,
        images=[*wide.iterdir(), *high.iterdir()],
        tolerances=Tolerances(),
    )
    assert report["failures"] == []
    assert report["reference_detections"] > 5


def test_a_batch_of_two_is_two_images(exported: Exported) -> None:
    backend = OnnxBackend(exported.onnx, device="cpu", threads=1)
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


def test_what_tensorrt_gets(built: Built, exported: Exported) -> None:
    """Plugins, and nothing else of ours."""
    lowered = lower(onnx.load(exported.onnx))
    plugins = plugin_nodes(lowered)
    assert sorted(plugins.values()) == sorted(plugins_of(built.description))
    assert {node.name for node in lowered.graph.node if node.domain == DOMAIN} == plugins.keys()
    assert not rules.unsupported_operators(lowered, PLUGINS)
