"""NMS on the CPU: by hand, against torchvision, and against the definition in plain Python."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.ops import batched_nms
from torchvision.ops import nms as torchvision_nms

from mrcnn.export.ops import round_down
from mrcnn.plugins import interface
from mrcnn.plugins.kernels import KernelError, Kernels, installed_kernels
from tests.plugins import oracle

# What torchvision compares a double with, this compares a float32 with; 0.7 is not one.
THRESHOLDS = [0.0, 0.3, 0.5, 0.7, 1.0]


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return installed_kernels()


def run(
    kernels: Kernels,
    boxes: Any,
    scores: Any,
    group: Any = None,
    *,
    iou: float = 0.5,
    score: float = -1.0,
    keep: int | None = None,
) -> list[int]:
    """One image; `group` None: all in one. Checks that what lies past the count is zero."""
    boxes = np.asarray(boxes, np.float32).reshape(1, -1, 4)
    scores = np.asarray(scores, np.float32).reshape(1, -1)
    groups = np.zeros(scores.shape, np.int32) if group is None else np.asarray(group, np.int32).reshape(1, -1)
    indices, count = kernels.nms(
        boxes,
        scores,
        groups,
        iou_threshold=float(round_down(iou)),
        score_threshold=score,
        max_output=keep or max(scores.size, 1),
    )
    assert not indices[0, count[0] :].any()
    return list(map(int, indices[0, : count[0]]))


def random_case(
    rng: np.random.Generator, *, most: int = 60
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], float]:
    """Crowded boxes, scores, groups and a threshold.

    Every other case has coordinates and scores of few values, so that equal scores and overlaps of exactly
    the threshold are common. All coordinates are multiples of 1/16 below 128: torchvision moves the boxes of
    a group by a multiple of the largest coordinate, and so moved they keep every bit.
    """
    count = int(rng.integers(1, most))
    steps = 1 if rng.random() < 0.5 else 16
    corner = rng.integers(0, 40 * steps, (count, 2)) / steps
    side = rng.integers(0, 30 * steps, (count, 2)) / steps
    boxes = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
    scores = rng.random(count, np.float32)
    if steps == 1:
        scores = np.round(scores * 8) / 8
    group = rng.integers(0, rng.integers(1, 6), count).astype(np.int32)
    return boxes, scores, group, float(rng.choice(THRESHOLDS))


# By hand -------------------------------------------------------------------------------------------------

A, B = [0, 0, 10, 10], [0, 0, 10, 5]  # IoU 0.5 exactly


def test_an_iou_of_the_threshold_is_kept_and_above_it_is_not(kernels: Kernels) -> None:
    assert run(kernels, [A, B], [0.9, 0.8], iou=0.5) == [0, 1]
    assert run(kernels, [A, B], [0.9, 0.8], iou=0.4999) == [0]
    assert run(kernels, [A, [0, 0, 10, 5.01]], [0.9, 0.8], iou=0.5) == [0]


def test_the_best_comes_first_and_suppresses(kernels: Kernels) -> None:
    assert run(kernels, [A, A, [50, 50, 60, 60]], [0.5, 0.9, 0.7]) == [1, 2]


def test_a_suppressed_box_suppresses_nobody(kernels: Kernels) -> None:
    chain = [[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]]  # neighbours: IoU 0.43, ends: 0.11
    assert run(kernels, chain, [0.9, 0.8, 0.7], iou=0.4) == [0, 2]


def test_groups_do_not_see_each_other(kernels: Kernels) -> None:
    assert run(kernels, [A, A, A, A], [0.6, 0.7, 0.8, 0.9], [5, -3, 5, 2**31 - 1]) == [3, 2, 1]


def test_ties_go_to_the_lower_index(kernels: Kernels) -> None:
    assert run(kernels, [A, A], [0.5, 0.5]) == [0]
    apart = [[i * 20, 0, i * 20 + 10, 10] for i in range(40)]
    assert run(kernels, apart, [0.5] * 40, list(range(40))) == list(range(40))
    assert run(kernels, apart[:3], [-0.0, 0.0, -0.0]) == [0, 1, 2]


def test_a_score_must_exceed_the_threshold(kernels: Kernels) -> None:
    apart = [[i * 20, 0, i * 20 + 10, 10] for i in range(4)]
    assert run(kernels, apart, [0.5, 0.05, 0.049, 0.051], score=float(np.float32(0.05))) == [0, 3]
    assert run(kernels, apart, [np.nan, np.inf, -np.inf, 0], score=-1.0) == [1, 3]


def test_the_top_k_are_the_best_over_all_groups(kernels: Kernels) -> None:
    apart = [[i * 20, 0, i * 20 + 10, 10] for i in range(6)]
    assert run(kernels, apart, [0.1, 0.6, 0.3, 0.5, 0.2, 0.4], [0, 1, 2, 0, 1, 2], keep=3) == [1, 3, 5]


@pytest.mark.parametrize(
    "strange",
    [
        [5, 5, 5, 5],  # a point: 0/0 with itself
        [0, 5, 10, 5],  # a line
        [10, 10, 0, 0],  # inverted
        [np.nan, 0, 10, 10],
        [-np.inf, 0, np.inf, 10],
        [-3e38, -3e38, 3e38, 3e38],
    ],
)
def test_strange_boxes_suppress_nobody(kernels: Kernels, strange: list[float]) -> None:
    boxes = np.array([strange, A, strange, A], np.float32)
    expected = torchvision_nms(torch.from_numpy(boxes), torch.tensor([0.9, 0.8, 0.7, 0.6]), 0.5)
    assert run(kernels, boxes, [0.9, 0.8, 0.7, 0.6]) == expected.tolist() == [0, 1, 2]


def test_batches_are_images_of_their_own(kernels: Kernels) -> None:
    rng = np.random.default_rng(2)
    cases = [random_case(rng, most=2)[:3] for _ in range(5)]
    together = [np.stack([case[i] for case in cases]) for i in range(3)]
    indices, count = kernels.nms(*together, iou_threshold=0.5, score_threshold=-1, max_output=3)
    for image, case in enumerate(cases):
        alone = run(kernels, *case, keep=3)
        assert indices[image].tolist() == [*alone, *[0] * (3 - len(alone))]
        assert count[image] == len(alone)


# Against the references ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_keeps_what_torchvisions_batched_nms_keeps(kernels: Kernels, seed: int) -> None:
    """1000 random cases each, ties and overlaps of exactly the threshold included."""
    rng = np.random.default_rng(seed)
    for number in range(1000):
        boxes, scores, group, threshold = random_case(rng)
        expected = batched_nms(*map(torch.from_numpy, (boxes, scores, group)), threshold)
        assert run(kernels, boxes, scores, group, iou=threshold) == expected.tolist(), number


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_keeps_what_torchvision_keeps_of_many(kernels: Kernels, threshold: float) -> None:
    """Above 4000 values batched_nms takes the groups one by one, and leaves ties in no certain order."""
    rng = np.random.default_rng(9)
    centre, side = rng.uniform(0, 300, (3000, 2)), rng.uniform(5, 120, (3000, 2))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], axis=1).astype(np.float32)
    scores = rng.permutation(3000).astype(np.float32) / 3000
    group = rng.integers(0, 20, 3000).astype(np.int32)
    expected = batched_nms(*map(torch.from_numpy, (boxes, scores, group)), threshold)
    assert run(kernels, boxes, scores, group, iou=threshold) == expected.tolist()


numbers = st.sampled_from([0.0, 1, 2, 3, 4.5, 8, -1, 1e-30, 1e30, np.inf, -np.inf, np.nan])


@settings(max_examples=300, deadline=None)
@given(
    boxes=st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=12),
    seed=st.integers(0, 2**16),
    threshold=st.sampled_from(THRESHOLDS),
    keep=st.integers(1, 13),
)
def test_equals_the_definition_for_any_boxes(
    boxes: list[tuple[float, ...]], seed: int, threshold: float, keep: int
) -> None:
    rng = np.random.default_rng(seed)
    array = np.array(boxes, np.float32)
    scores = rng.choice(np.array([0, 0.25, 0.5, np.nan, -np.inf], np.float32), len(boxes))
    group = rng.integers(-1, 1, len(boxes)).astype(np.int32)
    expected = oracle.nms(
        array,
        scores,
        group,
        iou_threshold=float(round_down(threshold)),
        score_threshold=0.1,
        max_output=keep,
    )
    kept = run(installed_kernels(), array, scores, group, iou=threshold, score=0.1, keep=keep)
    assert kept == expected


# Refusals ------------------------------------------------------------------------------------------------


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"iou_threshold": -0.1}, "iou_threshold must be between 0 and 1 (got -0.1)"),
    ({"iou_threshold": 1.5}, "iou_threshold must be between 0 and 1 (got 1.5)"),
    ({"iou_threshold": np.nan}, "iou_threshold must be between 0 and 1 (got nan)"),
    ({"score_threshold": np.nan}, "score_threshold is not a number"),
    ({"max_output": 0}, "max_output must be at least 1 (got 0)"),
    ({"max_output": -7}, "max_output must be at least 1 (got -7)"),
    ({"batch": -1}, "batch must be 0 to 65535 images (got -1)"),
    ({"batch": 65536}, "batch must be 0 to 65535 images (got 65536)"),
    ({"candidates": -1}, "candidates must not be negative (got -1)"),
    ({"candidates": 2**29}, "a batch of at most 2^30 - 1 boxes (got 1073741824)"),
    ({"max_output": 2**30}, "batch times max_output must be below 2^31 (got 2147483648)"),
    ({"boxes": 0}, "boxes is null"),
    ({"scores": 0}, "scores is null"),
    ({"group": 0}, "group is null"),
    ({"indices": 0}, "indices is null"),
    ({"count": 0}, "count is null"),
    ({"params": None}, "params is null"),
]
WRONG_WORKSPACE: list[tuple[dict[str, Any], str]] = [
    ({"workspace": 0}, "workspace is null"),
    ({"workspace_bytes": 1}, "bytes (got 1)"),
]


@pytest.mark.parametrize(
    ("device", "changed", "words"),
    [("cpu", *row) for row in WRONG] + [("cuda", *row) for row in WRONG + WRONG_WORKSPACE],
)
def test_wrong_calls_are_refused_before_memory_is_touched(
    kernels: Kernels, device: str, changed: dict[str, Any], words: str
) -> None:
    if device == "cuda" and "CUDA" not in kernels.build_info:
        pytest.skip("the kernels were built without nvcc")
    params = interface.NMSParams(2, 3, 4, 0.5, 0.1)
    for name, value in changed.items():
        if hasattr(params, name):
            setattr(params, name, value)
    indices, count = np.full((2, 4), 5, np.int32), np.full(2, 5, np.int32)
    arrays = [np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), np.float32), np.zeros((2, 3), np.int32)]
    pointers = dict(
        zip(
            ("boxes", "scores", "group", "indices", "count"),
            (array.ctypes.data for array in (*arrays, indices, count)),
            strict=True,
        )
    )
    workspace = np.zeros(1 << 20, np.uint8)
    call: Any = kernels.nms_cpu
    if device == "cuda":
        call = kernels.nms_cuda
        pointers |= {"workspace": workspace.ctypes.data, "workspace_bytes": workspace.size, "stream": 0}
    pointers |= {name: value for name, value in changed.items() if name in pointers}
    with pytest.raises(KernelError) as caught:
        call(changed.get("params", params), **pointers)
    assert words in str(caught.value)
    assert (indices == 5).all()
    assert (count == 5).all()


def test_no_candidates_and_no_images(kernels: Kernels) -> None:
    indices, count = kernels.nms(
        np.zeros((2, 0, 4), np.float32),
        np.zeros((2, 0), np.float32),
        np.zeros((2, 0), np.int32),
        iou_threshold=0.5,
        score_threshold=0,
        max_output=3,
    )
    assert indices.tolist() == [[0, 0, 0]] * 2
    assert count.tolist() == [0, 0]
    indices, count = kernels.nms(
        np.zeros((0, 5, 4), np.float32),
        np.zeros((0, 5), np.float32),
        np.zeros((0, 5), np.int32),
        iou_threshold=0.5,
        score_threshold=0,
        max_output=3,
    )
    assert indices.shape == (0, 3)


@pytest.mark.parametrize(
    ("boxes", "scores", "group"),
    [
        ((2, 3, 4), (2, 4), (2, 3)),
        ((2, 3, 4), (2, 3), (2, 2)),
        ((2, 3, 5), (2, 3), (2, 3)),
        ((3, 4), (3,), (3,)),
    ],
)
def test_shapes_must_belong_together(
    kernels: Kernels, boxes: tuple[int, ...], scores: tuple[int, ...], group: tuple[int, ...]
) -> None:
    with pytest.raises(KernelError, match=r"must be \(B, N, 4\), \(B, N\) and \(B, N\)"):
        kernels.nms(
            np.zeros(boxes, np.float32),
            np.zeros(scores, np.float32),
            np.zeros(group, np.int32),
            iou_threshold=0.5,
            score_threshold=0,
            max_output=3,
        )


@pytest.mark.parametrize("group", [[0, 2**32, 0], [0.1, 0.9, 0.0], [0, -(2**31) - 1, 0], ["a", "b", "c"]])
def test_groups_that_would_change_their_value_are_refused(kernels: Kernels, group: list[Any]) -> None:
    with pytest.raises(KernelError, match="group must be whole numbers of 32 bits"):
        kernels.nms(
            np.zeros((1, 3, 4), np.float32),
            np.zeros((1, 3), np.float32),
            np.array([group]),
            iou_threshold=0.5,
            score_threshold=0,
            max_output=3,
        )


@pytest.mark.parametrize("keep", [2**32 + 2, 2**40, 2.5])
def test_a_top_k_that_would_be_cut_is_refused(kernels: Kernels, keep: Any) -> None:
    with pytest.raises(KernelError, match="max_output must be a whole number of 32 bits"):
        kernels.nms(
            np.zeros((1, 3, 4), np.float32),
            np.zeros((1, 3), np.float32),
            np.zeros((1, 3), np.int64),
            iou_threshold=0.5,
            score_threshold=0,
            max_output=keep,
        )


def test_the_workspace_grows_with_batch_and_candidates_only(kernels: Kernels) -> None:
    if "CUDA" not in kernels.build_info:
        pytest.skip("the kernels were built without nvcc")

    def size(batch: int, candidates: int, keep: int = 100) -> int:
        return kernels.nms_cuda_workspace(interface.NMSParams(batch, candidates, keep, 0.5, 0.1))

    sizes = [size(1, count) for count in range(0, 3000, 7)]
    assert sizes == sorted(sizes)
    assert size(1, 5000) < size(2, 5000) < size(8, 5000)
    assert size(1, 5000, keep=1) == size(1, 5000, keep=5000)
    assert size(1, 91_000) < 20e6, "linear in the candidates, not quadratic"
