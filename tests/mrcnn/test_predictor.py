"""The PyTorch predictor against torchvision's own output."""

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from mrcnn.data.synthetic import SyntheticDataset
from mrcnn.description import DetectionRule, ModelDescription, ResizeRule
from mrcnn.families import describe
from mrcnn.models import build_model
from mrcnn.predictor import TorchPredictor

DESCRIPTION = ModelDescription(
    architecture="maskrcnn_mobilenet_v2_fpn",
    class_names=("__background__", "coin", "button"),
    width=0.25,
    resize=ResizeRule(min_size=96, max_size=160),
    detections=DetectionRule(score_threshold=0.0, detections_per_image=7),
)
IMAGE = SyntheticDataset("coins", length=1, size=(70, 130)).image(0)


@pytest.fixture(scope="module")
def predictor() -> TorchPredictor:
    torch.manual_seed(5)
    return TorchPredictor(build_model(DESCRIPTION).eval(), DESCRIPTION)


def test_equals_torchvision(predictor: TorchPredictor) -> None:
    found = predictor.infer(IMAGE, color="rgb")
    reference = predictor.reference(IMAGE, color="rgb")
    assert len(found) == 7
    assert found.image_size == (70, 130)
    assert found.class_names == DESCRIPTION.class_names
    for name in ("boxes", "scores", "labels"):
        assert (getattr(found, name) == reference[name]).all()
    assert found.mask_probs is not None
    assert found.mask_probs.shape == (7, 28, 28)
    pasted = paste_masks_in_image(
        torch.from_numpy(found.mask_probs[:, None]), torch.from_numpy(found.boxes), (70, 130)
    )
    assert reference["masks"].shape == (7, 1, 70, 130)
    assert (pasted.numpy() == reference["masks"]).all()


def test_colour_order(predictor: TorchPredictor) -> None:
    tinted = IMAGE // np.array([1, 2, 4], np.uint8)
    rgb = predictor.infer(tinted, color="rgb")
    assert (predictor.infer(tinted[:, :, ::-1]).scores == rgb.scores).all()
    assert (predictor.infer(tinted).scores != rgb.scores).any()


def test_a_model_without_masks() -> None:
    description = ModelDescription(
        architecture="fasterrcnn_resnet50_fpn",
        class_names=("__background__", "coin"),
        resize=ResizeRule(min_size=64, max_size=128),
    )
    predictor = TorchPredictor(build_model(description).eval(), description)
    assert predictor.infer(IMAGE).mask_probs is None
    assert "masks" not in predictor.reference(IMAGE)


def test_key_points_are_torchvisions() -> None:
    description = describe(
        "keypointrcnn_resnet50_fpn",
        ("__background__", "person"),
        resize=ResizeRule(min_size=64, max_size=128),
        detections=DetectionRule(score_threshold=0.0, detections_per_image=7),
    )
    predictor = TorchPredictor(build_model(description).eval(), description)
    found = predictor.infer(IMAGE, color="rgb")
    reference = predictor.reference(IMAGE, color="rgb")
    assert len(found) == 7
    assert found.keypoint_rule == description.keypoints
    assert found.keypoints is not None
    assert found.keypoints.shape == (7, 17, 3)
    assert (found.keypoints == reference["keypoints"]).all()
    assert found.keypoint_scores is not None
    assert (found.keypoint_scores == reference["keypoints_scores"]).all()


def test_a_first_image_that_is_mostly_padding_does_not_set_the_strides() -> None:
    model = build_model(DESCRIPTION).eval()
    # 10x200 becomes 8x160 in a canvas of 32x160: torchvision would take 8 / 8 for the first level.
    TorchPredictor(model, DESCRIPTION).infer(np.zeros((10, 200, 3), np.uint8))
    for pool in (model.roi_heads.box_roi_pool, model.roi_heads.mask_roi_pool):
        assert pool.scales == [0.25, 0.125, 0.0625, 0.03125]
