"""Pooling of regions in the ways that torchvision's `MultiScaleRoIAlign` has not."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d
from torchvision.ops import MultiScaleRoIAlign, roi_align, roi_pool
from torchvision.ops.poolers import _convert_to_roi_format, _setup_scales

from mrcnn.description import RoiRule


class RoiPooler(MultiScaleRoIAlign):  # type: ignore[misc]
    """`MultiScaleRoIAlign` with detectron2's half pixel, with a maximum, or quantised as in Fast R-CNN.

    Args:
        rule: of which `aligned`, `mode`, `sampling_ratio` and the canonical level are used.
        names: of the maps to pool from, the finest first.
        output_size: bins a side.
    """

    def __init__(self, rule: RoiRule, names: Sequence[str], output_size: int) -> None:
        self.scales: list[float] | None
        super().__init__(
            list(names),
            output_size,
            rule.sampling_ratio,
            canonical_scale=rule.canonical_size,
            canonical_level=rule.canonical_level,
        )
        self.rule = rule

    def forward(
        self, x: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Maps (B, C, h, w) by name, boxes (R, 4) xyxy in pixels per image → (sum of R, C, S, S)."""
        maps = [x[name] for name in self.featmap_names]
        if self.scales is None:
            self.scales, self.map_levels = _setup_scales(
                maps, image_shapes, self.canonical_scale, self.canonical_level
            )
        rois = _convert_to_roi_format(boxes)
        if len(maps) == 1:
            return self._pool(maps[0], rois, self.scales[0])
        levels = self._levels(boxes)
        pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], *self.output_size)
        for level, (features, scale) in enumerate(zip(maps, self.scales, strict=True)):
            here = torch.where(levels == level)[0]
            pooled[here] = self._pool(features, rois[here], scale).to(pooled.dtype)
        return pooled

    def _levels(self, boxes: list[Tensor]) -> Tensor:
        """Eqn. 1 of the FPN paper, as torchvision computes it or, where aligned, detectron2."""
        assert self.map_levels is not None
        if not self.rule.aligned:
            levels: Tensor = self.map_levels(boxes)
            return levels
        joined = torch.cat(boxes)
        side = ((joined[:, 2] - joined[:, 0]) * (joined[:, 3] - joined[:, 1])).sqrt()
        level = torch.floor(self.canonical_level + torch.log2(side / self.canonical_scale + 1e-8))
        first, last = int(self.map_levels.k_min), int(self.map_levels.k_max)
        return level.clamp(first, last).to(torch.int64) - first

    def _pool(self, features: Tensor, rois: Tensor, scale: float) -> Tensor:
        size, ratio = self.output_size[0], self.rule.sampling_ratio
        if self.rule.mode == "pool":
            quantised: Tensor = roi_pool(features, rois, size, scale)
            return quantised
        if self.rule.mode == "max":
            # One sample in each of ratio x ratio smaller bins lies where the samples of the bin lie.
            samples = roi_align(features, rois, size * ratio, scale, 1, self.rule.aligned)
            return max_pool2d(samples, ratio)
        mean: Tensor = roi_align(features, rois, size, scale, ratio, self.rule.aligned)
        return mean
