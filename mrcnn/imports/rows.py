"""The order of output channels, which differs between codebases."""

import torch
from torch import Tensor


def background_first(scores: Tensor) -> Tensor:
    """Rows (C + 1, …), the background's last → the background's first."""
    return torch.cat([scores[-1:], scores[:-1]])


def with_background(rows: Tensor, *, per_class: int) -> Tensor:
    """Rows (C · per_class, …) of the classes → those of the background, all 0, before them.

    Deltas and masks of the background are never looked at.
    """
    return torch.cat([rows.new_zeros(per_class, *rows.shape[1:]), rows])


def ratios_first(rows: Tensor, *, sizes: int, ratios: int, per_anchor: int) -> Tensor:
    """Rows (sizes · ratios · per_anchor, …), sizes in the outer loop → ratios in it, as in torchvision."""
    split = rows.reshape(sizes, ratios, per_anchor, *rows.shape[1:])
    return split.transpose(0, 1).reshape(rows.shape).contiguous()


def rgb_first(weight: Tensor) -> Tensor:
    """A first convolution (C, 3, h, w) for BGR → for RGB."""
    return weight.flip(1).contiguous()
