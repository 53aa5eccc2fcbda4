"""Architectures are read off the keys and shapes of a bare state dict."""

import pytest
import torch
from torchvision.models import mobilenet_v2
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from mrcnn.families import describe
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
