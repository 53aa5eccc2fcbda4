"""From a float32 graph to one in FP16 or INT8, with the proof of what that costs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from mrcnn.export.precision import half, quantize, report, search
from mrcnn.export.precision.accuracy import Accuracy, Judge, alternate
from mrcnn.export.precision.calibrate import Calibration, OnPart, OnStep, calibrate
from mrcnn.export.precision.images import CalibrationImages, open_images
from mrcnn.export.precision.observers import OBSERVERS
from mrcnn.export.precision.options import PrecisionOptions
from mrcnn.files import atomic_path


@dataclass(frozen=True, kw_only=True)
class _Converted:
    """A graph in another precision.

    Attributes:
        facts: for the report.
        accuracy: where a search has measured just this graph.
    """

    model: onnx.ModelProto
    facts: Mapping[str, Any]
    accuracy: Accuracy | None = None


def convert(
    source: Path, target: Path, options: PrecisionOptions, *, on_step: OnStep, on_part: OnPart
) -> dict[str, Any]:
    """Writes `target` and beside it the report, as JSON and, where matplotlib is, as a plot.

    Args:
        source: a float32 ONNX file that `mrcnn export` wrote.
        on_step: called with a few words at the start of each of `options.steps`.
        on_part: called with a title, a count and a total within a step.

    Returns:
        the report, JSON-able.

    Raises:
        MrcnnError: the pictures or the weights are of no use, a cache is another's, or a file cannot be
            written. `target` is not there then.
    """
    with _pictures(options) as images:
        known = calibrate(source, images, options, on_step=on_step, on_part=on_part)
        judge = Judge(known.detections, images, on_progress=on_part)
        if options.precision == "fp16":
            converted = _to_fp16(known)
        else:
            converted = _to_int8(known, images, judge, options, target, on_step, on_part)
        with atomic_path(target) as temporary:
            onnx.save(converted.model, temporary)
            on_step("judging the result")
            after = converted.accuracy or judge.accuracy(temporary, title="pictures")
            before, after = _timed(source, temporary, images, judge.reference, after, options, on_part)
    found = {
        "precision": options.precision,
        "target": options.target if options.precision == "int8" else None,
        "images": len(images),
        "annotated": judge.is_annotated,
        "float32": before.to_dict(),
        "accuracy": after.to_dict(),
        "ap_drop": round(judge.drop(after), 4),
        "notes": _notes(options, images),
        **converted.facts,
    }
    return report.write(target, found)


@contextmanager
def _pictures(options: PrecisionOptions) -> Iterator[CalibrationImages]:
    if options.source is not None:
        yield open_images(options.source, folder=options.folder, limit=options.images)
        return
    from mrcnn.export.verify import draw_images

    with TemporaryDirectory(prefix="mrcnn-") as folder:
        draw_images(Path(folder))
        yield open_images(Path(folder), folder=None, limit=options.images)


def _notes(options: PrecisionOptions, images: CalibrationImages) -> list[str]:
    if options.source is None:
        return ["ranges come from drawn shapes: --calib DIR has them from your pictures"]
    return list(images.notes)


def _timed(
    source: Path,
    target: Path,
    images: CalibrationImages,
    before: Accuracy,
    after: Accuracy,
    options: PrecisionOptions,
    on_part: OnPart,
) -> tuple[Accuracy, Accuracy]:
    """With the times of both models in turn. A graph for a GPU has none: here its time says nothing."""
    if options.precision != "int8" or options.target != "cpu":
        return replace(before, milliseconds=None), replace(after, milliseconds=None)
    times = alternate([source, target], images, on_progress=on_part)
    return replace(before, milliseconds=times[0]), replace(after, milliseconds=times[1])


def _to_fp16(known: Calibration) -> _Converted:
    kept = _bad_for_half(known.view.model, known)
    return _Converted(model=half.to_half(known.view.model, keep=kept), facts={"kept_fp32": kept})


def _bad_for_half(model: onnx.ModelProto, known: Calibration) -> dict[str, str]:
    return half.out_of_range(model, {name: (s.low, s.high) for name, s in known.statistics.items()})


def _to_int8(
    known: Calibration,
    images: CalibrationImages,
    judge: Judge,
    options: PrecisionOptions,
    target: Path,
    on_step: OnStep,
    on_part: OnPart,
) -> _Converted:
    observe = OBSERVERS[options.observer]
    ranges = {
        name: observe(values, symmetric=options.target == "tensorrt")
        for name, values in known.statistics.items()
    }

    def variant(keep: frozenset[str]) -> quantize.Quantized:
        recipe = quantize.Recipe(target=options.target, ranges=ranges, keep=keep, statistics=known.statistics)
        return quantize.quantize(known.view, recipe)

    work = quantize.work(known.view, known.statistics, options.target)
    outcome = None
    if options.max_ap_drop is not None:
        on_step("searching for a mix of precisions")
        with TemporaryDirectory(prefix="mrcnn-") as folder:

            def measure(keep: frozenset[str], few: bool) -> Accuracy:
                path = Path(folder) / "variant.onnx"
                onnx.save(variant(keep).model, path)
                places = images.some(search.FEW) if few else None
                return judge.accuracy(path, places=places, title="groups returned" if not few else "gains")

            key = f"{known.key} {options.target} {options.observer}"
            notebook = search.Notebook(report.search_path(target), key)
            outcome = search.search(
                notebook.remembering(measure),
                judge.drop,
                work=work,
                limit=options.max_ap_drop,
                on_progress=on_part,
            )
    returned = frozenset(outcome.chosen.keep if outcome else ())
    chosen = variant(returned)
    model = chosen.model
    kept_fp32: dict[str, str] = {}
    if options.target == "tensorrt":
        kept_fp32 = _bad_for_half(model, known)
        model = half.to_half(model, keep=kept_fp32)
    unseen = {layer.group for layer in known.view.layers if layer.source not in known.statistics}
    facts: dict[str, Any] = {
        "unseen": sorted(unseen),
        "observer": options.observer,
        "layers_int8": list(chosen.layers),
        "layers_float": list(chosen.kept),
        "kept_fp32": kept_fp32,
        "int8_share": report.int8_share(work, returned),
    }
    if outcome is not None and options.max_ap_drop is not None:
        facts["search"] = report.search_facts(outcome, work, limit=options.max_ap_drop)
    # For TensorRT, what is not INT8 has become FP16 since.
    measured = outcome.chosen.accuracy if outcome and options.target == "cpu" else None
    return _Converted(model=model, facts=facts, accuracy=measured)
