"""From checkpoint to ONNX file: every architecture, static and dynamic, and what the file says of itself."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.ops import FrozenBatchNorm2d

from mrcnn.checkpoint import Checkpoint, load_checkpoint
from mrcnn.description import AnchorRule, Normalization, ProposalRule, RoiRule
from mrcnn.errors import MrcnnError
from mrcnn.export import validate as validation
from mrcnn.export.cut import with_shapes
from mrcnn.export.metadata import read_deployment
from mrcnn.export.to_onnx import InputRule, export_onnx
from mrcnn.export.trace import fold_batch_norm
from mrcnn.runtime.images import read_image
from mrcnn.runtime.preprocess import make_batch

# Folding multiplies weights by a per-channel factor: a few rounding errors per sum.
FOLD_TOLERANCE = 1e-5


Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def quiet(_: str) -> None:
    pass


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def pixels(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (batch, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "inputs",
    [
        InputRule(size=(128, 192), batch=1),
        InputRule(size=(160, 160)),
        InputRule(batch=3, dtype="uint8"),
    ],
    ids=["static", "static size", "static batch uint8"],
)
def test_export_validates_itself(tmp_path: Path, compact_checkpoint: Checkpoint, inputs: InputRule) -> None:
    path = tmp_path / "model.onnx"
    deployment = export_onnx(compact_checkpoint, path, inputs=inputs, on_step=quiet)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert read_deployment(model) == deployment
    assert deployment.weights_sha256 == compact_checkpoint.weights_sha256
    shapes = {
        value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    height, width = inputs.size or ("height", "width")
    batch = inputs.batch or "batch"
    assert shapes == {
        "images": [batch, height, width, 3],
        "image_sizes": [batch, 2],
        "num_detections": [batch],
        "boxes": [batch, 20, 4],
        "scores": [batch, 20],
        "labels": [batch, 20],
        "masks": [batch, 20, 28, 28],
    }


@pytest.mark.parametrize(
    ("name", "classes"),
    [("maskrcnn_resnet50_fpn", 7), ("maskrcnn_resnet50_fpn_v2", 2), ("fasterrcnn_resnet50_fpn", 91)],
)
def test_bare_torchvision_weights_export(tmp_path: Path, name: str, classes: int) -> None:
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=classes)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    checkpoint = load_checkpoint(tmp_path / "w.pth")
    deployment = export_onnx(checkpoint, tmp_path / "model.onnx", inputs=InputRule(), on_step=quiet)
    assert (deployment.mask_size is None) == name.startswith("faster")
    assert (tmp_path / "model.onnx").is_file()


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory, compact_checkpoint: Checkpoint) -> Path:
    path = tmp_path_factory.mktemp("dynamic") / "model.onnx"
    export_onnx(compact_checkpoint, path, inputs=InputRule(), on_step=quiet)
    return path


def test_a_batch_gives_what_its_images_give_alone(dynamic: Path) -> None:
    images, sizes = pixels(3, 192, 256), np.array([[192, 256], [150, 256], [192, 200]], np.int32)
    run = session(dynamic).run
    together = run(None, {"images": images, "image_sizes": sizes})
    for i in range(3):
        alone = run(None, {"images": images[i : i + 1], "image_sizes": sizes[i : i + 1]})
        for whole, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(whole[i], single[0], atol=1e-3)


def test_what_lies_in_the_padding_does_not_matter(dynamic: Path) -> None:
    images, sizes = pixels(1, 192, 256), np.array([[150, 200]], np.int32)
    clean = images.copy()
    clean[:, 150:] = 0
    clean[:, :, 200:] = 0
    run = session(dynamic).run
    for dirty, expected in zip(
        run(None, {"images": images, "image_sizes": sizes}),
        run(None, {"images": clean, "image_sizes": sizes}),
        strict=True,
    ):
        np.testing.assert_array_equal(dirty, expected)


def test_every_stage_equals_pytorch_on_photographs(
    dynamic: Path, compact_checkpoint: Checkpoint, coco_mini: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fed the reference's input, a stage may lose a row only to an IoU within rounding of its threshold.
    monkeypatch.setattr(validation, "LEAST_MATCHED", 0.999)
    proto = with_shapes(onnx.load(dynamic))
    deployment = read_deployment(proto)
    assert deployment is not None
    model = compact_checkpoint.build()
    for path in sorted((coco_mini / "images").iterdir())[:8]:
        image = read_image(path)
        rule = deployment.description.resize
        resized = rule.output_size(*image.shape[:2])
        padded = rule.padded_size(*resized)
        images, sizes = make_batch([image], resized=[resized], padded=padded, batch=1)
        validation.compare_stages(proto, model, deployment, images, sizes)


@pytest.mark.parametrize("size", [(32, 32), (32, 640), (608, 64)])
def test_the_smallest_and_longest_sizes_run(dynamic: Path, size: tuple[int, int]) -> None:
    count, boxes, *_ = session(dynamic).run(
        None, {"images": pixels(1, *size), "image_sizes": np.array([size], np.int32)}
    )
    assert 0 <= count[0] <= 20
    assert np.isfinite(boxes).all()
    assert (boxes <= np.array([size[1], size[0]] * 2)).all()


def with_background(path: Path, change: float) -> onnxruntime.InferenceSession:
    """The exported model with the background's score raised or lowered for every proposal."""
    model = onnx.load(path)
    (bias,) = (t for t in model.graph.initializer if t.name == "roi_heads.box_predictor.cls_score.bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += change
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_nothing_found_gives_zeros(dynamic: Path) -> None:
    feed = {"images": pixels(2, 64, 96), "image_sizes": np.array([[64, 96]] * 2, np.int32)}
    for value in with_background(dynamic, 50.0).run(None, feed):
        assert not value.any()


def test_more_candidates_than_places_fill_every_row(dynamic: Path) -> None:
    feed = {"images": pixels(1, 192, 256), "image_sizes": np.array([[192, 256]], np.int32)}
    count, _, scores, labels, _ = with_background(dynamic, -50.0).run(None, feed)
    assert count.tolist() == [20]
    assert (np.diff(scores[0]) <= 0).all()
    assert set(labels[0].tolist()) <= {1, 2}


def test_nothing_of_the_machine_is_in_the_file(dynamic: Path, repository: Path) -> None:
    content = dynamic.read_bytes()
    for trace in (str(repository), "site-packages", "stack_trace"):
        assert trace.encode() not in content


def test_layers_are_named_after_their_modules(dynamic: Path) -> None:
    names = {node.name for node in onnx.load(dynamic).graph.node}
    assert {"roi_heads.box_head.fc6", "rpn.head.cls_logits", "rpn.head.cls_logits/5"} <= names


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_folding_batch_norm_keeps_the_values(norm: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), norm(8), nn.ReLU(), nn.Conv2d(8, 4, 1), norm(4))
    for layer in (block[1], block[4]):
        for value in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            value.data.uniform_(0.5, 2.0)
    block.eval()
    folded = fold_batch_norm(block)
    image = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(folded(image), block(image), atol=FOLD_TOLERANCE, rtol=FOLD_TOLERANCE)
    assert not any(isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d) for m in folded.modules())
    assert isinstance(block[1], norm)  # type: ignore[arg-type]


class TestValidation:
    """The three ways in which a written graph can be wrong have three messages."""

    @pytest.fixture
    def complaint(
        self, dynamic: Path, compact_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[Change], str]:
        """What validation says of the good file if its outputs are changed so."""
        deployment = read_deployment(onnx.load(dynamic))
        assert deployment is not None
        real = validation._run

        def complain(change: Change) -> str:
            monkeypatch.setattr(validation, "_run", lambda model, inputs: change(real(model, inputs)))
            with pytest.raises(MrcnnError) as error:
                validation.validate(dynamic, compact_checkpoint.build(), deployment)
            assert "\n" not in str(error.value)
            return str(error.value)

        return complain

    def test_names(self, complaint: Callable[[Change], str]) -> None:
        line = complaint(lambda outputs: {f"x_{name}": value for name, value in outputs.items()})
        assert "outputs are named x_num_detections" in line

    def test_shapes(self, complaint: Callable[[Change], str]) -> None:
        assert "has shape" in complaint(lambda outputs: {k: v[..., :1] for k, v in outputs.items()})

    @pytest.mark.parametrize(
        ("tensor", "stage"),
        [
            ("features.1", "features"),
            ("class_logits", "box head"),
            ("proposals", "proposals"),
            ("scores", "detections"),
            ("masks", "masks"),
        ],
    )
    def test_values(self, complaint: Callable[[Change], str], tensor: str, stage: str) -> None:
        line = complaint(lambda outputs: {k: v + 0.1 if k == tensor else v for k, v in outputs.items()})
        assert f"stage {stage!r} differs from PyTorch" in line


def test_a_failed_validation_leaves_no_file(
    tmp_path: Path, compact_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "LEAST_MATCHED", 1.1)
    with pytest.raises(MrcnnError, match="rows are the same"):
        export_onnx(compact_checkpoint, tmp_path / "model.onnx", inputs=InputRule(), on_step=quiet)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_named(tmp_path: Path, compact_checkpoint: Checkpoint) -> None:
    name = "rpn.head.conv.0.0.weight"
    state_dict = dict(compact_checkpoint.state_dict)
    state_dict[name] = torch.full_like(state_dict[name], torch.nan)
    checkpoint = Checkpoint(description=compact_checkpoint.description, state_dict=state_dict, training={})
    with pytest.raises(MrcnnError, match=f"'{name}' holds NaN or infinite values"):
        export_onnx(checkpoint, tmp_path / "model.onnx", inputs=InputRule(), on_step=quiet)


@pytest.mark.parametrize("size", [(100, 320), (0, 320), (320, 10**6)])
def test_impossible_sizes_are_refused_with_a_possible_one(
    tmp_path: Path, compact_checkpoint: Checkpoint, size: tuple[int, int]
) -> None:
    with pytest.raises(MrcnnError, match="multiples of 32 up to 32768, for example"):
        export_onnx(compact_checkpoint, tmp_path / "m.onnx", inputs=InputRule(size=size), on_step=quiet)


def test_another_seed_and_custom_rules(tmp_path: Path, make_compact: Callable[..., Checkpoint]) -> None:
    """Anchors, RoI sizes, thresholds and normalisation of the description reach the graph."""
    checkpoint = make_compact(
        seed=5,
        anchors=AnchorRule(
            sizes=((8, 16), (24, 32), (48, 64), (96, 128), (192, 256)), aspect_ratios=((0.5, 1.0),) * 5
        ),
        rois=RoiRule(box_size=5, mask_size=10, sampling_ratio=0, canonical_size=100),
        normalization=Normalization(mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 2.0)),
        proposals=ProposalRule(
            pre_nms_top_n=50, post_nms_top_n=30, nms_threshold=0.6, score_threshold=0.4, min_size=12.0
        ),
    )
    deployment = export_onnx(checkpoint, tmp_path / "m.onnx", inputs=InputRule(), on_step=quiet)
    assert deployment.mask_size == 20


def _kept(boxes: list[int], scores: list[float]) -> dict[str, np.ndarray]:
    """Detections of one image, of which a number stands for a box."""
    count = len(boxes)
    return {
        "boxes": np.repeat(np.array(boxes, np.float32), 4).reshape(1, count, 4),
        "scores": np.array([scores], np.float32),
        "labels": np.ones((1, count), np.int32),
        "num_detections": np.array([count], np.int32),
    }


def test_among_equal_scores_other_rows_are_as_good() -> None:
    """As in a model without training, where the reference itself decides by chance."""
    theirs = _kept(list(range(40)), [0.5] * 40)
    validation._compare_rows("detections", _kept([*range(38), 50, 51], [0.5] * 40), theirs)
    with pytest.raises(MrcnnError, match="only 30 of 40 rows are the same"):  # but not that many
        validation._compare_rows("detections", _kept([*range(30), *range(50, 60)], [0.5] * 40), theirs)
    falling = [0.9 - 0.01 * i for i in range(40)]
    with pytest.raises(MrcnnError, match="only 38 of 40 rows are the same"):
        validation._compare_rows(
            "detections", _kept([*range(38), 50, 51], falling), _kept(list(range(40)), falling)
        )
