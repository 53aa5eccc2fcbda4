"""What mmdetection's Mask R-CNN computes, written down from its documentation and configs.

mmdetection needs compiled operators of mmcv, so it does not run in the tests. This is no code of it, but the
same steps on a state dict with its names, and with torchvision's RoIAlign and NMS: the same functions.
"""

import math
from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, nms, roi_align

STDS = torch.tensor([0.1, 0.1, 0.2, 0.2])
CLIP = abs(math.log(16 / 1000))


@dataclass(kw_only=True)
class Reference:
    """A Mask R-CNN with these weights.

    Attributes:
        caffe: style='caffe', the stride in the first convolution of a block.
        sizes: of the anchors of each level; three ratios.
        settling: batch norm takes the statistics of what it sees, as in training; else it uses them.
    """

    weights: MutableMapping[str, Tensor]
    caffe: bool
    sizes: tuple[tuple[int, ...], ...]
    proposals: int
    settling: bool = False

    @property
    def is_c4(self) -> bool:
        return len(self.sizes) == 1

    @torch.inference_mode()
    def find(self, image: Tensor) -> dict[str, Tensor]:
        """In a normalised image (1, 3, H, W), its channels in the order that the network wants."""
        shape = image.shape[-2:]
        maps = self._maps(image)
        regions = self._regions(maps, shape)
        features = self._head(self._pooled(maps, regions, 14 if self.is_c4 else 7))
        scores = self._linear("roi_head.bbox_head.fc_cls", features).softmax(-1)
        deltas = self._linear("roi_head.bbox_head.fc_reg", features)
        found = self._detections(regions, scores, deltas, shape)
        masks = self._masks(self._pooled(maps, found["boxes"], 14))
        rows = torch.arange(len(masks))
        # One channel is for all classes.
        found["masks"] = masks[rows, (found["labels"] - 1) * (masks.shape[1] > 1)]
        return found

    # ResNet and FPN

    def _maps(self, image: Tensor) -> list[Tensor]:
        x = self._norm("backbone.bn1", self._conv("backbone.conv1", image, stride=2, padding=3)).relu()
        x = F.max_pool2d(x, 3, 2, 1)
        stages = []
        for number in (1, 2, 3) if self.is_c4 else (1, 2, 3, 4):
            x = self._stage(f"backbone.layer{number}", x, stride=1 if number == 1 else 2)
            stages.append(x)
        if self.is_c4:
            return stages[-1:]
        maps: list[Tensor] = []
        for level in (3, 2, 1, 0):
            lateral = self._conv(f"neck.lateral_convs.{level}.conv", stages[level])
            above = [F.interpolate(maps[0], size=lateral.shape[-2:], mode="nearest")] if maps else []
            maps.insert(0, sum(above, lateral))
        maps = [self._conv(f"neck.fpn_convs.{level}.conv", x, padding=1) for level, x in enumerate(maps)]
        return [*maps, F.max_pool2d(maps[-1], 1, 2)]

    def _stage(self, name: str, x: Tensor, *, stride: int) -> Tensor:
        block = 0
        while f"{name}.{block}.conv1.weight" in self.weights:
            x = self._block(f"{name}.{block}", x, stride=1 if block else stride)
            block += 1
        return x

    def _block(self, name: str, x: Tensor, *, stride: int) -> Tensor:
        first, second = (stride, 1) if self.caffe else (1, stride)
        y = self._norm(f"{name}.bn1", self._conv(f"{name}.conv1", x, stride=first)).relu()
        y = self._norm(f"{name}.bn2", self._conv(f"{name}.conv2", y, stride=second, padding=1)).relu()
        y = self._norm(f"{name}.bn3", self._conv(f"{name}.conv3", y))
        if f"{name}.downsample.0.weight" in self.weights:
            x = self._norm(f"{name}.downsample.1", self._conv(f"{name}.downsample.0", x, stride=stride))
        return (x + y).relu()

    def _conv(self, name: str, x: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"), stride, padding)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        if self.settling:
            self.weights[f"{name}.running_mean"] = x.mean((0, 2, 3)).clone()
            self.weights[f"{name}.running_var"] = x.var((0, 2, 3)) + 1e-3
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.weights[f"{name}.{kind}"] for kind in kinds), eps=1e-5)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    # RPN

    def _regions(self, maps: list[Tensor], shape: tuple[int, int]) -> Tensor:
        scores, boxes, levels = [], [], []
        for level, (x, sizes) in enumerate(zip(maps, self.sizes, strict=True)):
            hidden = self._conv("rpn_head.rpn_conv", x, padding=1).relu()
            score = self._conv("rpn_head.rpn_cls", hidden)[0].permute(1, 2, 0).flatten().sigmoid()
            delta = self._conv("rpn_head.rpn_reg", hidden)[0].permute(1, 2, 0).reshape(-1, 4)
            score, order = score.topk(min(1000, len(score)))
            anchor = anchors(x.shape[-2:], (16 if self.is_c4 else 4 * 2**level), sizes)[order]
            scores.append(score)
            boxes.append(decode(anchor, delta[order], shape))
            levels.append(torch.full_like(order, level))
        joined, score, level_of = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        real = ((joined[:, 2:] - joined[:, :2]) > 0).all(1)
        joined, score, level_of = joined[real], score[real], level_of[real]
        return joined[batched_nms(joined, score, level_of, 0.7)[: self.proposals]]

    # Heads

    def _pooled(self, maps: list[Tensor], boxes: Tensor, side: int) -> Tensor:
        if self.is_c4:
            return roi_align(maps[0], [boxes], side, 1 / 16, 0, aligned=True)
        scale = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        level_of = (scale / 56 + 1e-6).log2().floor().clamp(0, 3)
        pooled = torch.zeros(len(boxes), 256, side, side)
        for level in range(4):
            here = level_of == level
            pooled[here] = roi_align(maps[level], [boxes[here]], side, 1 / (4 * 2**level), 0, aligned=True)
        return pooled

    def _head(self, pooled: Tensor) -> Tensor:
        if self.is_c4:
            return self._stage("roi_head.shared_head.layer4", pooled, stride=2).mean((2, 3))
        hidden = self._linear("roi_head.bbox_head.shared_fcs.0", pooled.flatten(1)).relu()
        return self._linear("roi_head.bbox_head.shared_fcs.1", hidden).relu()

    def _detections(
        self, regions: Tensor, scores: Tensor, deltas: Tensor, shape: tuple[int, int]
    ) -> dict[str, Tensor]:
        classes = scores.shape[1] - 1  # the background is the last
        found = []
        for label in range(classes):
            own = deltas if deltas.shape[1] == 4 else deltas[:, 4 * label : 4 * label + 4]
            boxes, score = decode(regions, own * STDS, shape), scores[:, label]
            sure = score > 0.05
            kept = nms(boxes[sure], score[sure], 0.5)
            found += [(s, label + 1, b) for s, b in zip(score[sure][kept], boxes[sure][kept], strict=True)]
        found = sorted(found, key=lambda detection: -float(detection[0]))[:100]
        score, labels, boxes = zip(*found, strict=True)
        return {"scores": torch.stack(score), "labels": torch.tensor(labels), "boxes": torch.stack(boxes)}

    def _masks(self, pooled: Tensor) -> Tensor:
        name = "roi_head.mask_head"
        if self.is_c4:
            x = self._stage("roi_head.shared_head.layer4", pooled, stride=2)
        else:
            x = pooled
            for layer in range(4):
                x = self._conv(f"{name}.convs.{layer}.conv", x, padding=1).relu()
        weight, bias = (self.weights[f"{name}.upsample.{kind}"] for kind in ("weight", "bias"))
        x = F.conv_transpose2d(x, weight, bias, stride=2).relu()
        return self._conv(f"{name}.conv_logits", x).sigmoid()


def anchors(grid: tuple[int, int], stride: int, sizes: tuple[int, ...]) -> Tensor:
    """(N, 4): by rows, then places in them, then ratios, then sizes; centred on a corner of the cell."""
    around = []
    for ratio in (0.5, 1.0, 2.0):
        for size in sizes:
            width, height = size / ratio**0.5, size * ratio**0.5
            around.append([-width / 2, -height / 2, width / 2, height / 2])
    y, x = torch.meshgrid(torch.arange(grid[0]) * stride, torch.arange(grid[1]) * stride, indexing="ij")
    corners = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (corners + torch.tensor(around)).reshape(-1, 4)


def decode(boxes: Tensor, deltas: Tensor, shape: tuple[int, int]) -> Tensor:
    """DeltaXYWHBBoxCoder: moved by shares of the side, scaled by exponents, clipped to the image."""
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 + deltas[:, :2] * sides
    sides = sides * deltas[:, 2:].clamp(-CLIP, CLIP).exp()
    corners = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    limits = torch.tensor([shape[1], shape[0]] * 2)
    return torch.minimum(corners.clamp(min=0), limits)
