"""The cases of gpu-check: what they cover, and that their inputs are what they are called."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from mrcnn.benchmarks.gpu_check import nms_cases, resize_cases, roi_align_cases
from mrcnn.benchmarks.gpu_check.nms_cases import NMSCase, inputs_of
from mrcnn.benchmarks.gpu_check.resize_cases import ResizeCase, rows_of
from mrcnn.benchmarks.gpu_check.roi_align_cases import RoIAlignCase, features_of, rois_of, stored

NO_THRESHOLDS = np.zeros(0, np.float32)

# What the CPU has time for, as samples times channels and as boxes.
MOST_WORK = 6e7
MOST_BOXES = 800_000


class TestRoIAlign:
    def test_all_that_kernels_tell_apart_is_combined(self) -> None:
        cases = roi_align_cases.roi_align_cases(quick=False)
        combined = {(c.dtype, c.layouts, c.sampling_ratio, c.aligned, c.mode) for c in cases}
        product = itertools.product(
            ("float32", "float16"), roi_align_cases.LAYOUTS, (0, 2, 3), (False, True), ("avg", "max")
        )
        assert set(product) <= combined

    @pytest.mark.parametrize(
        ("field", "values"),
        [
            ("levels", {1, 2, 3, 4, 5, 8}),
            ("rois_per_image", {0, 1, 7, 300, 1000, 4000}),
            ("batch", {0, 1, 2, 3, 5, 8}),
            ("channels", {1, 3, 13, 256, 1025}),
            ("output_size", {1, 5, 7, 14, 32}),
            ("sampling_ratio", {0, 1, 2, 3, 64}),
            ("shift", {0, 1}),
            ("rois", {"usual", "strange", "thresholds", "huge"}),
        ],
    )
    def test_every_value_occurs(self, field: str, values: set[object]) -> None:
        assert values <= {getattr(case, field) for case in roi_align_cases.roi_align_cases(quick=False)}

    @pytest.mark.parametrize("quick", [False, True])
    def test_names_are_unique_and_the_work_is_bounded(self, quick: bool) -> None:
        cases = roi_align_cases.roi_align_cases(quick=quick)
        assert len({case.name for case in cases}) == len(cases)
        assert max(case.work for case in cases) <= MOST_WORK

    def test_quick_is_a_part(self) -> None:
        whole = roi_align_cases.roi_align_cases(quick=False)
        quick = roi_align_cases.roi_align_cases(quick=True)
        assert set(quick) < set(whole)
        assert len(quick) < len(whole) / 3

    def test_inputs_depend_on_the_seed_alone(self) -> None:
        case = RoIAlignCase(seed=5)
        for function in (features_of, lambda c: [rois_of(c, NO_THRESHOLDS)]):
            first, again, other = function(case), function(case), function(replace(case, seed=6))
            assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
            assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))

    def test_levels_halve_and_round_up(self) -> None:
        case = RoIAlignCase(image=(333, 517), levels=3, batch=2, channels=4)
        assert case.shapes == ((2, 4, 84, 130), (2, 4, 42, 65), (2, 4, 21, 33))
        assert [level.shape for level in features_of(case)] == list(case.shapes)

    def test_strange_rois_are_all_there(self) -> None:
        rois = rois_of(RoIAlignCase(rois="strange", rois_per_image=60), NO_THRESHOLDS)[0]
        assert np.isnan(rois).any(axis=1).sum() >= 5
        assert np.isinf(rois).any(axis=1).sum() >= 10
        assert (rois[:, 2] < rois[:, 0]).any()
        assert ((rois[:, 2] == rois[:, 0]) & (rois[:, 3] == rois[:, 1])).any()

    def test_sides_lie_around_the_thresholds(self) -> None:
        sides = np.float32([112, 224])
        rois = rois_of(RoIAlignCase(rois="thresholds", rois_per_image=6), sides)[0]
        below, at, above = rois[:3, 2]
        assert below < at == 112 < above
        assert above - below < 1e-4

    def test_channels_last_has_channels_side_by_side_and_fills_up(self) -> None:
        array = np.arange(2 * 3 * 4 * 5, dtype=np.float16).reshape(2, 3, 4, 5)
        result = stored(array, "channels_last", padding=-1)
        assert result.shape == (2, 4, 5, 8)
        assert result[1, 2, 3, :3].tolist() == array[1, :, 2, 3].tolist()
        assert (result[..., 3:] == -1).all()
        assert stored(array.astype(np.float32), "channels_last", padding=-1).shape == (2, 4, 5, 3)
        assert stored(array, "linear", padding=-1) is not None


class TestNMS:
    @pytest.mark.parametrize(
        ("field", "values"),
        [
            (
                "candidates",
                {0, 1, 31, 32, 33, 1000, 1023, 1024, 1025, 4819, 20_000, 91_000, 100_000},
            ),
            ("batch", {0, 1, 2, 3, 5, 8}),
            ("groups", {"one", "levels", "classes", "many classes", "any"}),
            ("max_output", {1, 37, 100, 1000, 2000}),
            ("scores", {"distinct", "ties", "equal", "strange", "low", "falling"}),
            ("boxes", {"random", "clusters", "identical", "chain", "disjoint", "strange"}),
            ("iou_threshold", {0.0, 0.3, 0.5, 0.7, 1.0}),
        ],
    )
    def test_every_value_occurs(self, field: str, values: set[object]) -> None:
        assert values <= {getattr(case, field) for case in nms_cases.nms_cases(quick=False)}

    @pytest.mark.parametrize("quick", [False, True])
    def test_names_are_unique_and_the_work_is_bounded(self, quick: bool) -> None:
        cases = nms_cases.nms_cases(quick=quick)
        assert len({case.name for case in cases}) == len(cases)
        assert max(case.batch * case.candidates for case in cases) <= MOST_BOXES

    def test_shapes_and_seeds(self) -> None:
        case = NMSCase(batch=3, candidates=20, seed=1, groups="any", scores="strange", boxes="strange")
        boxes, scores, group = inputs_of(case)
        assert (boxes.shape, scores.shape, group.shape) == ((3, 20, 4), (3, 20), (3, 20))
        assert (boxes.dtype, scores.dtype, group.dtype) == (np.float32, np.float32, np.int32)
        again = inputs_of(case)
        assert all(a.tobytes() == b.tobytes() for a, b in zip((boxes, scores, group), again, strict=True))
        assert not np.array_equal(group[0], group[1])

    @pytest.mark.parametrize("iou", [0.0, 0.3, 0.5, 0.7])
    def test_in_a_chain_only_neighbours_overlap(self, iou: float) -> None:
        boxes, scores, _ = inputs_of(NMSCase(boxes="chain", candidates=50, iou_threshold=iou))
        ordered = boxes[0][np.argsort(-scores[0])].astype(np.float64)
        overlaps = np.array([[_iou(a, b) for b in ordered] for a in ordered])
        near = np.abs(np.subtract.outer(np.arange(50), np.arange(50)))
        assert (overlaps[near == 1] > iou).all()
        assert (overlaps[near > 1] <= iou).all()

    def test_disjoint_boxes_are(self) -> None:
        boxes, _, _ = inputs_of(NMSCase(boxes="disjoint", candidates=2500))
        assert len(np.unique(boxes[0], axis=0)) == 2500
        corner = boxes[0][:, :2]
        assert (corner % 200 == 0).all()
        assert (boxes[0][:, 2:] - corner == 100).all()

    def test_distinct_scores_are(self) -> None:
        _, scores, _ = inputs_of(NMSCase(candidates=100_000))
        assert len(np.unique(scores)) == 100_000

    def test_any_groups_share_buckets_and_reach_the_ends(self) -> None:
        _, _, group = inputs_of(NMSCase(candidates=20_000, groups="any"))
        assert {-(2**31), 2**31 - 1, -1, 0, 255, 510} <= set(group.reshape(-1).tolist())


def _iou(
    a: "np.ndarray[tuple[int], np.dtype[np.float64]]", b: "np.ndarray[tuple[int], np.dtype[np.float64]]"
) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if (sides <= 0).any():
        return 0.0
    shared = float(sides.prod())
    return shared / float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)


class TestResize:
    @pytest.mark.parametrize(
        ("field", "values"),
        [
            ("dtype", {"float32", "uint8"}),
            ("swap", {False, True}),
            ("shift", {0, 1, 2, 3}),
            ("gap", {0, 1, 8}),
        ],
    )
    @pytest.mark.parametrize("quick", [False, True])
    def test_every_value_occurs(self, field: str, values: set[object], quick: bool) -> None:
        assert values <= {getattr(case, field) for case in resize_cases.resize_cases(quick=quick)}

    def test_rows_begin_everywhere_in_a_vector_of_four(self) -> None:
        cases = resize_cases.resize_cases(quick=True)
        assert {case.padded[1] % 4 for case in cases} == {0, 1, 2, 3}

    @pytest.mark.parametrize("quick", [False, True])
    def test_names_are_unique_and_the_work_is_bounded(self, quick: bool) -> None:
        cases = resize_cases.resize_cases(quick=quick)
        assert len({case.name for case in cases}) == len(cases)
        assert max(case.source[0] * case.pitch for case in cases) <= 4e7
        assert max(case.padded[0] * case.padded[1] for case in cases) <= 2e6

    def test_quick_is_a_part(self) -> None:
        assert set(resize_cases.resize_cases(quick=True)) < set(resize_cases.resize_cases(quick=False))

    def test_rows_depend_on_the_seed_alone_and_have_their_gap(self) -> None:
        case = ResizeCase(source=(5, 7), gap=4, seed=1)
        assert rows_of(case).shape == (5, 25)
        assert np.array_equal(rows_of(case), rows_of(replace(case, dtype="uint8", swap=True)))
        assert not np.array_equal(rows_of(case), rows_of(replace(case, seed=2)))
