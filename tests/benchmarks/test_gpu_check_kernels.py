"""The checks of gpu-check accept right kernels and find each kind of mistake."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from mrcnn.benchmarks.gpu_check import (
    check_graphs,
    check_nms,
    check_resize,
    check_roi_align,
    check_roi_pool,
    check_torchvision,
)
from mrcnn.benchmarks.gpu_check.device import Bench
from mrcnn.benchmarks.gpu_check.isolate import Record, Task
from mrcnn.benchmarks.gpu_check.nms_cases import NMSCase
from mrcnn.benchmarks.gpu_check.resize_cases import ResizeCase
from mrcnn.benchmarks.gpu_check.roi_align_cases import LAYOUTS, RoIAlignCase
from mrcnn.plugins import interface
from tests.benchmarks.test_gpu_check_device import (
    HostGpu,
    HostKernels,
    Meddling,
    bench,  # noqa: F401 - a fixture
    memory,
    require_kernels,
)

POOL = RoIAlignCase(seed=3, rois_per_image=20, channels=5, image=(96, 128), batch=2)
KEEP = NMSCase(seed=3, candidates=500, batch=2, boxes="clusters", groups="classes", max_output=50)
SHRINK = ResizeCase(seed=3, source=(60, 90), target=(40, 50), padded=(44, 64), gap=7)


def run(task: Task) -> Record:
    return task.run(task.prepare())


def pooled(kernels: Any, case: RoIAlignCase = POOL) -> list[str]:
    """The failures of one case of RoIAlign."""
    (task,) = check_roi_align.roi_align_tasks(Bench(HostGpu(), kernels), [case])
    failures: list[str] = run(task)["failures"]
    return failures


def kept(kernels: Any, case: NMSCase = KEEP) -> list[str]:
    """The failures of one case of NMS."""
    (task,) = check_nms.nms_tasks(Bench(HostGpu(), kernels), [case])
    failures: list[str] = run(task)["failures"]
    return failures


def resized(kernels: Any, case: ResizeCase = SHRINK) -> list[str]:
    """The failures of one case of the resize."""
    (task,) = check_resize.resize_tasks(Bench(HostGpu(), kernels), [case])
    failures: list[str] = run(task)["failures"]
    return failures


@pytest.fixture(autouse=True)
def _native() -> None:
    require_kernels()


class TestRoIAlign:
    @pytest.mark.parametrize("layouts", LAYOUTS, ids=">".join)
    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_right_is_right(self, dtype: Any, layouts: Any) -> None:
        """Also in channels-last layouts, whose expected values come from linear ones by NumPy."""
        assert pooled(HostKernels(), replace(POOL, dtype=dtype, layouts=layouts)) == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"rois": "strange", "rois_per_image": 60, "sampling_ratio": 0},
            {"rois": "huge", "sampling_ratio": 0, "mode": "max"},
            {"values": "special", "dtype": "float16"},
            {"values": "special", "mode": "max"},
            {"rois": "thresholds"},
            {"rois_per_image": 0},
            {"batch": 0},
            {"shift": 1, "dtype": "float16"},
            {"shift": 1, "layouts": ("channels_last", "linear")},
        ],
        ids=str,
    )
    def test_right_is_right_in_odd_cases(self, changes: dict[str, Any]) -> None:
        assert pooled(HostKernels(), replace(POOL, **changes)) == []

    def test_a_wrong_value_is_found_and_placed(self) -> None:
        def meddle(_: interface.RoIAlignParams, __: int, output: int) -> None:
            memory(output, 40 * 5 * 49, np.float32)[(7 * 5 + 2) * 49 + 3 * 7 + 1] += 1e-3

        failures = pooled(Meddling(roi_align=meddle))
        assert len(failures) == 1
        assert failures[0].startswith("1 of 9800 values are wrong, the worst at roi 7, channel 2, y 3, x 1: ")

    def test_what_is_left_unwritten_is_found_even_if_poison_is_near(self) -> None:
        """The second poison is a number that a float32 output might hold."""

        class Lazy(HostKernels):
            def roi_align_cuda(self, params: Any, rois: int, output: int, stream: int) -> None:
                before = memory(output, 9800, np.float32)[-1]
                super().roi_align_cuda(params, rois, output, stream)
                memory(output, 9800, np.float32)[-1] = before

        failures = pooled(Lazy())
        assert any("two runs differ" in line for line in failures)

    @pytest.mark.parametrize("place", [-4, 9800 * 4])
    def test_a_write_outside_the_output_is_found(self, place: int) -> None:
        def meddle(_: interface.RoIAlignParams, __: int, output: int) -> None:
            memory(output + place, 1, np.float32)[0] = 1

        assert pooled(Meddling(roi_align=meddle)) == ["output: written outside of its memory"]

    def test_a_write_to_the_rois_is_found(self) -> None:
        def meddle(_: interface.RoIAlignParams, rois: int, __: int) -> None:
            memory(rois, 4, np.float32)[0] = 1234

        assert "RoIs: an input was written to" in pooled(Meddling(roi_align=meddle))

    def test_padding_that_leaks_is_found(self) -> None:
        """A kernel that takes the channels that fill up a pixel for real ones writes their NaN."""

        def meddle(params: interface.RoIAlignParams, _: int, output: int) -> None:
            if params.output_layout == interface.CHANNELS_LAST:
                memory(output, 8, np.uint16)[7] = 0x7E00

        case = replace(POOL, dtype="float16", layouts=("channels_last", "channels_last"))
        failures = pooled(Meddling(roi_align=meddle), case)
        assert failures[0].startswith(
            "1 of 15680 values are wrong, the worst at roi 0, y 0, x 0, channel 7: nan"
        )


class TestRoIPool:
    @pytest.mark.parametrize("case", list(check_roi_pool.roi_pool_cases()), ids=lambda case: case.name)
    def test_right_is_right(self, case: check_roi_pool.RoIPoolCase) -> None:
        kernels = HostKernels()
        prepared = check_roi_pool.prepare(replace(case, channels=min(case.channels, 5)), kernels)
        assert check_roi_pool.check(Bench(HostGpu(), kernels), prepared)["failures"] == []

    def test_a_wrong_value_is_found_by_both(self) -> None:
        class Wrong(HostKernels):
            def roi_pool_cuda(self, params: Any, features: int, rois: int, output: int, stream: int) -> None:
                super().roi_pool_cuda(params, features, rois, output, stream)
                memory(output, 49, np.float32)[8] += 1

        prepared = check_roi_pool.prepare(check_roi_pool.RoIPoolCase(channels=2), HostKernels())
        failures = check_roi_pool.check(Bench(HostGpu(), Wrong()), prepared)["failures"]
        assert [line.split(" of ")[0] for line in failures] == ["1", "against torchvision: 1"]
        assert "roi 0, channel 0, y 1, x 1" in failures[0]


class TestNMS:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"candidates": 0},
            {"batch": 0},
            {"scores": "strange", "boxes": "strange", "groups": "any"},
            {"scores": "low", "score_threshold": 2.0},
            {"boxes": "chain", "candidates": 1025, "max_output": 2000},
        ],
        ids=str,
    )
    def test_right_is_right(self, changes: dict[str, Any]) -> None:
        assert kept(HostKernels(), replace(KEEP, **changes)) == []

    @pytest.mark.parametrize(
        ("meddle", "found"),
        [
            (lambda a: memory(a["indices"], 100, np.int32).__setitem__(60, 499), "image 1: 1 of 50 indices"),
            (lambda a: memory(a["count"], 2, np.int32).__setitem__(0, 49), "image 0: 49 boxes kept instead"),
            (lambda a: memory(a["indices"] + 400, 1, np.int8).__setitem__(0, 1), "indices: written outside"),
            (lambda a: memory(a["group"], 9, np.int32).__setitem__(3, -7), "group: an input was written to"),
            (lambda a: memory(a["boxes"] - 1, 1, np.int8).__setitem__(0, 1), "boxes: written outside"),
            (
                lambda a: memory(a["workspace"] + a["workspace_bytes"], 1, np.int8).__setitem__(0, 1),
                "workspace: written outside",
            ),
        ],
    )
    def test_each_mistake_is_found(self, meddle: Callable[[dict[str, int]], None], found: str) -> None:
        failures = kept(Meddling(nms=lambda _, addresses: meddle(addresses)))
        assert any(line.startswith(found) for line in failures), failures

    def test_a_result_that_depends_on_the_workspace_is_found(self) -> None:
        """As of a kernel that reads what nobody has written, which is right if memory happens to be zero."""

        def meddle(_: interface.NMSParams, a: dict[str, int]) -> None:
            if memory(a["workspace"], 1, np.uint8)[0] == 0:
                memory(a["indices"], 1, np.int32)[0] = -1

        (failure,) = kept(Meddling(nms=meddle))
        assert failure.startswith("run 2 differs from the first: image 0: 1 of 50 indices")

    def test_an_error_of_the_library_is_raised(self) -> None:
        with pytest.raises(Exception, match="NMS: iou_threshold must be between 0 and 1"):
            kept(HostKernels(), replace(KEEP, iou_threshold=2.0))


class TestResize:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"dtype": "uint8"},
            {"swap": True, "shift": 3, "gap": 1},
            {"dtype": "uint8", "shift": 1, "target": (44, 64)},
            {"source": (1, 1), "gap": 0},
        ],
        ids=str,
    )
    def test_right_is_right(self, changes: dict[str, Any]) -> None:
        assert resized(HostKernels(), replace(SHRINK, **changes)) == []

    def test_a_last_bit_is_found_and_placed(self) -> None:
        def meddle(_: interface.ResizeParams, __: int, output: int) -> None:
            memory(output, 44 * 64 * 3, np.uint32)[(7 * 64 + 5) * 3 + 2] += 1

        (failure,) = resized(Meddling(resize=meddle))
        assert failure.startswith("1 of 8448 values are wrong, the worst at y 7, x 5, channel 2: ")

    def test_a_wrong_byte_is_found(self) -> None:
        def meddle(_: interface.ResizeParams, __: int, output: int) -> None:
            memory(output, 44 * 64 * 3, np.uint8)[-1] = 1

        (failure,) = resized(Meddling(resize=meddle), replace(SHRINK, dtype="uint8"))
        assert failure.endswith("the worst at y 43, x 63, channel 2: 1 instead of 0")

    @pytest.mark.parametrize("dtype", ["float32", "uint8"])
    def test_padding_that_is_not_written_is_found(self, dtype: Any) -> None:
        class Lazy(HostKernels):
            def resize_cuda(self, params: Any, source: int, output: int, stream: int) -> None:
                end = memory(output, 44 * 64 * 3, dtype)[-3:]
                before = end.copy()
                super().resize_cuda(params, source, output, stream)
                end[:] = before

        failures = resized(Lazy(), replace(SHRINK, dtype=dtype))
        assert failures[0].startswith("3 of 8448 values are wrong")
        assert "two runs differ" in failures[1]

    @pytest.mark.parametrize("place", [-1, 44 * 64 * 3 * 4])
    def test_a_write_outside_the_output_is_found(self, place: int) -> None:
        def meddle(_: interface.ResizeParams, __: int, output: int) -> None:
            memory(output + place, 1, np.uint8)[0] = 1

        assert resized(Meddling(resize=meddle)) == ["output: written outside of its memory"]

    def test_a_write_to_the_source_is_found(self) -> None:
        def meddle(_: interface.ResizeParams, source: int, __: int) -> None:
            memory(source, 1, np.uint8)[0] += 1

        assert "source: an input was written to" in resized(Meddling(resize=meddle))


class TestGraphs:
    def test_right_is_right(self, bench: Bench) -> None:  # noqa: F811
        tasks = list(check_graphs.graph_tasks(bench))
        assert len({task.name for task in tasks}) == len(tasks) >= 10
        for i in (0, -4, -3, -2, -1):
            assert run(tasks[i])["failures"] == []

    def test_a_graph_that_keeps_its_first_inputs_is_found(self) -> None:
        class Stale(HostKernels):
            """Answers every replay with the result of the first."""

            first: bytes | None = None

            def nms_cuda(self, params: interface.NMSParams, *_: int, **a: int) -> None:
                super().nms_cuda(params, **a)
                indices = memory(a["indices"], 4 * params.batch * params.max_output, np.uint8)
                self.first = self.first or indices.tobytes()
                indices[:] = np.frombuffer(self.first, np.uint8)

        bench_ = Bench(HostGpu(), Stale())
        task = next(t for t in check_graphs.graph_tasks(bench_) if t.name == "graph of NMS few candidates")
        failures = run(task)["failures"]
        assert {line.partition(":")[0] for line in failures} == {"replay 2", "replay 3"}


class TestTorchvision:
    def test_right_is_right(self, bench: Bench) -> None:  # noqa: F811
        tasks = list(check_torchvision.torchvision_tasks(bench))
        names = [task.name for task in tasks]
        assert len(set(names)) == len(names) == 8
        for part in ("roi_align, aligned", "batched_nms, levels"):
            (task,) = (task for task in tasks if part in task.name)
            assert run(task)["failures"] == []

    def test_another_rule_is_found(self) -> None:
        """Half a pixel of offset moves every value."""

        class Aligned(HostKernels):
            def roi_align_cuda(self, params: interface.RoIAlignParams, *others: int) -> None:
                params.aligned = 1 - params.aligned
                super().roi_align_cuda(params, *others)

            def nms_cuda(self, params: interface.NMSParams, *_: int, **a: int) -> None:
                params.iou_threshold *= 0.99
                super().nms_cuda(params, **a)

        tasks = check_torchvision.torchvision_tasks(Bench(HostGpu(), Aligned()))
        chosen = [t for t in tasks if "roi_align, aligned" in t.name or "nms, levels" in t.name]
        assert all(run(task)["failures"] for task in chosen)
