"""Architectures are read off the keys and shapes of a bare state dict."""

import pytest
import torch
from torchvision.models import mobilenet_v2, vgg16
from torchvision.models.detection import (
    FasterRCNN,
    KeypointRCNN_ResNet50_FPN_Weights,
    MaskRCNN,
    keypointrcnn_resnet50_fpn,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from mrcnn.description import RoiRule
from mrcnn.families import COCO_PERSON, describe
from mrcnn.models import architectures, build_model
from mrcnn.models.recognise import recognise
from tests.family.rows import CLASSES


@pytest.mark.parametrize("architecture", [a for a in architectures() if a != "maskrcnn_mobilenet_v2_fpn"])
def test_every_torchvision_model_is_known_by_its_keys(architecture: str) -> None:
    with torch.device("meta"):
        weights = build_model(describe(architecture, CLASSES)).state_dict()
    found, _ = recognise(weights)
    assert found.architecture == architecture
    assert found.num_classes == 3
    with torch.device("meta"):
        again = build_model(found).state_dict()
    assert {name: tensor.shape for name, tensor in again.items()} == {n: t.shape for n, t in weights.items()}


@pytest.mark.parametrize("head_norm", ["batch", "group"])
def test_norms_of_pyramid_and_heads_are_known(head_norm: str) -> None:
    description = describe("maskrcnn_resnet50_fpn_v2", CLASSES, head_norm=head_norm)
    with torch.device("meta"):
        model = build_model(description)
    kinds = {type(part) for name, part in model.named_modules() if "norm" in type(part).__name__.lower()}
    assert (torch.nn.GroupNorm in kinds) == (head_norm == "group")
    found, assumptions = recognise(model.state_dict())
    assert found.head_norm == head_norm
    assert any("32 groups" in line for line in assumptions) == (head_norm == "group")


def test_the_printed_mobilenet_model_loads_as_it_is() -> None:
    """torchvision's tutorial: 15 anchors a place, 7x7 and 14x14 regions, 62720 → 1024 → 1024, two classes."""
    backbone = mobilenet_v2(weights=None).features
    backbone.out_channels = 1280
    theirs = MaskRCNN(
        backbone,
        num_classes=2,
        rpn_anchor_generator=AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        mask_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
    ).eval()
    assert theirs.roi_heads.box_head.fc6.in_features == 62720
    description, _ = recognise(theirs.state_dict())
    ours = build_model(description).eval()
    ours.load_state_dict(theirs.state_dict())
    assert str(ours) == str(theirs)
    image = torch.rand(3, 152, 192)
    with torch.inference_mode():
        for name, value in theirs([image])[0].items():
            assert torch.equal(value, ours([image])[0][name]), name


@pytest.mark.parametrize("width", [None, 64])
def test_a_head_of_another_width_is_known(width: int | None) -> None:
    rois = RoiRule(head_width=width)
    with torch.device("meta"):
        model = build_model(describe("maskrcnn_resnet50_fpn", CLASSES, rois=rois))
    assert model.roi_heads.box_head.fc7.out_features == (width or 1024)
    found, _ = recognise(model.state_dict())
    assert found.rois == rois


def test_a_vgg_with_torchvisions_own_head_loads_as_it_is() -> None:
    """With the 1024 that torchvision's `FasterRCNN` makes, not the 4096 of the classifier."""
    with torch.device("meta"):
        features = vgg16(weights=None).features[:-1]
        features.out_channels = 512
        theirs = FasterRCNN(
            features,
            num_classes=3,
            rpn_anchor_generator=AnchorGenerator(((128, 256, 512),), ((0.5, 1.0, 2.0),)),
            box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        )
        found, _ = recognise(theirs.state_dict())
        ours = build_model(found)
    assert found.rois.head_width == 1024
    assert {n: t.shape for n, t in ours.state_dict().items()} == {
        n: t.shape for n, t in theirs.state_dict().items()
    }


def test_bare_persons_with_key_points_are_known() -> None:
    """torchvision's `keypointrcnn_resnet50_fpn` as it is: 2 classes, 17 points."""
    with torch.device("meta"):
        theirs = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    found, assumptions = recognise(theirs.state_dict())
    assert found.architecture == "keypointrcnn_resnet50_fpn"
    assert found.class_names == ("__background__", "person")
    assert found.keypoints == COCO_PERSON
    assert found.heatmap_side == 56
    assert "class name: person, since there are 2 classes and 17 key points" in assumptions
    assert "key points: those of COCO's persons, since there are 17" in assumptions
    with torch.device("meta"):
        ours = build_model(found)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert str(ours.roi_heads) == str(theirs.roi_heads)


def test_other_numbers_of_key_points_have_no_names() -> None:
    with torch.device("meta"):
        weights = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_keypoints=2).state_dict()
    found, assumptions = recognise(weights)
    assert found.keypoints is not None
    assert found.keypoints.names == ("point_1", "point_2")
    assert found.keypoints.mirrored == found.keypoints.skeleton == ()
    assert found.class_names == ("__background__", "class_1")
    assert any(line.startswith("key points: numbers only") for line in assumptions)


def test_the_points_are_torchvisions() -> None:
    names = KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.meta["keypoint_names"]
    assert COCO_PERSON.names == tuple(names)
    for old, new in enumerate(COCO_PERSON.mirror_order):
        swapped = {"left": "right", "right": "left"}
        side, _, part = names[old].partition("_")
        assert names[new] == (f"{swapped[side]}_{part}" if part else "nose")
    # COCO's own list for "person", counted from 1.
    coco = "16-14 14-12 17-15 15-13 12-13 6-12 7-13 6-7 6-8 7-9 8-10 9-11 2-3 1-2 1-3 2-4 3-5 4-6 5-7"
    assert [f"{a + 1}-{b + 1}" for a, b in COCO_PERSON.skeleton] == coco.split()
