"""Compares what our model finds in a tensor with what another codebase's finds."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from mrcnn.checkpoint import Checkpoint
from mrcnn.models.features import feature_maps

# Of the largest value. Convolutions are summed in another order, and boxes are exponents of what they give.
RELATIVE = 1e-3
HEIGHT, WIDTH = 192, 256
PROPOSALS = 60


def photograph() -> Tensor:
    """Smooth noise (3, HEIGHT, WIDTH), RGB in 0…255."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 6, 8, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic")[0].clamp(0, 255)


def ours(checkpoint: Checkpoint, image: Tensor) -> dict[str, Tensor]:
    """What our model finds in an image that has the network's size: no resizing is compared.

    Masks and heatmaps are those of the network, before they are painted.
    """
    description = checkpoint.description
    few = replace(description.proposals, post_nms_top_n=PROPOSALS)
    model = replace(checkpoint, description=replace(description, proposals=few)).build()
    with torch.inference_mode():
        normalised = model.transform.normalize(image / 255)[None]
        images = ImageList(normalised, [(HEIGHT, WIDTH)])
        maps = feature_maps(model, normalised)
        proposals, _ = model.rpn(images, maps)
        (found,), _ = model.roi_heads(maps, proposals, images.image_sizes)
        if description.has_masks:
            found["masks"] = found["masks"][:, 0]
        if description.keypoints is not None:
            # Of torchvision's detector only the decoded points come out.
            pooled = model.roi_heads.keypoint_roi_pool(maps, [found["boxes"]], images.image_sizes)
            found["heatmaps"] = model.roi_heads.keypoint_predictor(model.roi_heads.keypoint_head(pooled))
    return dict(found)


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, float]:
    """The largest difference of each value, of its largest value; both have the same detections.

    Scores that differ in the last digits change the order of detections, and which are the last of 100. So
    each is compared with the one of its label that overlaps it most, and those next to the cut are left out.
    So are boxes thinner than torchvision's detectors keep, 1/100 of a pixel.
    """
    thick = (expected["boxes"][:, 2:] - expected["boxes"][:, :2]).min(dim=1).values >= 1e-2
    assert len(found["labels"]) in (int(thick.sum()), 100)
    assert len(found["labels"]) > 10
    sure = thick & (expected["scores"] > expected["scores"].min() * (1 + RELATIVE))
    expected = {name: value[sure] for name, value in expected.items()}
    overlap = box_iou(expected["boxes"], found["boxes"])
    overlap[expected["labels"][:, None] != found["labels"][None]] = -1
    partner = overlap.argmax(dim=1)
    assert len(set(partner.tolist())) == len(partner), "a detection has no partner of its own"
    return {
        name: float((found[name][partner] - value).abs().max() / value.abs().max())
        for name, value in expected.items()
        if name != "labels"
    }
