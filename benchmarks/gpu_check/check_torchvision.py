"""RoIAlign and NMS against torchvision's CUDA operators: a program of others, on the same GPU."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrcnn.benchmarks.gpu_check import check_nms, check_roi_align
from mrcnn.benchmarks.gpu_check.compare import unequal_values
from mrcnn.benchmarks.gpu_check.device import Bench
from mrcnn.benchmarks.gpu_check.isolate import Record, Task
from mrcnn.benchmarks.gpu_check.nms_cases import NMSCase, inputs_of
from mrcnn.benchmarks.gpu_check.roi_align_cases import RoIAlignCase

# torchvision's CUDA code lets the compiler fuse where positions are computed, which moves them by up to
# 3e-5 of a pixel at 300; neighbouring features differ by up to 8.
POSITION_TOLERANCE = 5e-4


def torchvision_tasks(bench: Bench) -> Iterator[Task]:
    for case in _roi_align_cases():
        yield Task(
            name=f"torchvision's {case.name}",
            prepare=partial(check_roi_align.prepare, case, bench.kernels),
            run=partial(_check_roi_align, bench),
        )
    for nms_case in _nms_cases():
        yield Task(
            name=f"torchvision's batched_nms, {nms_case.name}",
            prepare=partial(_prepare_nms, nms_case),
            run=partial(_check_nms, bench),
        )


def _roi_align_cases() -> Iterator[RoIAlignCase]:
    # Inside, since a sample that rounding moves across the border counts as 0.
    base = RoIAlignCase(
        seed=60_000, batch=2, rois_per_image=1000, rois="inside", channels=16, image=(800, 1344)
    )
    yield replace(base, name="MultiScaleRoIAlign")
    yield replace(base, name="MultiScaleRoIAlign, adaptive", sampling_ratio=0, output_size=14, channels=4)
    yield replace(base, name="MultiScaleRoIAlign of float16", dtype="float16", layouts=("channels_last",) * 2)
    yield replace(base, name="roi_align, aligned", aligned=True, levels=1, channels=3)


def _check_roi_align(bench: Bench, prepared: check_roi_align.Prepared) -> Record:
    from torchvision.ops import MultiScaleRoIAlign, roi_align

    case = prepared.case
    run = check_roi_align.RoIAlignRun(bench, prepared)
    run.poison(0xFF)
    run.launch()
    ours = run.result(prepared)
    levels = [torch.from_numpy(_linear(level, case)).to(bench.gpu.place).float() for level in prepared.levels]
    boxes = list(torch.from_numpy(prepared.rois).to(bench.gpu.place))
    if case.aligned:
        theirs = roi_align(
            levels[0],
            boxes,
            output_size=case.output_size,
            spatial_scale=case.scales[0],
            sampling_ratio=case.sampling_ratio,
            aligned=True,
        )
    else:
        names = [str(i) for i in range(len(levels))]
        pool = MultiScaleRoIAlign(names, case.output_size, case.sampling_ratio)
        theirs = pool(dict(zip(names, levels, strict=True)), boxes, [case.image] * case.batch)
    expected = theirs.cpu().numpy().astype(case.dtype)
    line, worst = unequal_values(
        _linear(ours, case), expected, axes="roi channel y x", tolerance=POSITION_TOLERANCE
    )
    return {"failures": [] if line is None else [line], "case": case.words, "worst": worst}


def _linear(array: "NDArray[Any]", case: RoIAlignCase) -> "NDArray[Any]":
    """(N, C, H, W) of what lies in memory in one of the case's layouts, which here are alike."""
    if case.layouts[0] == "linear":
        return array
    return np.ascontiguousarray(np.moveaxis(array[..., : case.channels], -1, 1))


def _nms_cases() -> Iterator[NMSCase]:
    # Thresholds that float32 holds exactly, since torchvision compares in double precision on one device and
    # in single on the other.
    base = NMSCase(seed=61_000, boxes="clusters", max_output=2000)
    yield replace(base, name="levels", candidates=4819, groups="levels", iou_threshold=0.75)
    yield replace(base, name="classes", candidates=20_000, groups="classes")
    yield replace(base, name="many classes", candidates=91_000, groups="many classes", max_output=100_000)
    yield replace(base, name="one group", candidates=20_000, iou_threshold=0.25, boxes="random")


def _prepare_nms(case: NMSCase) -> check_nms.Prepared:
    """Boxes at whole pixels: areas are exact then, also after torchvision has moved each group elsewhere."""
    boxes, scores, group = inputs_of(case)
    corner = np.clip(np.round(boxes[..., :2]), 0, 1200)
    side = np.clip(np.round(boxes[..., 2:] - boxes[..., :2]), 1, 300)
    boxes = np.concatenate([corner, corner + side], axis=-1).astype(np.float32)
    empty = np.zeros((case.batch, case.max_output), np.int32)
    return check_nms.Prepared(case, boxes, scores, group, empty, np.zeros(case.batch, np.int32))


def _check_nms(bench: Bench, prepared: check_nms.Prepared) -> Record:
    from torchvision.ops import batched_nms

    case = prepared.case
    run = check_nms.NMSRun(bench, prepared)
    run.poison(0xFF)
    run.launch()
    result = run.result(prepared)
    boxes, scores, group = (
        torch.from_numpy(array[0]).to(bench.gpu.place)
        for array in (prepared.boxes, prepared.scores, prepared.group)
    )
    kept = batched_nms(boxes, scores, group, case.iou_threshold)[: case.max_output].cpu().numpy()
    indices = np.zeros((1, case.max_output), np.int32)
    indices[0, : len(kept)] = kept
    line = check_nms.judge(replace(prepared, indices=indices, count=np.array([len(kept)], np.int32)), result)
    return {"failures": [] if line is None else [line], "case": case.words}
