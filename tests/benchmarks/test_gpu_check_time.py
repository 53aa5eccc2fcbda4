"""Timing: what is measured how often, the workloads, the contenders and the floor."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from mrcnn.benchmarks.gpu_check import time_kernels, time_resize, time_roi_pool, timing, workloads
from mrcnn.benchmarks.gpu_check.device import Bench
from mrcnn.benchmarks.gpu_check.isolate import Task
from mrcnn.benchmarks.gpu_check.timing import Contender, measure
from mrcnn.plugins import interface
from tests.benchmarks.test_gpu_check_device import HostGpu, HostKernels, Meddling, memory, require_kernels


class ClockedGpu(HostGpu):
    """A GPU whose clock stands still but for what `work` says that it takes."""

    def __init__(self) -> None:
        self.time = 0.0
        self.calls: list[tuple[str, int]] = []

    def mark(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time

    def seconds_between(self, start: Any, end: Any) -> float:
        return float(end - start)

    def work(self, name: str, seconds: float) -> Contender:
        def call(number: int) -> None:
            self.calls.append((name, number))
            self.time += seconds

        return Contender(call, capturable=name != "torchvision")


def test_each_contender_gets_its_own_time_and_the_ratio() -> None:
    gpu = ClockedGpu()
    contenders = {"ours": gpu.work("ours", 20e-6), "torchvision": gpu.work("torchvision", 90e-6)}
    figures = measure(gpu, contenders, sets=3, rounds=5, reference="torchvision")
    assert set(figures["ours"]) == {
        *("wall", "events", "cold", "graph", "graph_cold"),
        *("times_reference", "times_reference_events"),
    }
    assert set(figures["torchvision"]) == {"wall", "events", "cold"}
    for name in ("wall", "events", "cold", "graph", "graph_cold"):
        assert figures["ours"][name] == {"median": 20.0, "p10": 20.0, "p90": 20.0, "runs": 5}
    assert figures["ours"]["times_reference"]["speedup"] == 4.5


def test_contenders_take_turns_and_cold_calls_go_round() -> None:
    gpu = ClockedGpu()
    contenders = {name: gpu.work(name, 1e-6) for name in ("a", "torchvision")}
    measure(gpu, contenders, sets=2, rounds=3, reference="torchvision")
    warm_up, timed = gpu.calls[:4], gpu.calls[4:]
    assert set(warm_up) == {("a", 0), ("a", 1), ("torchvision", 0), ("torchvision", 1)}
    # In each warm round a call before the timed one.
    assert timed[:12] == [("a", 0), ("a", 0), ("torchvision", 0), ("torchvision", 0)] * 3
    assert timed[12:18] == [(name, number) for number in (0, 1, 0) for name in ("a", "torchvision")]
    graphs = timed[18:]
    assert {name for name, _ in graphs} == {"a"}
    assert graphs[:40] == [("a", 0)] * 20 + [("a", 0), ("a", 1)] * 10


def test_a_slow_gpu_gets_fewer_rounds() -> None:
    gpu = ClockedGpu()
    contenders = {"torchvision": gpu.work("torchvision", 1.0)}
    figures = measure(gpu, contenders, sets=1, rounds=60, reference="torchvision")
    assert figures["torchvision"]["cold"]["runs"] == 9  # 8 seconds, and the one that is under way
    assert figures["torchvision"]["wall"]["runs"] == 5  # two calls a round: the least number


def test_sets_fill_the_cache_three_times() -> None:
    gpu = HostGpu()  # 1 MiB of L2
    assert timing.sets_needed(gpu, 1 << 20) == 3
    assert timing.sets_needed(gpu, 1 << 30) == 2
    assert timing.sets_needed(gpu, 1) == 160


def test_a_copy_counts_both_ways() -> None:
    gpu = ClockedGpu()

    class Copying(ClockedGpu):
        def synchronize(self) -> None:
            self.time += 0.5

        def seconds_between(self, start: Any, end: Any) -> float:  # noqa: ARG002
            return 0.5

    assert timing.copy_bandwidth(Copying(), size=1000, repeats=3) == 4000
    assert gpu.time == 0


class TestWorkloads:
    def test_the_pyramid_is_that_of_the_image(self) -> None:
        assert workloads.level_sizes() == ((200, 336), (100, 168), (50, 84), (25, 42))

    def test_proposals_lie_in_the_image_on_all_levels(self) -> None:
        rois = workloads.proposals(1000, seed=0)
        assert (rois[:, :2] >= 0).all()
        assert (rois[:, 2] <= 1344).all()
        assert (rois[:, 3] <= 800).all()
        side = np.sqrt((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1]))
        levels = np.histogram(side, [0, 112, 224, 448, 2000])[0]
        assert (levels > 50).all()
        assert levels.argmax() == 0

    def test_touched_pixels_by_hand(self) -> None:
        """One RoI of 56x56 on the finest level, 14x14 pixels there, one bin, two samples a side."""
        rois = np.array([[40, 40, 96, 96]], np.float32)  # from pixel 10; samples at 13.5 and 20.5
        assert workloads.touched_pixels(rois, 1, 2) == 4 * 4
        twice = np.concatenate([rois, rois])
        assert workloads.touched_pixels(twice, 1, 2) == 4 * 4
        coarse = np.array([[0, 0, 448, 448]], np.float32)  # the coarsest, 14x14: samples at 3.5 and 10.5
        assert workloads.touched_pixels(np.concatenate([rois, coarse]), 1, 2) == 32

    def test_touched_pixels_equal_those_that_matter(self) -> None:
        """The slow way: a pixel is touched if pooling ones at it alone gives something."""
        require_kernels()
        kernels = HostKernels()
        rois = workloads.proposals(3, seed=4)
        sizes = workloads.level_sizes()
        found = 0
        for level, (height, width) in enumerate(sizes):
            pyramid = [np.zeros((1, 1, *size), np.float32) for size in sizes]
            for rows in range(height):
                pyramid[level][...] = 0
                pyramid[level] = np.zeros((1, width, height, width), np.float32)
                pyramid[level][0, np.arange(width), rows, np.arange(width)] = 1
                wide = [
                    level_ if i == level else np.zeros((1, width, *sizes[i]), np.float32)
                    for i, level_ in enumerate(pyramid)
                ]
                pooled = kernels.roi_align(
                    wide, rois[None], output_size=2, spatial_scales=[1 / s for s in workloads.STRIDES]
                )
                found += int((pooled != 0).any(axis=(0, 2, 3)).sum())
        assert workloads.touched_pixels(rois, 2, 2) >= found > 0.95 * workloads.touched_pixels(rois, 2, 2)

    @pytest.mark.parametrize(
        ("source", "target", "pixels"),
        [
            ((4, 6), (8, 12), 4 * 6),
            ((4, 6), (4, 6), 4 * 6),
            ((6, 9), (2, 3), 4 * 6),  # of three rows the middle one and the next, whose weight is 0
            ((100, 80), (10, 10), 20 * 20),
            ((1, 1), (5, 5), 1),
        ],
    )
    def test_sampled_pixels_by_hand(
        self, source: tuple[int, int], target: tuple[int, int], pixels: int
    ) -> None:
        assert workloads.sampled_pixels(source, target) == pixels

    def test_candidates_of_the_rpn(self) -> None:
        candidates = workloads.rpn_candidates(seed=0)
        assert np.bincount(candidates.group).tolist() == [1000, 1000, 1000, 1000, 819]
        assert len(np.unique(candidates.scores)) == 4819
        assert (candidates.boxes == np.round(candidates.boxes)).all()
        assert (candidates.boxes[:, 2:] > candidates.boxes[:, :2]).all()

    @pytest.mark.parametrize(("confident", "low", "high"), [(True, 200, 500), (False, 86_000, 87_000)])
    def test_candidates_of_classes(self, confident: bool, low: int, high: int) -> None:
        candidates = workloads.class_candidates(0, confident=confident)
        assert np.bincount(candidates.group).tolist() == [1000] * 91
        assert low < (candidates.scores > 0.05).sum() < high


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workloads that a CPU can do."""
    require_kernels()
    monkeypatch.setattr(workloads, "CHANNELS", 8)
    monkeypatch.setattr(workloads, "LEVEL_BOXES", (100, 50))
    monkeypatch.setattr(workloads, "CLASSES", 3)
    monkeypatch.setattr(timing, "_MAX_SETS", 2)
    monkeypatch.setattr(timing, "GRAPH_CALLS", 2)


def tasks_of(kernels: HostKernels) -> dict[str, Task]:
    return {task.name: task for task in time_kernels.time_tasks(Bench(HostGpu(), kernels), quick=True)}


@pytest.mark.usefixtures("small")
class TestKernels:
    def test_roi_align_is_timed_in_each_layout_against_torchvision(self) -> None:
        bench = Bench(HostGpu(), HostKernels())
        record = time_kernels._time_roi_align(bench, torch.float16, 100, 7, 1, None)
        assert record["failures"] == []
        assert set(record["contenders"]) == {
            *("linear", "channels last to linear", "channels last"),
            "torchvision",
        }
        pixels = workloads.touched_pixels(workloads.proposals(100, 0), 7, 2)
        assert record["floor_bytes"] == pixels * 8 * 2 + 100 * 16 + 100 * 8 * 49 * 2

    def test_float32_is_compared_with_torchvision(self) -> None:
        bench = Bench(HostGpu(), HostKernels())
        assert time_kernels._time_roi_align(bench, torch.float32, 50, 7, 1, None)["failures"] == []

        class Aligned(HostKernels):
            def roi_align_cuda(self, params: Any, *others: int) -> None:
                params.aligned = 1
                super().roi_align_cuda(params, *others)

        bench = Bench(HostGpu(), Aligned())
        (failure,) = time_kernels._time_roi_align(bench, torch.float32, 50, 7, 1, None)["failures"]
        assert failure.startswith("torchvision against linear: ")

    @pytest.mark.parametrize("name", list(time_kernels.NMS_LOADS))
    def test_nms_is_timed_and_keeps_what_torchvision_keeps(self, name: str) -> None:
        record = tasks_of(HostKernels())[name].run(None)
        assert record["failures"] == []
        assert set(record["contenders"]) == {"ours", "torchvision"}

    @pytest.mark.parametrize("load", time_resize.LOADS, ids=lambda load: load.name)
    def test_the_resize_is_timed_and_makes_what_torch_makes(self, load: time_resize.ResizeLoad) -> None:
        bench = Bench(HostGpu(), HostKernels())
        record = time_resize.time_resize(bench, load, 1, None)
        assert record["failures"] == []
        assert set(record["contenders"]) == {"ours", "torchvision"}
        (height, width), item = load.padded, np.dtype(load.dtype).itemsize
        assert record["floor_bytes"] == 3 * load.source[0] * load.source[1] + 3 * height * width * item

    @pytest.mark.parametrize("dtype", ["float32", "uint8"])
    def test_another_resize_is_found(self, dtype: Any) -> None:
        class Swapped(HostKernels):
            def resize_cuda(self, params: interface.ResizeParams, *others: int) -> None:
                params.swap_channels = 1
                super().resize_cuda(params, *others)

        load = time_resize.ResizeLoad((30, 40), (50, 60), (64, 64), dtype)
        (failure,) = time_resize.time_resize(Bench(HostGpu(), Swapped()), load, 1, None)["failures"]
        assert " of 12288 values are wrong" in failure

    def test_roi_pool_is_timed_and_makes_what_torchvision_makes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time_roi_pool, "CHANNELS", 3)
        record = time_roi_pool.time_roi_pool(Bench(HostGpu(), HostKernels()), torch.float32, 1, None)
        assert record["failures"] == []
        assert set(record["contenders"]) == {"ours", "torchvision"}
        assert record["floor_bytes"] == 4 * (3 * 50 * 84 + 300 * 4 + 300 * 3 * 49)

        class Coarser(HostKernels):
            def roi_pool_cuda(self, params: Any, *others: int) -> None:
                params.spatial_scale /= 2
                super().roi_pool_cuda(params, *others)

        bench = Bench(HostGpu(), Coarser())
        (failure,) = time_roi_pool.time_roi_pool(bench, torch.float32, 1, None)["failures"]
        assert "values are wrong" in failure

    def test_what_is_wrong_is_said_though_it_is_timed(self) -> None:
        def meddle(_: Any, a: dict[str, int]) -> None:
            memory(a["count"], 1, np.int32)[0] -= 1

        record = tasks_of(Meddling(nms=meddle))["NMS of the RPN, 4819 in 5 levels"].run(None)
        assert len(record["failures"]) == 1
        assert "ours" in record["contenders"]

    def test_a_profiler_that_does_not_work_is_no_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tasks = tasks_of(HostKernels())
        name = "kernels of NMS of the RPN, 4819 in 5 levels"
        assert tasks[name].run(None)["kernels"] == [{"kernel": "host", "launches": 1.0, "us": 1.0}]

        def fails(*_: Any, **__: Any) -> None:
            raise RuntimeError("CUPTI is not there")

        monkeypatch.setattr(HostGpu, "kernel_times", fails)
        record = tasks[name].run(None)
        assert record == {"failures": [], "kernels": [], "note": "RuntimeError: CUPTI is not there"}

    def test_full_is_more_than_quick(self) -> None:
        bench = Bench(HostGpu(), HostKernels())
        full = [task.name for task in time_kernels.time_tasks(bench, quick=False)]
        quick = [task.name for task in time_kernels.time_tasks(bench, quick=True)]
        assert set(quick) < set(full)
        assert len([name for name in full if name.startswith("RoIAlign")]) == 4
        assert len([name for name in full if name.startswith("Resize")]) == 3
        assert len([name for name in full if name.startswith("RoIPool")]) == 2
