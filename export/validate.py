"""Proof that a written ONNX file computes what the PyTorch model computes, stage by stage.

Each stage is fed the reference's own input, so that a difference shows where it arises, and ties, which
random weights are full of, cannot spread from one stage to the next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList

from mrcnn.description import Deployment
from mrcnn.errors import MrcnnError
from mrcnn.export.cut import cut, with_shapes
from mrcnn.models.features import feature_maps
from mrcnn.runtime.ort import import_onnxruntime
from mrcnn.runtime.outputs import expected_outputs

Arrays = Mapping[str, np.ndarray]

# Convolutions sum thousands of float32 products in another order than PyTorch; relative to the largest value.
DENSE_TOLERANCE = 1e-3
# Boxes of rows that both keep differ by the rounding of exp() and of a few sums, in pixels.
BOX_TOLERANCE = 0.01
SCORE_TOLERANCE = 1e-4
# An IoU within rounding of the threshold may fall on either side, and a row that is kept moves others.
LEAST_MATCHED = 0.99
# Where scores are equal on both sides, other rows are as good; most are the same all the same.
LEAST_MATCHED_OF_TIES = 0.9

# Unlike the size that dynamic graphs are traced at; the second image is smaller than the canvas.
_CANVAS = (192, 288)


@dataclass(frozen=True)
class Stage:
    """A part of the graph and what PyTorch computes there, batched and padded as the graph has it."""

    name: str
    inputs: Arrays
    expected: Arrays
    compare: Callable[[str, Arrays, Arrays], None]


def validate(path: Path, model: GeneralizedRCNN, deployment: Deployment) -> None:
    """Compares the ONNX file at `path` with `model` on images of another size than it was traced with.

    Raises:
        MrcnnError: names, shapes or values differ; the line says which and by how much.
    """
    images, sizes = _images(deployment)
    feed = {"images": images, "image_sizes": sizes}
    _check_names_and_shapes(_run(str(path), feed), deployment, batch=len(images))
    compare_stages(with_shapes(onnx.load(path)), model, deployment, images, sizes)


def compare_stages(
    proto: onnx.ModelProto,
    model: GeneralizedRCNN,
    deployment: Deployment,
    images: np.ndarray,
    sizes: np.ndarray,
) -> None:
    """Compares each stage of `proto` (from `with_shapes`) with PyTorch's on network inputs (B, H, W, 3).

    Raises:
        MrcnnError: a stage differs; the line says which and by how much.
    """
    with torch.inference_mode():
        for stage in reference_stages(model, deployment, images, sizes):
            part = cut(proto, list(stage.inputs), list(stage.expected))
            stage.compare(stage.name, _run(part.SerializeToString(), stage.inputs), stage.expected)


def _images(deployment: Deployment) -> tuple[np.ndarray, np.ndarray]:
    """Network inputs (B, H, W, 3) of smooth random colours, zero in the padding, and their sizes (B, 2)."""
    height, width = _CANVAS
    if deployment.height is not None and deployment.width is not None:
        height, width = deployment.height, deployment.width
    batch = deployment.batch or 2
    rng = np.random.default_rng(0)
    images = np.zeros((batch, height, width, 3), np.float32)
    sizes = np.array([[height - 16 * (i % 2), width - 24 * (i % 2)] for i in range(batch)], np.int32)
    for image, (h, w) in zip(images, sizes, strict=True):
        coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 12, 16)).astype(np.float32))
        smooth = torch.nn.functional.interpolate(coarse, size=(int(h), int(w)), mode="bilinear")
        image[:h, :w] = np.round(smooth[0].permute(1, 2, 0).numpy())
    return images.astype(deployment.input_dtype), sizes


def _run(model: bytes | str, inputs: Arrays) -> dict[str, np.ndarray]:
    """The outputs of a serialised model, or of a file, by name."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    names = [o.name for o in session.get_outputs()]
    values = session.run(names, {name: value for name, value in inputs.items() if name in wanted})
    return dict(zip(names, values, strict=True))


def _check_names_and_shapes(outputs: Arrays, deployment: Deployment, *, batch: int) -> None:
    rows = deployment.description.detections.detections_per_image
    contract = expected_outputs(deployment, rows=batch, slots=rows)
    expected = {name: shape for name, (_, shape) in contract.items()}
    if list(outputs) != list(expected):
        raise MrcnnError(
            f"export failed validation: the graph's outputs are named {', '.join(outputs)}, "
            f"but should be {', '.join(expected)}"
        )
    for name, shape in expected.items():
        if outputs[name].shape != shape:
            raise MrcnnError(
                f"export failed validation: output {name!r} has shape {outputs[name].shape}, "
                f"but should have {shape}"
            )


def reference_stages(
    model: GeneralizedRCNN, deployment: Deployment, images: np.ndarray, sizes: np.ndarray
) -> list[Stage]:
    """What torchvision's own modules compute at each stage for network inputs (B, H, W, 3)."""
    description = deployment.description
    batch = len(images)
    image_sizes = [(int(h), int(w)) for h, w in sizes]
    feed: dict[str, np.ndarray] = {"images": images, "image_sizes": sizes}
    normalised = torch.zeros(batch, 3, *images.shape[1:3])
    for i, (h, w) in enumerate(image_sizes):
        pixels = torch.from_numpy(images[i, :h, :w].astype(np.float32) / 255).permute(2, 0, 1)
        normalised[i, :, :h, :w] = model.transform.normalize(pixels)
    image_list = ImageList(normalised, image_sizes)

    features = feature_maps(model, normalised)
    logits, deltas = model.rpn.head(list(features.values()))
    levels = range(len(logits))
    feature_arrays = {f"features.{i}": f.numpy() for i, f in enumerate(features.values())}
    rpn = {f"logits.{i}": logits[i].numpy() for i in levels} | {
        f"deltas.{i}": deltas[i].numpy() for i in levels
    }
    stages = [Stage("features", feed, feature_arrays | rpn, _compare_dense)]

    proposals = _reference_proposals(model, image_list, features, logits, deltas)
    rows = description.proposals.post_nms_top_n
    padded = {
        "proposals": _padded(proposals, rows),
        "num_proposals": np.array([len(p) for p in proposals], np.int32),
    }
    stages.append(Stage("proposals", feed | rpn, padded, _compare_rows))

    # The heads see the rows up to the fullest image only, as `MrcnnTrim` leaves them.
    fullest = max(1, *(len(p) for p in proposals))
    trimmed = [torch.from_numpy(p[:fullest]) for p in padded["proposals"]]
    heads = model.roi_heads
    class_logits, box_deltas = heads.box_predictor(
        heads.box_head(heads.box_roi_pool(features, trimmed, image_sizes))
    )
    box = {"class_logits": class_logits.numpy(), "box_deltas": box_deltas.numpy()}
    stages.append(Stage("box head", feature_arrays | padded, box, _compare_dense))

    found = _reference_detections(
        model, description.num_classes, class_logits, box_deltas, proposals, image_sizes
    )
    limit = description.detections.detections_per_image
    detections = {name: _padded([d[name] for d in found], limit) for name in ("boxes", "scores", "labels")}
    detections["labels"] = detections["labels"].astype(np.int32)
    detections["num_detections"] = np.array([len(d["boxes"]) for d in found], np.int32)
    stages.append(Stage("detections", feed | padded | box, detections, _compare_rows))

    if description.has_masks:
        pooled = heads.mask_roi_pool(features, [d["boxes"] for d in found], image_sizes)
        mask_logits = heads.mask_predictor(heads.mask_head(pooled))
        label = torch.cat([d["labels"] for d in found])
        probability = mask_logits[torch.arange(len(label)), label].sigmoid()
        masks = _padded(list(probability.split([len(d["boxes"]) for d in found])), limit)
        stages.append(Stage("masks", feature_arrays | detections, {"masks": masks}, _compare_dense))
    if description.keypoints is not None:
        pooled = heads.keypoint_roi_pool(features, [d["boxes"] for d in found], image_sizes)
        heatmaps = heads.keypoint_predictor(heads.keypoint_head(pooled))
        keypoints = _padded(list(heatmaps.split([len(d["boxes"]) for d in found])), limit)
        stages.append(
            Stage("key points", feature_arrays | detections, {"keypoints": keypoints}, _compare_dense)
        )
    return stages


def _reference_proposals(
    model: GeneralizedRCNN,
    image_list: ImageList,
    features: Mapping[str, Tensor],
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
) -> list[Tensor]:
    """The middle of `RegionProposalNetwork.forward`, from given logits and deltas."""
    from torchvision.models.detection.rpn import concat_box_prediction_layers

    anchors = model.rpn.anchor_generator(image_list, list(features.values()))
    per_level = [int(t[0].numel()) for t in logits]
    flat_logits, flat_deltas = concat_box_prediction_layers(list(logits), list(deltas))
    boxes = model.rpn.box_coder.decode(flat_deltas, anchors).view(len(anchors), -1, 4)
    proposals, _ = model.rpn.filter_proposals(boxes, flat_logits, image_list.image_sizes, per_level)
    return list(proposals)


def _reference_detections(
    model: GeneralizedRCNN,
    classes: int,
    class_logits: Tensor,
    box_deltas: Tensor,
    proposals: Sequence[Tensor],
    image_sizes: Sequence[tuple[int, int]],
) -> list[dict[str, Tensor]]:
    """`RoIHeads.postprocess_detections` on the rows that exist."""
    logits = class_logits.view(len(proposals), -1, classes)
    deltas = box_deltas.view(len(proposals), -1, 4 * classes)
    counts = [len(p) for p in proposals]
    boxes, scores, labels = model.roi_heads.postprocess_detections(
        torch.cat([rows[:n] for rows, n in zip(logits, counts, strict=True)]),
        torch.cat([rows[:n] for rows, n in zip(deltas, counts, strict=True)]),
        list(proposals),
        list(image_sizes),
    )
    return [
        {"boxes": b, "scores": s, "labels": label} for b, s, label in zip(boxes, scores, labels, strict=True)
    ]


def _padded(per_image: Sequence[Tensor], rows: int) -> np.ndarray:
    arrays = [t.numpy() for t in per_image]
    return np.stack([np.pad(a, [(0, rows - len(a))] + [(0, 0)] * (a.ndim - 1)) for a in arrays])


def _compare_dense(stage: str, actual: Arrays, expected: Arrays) -> None:
    for name, reference in expected.items():
        _require_shape(stage, name, actual[name], reference)
        scale = float(np.abs(reference).max(initial=0.0)) or 1.0
        difference = float(np.abs(actual[name] - reference).max(initial=0.0)) / scale
        if not difference <= DENSE_TOLERANCE:
            raise _too_far(stage, f"{name!r} by {difference:.1e} of its largest value", DENSE_TOLERANCE)


def _compare_rows(stage: str, actual: Arrays, expected: Arrays) -> None:
    """Rows that both kept, whatever their order: with the same input nearly all must be the same."""
    count_name = next(name for name in expected if name.startswith("num_"))
    for name, reference in expected.items():
        _require_shape(stage, name, actual[name], reference)
    matched = tied = total = 0
    for i, (ours, theirs) in enumerate(zip(actual[count_name], expected[count_name], strict=True)):
        total += max(int(ours), int(theirs))
        same, equal = _matched_rows(
            {name: value[i][:ours] for name, value in actual.items() if name != count_name},
            {name: value[i][:theirs] for name, value in expected.items() if name != count_name},
        )
        matched, tied = matched + same, tied + equal
    if matched + tied < LEAST_MATCHED * total or matched < LEAST_MATCHED_OF_TIES * total:
        raise _too_far(stage, f"only {matched} of {total} rows are the same", LEAST_MATCHED)


def _matched_rows(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[int, int]:
    """Rows of `theirs` with a partner in `ours`: same label, box and score within tolerance.

    And rows without one whose score is that of others on both sides: which of them come first, and suppress
    others, is chance. A model without training gives hardly anything else.
    """
    boxes = "proposals" if "proposals" in theirs else "boxes"
    same = np.abs(ours[boxes][None] - theirs[boxes][:, None]).max(-1) <= BOX_TOLERANCE
    if "scores" in theirs:
        same &= np.abs(ours["scores"][None] - theirs["scores"][:, None]) <= SCORE_TOLERANCE
        same &= ours["labels"][None] == theirs["labels"][:, None]
    tied = min(_tied(ours, ~same.any(0)), _tied(theirs, ~same.any(1))) if "scores" in theirs else 0
    return int(min(same.any(0).sum(), same.any(1).sum())), tied


def _tied(rows: dict[str, Any], alone: np.ndarray) -> int:
    """How many of the rows that stand alone have a score that another row has, too."""
    scores = rows["scores"]
    equal = (np.abs(scores[None] - scores[:, None]) <= SCORE_TOLERANCE).sum(1) > 1
    return int((alone & equal).sum())


def _require_shape(stage: str, name: str, actual: np.ndarray, expected: np.ndarray) -> None:
    if actual.shape != expected.shape:
        raise MrcnnError(
            f"export failed validation: in stage {stage!r} {name!r} has shape {actual.shape}, "
            f"but PyTorch's has {expected.shape}"
        )


def _too_far(stage: str, what: str, tolerance: float) -> MrcnnError:
    return MrcnnError(
        f"export failed validation: stage {stage!r} differs from PyTorch, {what} (tolerance {tolerance:g}); "
        "are the weights finite?"
    )
