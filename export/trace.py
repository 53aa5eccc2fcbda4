"""The dense parts of a model, traced by PyTorch's own exporter into plain ONNX graphs."""

import copy
import gc
import itertools
import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import FrozenBatchNorm2d

from mrcnn.export.graph_builder import OPSET
from mrcnn.models.resnet_c4 import C4MaskHead

# The sub-modules keep the names that they have in the model, so that parameters keep theirs in the graph.


class FeatureSegment(nn.Module):
    """Normalised images (B, 3, H, W) → per level features, RPN logits (B, A, h, w), deltas (B, 4A, h, w)."""

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.rpn = nn.ModuleDict({"head": model.rpn.head})

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(images)
        features = [maps] if isinstance(maps, Tensor) else list(maps.values())
        logits, deltas = self.rpn["head"](features)
        return (*features, *logits, *deltas)


class BoxSegment(nn.Module):
    """Pooled features (R, C, S, S) → class logits (R, classes) and deltas (R, 4·classes)."""

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        heads = model.roi_heads
        self.roi_heads = nn.ModuleDict({"box_head": heads.box_head, "box_predictor": heads.box_predictor})

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = self.roi_heads["box_predictor"](self.roi_heads["box_head"](pooled))
        return logits, deltas


class MaskSegment(nn.Module):
    """Pooled features (R, C, S, S) → (R, C', 2S, 2S), all but the last, per-class 1×1 convolution."""

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        heads, predictor = model.roi_heads, model.roi_heads.mask_predictor
        upsample = nn.Sequential(OrderedDict(conv5_mask=predictor.conv5_mask, relu=predictor.relu))
        self.roi_heads = nn.ModuleDict({"mask_predictor": upsample})
        if isinstance(heads.mask_head, C4MaskHead):
            self.roi_heads["box_head"] = nn.ModuleDict({"layer4": heads.box_head.layer4})
            self._features = "box_head.layer4"
        else:
            self.roi_heads["mask_head"] = heads.mask_head
            self._features = "mask_head"

    def forward(self, pooled: Tensor) -> Tensor:
        features = self.roi_heads.get_submodule(self._features)(pooled)
        masks: Tensor = self.roi_heads["mask_predictor"](features)
        return masks


class KeypointSegment(nn.Module):
    """Pooled features (R, C, S, S) → heatmaps (R, P, 4S, 4S), the logit of each place for each point."""

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        heads = model.roi_heads
        self.roi_heads = nn.ModuleDict(
            {"keypoint_head": heads.keypoint_head, "keypoint_predictor": heads.keypoint_predictor}
        )

    def forward(self, pooled: Tensor) -> Tensor:
        features = self.roi_heads["keypoint_head"](pooled)
        heatmaps: Tensor = self.roi_heads["keypoint_predictor"](features)
        return heatmaps


def trace(
    segment: nn.Module, example: Tensor, *, dynamic: Mapping[int, Any], outputs: Sequence[str]
) -> onnx.GraphProto:
    """The graph of `segment` in eval mode; `dynamic` maps dimensions of its input to `torch.export.Dim`s.

    `segment` is not changed; batch norm is folded into the convolutions before it.
    """
    folded = fold_batch_norm(segment)
    with warnings.catch_warnings(), torch.inference_mode(), _no_garbage_collection():
        warnings.simplefilter("ignore")  # about the exporter's own internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            folded,
            (example,),
            dynamo=True,
            dynamic_shapes=(dict(dynamic),),
            opset_version=OPSET,
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    return program.model_proto.graph


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """The tracer makes so many objects that looking for cycles among them takes a fifth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """A copy of `module` in eval mode, in which convolutions have taken in the norm layers that follow them.

    A norm layer follows a convolution if it is registered directly after it in the same parent, as
    torchvision's ResNet blocks, `Conv2dNormActivation` and MobileNet blocks all do.
    """
    module = copy.deepcopy(module).eval()
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for (_, conv), (name, norm) in itertools.pairwise(children):
            if not isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
                continue
            if isinstance(conv, nn.Conv2d) and norm.running_mean is not None and norm.running_var is not None:
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight,
                    conv.bias,
                    norm.running_mean,
                    norm.running_var,
                    norm.eps,
                    norm.weight,
                    norm.bias,
                )
                setattr(parent, name, nn.Identity())
    return module
