"""Checkpoints of mmdetection: names, settings, and the same results as its steps on the same input."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from mrcnn.checkpoint import load_checkpoint
from mrcnn.errors import MrcnnError
from mrcnn.imports.given import Given, read_given
from mrcnn.imports.wrapped import unwrap
from tests.family.compared import PROPOSALS, RELATIVE, differences, ours, photograph
from tests.family.imported import imported
from tests.family.mmdetection_names import (
    CONFIG_2X,
    CONFIG_3X,
    convolution,
    mask_rcnn_r50_caffe_c4,
    mask_rcnn_r50_fpn,
    stage,
)
from tests.family.mmdetection_reference import Reference

CAFFE = "model = dict(backbone=dict(style='caffe'))"
PYRAMID, C4 = ((32,), (64,), (128,), (256,), (512,)), ((32, 64, 128, 256, 512),)


@pytest.mark.parametrize(
    ("name", "caffe"), [("fpn", False), ("fpn", True), ("agnostic", False), ("c4", True)]
)
def test_its_steps_find_the_same(name: str, caffe: bool) -> None:
    torch.manual_seed(3)
    weights = {
        "fpn": lambda: mask_rcnn_r50_fpn(),
        "agnostic": lambda: mask_rcnn_r50_fpn(agnostic=True),
        "c4": lambda: mask_rcnn_r50_caffe_c4(),
    }[name]()
    reference = Reference(
        weights=weights, caffe=caffe, sizes=C4 if name == "c4" else PYRAMID, proposals=PROPOSALS
    )
    image = photograph()
    # configs/_base_/models: RGB and scaled, or Caffe's BGR with the mean alone.
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    normalised = ((image - mean[:, None, None]) / (1 if caffe else std[:, None, None]))[None]
    normalised = normalised.flip(1) if caffe else normalised
    reference.settling = True
    reference.find(normalised)
    reference.settling = False
    checkpoint = imported(weights, config=CAFFE if caffe else "")
    assert checkpoint.description.stride_in_1x1 is caffe
    for what, difference in differences(ours(checkpoint, image), reference.find(normalised)).items():
        print(f"{name}, caffe {caffe}: {what} differ by {difference:.1e}")
        assert difference <= RELATIVE, what


def test_rows_and_channels_find_their_place() -> None:
    weights = mask_rcnn_r50_caffe_c4()
    weights["roi_head.bbox_head.fc_cls.bias"] = torch.tensor([1.0, 2, 0])
    weights["roi_head.bbox_head.fc_reg.bias"] = torch.arange(8.0)
    weights["roi_head.mask_head.conv_logits.bias"] = torch.tensor([5.0, 6])
    weights["rpn_head.rpn_cls.bias"] = torch.arange(15.0)
    weights["backbone.conv1.weight"][:, 0] = 7
    checkpoint = imported(weights, config=CAFFE, CLASSES=("cat", "dog"))
    checkpoint.build()
    description, state = checkpoint.description, checkpoint.state_dict
    assert description.architecture == "maskrcnn_resnet50_c4"
    assert description.class_names == ("__background__", "cat", "dog")
    assert description.norm == "batch"
    assert description.resize.rounding == "nearest"
    assert description.normalization.mean == pytest.approx((123.675 / 255, 116.28 / 255, 103.53 / 255))
    assert description.normalization.std == pytest.approx((1 / 255,) * 3)
    assert state["roi_heads.box_predictor.cls_score.bias"].tolist() == [0, 1, 2]
    assert state["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [0, 0, 0, 0, *range(8)]
    assert state["roi_heads.mask_predictor.mask_fcn_logits.bias"].tolist() == [0, 5, 6]
    # Ratios are in the outer loop, as in torchvision.
    assert state["rpn.head.cls_logits.bias"].tolist() == list(range(15))
    assert (state["backbone.body.conv1.weight"][:, 2] == 7).all()


def test_a_resnext_of_caffe2_wants_bgr() -> None:
    """mask-rcnn_x101-32x8d_fpn_1x_coco.py: style='pytorch', and yet BGR; others of that style are RGB."""
    for bgr in (True, False):
        weights = mask_rcnn_r50_fpn()
        if bgr:
            weights = {k: v for k, v in weights.items() if not k.startswith("backbone.layer")}
            for number, blocks in ((1, 3), (2, 4), (3, 23), (4, 3)):
                weights |= stage("backbone.", number, group_width=8, blocks=blocks)
        weights["backbone.conv1.weight"][:, 0] = 7
        checkpoint = imported(weights)
        assert (checkpoint.state_dict["backbone.body.conv1.weight"][:, 2 if bgr else 0] == 7).all()
        assert not checkpoint.description.stride_in_1x1
        checkpoint.build()


@pytest.mark.parametrize(
    ("make", "given", "caffe"),
    [
        (mask_rcnn_r50_fpn, Given(), False),
        (mask_rcnn_r50_fpn, Given(fields={"stride_in_1x1": True}), True),
        (mask_rcnn_r50_caffe_c4, Given(), True),
        (mask_rcnn_r50_caffe_c4, Given(mmdetection="model = dict(backbone=dict(style='pytorch'))"), False),
    ],
)
def test_without_a_config_the_style_is_the_zoos(
    make: Callable[[], dict[str, Tensor]], given: Given, caffe: bool
) -> None:
    weights = make()
    weights["backbone.conv1.weight"][:, 0] = 7
    checkpoint = imported(weights, given)
    assert checkpoint.description.stride_in_1x1 is caffe
    assert (checkpoint.state_dict["backbone.body.conv1.weight"][:, 2 if caffe else 0] == 7).all()
    assert checkpoint.description.normalization.std[0] == pytest.approx((1 if caffe else 58.395) / 255)
    (line,) = (said for said in checkpoint.assumptions if said.startswith("style "))
    assert ("BGR" if caffe else "RGB") in line


def test_the_config_in_a_checkpoint_of_3x_is_read() -> None:
    checkpoint = imported(mask_rcnn_r50_fpn(), cfg=CONFIG_3X, mmengine_version="0.10.4")
    description = checkpoint.description
    assert description.class_names == ("__background__", "cat", "dog")
    assert description.anchors.sizes == ((16,), (32,), (64,), (128,), (256,))
    assert description.anchors.aspect_ratios == ((0.5, 1.0, 2.0),) * 5
    assert description.anchors.exact
    assert (description.resize.min_size, description.resize.max_size) == (600, 1000)
    assert description.proposals.pre_nms_top_n == 900
    assert description.proposals.post_nms_top_n == 800
    assert description.proposals.nms_threshold == 0.6
    assert description.detections.score_threshold == 0.1
    assert description.detections.nms_threshold == 0.4
    assert description.detections.detections_per_image == 50
    assert description.detections.delta_weights == pytest.approx((20, 20, 10, 10))
    assert checkpoint.assumptions == (
        "images are resized by torchvision's bilinear rule; mmdetection used OpenCV's",
    )


def test_the_config_in_a_checkpoint_of_2x_is_read() -> None:
    weights = mask_rcnn_r50_fpn()
    first = weights["backbone.conv1.weight"].clone()
    checkpoint = imported(weights, config=CONFIG_2X, CLASSES=["a", "b"])
    assert checkpoint.description.stride_in_1x1
    assert checkpoint.description.class_names[1:] == ("a", "b")
    assert checkpoint.description.normalization.mean == pytest.approx(
        (123.675 / 255, 116.28 / 255, 103.53 / 255)
    )
    assert (checkpoint.description.resize.min_size, checkpoint.description.resize.max_size) == (800, 1333)
    assert torch.equal(checkpoint.state_dict["backbone.body.conv1.weight"], first.flip(1))


def test_a_config_beside_the_checkpoint_is_read_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text(
        CONFIG_3X + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\nimport no_such_module\n"
    )
    checkpoint = imported(mask_rcnn_r50_fpn(), read_given(tmp_path / "c.py"))
    assert checkpoint.description.anchors.sizes[0] == (16,)
    assert not (tmp_path / "ran").exists()


ENDLESS = "a = [1, 1]\n" + "a = [a, a, a, a, a, a, a, a]\n" * 9  # a repr has 134 million items


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("test_pipeline = [dict(type='Resize', scale=(1e999, 600))]", None),
        ("model = dict(rpn_head=dict(anchor_generator=dict(scales=[1e999], ratios=[1.0])))", None),
        ("model = dict(test_cfg=dict(rcnn=dict(score_thr=1e999)))", "inf is no sensible score_threshold"),
        (
            f"model = dict(test_cfg=dict(rcnn=dict(max_per_img={'9' * 4000})))",
            "is no sensible detections_per",
        ),
        (f"{ENDLESS}model = dict(rpn_head=dict(anchor_generator=dict(type=a)))", "generator.type [[["),
    ],
)
def test_numbers_without_sense_are_one_line(
    text: str, message: str | None, pyramid: dict[str, Tensor]
) -> None:
    if message is None:  # as what is not written out
        assert imported(pyramid, Given(mmdetection=text)).description.resize.max_size == 1333
        return
    with pytest.raises(MrcnnError, match=re.escape(message)) as error:
        imported(pyramid, Given(mmdetection=text))
    assert len(str(error.value)) < 300


def test_a_base_of_a_config_is_told_not_to_be_read() -> None:
    said = Given(mmdetection="_base_ = './mask-rcnn_r50_fpn.py'")
    (line,) = (a for a in imported(mask_rcnn_r50_fpn(), said).assumptions if "_base_" in a)
    assert "is not read" in line


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("strides=[4, 8, 16, 32, 64]", "strides=[8, 16, 32, 64, 128]", "anchor_generator.strides [8, 16,"),
        ("scales=[4]", "octave_base_scale=4, scales_per_octave=3", "octave_base_scale has no counterpart"),
        ("scales=[4]", "scales=[4.1]", "anchors of whole pixels are needed"),
        ("scales=[4]", "scales=[4, 8]", "the RPN has 3 anchors a place, not 6"),
        ("type='nms', iou_threshold=0.4", "type='soft_nms', iou_threshold=0.4", "rcnn.nms.type 'soft_nms'"),
        ("type='RoIAlign', output_size=7", "type='RoIPool', output_size=7", "roi_layer.type 'RoIPool'"),
        ("'SingleRoIExtractor'", "'GenericRoIExtractor'", "bbox_roi_extractor.type 'GenericRoIExtractor'"),
        ("keep_ratio=True", "keep_ratio=False", "keep_ratio=False has no counterpart"),
        ("classes=('cat', 'dog', )", "classes=('cat', )", "1 classes, but the weights are of 2"),
        ("score_thr=0.1", "score_thr=7", "score_threshold must be in 0…1 (got 7"),
        ("metainfo = dict(", "metainfo = dict((", "--config: is not a config in Python's syntax"),
    ],
)
def test_settings_without_counterpart_are_named(
    before: str, after: str, message: str, pyramid: dict[str, Tensor]
) -> None:
    assert before in CONFIG_3X
    with pytest.raises(MrcnnError, match=re.escape(message)) as error:
        imported(pyramid, Given(mmdetection=CONFIG_3X.replace(before, after)))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def pyramid() -> dict[str, Tensor]:
    return mask_rcnn_r50_fpn()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            convolution("neck.fpn_convs.4.conv", 256, 256, 3),
            "'neck.fpn_convs.4.conv.weight' has no",
        ),
        ({"rpn_head.rpn_conv.0.conv.weight": torch.zeros(1)}, "'rpn_head.rpn_conv.0.conv.weight' has no"),
        ({"roi_head.bbox_head.fc_cls.weight": None}, "the weights lack 'roi_head.bbox_head.fc_cls.weight'"),
        (
            {"roi_head.bbox_head.0.fc_cls.weight": torch.zeros(1)},
            "'roi_head.bbox_head.0.fc_cls.weight' is of a Cascade R-CNN",
        ),
        ({"roi_head.bbox_head.fc_cls.bias": torch.tensor(0.0)}, "fc_cls.bias' has shape (), which is no"),
        (
            {"rpn_head.rpn_reg.weight": torch.zeros(12, 1, 1, 1)},
            "'rpn_head.rpn_reg.weight' has shape (12, 1, 1, 1)",
        ),
        (
            {"roi_head.mask_head.conv_logits.bias": None},
            "lack 'roi_head.mask_head.conv_logits.bias'",
        ),
        (
            {"backbone.layer2.0.conv2.conv_offset.weight": torch.zeros(1)},
            "surplus key 'backbone.layer2.",
        ),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Tensor | None], message: str) -> None:
    weights = {**mask_rcnn_r50_fpn(), **change}
    with pytest.raises(MrcnnError, match=re.escape(message)):
        imported({name: value for name, value in weights.items() if value is not None}).build()


def test_moving_averages_are_what_state_dict_holds() -> None:
    """mmengine and mmcv exchange the two when they save."""
    weights = mask_rcnn_r50_fpn()
    trained = {f"module.{name}": value + 1 for name, value in weights.items()}
    copies = {f"ema_{name.replace('.', '_')}": value + 1 for name, value in weights.items()}
    for document, line in (
        (
            {
                "meta": {"mmengine_version": "0.10.4"},
                "state_dict": weights,
                "ema_state_dict": {"steps": torch.tensor(9), **trained},
            },
            "where mmengine saves",
        ),
        ({"meta": {}, "state_dict": weights | copies}, "where mmcv saves"),
    ):
        unwrapped = unwrap(document)
        checkpoint = imported(unwrapped.weights)
        found = checkpoint.state_dict["rpn.head.conv.0.0.weight"]
        assert torch.equal(found, weights["rpn_head.rpn_conv.weight"])
        assert any(line in said for said in (*unwrapped.lines, *checkpoint.assumptions))


def test_histories_beside_the_weights_are_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mmengine's message_hub holds objects of its class HistoryBuffer, with NumPy arrays and functions."""
    module = ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.array([1.5, 0.5])
            self._count_history = np.array([1, 1])
            self.largest = np.float64(1.5)
            self.statistics = {"mean": HistoryBuffer.mean}

        def mean(self) -> float:
            return 1.0

        def __setstate__(self, state: object) -> None:
            raise AssertionError("it was built")

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = module.__name__, "HistoryBuffer.mean"
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    hub = {"log_scalars": {"train/loss": HistoryBuffer()}, "runtime_info": {"epoch": np.int64(3)}}
    document = {"meta": {"cfg": CONFIG_3X}, "state_dict": mask_rcnn_r50_fpn(), "message_hub": hub}
    torch.save(document, tmp_path / "epoch_12.pth")
    checkpoint = load_checkpoint(tmp_path / "epoch_12.pth")
    checkpoint.build()
    assert any("objects beside the weights" in line for line in checkpoint.assumptions)
