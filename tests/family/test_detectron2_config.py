"""--config with the config.yaml that detectron2's trainer writes beside its checkpoints."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from mrcnn.checkpoint import Checkpoint
from mrcnn.errors import MissingRequirementError, MrcnnError, missing_package
from mrcnn.imports.given import Given, read_given
from tests.family.detectron2_names import keypoint_rcnn_r50_fpn, mask_rcnn_r50_c4, mask_rcnn_r50_fpn
from tests.family.imported import imported

# What matters of a dump of two classes, with other values than the usual ones.
CONFIG = """
VERSION: 2
INPUT: {FORMAT: RGB, MIN_SIZE_TEST: 600, MAX_SIZE_TEST: 1000}
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  MASK_ON: true
  KEYPOINT_ON: false
  LOAD_PROPOSALS: false
  PIXEL_MEAN: [123.675, 116.28, 103.53]
  PIXEL_STD: [58.395, 57.12, 57.375]
  BACKBONE: {NAME: build_resnet_fpn_backbone}
  FPN: {FUSE_TYPE: sum, NORM: ''}
  RESNETS:
    DEPTH: 50
    NUM_GROUPS: 1
    WIDTH_PER_GROUP: 64
    NORM: FrozenBN
    RES5_DILATION: 1
    STRIDE_IN_1X1: false
    DEFORM_ON_PER_STAGE: [false, false, false, false]
  PROPOSAL_GENERATOR: {NAME: RPN, MIN_SIZE: 0}
  ANCHOR_GENERATOR:
    NAME: DefaultAnchorGenerator
    OFFSET: 0.0
    SIZES: [[16], [32], [64], [128], [256]]
    ASPECT_RATIOS: [[0.5, 1.0, 3.0]]
  RPN:
    HEAD_NAME: StandardRPNHead
    IN_FEATURES: [p2, p3, p4, p5, p6]
    BBOX_REG_WEIGHTS: &ones [1.0, 1.0, 1.0, 1.0]
    NMS_THRESH: 0.6
    PRE_NMS_TOPK_TEST: 900
    POST_NMS_TOPK_TEST: 800
  RETINANET: {BBOX_REG_WEIGHTS: *ones}
  ROI_HEADS:
    NAME: StandardROIHeads
    IN_FEATURES: [p2, p3, p4, p5]
    NUM_CLASSES: 2
    SCORE_THRESH_TEST: 0.1
    NMS_THRESH_TEST: 0.4
  ROI_BOX_HEAD:
    NAME: FastRCNNConvFCHead
    POOLER_RESOLUTION: 7
    POOLER_TYPE: ROIAlign
    POOLER_SAMPLING_RATIO: 2
    BBOX_REG_WEIGHTS: (20.0, 20.0, 10.0, 10.0)
  ROI_MASK_HEAD:
    NAME: MaskRCNNConvUpsampleHead
    POOLER_RESOLUTION: 14
    POOLER_TYPE: ROIAlign
    POOLER_SAMPLING_RATIO: 2
  # Of no head that the model has.
  ROI_KEYPOINT_HEAD: {NAME: Other, POOLER_TYPE: ROIPool}
TEST: {DETECTIONS_PER_IMAGE: 50, AUG: {ENABLED: false}}
"""


@pytest.fixture(scope="module")
def pyramid() -> dict[str, Tensor]:
    return mask_rcnn_r50_fpn()


def read(weights: dict[str, Tensor], config: Any) -> Checkpoint:
    text = config if isinstance(config, str) else yaml.safe_dump(config)
    return imported(weights, Given(detectron2=text))


def changed(name: str, value: Any) -> dict[str, Any]:
    """CONFIG with another value of one setting."""
    config = yaml.safe_load(CONFIG)
    *groups, last = name.split(".")
    place = config
    for group in groups:
        place = place.setdefault(group, {})
    place[last] = value
    return dict(config)


def test_the_dumped_config_is_read(pyramid: dict[str, Tensor]) -> None:
    checkpoint = read(pyramid, CONFIG)
    description = checkpoint.description
    assert not description.stride_in_1x1
    assert (description.resize.min_size, description.resize.max_size) == (600, 1000)
    assert description.resize.rounding == "nearest", "what no config says stays detectron2's"
    assert description.normalization.mean == pytest.approx((123.675 / 255, 116.28 / 255, 103.53 / 255))
    assert description.normalization.std == pytest.approx((58.395 / 255, 57.12 / 255, 57.375 / 255))
    assert description.anchors.sizes == ((16,), (32,), (64,), (128,), (256,))
    assert description.anchors.aspect_ratios == ((0.5, 1.0, 3.0),) * 5
    assert description.anchors.exact
    proposals = description.proposals
    assert (proposals.pre_nms_top_n, proposals.post_nms_top_n, proposals.nms_threshold) == (900, 800, 0.6)
    rois = description.rois
    assert (rois.box_size, rois.mask_size, rois.aligned, rois.sampling_ratio) == (7, 14, False, 2)
    detections = description.detections
    assert (detections.score_threshold, detections.nms_threshold) == (0.1, 0.4)
    assert detections.detections_per_image == 50
    assert detections.delta_weights == (20, 20, 10, 10)
    assert [line.partition(":")[0] for line in checkpoint.assumptions] == [
        "class names",
        "images are resized by torchvision's bilinear rule; detectron2 used Pillow's",
    ]
    # RGB: no channels are exchanged.
    ours, theirs = "backbone.body.conv1.weight", "backbone.bottom_up.stem.conv1.weight"
    assert torch.equal(checkpoint.state_dict[ours], pyramid[theirs])


def test_bgr_is_turned_round(pyramid: dict[str, Tensor]) -> None:
    config = changed("INPUT.FORMAT", "BGR")
    config["MODEL"]["PIXEL_MEAN"] = [1.0, 2.0, 3.0]
    checkpoint = read(pyramid, config)
    assert checkpoint.description.normalization.mean == pytest.approx((3 / 255, 2 / 255, 1 / 255))
    ours, theirs = "backbone.body.conv1.weight", "backbone.bottom_up.stem.conv1.weight"
    assert torch.equal(checkpoint.state_dict[ours], pyramid[theirs].flip(1))


@pytest.mark.parametrize(
    ("configuration", "make"),
    [
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", mask_rcnn_r50_fpn),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml", mask_rcnn_r50_c4),
        ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", lambda _: keypoint_rcnn_r50_fpn()),
    ],
)
def test_the_zoos_own_configs_say_what_is_assumed_without(
    configuration: str, make: Callable[[int], dict[str, Tensor]]
) -> None:
    pytest.importorskip("detectron2", reason="its dump of its own configs")
    import detectron2
    from detectron2 import config

    cfg = config.get_cfg()
    cfg.merge_from_file(str(Path(detectron2.__file__).parent.parent / "configs" / configuration))
    weights = make(80)
    assert read(weights, cfg.dump()).description == imported(weights).description


def test_a_partial_config_is_read_and_its_base_is_not(pyramid: dict[str, Tensor]) -> None:
    checkpoint = read(pyramid, {"_BASE_": "../Base-RCNN-FPN.yaml", "MODEL": {"RPN": {"NMS_THRESH": 0.6}}})
    assert checkpoint.description.proposals.nms_threshold == 0.6
    (line,) = (line for line in checkpoint.assumptions if "_BASE_" in line)
    assert "is not read" in line
    assert any("STRIDE_IN_1X1" in line for line in checkpoint.assumptions)


def test_what_is_not_followed_is_told(pyramid: dict[str, Tensor]) -> None:
    config = changed("TEST.AUG.ENABLED", True)
    config["MODEL"] |= {"POINT_HEAD": {"NUM_FC": 3}, "RPN": {"PRE_NMS_TOPK_TEST": 6000}}
    lines = read(pyramid, config).assumptions
    assert "TEST.AUG is not followed: images are run once, at one size" in lines
    assert "not read, as detectron2 itself has no such settings: 'MODEL.POINT_HEAD'" in lines
    assert "3839 proposals before NMS, not 6000: TensorRT sorts no more" in lines


def test_one_list_of_anchors_is_for_every_level(pyramid: dict[str, Tensor]) -> None:
    anchors = read(pyramid, changed("MODEL.ANCHOR_GENERATOR.SIZES", [[64]])).description.anchors
    assert anchors.sizes == ((64,),) * 5


def test_a_c4_models_heads_share_their_regions() -> None:
    boxes = {"POOLER_RESOLUTION": 12, "POOLER_TYPE": "ROIAlignV2"}
    config = {"MODEL": {"ROI_BOX_HEAD": boxes, "ROI_MASK_HEAD": {"POOLER_TYPE": "ROIPool"}}}
    rois = read(mask_rcnn_r50_c4(), config).description.rois
    assert (rois.box_size, rois.mask_size, rois.aligned) == (12, 12, True)


def test_roi_pool_is_for_boxes_of_one_map() -> None:
    weights = {name: tensor for name, tensor in mask_rcnn_r50_c4().items() if "mask_head" not in name}
    config = {"MODEL": {"ROI_BOX_HEAD": {"POOLER_TYPE": "ROIPool"}}}
    assert read(weights, config).description.rois.mode == "pool"
    with pytest.raises(MrcnnError, match=r"ROI_BOX_HEAD\.POOLER_TYPE 'ROIPool' has no counterpart"):
        read(mask_rcnn_r50_c4(), config)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("VERSION", 1, "VERSION 1 has no counterpart: 2 is supported"),
        ("MODEL.META_ARCHITECTURE", "PanopticFPN", "'PanopticFPN' has no counterpart: 'GeneralizedRCNN'"),
        ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "BACKBONE.NAME 'build_resnet_backbone' has no"),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "'RRPN' has no counterpart: 'RPN'"),
        ("MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator", "'RotatedAnchorGenerator' has no"),
        ("MODEL.ANCHOR_GENERATOR.OFFSET", 0.5, "ANCHOR_GENERATOR.OFFSET 0.5 has no counterpart: 0"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32.5]], "ANCHOR_GENERATOR.SIZES must be whole pixels"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32]] * 3, "or one for each of 5 feature maps (got [[32], [32]"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[]], "SIZES must be one list of numbers"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64]], "the RPN has 3 anchors a place, not 6"),
        ("MODEL.RPN.BBOX_REG_WEIGHTS", [2.0, 1, 1, 1], "RPN.BBOX_REG_WEIGHTS [2.0, 1, 1, 1] has no"),
        ("MODEL.RPN.NMS_THRESH", "high", "MODEL.RPN.NMS_THRESH must be a number (got 'high')"),
        ("MODEL.RPN.NMS_THRESH", float("nan"), "MODEL.RPN.NMS_THRESH must be a number (got nan)"),
        ("MODEL.RPN.PRE_NMS_TOPK_TEST", 1.5, "PRE_NMS_TOPK_TEST must be a whole number (got 1.5)"),
        ("MODEL.RPN.IN_FEATURES", ["p3", "p4"], "RPN.IN_FEATURES ['p3', 'p4'] has no counterpart"),
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "'CascadeROIHeads' has no counterpart: 'StandardROI"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 80, "ROI_HEADS.NUM_CLASSES 80, but the weights tell 2"),
        ("MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead", "'PointRendMaskHead' has no counterpart"),
        (
            "MODEL.ROI_MASK_HEAD.POOLER_TYPE",
            "ROIAlignV2",
            "POOLER_TYPE must be 'ROIAlign', as of MODEL.",
        ),
        ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool", "ROI_BOX_HEAD.POOLER_TYPE 'ROIPool' has no"),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [10, 10], "must be a list of 4 numbers (got [10, 10])"),
        ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True, "USE_SIGMOID_CE True has no counterpart"),
        ("MODEL.MASK_ON", False, "MODEL.MASK_ON False, but the weights tell True"),
        ("MODEL.KEYPOINT_ON", True, "MODEL.KEYPOINT_ON True, but the weights tell False"),
        ("MODEL.RESNETS.DEPTH", 101, "MODEL.RESNETS.DEPTH 101, but the weights tell 50"),
        ("MODEL.RESNETS.STRIDE_IN_1X1", 1, "STRIDE_IN_1X1 must be true or false (got 1)"),
        ("MODEL.RESNETS.NORM", "GN", "RESNETS.NORM 'GN' has no counterpart"),
        ("MODEL.RESNETS.RES5_DILATION", 2, "RES5_DILATION 2 has no counterpart: 1"),
        ("MODEL.FPN.FUSE_TYPE", "avg", "FPN.FUSE_TYPE 'avg' has no counterpart: 'sum'"),
        ("INPUT.FORMAT", "L", "INPUT.FORMAT 'L' has no counterpart"),
        ("INPUT.MIN_SIZE_TEST", 0, "INPUT.MIN_SIZE_TEST 0, images as large as they are, has no"),
        ("INPUT.MIN_SIZE_TEST", 2000, "resize: 0 < min_size <= max_size must hold (got 2000, 1000)"),
        ("TEST.DETECTIONS_PER_IMAGE", -1, "detections_per_image must be in 1…3839 (got -1)"),
    ],
)
def test_settings_without_counterpart_are_named(
    name: str, value: Any, message: str, pyramid: dict[str, Tensor]
) -> None:
    with pytest.raises(MrcnnError, match=re.escape(message)) as error:
        read(pyramid, changed(name, value))
    assert str(error.value).startswith(("--config", "the RPN"))
    assert "\n" not in str(error.value)


def test_pixels_that_older_files_hold_must_be_the_configs(pyramid: dict[str, Tensor]) -> None:
    stored = {"pixel_mean": torch.tensor([123.7, 116.3, 103.5]).view(3, 1, 1), "pixel_std": torch.ones(3)}
    with pytest.raises(MrcnnError, match=r"MODEL\.PIXEL_STD \[58\.395, .*\], but the weights hold \[1\.0"):
        read(pyramid | stored, CONFIG)


# Eight levels of eight: a repr, or a copy, of what this stands for has 16 million items.
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 9))
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 8)}]}}\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: [", "is not YAML of plain values in line 1: "),
        (
            "MODEL: !!python/object/apply:os.system ['touch ran']",
            "is not YAML of plain values in line 1: could",
        ),
        ("MODEL: {? [a]: 1}", "is not YAML of plain values in line 1: found unhashable key"),
        ("[" * 5000, "is not YAML of plain values: nested too deeply"),
        ("MODEL: 2020-13-45", "is not YAML of plain values: month must be in 1..12"),
        (f"MODEL: {'9' * 5000}", "is not YAML of plain values: Exceeds the limit"),
        ("MODEL: \x07", "is not YAML of plain values: "),
        ("MODEL: 5", "MODEL must hold settings (got 5)"),
        ("MODEL: {RPN: [1]}", "MODEL.RPN must hold settings (got [1])"),
        ("- 1", "must hold a mapping"),
        ("", "must hold a mapping"),
        (
            "resize: {min_size: 600}",
            "in YAML, configs of detectron2 are read; fields of the description",
        ),
        ("model: {_target_: detectron2.GeneralizedRCNN}", "is of a LazyConfig"),
        (f"{BOMB}MODEL: {{RPN: {{NMS_THRESH: *a8}}}}", "NMS_THRESH must be a number (got [["),
        (f"{MERGES}MODEL: *a8", "merge keys (<<) are not read"),
        ("MODEL: &m {ANCHOR_GENERATOR: {SIZES: &s [*s]}, RPN: *m}", "SIZES must be one list of numbers"),
        (f"MODEL: {{}}  # {' ' * 2**18}", "YAML of more than 262144 characters is not read"),
    ],
)
def test_a_config_that_is_no_use_is_one_line(
    text: str, message: str, pyramid: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(text)
    with pytest.raises(MrcnnError, match=re.escape(message)) as error:
        imported(pyramid, read_given(Path("c.yaml")))
    assert str(error.value).startswith("--config")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_without_the_package_the_line_says_what_to_install(
    pyramid: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ModuleNotFoundError) as error:
        read(pyramid, "MODEL: {}")
    told = missing_package(error.value)
    assert isinstance(told, MissingRequirementError)
    assert re.match(r"the package yaml is not installed: pip install .* pyyaml$", str(told))
