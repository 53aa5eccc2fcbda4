"""The rules of detectron2 and mmdetection, exported: the graph finds what PyTorch finds.

That PyTorch finds what those codebases find is told by `test_detectron2.py` and `test_mmdetection.py`.
"""

from dataclasses import replace
from pathlib import Path

from mrcnn.benchmarks.agreement import Tolerances
from mrcnn.benchmarks.parity import measure_parity
from mrcnn.checkpoint import save_checkpoint
from mrcnn.description import AnchorRule, ProposalRule, ResizeRule
from mrcnn.export.to_onnx import InputRule, export_onnx
from tests.export.photographs import make_photographs
from tests.family.rows import checkpoint_of, small_description


def test_exact_anchors_and_half_pixels_are_exported(tmp_path: Path) -> None:
    """At 96 pixels the coarsest map has 2 rows: its stride is 64 here, and 48 in torchvision."""
    description = replace(
        small_description("maskrcnn_mobilenet_v2_fpn", aligned=True, sampling_ratio=0),
        anchors=AnchorRule(exact=True),
        resize=ResizeRule(min_size=96, max_size=160, rounding="nearest"),
        proposals=ProposalRule(pre_nms_top_n=200, post_nms_top_n=50, min_size=1e-6),
    )
    assert description.resize.output_size(131, 100) == (126, 96), "torchvision: 125.76 → 125"
    checkpoint = checkpoint_of(description)
    save_checkpoint(tmp_path / "c.pth", model=checkpoint.build(), description=description, training={})
    export_onnx(checkpoint, tmp_path / "m.onnx", inputs=InputRule(), on_step=lambda _: None)
    images = [
        *sorted(make_photographs(tmp_path / "wide", 2, size=(90, 160)).iterdir()),
        *sorted(make_photographs(tmp_path / "high", 1, size=(131, 100)).iterdir()),
    ]
    report = measure_parity(
        tmp_path / "m.onnx", reference=tmp_path / "c.pth", images=images, tolerances=Tolerances()
    )
    assert report["failures"] == []
    assert report["reference_detections"] > 5
