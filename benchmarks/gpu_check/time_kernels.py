"""The timed workloads: our kernels in each layout against torchvision's CUDA operators, and the floor.

The floor of a workload is the time in which the GPU copies as many bytes as must be read and written at
least: the pixels that samples lie between, once, the RoIs or candidates, and the output. The resize and
RoIPool are timed by files of their own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from mrcnn.benchmarks.gpu_check import workloads
from mrcnn.benchmarks.gpu_check.compare import unequal_kept, unequal_values
from mrcnn.benchmarks.gpu_check.device import Bench, Gpu
from mrcnn.benchmarks.gpu_check.isolate import Record, Task, one_line
from mrcnn.benchmarks.gpu_check.tables import REFERENCE
from mrcnn.benchmarks.gpu_check.time_resize import resize_time_tasks
from mrcnn.benchmarks.gpu_check.time_roi_pool import roi_pool_time_tasks
from mrcnn.benchmarks.gpu_check.timing import Contender, copy_bandwidth, measure, sets_needed
from mrcnn.benchmarks.gpu_check.workloads import Candidates
from mrcnn.plugins import interface
from mrcnn.plugins.kernels import Layout, roi_align_params

_SCALES = tuple(1 / stride for stride in workloads.STRIDES)
_LAYOUTS: dict[str, tuple[Layout, Layout]] = {
    "linear": ("linear", "linear"),
    "channels last to linear": ("channels_last", "linear"),
    "channels last": ("channels_last", "channels_last"),
}
# torchvision computes float16 RoIs' positions in float16, so that only float32 can be compared with it.
_TOLERANCE = 5e-4


@dataclass(frozen=True)
class NMSLoad:
    """Where candidates come from, given a seed, and what is asked of NMS."""

    make: Callable[[int], Candidates]
    iou_threshold: float
    score_threshold: float
    max_output: int

    def params(self, candidates: Candidates) -> interface.NMSParams:
        """The parameters of a call for one image."""
        thresholds = (self.iou_threshold, self.score_threshold)
        return interface.NMSParams(1, len(candidates.scores), self.max_output, *thresholds)


NMS_LOADS = {
    "NMS of the RPN, 4819 in 5 levels": NMSLoad(workloads.rpn_candidates, 0.7, -np.inf, 1000),
    "NMS of 91 classes, all of 91000": NMSLoad(
        partial(workloads.class_candidates, confident=False), 0.5, -1.0, 100
    ),
    "NMS of 91 classes, above 0.05": NMSLoad(
        partial(workloads.class_candidates, confident=True), 0.5, 0.05, 100
    ),
}


def time_tasks(bench: Bench, *, quick: bool) -> Iterator[Task]:
    """What tells most comes first."""
    rounds = 10 if quick else 60
    yield Task(name="copy", run=partial(_copy, bench))
    yield _roi_align_task(bench, torch.float16, 1000, 7, rounds)
    for name, load in NMS_LOADS.items():
        yield Task(name=name, run=partial(_time_nms, bench, load, rounds))
    yield from resize_time_tasks(bench, rounds=rounds, quick=quick)
    yield from roi_pool_time_tasks(bench, rounds=rounds)
    if not quick:
        yield _roi_align_task(bench, torch.float16, 100, 14, rounds)
        yield _roi_align_task(bench, torch.float32, 1000, 7, rounds)
        yield _roi_align_task(bench, torch.float32, 100, 14, rounds)
    for name, load in NMS_LOADS.items():
        yield Task(name=f"kernels of {name}", run=partial(_profile_nms, bench, load))


def _roi_align_task(bench: Bench, dtype: torch.dtype, count: int, size: int, rounds: int) -> Task:
    name = f"RoIAlign {str(dtype).removeprefix('torch.')} {count} RoIs, {size}x{size}"
    return Task(name=name, run=partial(_time_roi_align, bench, dtype, count, size, rounds))


def _copy(bench: Bench, _: object) -> Record:
    size = min(1 << 30, bench.gpu.facts()["memory_bytes"] // 8)
    copy_bandwidth(bench.gpu, size)  # the clocks rise
    return {"failures": [], "copy_bytes_per_s": copy_bandwidth(bench.gpu, size)}


# RoIAlign ------------------------------------------------------------------------------------------------


def _time_roi_align(
    bench: Bench, dtype: torch.dtype, count: int, size: int, rounds: int, _: object
) -> Record:
    from torchvision.ops import MultiScaleRoIAlign

    gpu = bench.gpu
    item = torch.empty(0, dtype=dtype).element_size()
    pixels = workloads.touched_pixels(workloads.proposals(count, 0), size, 2)
    floor_bytes = (pixels + count * size**2) * workloads.CHANNELS * item + count * 16
    sets = sets_needed(gpu, floor_bytes)
    inputs = [_RoIAlignSet(gpu, dtype, count, size, seed) for seed in range(sets)]
    names = [str(i) for i in range(len(workloads.STRIDES))]
    pool = MultiScaleRoIAlign(names, size, sampling_ratio=2)
    contenders = {
        name: Contender(partial(_call_roi_align, bench, inputs, name), capturable=True) for name in _LAYOUTS
    }
    contenders[REFERENCE] = Contender(partial(_call_torchvision_pool, pool, inputs), capturable=False)
    failures = _compare_roi_align(gpu, contenders, inputs[0])
    return {
        "failures": failures,
        "floor_bytes": floor_bytes,
        "sets": sets,
        "contenders": measure(gpu, contenders, sets=sets, rounds=rounds, reference=REFERENCE),
    }


class _RoIAlignSet:
    """Features in both layouts, RoIs, and an output of each layout, on the GPU."""

    def __init__(self, gpu: Gpu, dtype: torch.dtype, count: int, size: int, seed: int) -> None:
        generator = torch.Generator(gpu.place).manual_seed(seed)
        self.linear = [
            torch.randn(1, workloads.CHANNELS, *level, generator=generator, device=gpu.place, dtype=dtype)
            for level in workloads.level_sizes()
        ]
        self.channels_last = [level.permute(0, 2, 3, 1).contiguous() for level in self.linear]
        self.rois = torch.from_numpy(workloads.proposals(count, seed)).to(gpu.place)
        self.rois_of_type = self.rois.to(dtype)  # what torchvision wants
        shape = (count, workloads.CHANNELS, size, size)
        self.outputs = {name: torch.empty(shape, device=gpu.place, dtype=dtype) for name in _LAYOUTS}
        self.params = {name: self._params(layouts, size) for name, layouts in _LAYOUTS.items()}

    def _params(self, layouts: tuple[Layout, Layout], size: int) -> interface.RoIAlignParams:
        features = self.linear if layouts[0] == "linear" else self.channels_last
        return roi_align_params(
            shapes=[tuple(level.shape) for level in self.linear],
            rois_shape=(1, len(self.rois), 4),
            dtype=np.dtype(str(self.rois_of_type.dtype).removeprefix("torch.")),
            addresses=[level.data_ptr() for level in features],
            output_size=size,
            spatial_scales=_SCALES,
            sampling_ratio=2,
            aligned=False,
            mode="avg",
            canonical_size=224,
            canonical_level=4,
            feature_layout=layouts[0],
            output_layout=layouts[1],
        )


def _call_roi_align(bench: Bench, inputs: Sequence[_RoIAlignSet], name: str, number: int) -> None:
    one = inputs[number]
    addresses = one.rois.data_ptr(), one.outputs[name].data_ptr()
    bench.kernels.roi_align_cuda(one.params[name], *addresses, bench.gpu.stream())


def _call_torchvision_pool(
    pool: Callable[..., torch.Tensor], inputs: Sequence[_RoIAlignSet], number: int
) -> torch.Tensor:
    one = inputs[number]
    return pool({str(i): level for i, level in enumerate(one.linear)}, [one.rois_of_type], [workloads.IMAGE])


def _compare_roi_align(gpu: Gpu, contenders: dict[str, Contender], one: _RoIAlignSet) -> list[str]:
    """Lines, where the timed calls do not do the same: what is fast must be right."""
    for name in _LAYOUTS:
        one.outputs[name].fill_(float("nan"))
        contenders[name].call(0)
    gpu.synchronize()
    linear = one.outputs["linear"].cpu().numpy()
    count, channels, size, _ = linear.shape
    others = {
        "channels last to linear": one.outputs["channels last to linear"].cpu().numpy(),
        "channels last": np.moveaxis(
            one.outputs["channels last"].cpu().numpy().reshape(count, size, size, channels), -1, 1
        ),
    }
    if linear.dtype == np.float32:
        theirs = contenders[REFERENCE].call(0)
        assert isinstance(theirs, torch.Tensor)
        others[REFERENCE] = theirs.cpu().numpy()
    failures = []
    for name, values in others.items():
        line, _ = unequal_values(values, linear, axes="roi channel y x", tolerance=_TOLERANCE)
        failures += [] if line is None else [f"{name} against linear: {line}"]
    return failures


# NMS -----------------------------------------------------------------------------------------------------


def _time_nms(bench: Bench, load: NMSLoad, rounds: int, _: object) -> Record:
    first = load.make(0)
    params = load.params(first)
    input_bytes = first.boxes.nbytes + first.scores.nbytes + first.group.nbytes
    sets = sets_needed(bench.gpu, input_bytes + bench.kernels.nms_cuda_workspace(params))
    inputs = [_NMSSet(bench, load.make(seed), params) for seed in range(sets)]
    contenders = {
        "ours": Contender(partial(_call_nms, bench, params, inputs), capturable=True),
        REFERENCE: Contender(partial(_call_torchvision_nms, params, inputs), capturable=False),
    }
    return {
        "failures": _compare_nms(bench.gpu, contenders, inputs[0], load.max_output),
        "floor_bytes": input_bytes + 4 * load.max_output + 4,
        "sets": sets,
        "contenders": measure(bench.gpu, contenders, sets=sets, rounds=rounds, reference=REFERENCE),
    }


def _profile_nms(bench: Bench, load: NMSLoad, _: object) -> Record:
    """How the time divides among the kernels: what is worth to be made faster."""
    candidates = load.make(0)
    params = load.params(candidates)
    inputs = [_NMSSet(bench, candidates, params)]
    try:
        kernels = bench.gpu.kernel_times(lambda: _call_nms(bench, params, inputs, 0), repeats=10)
    except Exception as error:  # the profiler is a help, not a check
        return {"failures": [], "kernels": [], "note": one_line(error)}
    return {"failures": [], "kernels": kernels}


class _NMSSet:
    """Candidates, outputs and workspace on the GPU."""

    def __init__(self, bench: Bench, candidates: Candidates, params: interface.NMSParams) -> None:
        place = bench.gpu.place
        self.boxes = torch.from_numpy(candidates.boxes).to(place)
        self.scores = torch.from_numpy(candidates.scores).to(place)
        self.group = torch.from_numpy(candidates.group).to(place)
        self.indices = torch.empty(params.max_output, dtype=torch.int32, device=place)
        self.count = torch.empty(1, dtype=torch.int32, device=place)
        size = bench.kernels.nms_cuda_workspace(params)
        self.workspace = torch.empty(size, dtype=torch.uint8, device=place)


def _call_nms(bench: Bench, params: interface.NMSParams, inputs: Sequence[_NMSSet], number: int) -> None:
    one = inputs[number]
    bench.kernels.nms_cuda(
        params,
        boxes=one.boxes.data_ptr(),
        scores=one.scores.data_ptr(),
        group=one.group.data_ptr(),
        indices=one.indices.data_ptr(),
        count=one.count.data_ptr(),
        workspace=one.workspace.data_ptr(),
        workspace_bytes=one.workspace.numel(),
        stream=bench.gpu.stream(),
    )


def _call_torchvision_nms(
    params: interface.NMSParams, inputs: Sequence[_NMSSet], number: int
) -> torch.Tensor:
    """As torchvision's heads do it: threshold on scores where there is one, NMS, the best."""
    from torchvision.ops import batched_nms

    one = inputs[number]
    boxes, scores, group = one.boxes, one.scores, one.group
    if params.score_threshold == -np.inf:
        kept: torch.Tensor = batched_nms(boxes, scores, group, params.iou_threshold)
        return kept[: params.max_output]
    chosen = torch.where(scores > params.score_threshold)[0]
    kept = batched_nms(boxes[chosen], scores[chosen], group[chosen], params.iou_threshold)
    return chosen[kept[: params.max_output]]


def _compare_nms(gpu: Gpu, contenders: dict[str, Contender], one: _NMSSet, max_output: int) -> list[str]:
    """A line, where both do not keep the same boxes."""
    contenders["ours"].call(0)
    theirs = contenders[REFERENCE].call(0)
    assert isinstance(theirs, torch.Tensor)
    gpu.synchronize()
    expected = np.zeros((1, max_output), np.int32)
    expected[0, : len(theirs)] = theirs.cpu().numpy()
    line = unequal_kept(
        one.indices.cpu().numpy()[None], one.count.cpu().numpy(), expected, np.array([len(theirs)], np.int32)
    )
    return [] if line is None else [line]
