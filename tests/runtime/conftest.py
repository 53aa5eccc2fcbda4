"""A graph of a few nodes that keeps the contract of exported models, so that the runtime is tested alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mrcnn.description import Deployment, ModelDescription, ResizeRule
from mrcnn.families import COCO_PERSON

SLOTS = 4
MASK_SIZE = 28

# Of the boxes that the graph gives, as shares of the valid image: x1, y1, x2, y2. The second one touches
# all four edges.
BOX_SHARES = np.array(
    [[0.25, 0.25, 0.75, 0.5], [0, 0, 1, 1], [0.5, 0.1, 0.9, 0.9], [0.1, 0.1, 0.2, 0.2]], np.float32
)
LABELS = np.array([1, 2, 1, 2], np.int32)

DESCRIPTION = ModelDescription(
    architecture="maskrcnn_resnet50_fpn",
    class_names=("__background__", "coin", "dog"),
    resize=ResizeRule(min_size=64, max_size=128),
)
BOXES_ONLY = replace(DESCRIPTION, architecture="fasterrcnn_resnet50_fpn")
PERSONS = replace(DESCRIPTION, architecture="keypointrcnn_resnet50_fpn", keypoints=COCO_PERSON)


def cones() -> np.ndarray:
    """(SLOTS, 17, 56, 56) float32: heatmaps that fall from 5 at row 2p and column 3p for point p."""
    y, x = np.mgrid[:56, :56]
    point = np.arange(len(COCO_PERSON))[:, None, None]
    heatmaps = 5 - 0.1 * np.hypot(y - 2 * point, x - 3 * point)
    return np.repeat(heatmaps[None], SLOTS, axis=0).astype(np.float32)


def disc_masks(size: int = MASK_SIZE) -> np.ndarray:
    """(SLOTS, size, size) float32: smooth discs."""
    y, x = np.mgrid[:size, :size] / (size - 1) - 0.5
    disc = 1 / (1 + np.exp(-40 * (0.4 - np.hypot(x, y))))
    return np.repeat(disc[None], SLOTS, axis=0).astype(np.float32)


def write_tiny_model(
    path: Path,
    *,
    height: int | None = None,
    width: int | None = None,
    batch: int | None = None,
    count: int = 2,
    dtype: str = "float32",
    masks: bool = True,
    keypoints: bool = False,
    metadata: str | None = "",
    rename: tuple[str, str] = ("", ""),
) -> Path:
    """Writes a model that finds `count` objects in each image, at fixed shares of its valid area.

    The first score is the largest pixel value of the image / 255, each next one half of that.

    Args:
        keypoints: of persons, instead of masks; see `cones`.
        metadata: instead of the right document; None for none at all.
        rename: an input or output and the wrong name for it.
    """
    name = dict([rename]).get
    valid = (np.arange(SLOTS) < count).astype(np.float32)
    masks = masks and not keypoints
    constants = {
        "shares": BOX_SHARES * valid[:, None],
        "falling": 0.5 ** np.arange(SLOTS, dtype=np.float32) * valid / np.float32(255),
        "label_row": LABELS * valid.astype(np.int32),
        "mask_row": disc_masks() * valid[:, None, None],
        "count": np.array([count], np.int32),
        "pixel_axes": np.array([1, 2, 3]),
        "second": np.array([1]),
        "xy": np.array([1, 0, 1, 0]),
        "zero": np.array([0]),
        "slots": np.array([SLOTS]),
        "mask_shape": np.array([SLOTS, MASK_SIZE, MASK_SIZE]),
    }
    images, sizes, boxes = (name(n, n) for n in ("images", "image_sizes", "boxes"))
    node = helper.make_node
    nodes = [
        node("Cast", [images], ["pixels"], to=TensorProto.FLOAT),
        node("ReduceMax", ["pixels", "pixel_axes"], ["brightest"], keepdims=0),
        node("Unsqueeze", ["brightest", "second"], ["brightest_column"]),
        node("Mul", ["brightest_column", "falling"], ["scores"]),
        node("Cast", [sizes], ["sizes_float"], to=TensorProto.FLOAT),
        node("Gather", ["sizes_float", "xy"], ["sizes_xyxy"], axis=1),
        node("Unsqueeze", ["sizes_xyxy", "second"], ["sizes_rows"]),
        node("Mul", ["sizes_rows", "shares"], [boxes]),
        node("Shape", ["brightest"], ["batch_shape"]),
        node("Expand", ["count", "batch_shape"], ["num_detections"]),
        node("Concat", ["batch_shape", "slots"], ["label_shape"], axis=0),
        node("Expand", ["label_row", "label_shape"], ["labels"]),
        node("Concat", ["batch_shape", "mask_shape"], ["masks_shape"], axis=0),
        node("Expand", ["mask_row", "masks_shape"], ["masks"]),
    ]
    value = helper.make_tensor_value_info
    pixel_type = TensorProto.UINT8 if dtype == "uint8" else TensorProto.FLOAT
    inputs = [
        value(images, pixel_type, [batch or "batch", height or "height", width or "width", 3]),
        value(sizes, TensorProto.INT32, [batch or "batch", 2]),
    ]
    rows = batch or "batch"
    outputs = [
        value("num_detections", TensorProto.INT32, [rows]),
        value(boxes, TensorProto.FLOAT, [rows, SLOTS, 4]),
        value("scores", TensorProto.FLOAT, [rows, SLOTS]),
        value("labels", TensorProto.INT32, [rows, SLOTS]),
    ]
    if masks:
        outputs.append(value("masks", TensorProto.FLOAT, [rows, SLOTS, MASK_SIZE, MASK_SIZE]))
    if keypoints:
        constants |= {
            "point_row": cones() * valid[:, None, None, None],
            "point_shape": np.array(cones().shape),
        }
        nodes.append(node("Concat", ["batch_shape", "point_shape"], ["points_shape"], axis=0))
        nodes.append(node("Expand", ["point_row", "points_shape"], ["keypoints"]))
        outputs.append(value("keypoints", TensorProto.FLOAT, [rows, *cones().shape]))
    initializers = [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if metadata is not None:
        deployment = Deployment(
            description=DESCRIPTION if masks else PERSONS if keypoints else BOXES_ONLY,
            height=height,
            width=width,
            batch=batch,
            input_dtype=dtype,
            mask_size=MASK_SIZE if masks else None,
        )
        helper.set_model_props(model, {"mrcnn": metadata or deployment.to_json()})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`write_tiny_model` into a folder of its own; the same arguments give the same file."""
    folder = tmp_path_factory.mktemp("tiny")
    made: dict[str, Path] = {}

    def make(**arguments: object) -> Path:
        key = repr(sorted(arguments.items()))
        if key not in made:
            made[key] = write_tiny_model(folder / f"tiny{len(made)}.onnx", **arguments)  # type: ignore[arg-type]
        return made[key]

    return make
