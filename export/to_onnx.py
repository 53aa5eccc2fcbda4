"""A checkpoint becomes one ONNX file: dense parts traced, the rest written, metadata inside, validated."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from mrcnn.checkpoint import Checkpoint
from mrcnn.description import LARGEST_SIDE, Deployment, ModelDescription, check_input
from mrcnn.export import ops, stages
from mrcnn.export.cut import LARGEST_CONSTANT
from mrcnn.export.graph_builder import DOMAIN, IR_VERSION, OPSET, GraphBuilder
from mrcnn.export.metadata import write_deployment
from mrcnn.export.trace import BoxSegment, FeatureSegment, KeypointSegment, MaskSegment, trace
from mrcnn.files import atomic_path
from mrcnn.models.features import feature_maps, map_strides
from mrcnn.runtime.outputs import expected_outputs

# The network size that dynamic graphs are traced at; validation uses others.
_TRACE_SIZE = (256, 320)


@dataclass(frozen=True, kw_only=True)
class InputRule:
    """What the graph's input may be.

    Attributes:
        size: (height, width) of the network's input in pixels, or None for any multiple of the model's step.
        batch: images per run, or None for any number.
        dtype: "float32", or "uint8" for a quarter of the bytes and a rounded resize.
    """

    size: tuple[int, int] | None = None
    batch: int | None = None
    dtype: str = "float32"


def export_onnx(
    checkpoint: Checkpoint,
    path: Path | str,
    *,
    inputs: InputRule,
    on_step: Callable[[str], None],
) -> Deployment:
    """Writes the checkpoint's model to `path`, after the written graph was compared with PyTorch.

    Args:
        on_step: called with a few words at the start of each step.

    Returns:
        the metadata that went into the file.

    Raises:
        MrcnnError: the weights do not fit the model, the graph disagrees with PyTorch, or `path` cannot be
            written. Nothing is left behind then.
    """
    from mrcnn.export.validate import validate

    height, width = inputs.size or (None, None)
    check_input(checkpoint.description.resize, height=height, width=width, batch=inputs.batch)
    on_step("building the model")
    model = checkpoint.build()
    on_step("tracing")
    proto, deployment = build_graph(model, checkpoint.description, inputs, checkpoint.weights_sha256)
    with atomic_path(path) as temporary:
        onnx.save(proto, temporary)
        on_step("comparing with PyTorch")
        validate(temporary, model, deployment)
    return deployment


def build_graph(
    model: GeneralizedRCNN, description: ModelDescription, inputs: InputRule, weights_sha256: str
) -> tuple[onnx.ModelProto, Deployment]:
    """The deploy graph of `model` with its metadata; see ARCHITECTURE.md for inputs and outputs."""
    g = GraphBuilder()
    levels = len(model.rpn.anchor_generator.sizes)
    normalised = stages.normalise(g, description, input_dtype=inputs.dtype)
    features, logits, deltas = (
        [f"{stem}.{i}" for i in range(levels)] for stem in ("features", "logits", "deltas")
    )
    example = torch.zeros(inputs.batch or 2, 3, *(inputs.size or _TRACE_SIZE))
    _include(
        g, FeatureSegment(model), example, [*features, *logits, *deltas], source=normalised, inputs=inputs
    )
    strides = map_strides(model)
    rois, roi_count = stages.proposals(
        g,
        description,
        logits=logits,
        deltas=deltas,
        anchors=model.rpn.anchor_generator,
        strides=list(strides.values()),
        places=_places(model, example) if inputs.size else None,
    )
    pooling = _Pooling(g, model, description, features, strides)

    rois = ops.trim(g, rois, roi_count, name="box/rois")
    pooled = pooling.pool(rois, description.rois.box_size, name="box/pooled")
    _include(
        g,
        BoxSegment(model),
        pooling.example(description.rois.box_size),
        ["class_logits", "box_deltas"],
        source=pooled,
    )
    boxes, _, labels, count = stages.detections(
        g, description, logits="class_logits", deltas="box_deltas", proposals=rois, count=roi_count
    )
    if description.has_masks:
        _mask_branch(g, model, description, pooling, boxes=boxes, labels=labels, count=count)
    if description.keypoints is not None:
        _keypoint_branch(g, model, description, pooling, boxes=boxes, count=count)
    deployment = Deployment(
        description=description,
        height=inputs.size[0] if inputs.size else None,
        width=inputs.size[1] if inputs.size else None,
        batch=inputs.batch,
        input_dtype=inputs.dtype,
        mask_size=description.mask_side,
        plugin_version=ops.PLUGIN_VERSION,
        weights_sha256=weights_sha256,
        built_with={name: importlib.metadata.version(name) for name in ("torch", "torchvision", "onnx")},
    )
    return _model_proto(g, deployment, [pooling.function()]), deployment


class _Pooling:
    """RoIAlign over the levels that the heads pool from, as the model's own poolers are set."""

    def __init__(
        self,
        g: GraphBuilder,
        model: GeneralizedRCNN,
        description: ModelDescription,
        features: Sequence[str],
        strides: Mapping[str, int],
    ) -> None:
        self._g = g
        self._channels = model.backbone.out_channels
        self._rule = description.rois
        names = model.roi_heads.box_roi_pool.featmap_names
        self._scales = [1 / strides[name] for name in names]
        self._features = features[: len(names)]

    def example(self, size: int) -> Tensor:
        return torch.zeros(2, self._channels, size, size)

    def pool(self, rois: str, size: int, *, name: str) -> str:
        if self._rule.mode == "pool":
            return ops.roi_pool(
                self._g,
                self._features[0],
                rois,
                output_size=size,
                spatial_scale=self._scales[0],
                name=name,
            )
        return ops.roi_align(
            self._g,
            self._features,
            rois,
            output_size=size,
            sampling_ratio=self._rule.sampling_ratio,
            aligned=self._rule.aligned,
            mode=self._rule.mode,
            spatial_scales=self._scales,
            canonical_size=self._rule.canonical_size,
            canonical_level=self._rule.canonical_level,
            name=name,
        )

    def function(self) -> onnx.FunctionProto:
        if self._rule.mode == "pool":
            return ops.roi_pool_function()
        return ops.roi_align_function(
            aligned=self._rule.aligned,
            samples=(self._rule.box_size, self._rule.sampling_ratio) if self._rule.mode == "max" else None,
            spatial_scales=self._scales,
            canonical_size=self._rule.canonical_size,
            canonical_level=self._rule.canonical_level,
        )


def _mask_branch(
    g: GraphBuilder,
    model: GeneralizedRCNN,
    description: ModelDescription,
    pooling: _Pooling,
    *,
    boxes: str,
    labels: str,
    count: str,
) -> None:
    size = description.rois.mask_size
    rois = ops.trim(g, boxes, count, name="mask/rois")
    pooled = pooling.pool(rois, size, name="mask/pooled")
    _include(g, MaskSegment(model), pooling.example(size), ["mask_features"], source=pooled)
    last = model.roi_heads.mask_predictor.mask_fcn_logits
    prefix = "roi_heads.mask_predictor.mask_fcn_logits"
    stages.masks(
        g,
        description,
        features="mask_features",
        labels=labels,
        count=count,
        weight=g.parameter(f"{prefix}.weight", last.weight.detach().numpy()),
        bias=g.parameter(f"{prefix}.bias", last.bias.detach().numpy()),
    )


def _keypoint_branch(
    g: GraphBuilder,
    model: GeneralizedRCNN,
    description: ModelDescription,
    pooling: _Pooling,
    *,
    boxes: str,
    count: str,
) -> None:
    size = description.rois.keypoint_size
    rois = ops.trim(g, boxes, count, name="keypoint/rois")
    pooled = pooling.pool(rois, size, name="keypoint/pooled")
    _include(g, KeypointSegment(model), pooling.example(size), ["keypoint_heatmaps"], source=pooled)
    stages.keypoints(g, description, heatmaps="keypoint_heatmaps", count=count)


def _include(
    g: GraphBuilder,
    segment: nn.Module,
    example: Tensor,
    outputs: Sequence[str],
    *,
    source: str,
    inputs: InputRule | None = None,
) -> None:
    dynamic: dict[int, Any] = {}
    if inputs is None:
        dynamic[0] = torch.export.Dim("rows")
    else:
        if inputs.batch is None:
            dynamic[0] = torch.export.Dim("batch")
        if inputs.size is None:
            dynamic[2] = 32 * torch.export.Dim("rows", min=1, max=LARGEST_SIDE // 32)
            dynamic[3] = 32 * torch.export.Dim("columns", min=1, max=LARGEST_SIDE // 32)
    graph = trace(segment, example, dynamic=dynamic, outputs=outputs)
    g.include(graph, [source], outputs, scope=type(segment).__name__)


def _places(model: GeneralizedRCNN, example: Tensor) -> list[int]:
    """Number of anchors on each level for a fixed input size."""
    with torch.inference_mode():
        sizes = [feature.shape[-2:] for feature in feature_maps(model, example[:1]).values()]
    per_place = model.rpn.anchor_generator.num_anchors_per_location()
    return [int(h * w * n) for (h, w), n in zip(sizes, per_place, strict=True)]


def _model_proto(
    g: GraphBuilder, deployment: Deployment, functions: Sequence[onnx.FunctionProto]
) -> onnx.ModelProto:
    batch = deployment.batch or "batch"
    height, width = deployment.height or "height", deployment.width or "width"
    rows = deployment.description.detections.detections_per_image
    pixel = TensorProto.UINT8 if deployment.input_dtype == "uint8" else TensorProto.FLOAT
    info = helper.make_tensor_value_info
    outputs = [
        info(name, helper.np_dtype_to_tensor_dtype(dtype), [batch, *shape[1:]])
        for name, (dtype, shape) in expected_outputs(deployment, rows=1, slots=rows).items()
    ]
    inputs = [
        info("images", pixel, [batch, height, width, 3]),
        info("image_sizes", TensorProto.INT32, [batch, 2]),
    ]
    # Weights are inputs until the model is checked, which would copy them several times.
    weights = [tensor for tensor in g.initializers.values() if len(tensor.raw_data) > LARGEST_CONSTANT]
    places = [info(tensor.name, tensor.data_type, tensor.dims) for tensor in weights]
    graph = helper.make_graph(
        g.nodes,
        deployment.description.architecture,
        [*inputs, *places],
        outputs,
        [tensor for tensor in g.initializers.values() if len(tensor.raw_data) <= LARGEST_CONSTANT],
    )
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        functions=[*functions, ops.nms_function(), ops.trim_function(), ops.untrim_function()],
        ir_version=IR_VERSION,
        producer_name="mrcnn",
    )
    write_deployment(proto, deployment)
    onnx.checker.check_model(proto, full_check=True)
    del proto.graph.input[len(inputs) :]
    proto.graph.initializer.extend(weights)
    return proto
