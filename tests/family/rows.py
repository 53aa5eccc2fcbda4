"""One model of each architecture, small where it can be, whose random weights act like trained ones."""

from dataclasses import replace

import torch
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from mrcnn.checkpoint import Checkpoint
from mrcnn.description import DetectionRule, ModelDescription, ProposalRule, ResizeRule
from mrcnn.families import describe
from mrcnn.models import build_model
from mrcnn.models.features import feature_maps

CLASSES = ("__background__", "disc", "square")


def small_description(architecture: str, **changes: object) -> ModelDescription:
    """With its family's anchors and pooling, but few proposals on small images."""
    description = describe(
        architecture,
        CLASSES,
        resize=ResizeRule(min_size=96, max_size=160),
        detections=DetectionRule(detections_per_image=20),
        width=0.5 if "mobilenet" in architecture else 1.0,
    )
    rule = description.proposals
    proposals = ProposalRule(
        pre_nms_top_n=200, post_nms_top_n=min(50, rule.post_nms_top_n), nms_threshold=rule.nms_threshold
    )
    return replace(description, proposals=proposals, **changes)  # type: ignore[arg-type]


def checkpoint_of(description: ModelDescription, *, seed: int = 0) -> Checkpoint:
    torch.manual_seed(seed)
    model = build_model(description)
    settle_norms(model)
    return Checkpoint(description=description, state_dict=model.state_dict(), training={})


@torch.no_grad()
def settle_norms(model: GeneralizedRCNN) -> None:
    """Batch norm learns the statistics of noise: unnormalised, a hundred random layers end in infinity.

    Heatmaps get biases.
    """
    model.train()
    if model.roi_heads.keypoint_predictor is not None:
        # torchvision begins with 0, which the tracer leaves out: trained ones are not 0.
        torch.nn.init.normal_(model.roi_heads.keypoint_predictor.kps_score_lowres.bias)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all passes
    for _ in range(2):
        maps = feature_maps(model, torch.randn(2, 3, 96, 128))
        pooled = torch.randn(8, *_pooled_shape(model, maps))
        model.roi_heads.box_head(pooled)
        if model.roi_heads.mask_head is not None:
            model.roi_heads.mask_head(pooled)
    model.eval()


def _pooled_shape(model: GeneralizedRCNN, maps: object) -> tuple[int, int, int]:
    assert isinstance(maps, dict)
    side = model.roi_heads.box_roi_pool.output_size[0]
    return next(iter(maps.values())).shape[1], side, side
