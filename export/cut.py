"""Parts of an exported graph as models of their own."""

from collections.abc import Sequence

import onnx
from onnx.utils import Extractor

# Shapes follow from small constants alone; larger weights would be copied four times on the way.
LARGEST_CONSTANT = 1024  # bytes


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, with the types of its inner values noted in it, as `cut` needs them."""
    heavy = [t for t in model.graph.initializer if len(t.raw_data) > LARGEST_CONSTANT]
    weights = [tensor.raw_data for tensor in heavy]
    for tensor in heavy:
        tensor.ClearField("raw_data")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for tensor, data in zip(heavy, weights, strict=True):
        tensor.raw_data = data
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    return model


def cut(model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The part of `model` that computes the values `outputs` from the values `inputs`.

    Functions and metadata are kept. `model` comes from `with_shapes`, which one call does for many cuts.

    Values between the stages have fixed names: `normalised`, per level I `features.I`, `logits.I` and
    `deltas.I`, `proposals`, `num_proposals`, `box/rois`, `box/pooled`, `class_logits`, `box_deltas`, the
    graph's outputs, `mask/rois`, `mask/pooled`, `mask_features`, `keypoint/rois`, `keypoint/pooled`,
    `keypoint_heatmaps`.
    """
    return Extractor(model).extract_model(list(inputs), list(outputs))
