"""Anchors with exact corners, as detectron2 and mmdetection have them."""

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList


class ExactAnchorGenerator(AnchorGenerator):  # type: ignore[misc]
    """torchvision's generator without its roundings.

    torchvision rounds corners to whole pixels, and takes the rounded-down quotient of the sizes of image and
    map for the stride, which on a map of 13 rows for 800 pixels is 61. Here corners are exact and strides
    powers of two. Within a place, anchors have torchvision's order: ratios before sizes.
    """

    def generate_anchors(
        self,
        scales: list[int],
        aspect_ratios: list[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        """Anchors (A, 4) xyxy around 0."""
        # In double precision as detectron2's, which rounds the result alone.
        size = torch.tensor(scales, dtype=torch.float64)[None]
        ratio = torch.tensor(aspect_ratios, dtype=torch.float64)[:, None]
        width = (size**2 / ratio).sqrt()
        height = ratio * width
        corners = torch.stack([-width, -height, width, height], dim=-1).reshape(-1, 4) / 2
        return corners.to(dtype=dtype, device=device)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Per image the anchors (N, 4) xyxy in pixels, of all levels one after the other."""
        sides = image_list.tensors.shape[-2:]
        grids = [list(features.shape[-2:]) for features in feature_maps]
        device = feature_maps[0].device
        strides = [
            [torch.tensor(power_of_two(s, g), device=device) for s, g in zip(sides, grid, strict=True)]
            for grid in grids
        ]
        self.set_cell_anchors(feature_maps[0].dtype, device)
        anchors = torch.cat(self.grid_anchors(grids, strides))
        return [anchors] * len(image_list.image_sizes)


def power_of_two(side: int, cells: int) -> int:
    """The stride of a map with so many cells along a side of the image."""
    stride = 1
    while stride * cells < side:
        stride *= 2
    return stride
