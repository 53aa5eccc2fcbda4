"""The ops of the domain `mrcnn`: their function bodies under ONNX Runtime against torchvision and by hand."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torchvision.ops import MultiScaleRoIAlign, batched_nms, roi_pool
from torchvision.ops.poolers import LevelMapper

from mrcnn.description import RoiRule
from mrcnn.export import ops
from mrcnn.export.graph_builder import DOMAIN, IR_VERSION, OPSET, GraphBuilder
from mrcnn.models.pooling import RoiPooler

# ONNX Runtime's RoiAlign adds the same products as torchvision's kernel; the order may differ by platform.
ROI_ALIGN_TOLERANCE = 1e-5

NUMPY_TO_ONNX = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "int32": TensorProto.INT32,
}
SCALES = (0.25, 0.125, 0.0625, 0.03125)


def run(
    build: Callable[[GraphBuilder], list[str]], inputs: dict[str, np.ndarray], *functions: onnx.FunctionProto
) -> list[np.ndarray]:
    """Builds a graph over `inputs`, runs it in ONNX Runtime and returns the values that `build` names."""
    g = GraphBuilder()
    outputs = build(g)
    graph = helper.make_graph(
        g.nodes,
        "test",
        [
            helper.make_tensor_value_info(k, NUMPY_TO_ONNX[v.dtype.name], [None] * v.ndim)
            for k, v in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        list(g.initializers.values()),
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        functions=functions,
        ir_version=IR_VERSION,
    )
    model = onnx.shape_inference.infer_shapes(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(outputs, inputs))


def run_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    group: np.ndarray,
    *,
    iou: float = 0.5,
    score: float = 0.0,
    keep: int = 10,
) -> list[list[int]]:
    """Kept indices per image; checks that what lies past the count is zero."""

    def build(g: GraphBuilder) -> list[str]:
        return list(
            ops.nms(
                g,
                "boxes",
                "scores",
                "group",
                iou_threshold=iou,
                score_threshold=score,
                max_output=keep,
                names=["indices", "count"],
            )
        )

    feed = {
        "boxes": boxes.astype(np.float32),
        "scores": scores.astype(np.float32),
        "group": group.astype(np.int32),
    }
    indices, count = run(build, feed, ops.nms_function())
    assert indices.shape == (len(boxes), keep)
    assert indices.dtype == count.dtype == np.int32
    for row, n in zip(indices, count, strict=True):
        assert not row[n:].any()
    return [row[:n].tolist() for row, n in zip(indices, count, strict=True)]


def nms_one(boxes: list[list[float]], scores: list[float], group: list[int], **options: float) -> list[int]:
    return run_nms(np.array([boxes]), np.array([scores]), np.array([group]), **options)[0]


def random_boxes(rng: np.random.Generator, count: int, *, side: float = 200.0) -> np.ndarray:
    corner = rng.uniform(0, side, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(1, side / 2, (count, 2))], 1).astype(np.float32)


class TestNms:
    UNIT = (0.0, 0.0, 10.0, 10.0)

    def test_keeps_the_better_of_two_equal_boxes(self) -> None:
        assert nms_one([self.UNIT, self.UNIT], [0.3, 0.9], [0, 0]) == [1]

    def test_groups_do_not_suppress_each_other(self) -> None:
        assert nms_one([self.UNIT, self.UNIT], [0.3, 0.9], [0, 1]) == [1, 0]

    @pytest.mark.parametrize(("iou", "kept"), [(0.5, [0, 1]), (0.4999, [0])])
    def test_an_iou_equal_to_the_threshold_is_kept(self, iou: float, kept: list[int]) -> None:
        # 10x10 against 10x5 inside it: IoU is exactly 0.5.
        assert nms_one([self.UNIT, [0, 0, 10, 5]], [0.9, 0.8], [0, 0], iou=iou) == kept

    def test_equal_scores_keep_the_lower_index(self) -> None:
        far = [100.0, 100.0, 110.0, 110.0]
        assert nms_one([self.UNIT, self.UNIT, far], [0.5, 0.5, 0.5], [0, 0, 0]) == [0, 2]

    def test_the_score_threshold_is_exclusive(self) -> None:
        far = [100.0, 100.0, 110.0, 110.0]
        assert nms_one([self.UNIT, far], [0.25, 0.5], [0, 0], score=0.25) == [1]

    def test_a_suppressed_box_suppresses_nothing(self) -> None:
        # A covers B by 60 %, B covers C by 60 %, A and C hardly touch.
        boxes = [[0, 0, 10, 1], [2.5, 0, 12.5, 1], [5, 0, 15, 1]]
        assert nms_one(boxes, [0.9, 0.8, 0.7], [0, 0, 0]) == [0, 2]

    def test_more_survivors_than_places_keep_the_best(self) -> None:
        boxes = [[100.0 * i, 0, 100 * i + 10, 10] for i in range(5)]
        assert nms_one(boxes, [0.1, 0.5, 0.3, 0.4, 0.2], [0] * 5, keep=3) == [1, 3, 2]

    def test_no_candidate_above_the_threshold(self) -> None:
        assert nms_one([self.UNIT], [0.1], [0], score=0.5) == []

    def test_images_of_a_batch_are_independent(self) -> None:
        boxes = np.array([[self.UNIT, self.UNIT], [self.UNIT, self.UNIT]])
        scores = np.array([[0.9, 0.8], [0.7, 0.95]])
        assert run_nms(boxes, scores, np.zeros((2, 2))) == [[0], [1]]

    @pytest.mark.parametrize("seed", range(20))
    def test_random_cases_equal_torchvision(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        images, count = int(rng.integers(1, 4)), int(rng.integers(1, 400))
        boxes = np.stack([random_boxes(rng, count) for _ in range(images)])
        # Two decimals only, so that many scores are equal.
        scores = rng.random((images, count)).round(2).astype(np.float32)
        group = rng.integers(0, 7, (images, count))
        iou, least, keep = float(rng.choice([0.3, 0.5, 0.7])), float(rng.choice([0.0, 0.35])), 50
        for ours, b, s, i in zip(
            run_nms(boxes, scores, group, iou=iou, score=least, keep=keep), boxes, scores, group, strict=True
        ):
            candidates = torch.from_numpy(np.flatnonzero(s > np.float32(least)))
            kept = candidates[
                batched_nms(
                    torch.from_numpy(b)[candidates],
                    torch.from_numpy(s)[candidates],
                    torch.from_numpy(i)[candidates],
                    iou,
                )
            ][:keep].tolist()
            # torchvision promises no order among equal scores: compare scores in order, and the kept sets
            # up to the score at which the list is cut.
            assert s[ours].tolist() == s[kept].tolist()
            last = s[kept[-1]] if len(kept) == keep else -1.0
            assert {k for k in ours if s[k] > last} == {k for k in kept if s[k] > last}

    @pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 0.05])
    def test_rounded_thresholds_split_float32_as_the_double_does(self, threshold: float) -> None:
        near = np.float32(threshold)
        for value in (np.nextafter(near, np.float32(0)), near, np.nextafter(near, np.float32(1))):
            assert (float(value) > threshold) == (value > ops.round_down(threshold))


def run_roi_align(
    features: list[np.ndarray],
    rois: np.ndarray,
    *,
    size: int = 7,
    ratio: int = 2,
    scales: tuple[float, ...] = SCALES,
    aligned: bool = False,
    mode: str = "avg",
) -> np.ndarray:
    names = [f"f{i}" for i in range(len(features))]

    def build(g: GraphBuilder) -> list[str]:
        return [
            ops.roi_align(
                g,
                names,
                "rois",
                output_size=size,
                sampling_ratio=ratio,
                aligned=aligned,
                mode=mode,
                spatial_scales=scales,
                canonical_size=224,
                canonical_level=4,
                name="pooled",
            )
        ]

    feed = dict(zip(names, features, strict=True)) | {"rois": rois}
    function = ops.roi_align_function(
        aligned=aligned,
        samples=(size, ratio) if mode == "max" else None,
        spatial_scales=scales,
        canonical_size=224,
        canonical_level=4,
    )
    return run(build, feed, function)[0]


def pyramid(
    rng: np.random.Generator, *, batch: int, height: int, width: int, channels: int = 5
) -> list[np.ndarray]:
    return [
        rng.standard_normal((batch, channels, int(height * s), int(width * s))).astype(np.float32)
        for s in SCALES
    ]


class TestRoiAlign:
    def test_ramp_gives_the_bin_centres(self) -> None:
        # The map's value at column x is 4x, which without half-pixel shift is its place in the image.
        ramp = np.tile(np.arange(16, dtype=np.float32) * 4, (1, 1, 16, 1))
        rois = np.array([[[8.0, 8.0, 40.0, 40.0]]], np.float32)
        pooled = run_roi_align([ramp], rois, size=4, scales=(0.25,))
        # Bins of 8 pixels from 8 to 40 have their centres at 12, 20, 28, 36.
        np.testing.assert_allclose(pooled[0, 0], np.tile([12.0, 20.0, 28.0, 36.0], (4, 1)), rtol=1e-6)

    @pytest.mark.parametrize("ratio", [0, 1, 2])
    @pytest.mark.parametrize("batch", [1, 3])
    def test_equals_torchvision_on_all_levels(self, batch: int, ratio: int) -> None:
        rng = np.random.default_rng(batch)
        height, width = 512, 640
        features = pyramid(rng, batch=batch, height=height, width=width)
        corner = rng.uniform(0, 300, (batch, 60, 2))
        extent = np.exp(rng.uniform(0, 6, (batch, 60, 2)))
        rois = np.concatenate([corner, corner + extent], 2).clip(0, [width, height] * 2).astype(np.float32)
        pooler = MultiScaleRoIAlign(list("0123"), 7, ratio)
        expected = pooler(
            {str(i): torch.from_numpy(f) for i, f in enumerate(features)},
            [torch.from_numpy(r) for r in rois],
            [(height, width)] * batch,
        )
        np.testing.assert_allclose(
            run_roi_align(features, rois, ratio=ratio), expected.numpy(), atol=ROI_ALIGN_TOLERANCE
        )

    def test_empty_and_inverted_boxes_and_levels_without_rois(self) -> None:
        features = pyramid(np.random.default_rng(0), batch=1, height=128, width=128)
        rois = np.array([[[0, 0, 0, 0], [50, 50, 20, 30], [127, 127, 128, 128]]], np.float32)
        pooler = MultiScaleRoIAlign(list("0123"), 7, 2)
        expected = pooler(
            {str(i): torch.from_numpy(f) for i, f in enumerate(features)},
            [torch.from_numpy(rois[0])],
            [(128, 128)],
        )
        np.testing.assert_allclose(run_roi_align(features, rois), expected.numpy(), atol=ROI_ALIGN_TOLERANCE)

    def test_the_maximum_is_that_of_the_interpolated_samples(self) -> None:
        # Four samples a bin lie between the pixels: none of them sees the whole 8 of the one that is lit.
        lit = np.zeros((1, 1, 4, 4), np.float32)
        lit[0, 0, 1, 1] = 8
        rois = np.array([[[0.0, 0.0, 3.0, 3.0]]], np.float32)
        pooled = run_roi_align([lit], rois, size=1, ratio=2, scales=(1.0,), mode="max")
        # Samples at 0.75 and 2.25: the nearest one gets 0.75 * 0.75 of it.
        assert pooled[0, 0, 0, 0] == pytest.approx(8 * 0.75 * 0.75)

    @pytest.mark.parametrize("aligned", [False, True])
    @pytest.mark.parametrize("mode", ["avg", "max"])
    @pytest.mark.parametrize("scales", [SCALES, SCALES[2:3]], ids=["four levels", "one level"])
    def test_equals_the_models_own_pooler(self, scales: tuple[float, ...], mode: str, aligned: bool) -> None:
        rng = np.random.default_rng(7)
        levels = [
            f
            for f, scale in zip(pyramid(rng, batch=2, height=256, width=320), SCALES, strict=True)
            if scale in scales
        ]
        corner = rng.uniform(-10, 200, (2, 40, 2))
        rois = np.concatenate([corner, corner + np.exp(rng.uniform(0, 6, (2, 40, 2)))], 2).astype(np.float32)
        names = [str(level) for level in range(len(levels))]
        pooler = RoiPooler(RoiRule(mode=mode, aligned=aligned), names, 7)
        expected = pooler(
            dict(zip(names, map(torch.from_numpy, levels), strict=True)),
            [torch.from_numpy(r) for r in rois],
            [(256, 320)] * 2,
        )
        pooled = run_roi_align(levels, rois, scales=scales, aligned=aligned, mode=mode)
        np.testing.assert_allclose(pooled, expected.numpy(), atol=ROI_ALIGN_TOLERANCE)

    @pytest.mark.parametrize("dtype", [np.float32, np.float16])
    @pytest.mark.parametrize("step", [1e-3, 8], ids=["anywhere", "at halves of pixels"])
    def test_roi_pool_equals_torchvisions(self, dtype: type, step: float) -> None:
        rng = np.random.default_rng(8)
        features = rng.standard_normal((2, 5, 16, 20)).astype(dtype)
        corner = rng.uniform(-20, 200, (2, 50, 2))
        rois = np.concatenate([corner, corner + np.exp(rng.uniform(0, 6, (2, 50, 2)))], 2).astype(np.float32)

        def build(g: GraphBuilder) -> list[str]:
            return [ops.roi_pool(g, "f", "rois", output_size=7, spatial_scale=1 / 16, name="pooled")]

        rois = (np.round(rois / step) * step).astype(np.float32)
        (pooled,) = run(build, {"f": features, "rois": rois}, ops.roi_pool_function())
        expected = roi_pool(torch.from_numpy(features).float(), list(map(torch.from_numpy, rois)), 7, 1 / 16)
        assert pooled.dtype == dtype
        np.testing.assert_array_equal(pooled, expected.numpy())

    def test_roi_pool_is_found_as_a_plugin(self) -> None:
        g = GraphBuilder()
        ops.roi_pool(g, "f", "rois", output_size=7, spatial_scale=1 / 16, name="pooled")
        attributes = {a.name: helper.get_attribute_value(a) for a in g.nodes[0].attribute}
        assert attributes == {
            "pooled_shape": [7, 7],
            "spatial_scale": 1 / 16,
            "plugin_version": b"1",
            "plugin_namespace": b"mrcnn",
        }

    @pytest.mark.parametrize("scales", [SCALES, SCALES[:1]], ids=["four levels", "one level"])
    def test_float16_features_are_pooled_in_float32_and_rounded_once(self, scales: tuple[float, ...]) -> None:
        """RoIs stay float32: at 2000 float16 has whole pixels only."""
        features = pyramid(np.random.default_rng(0), batch=1, height=64, width=2048)[: len(scales)]
        halves = [feature.astype(np.float16) for feature in features]
        rois = np.array([[[2000.3, 10.1, 2030.7, 30.2], [1500.3, 1.7, 2047.9, 63.3]]], np.float32)
        expected = run_roi_align([half.astype(np.float32) for half in halves], rois, scales=scales)
        pooled = run_roi_align(halves, rois, scales=scales)
        assert pooled.dtype == np.float16
        np.testing.assert_array_equal(pooled, expected.astype(np.float16))

    def test_level_thresholds_equal_the_logarithm_of_torchvision(self) -> None:
        thresholds = np.array(ops.level_thresholds(SCALES, 224, 4, aligned=False))
        mapper = LevelMapper(2, 5, 224, 4, 1e-6)
        rng = np.random.default_rng(0)
        near = (thresholds[:, None] * (1 + rng.integers(-8, 9, 500) * 2.0**-23)).astype(np.float32).ravel()
        side = np.concatenate([near, np.exp(rng.uniform(-3, 8, 2000)).astype(np.float32)])
        boxes = torch.zeros(len(side), 4)
        boxes[:, 2], boxes[:, 3] = torch.from_numpy(side), torch.from_numpy(side)
        area = side * side
        level = (np.sqrt(area)[:, None] >= thresholds).sum(1)
        assert level.tolist() == mapper([boxes]).tolist()
        assert set(level.tolist()) == {0, 1, 2, 3}


class TestTrim:
    @pytest.mark.parametrize("row", [(2, 2), (4,), (1, 2, 2)], ids=["mask", "flat", "heatmaps"])
    def test_trim_to_the_largest_count_and_back(self, row: tuple[int, ...]) -> None:
        rows = np.arange(2 * 5 * 4, dtype=np.float32).reshape(2, 5, *row) + 1
        count = np.array([1, 3], np.int32)

        def build(g: GraphBuilder) -> list[str]:
            trimmed = ops.trim(g, "rows", "count", name="trimmed")
            flat = g.op("Reshape", trimmed, [-1, *row])
            return [trimmed, ops.untrim(g, flat, "count", rows=5, name="back")]

        trimmed, back = run(build, {"rows": rows, "count": count}, ops.trim_function(), ops.untrim_function())
        np.testing.assert_array_equal(trimmed, rows[:, :3])
        expected = rows.copy()
        expected[0, 1:] = 0
        expected[1, 3:] = 0
        np.testing.assert_array_equal(back, expected)

    def test_nothing_found_keeps_one_row_of_zeros(self) -> None:
        rows = np.ones((2, 4, 3, 3), np.float32)

        def build(g: GraphBuilder) -> list[str]:
            trimmed = ops.trim(g, "rows", "count", name="trimmed")
            flat = g.op("Reshape", trimmed, [-1, 3, 3])
            return [trimmed, ops.untrim(g, flat, "count", rows=4, name="back")]

        feed = {"rows": rows, "count": np.zeros(2, np.int32)}
        trimmed, back = run(build, feed, ops.trim_function(), ops.untrim_function())
        assert trimmed.shape == (2, 1, 3, 3)
        np.testing.assert_array_equal(back, np.zeros((2, 4, 3, 3), np.float32))
