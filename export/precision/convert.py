"""From a float32 graph to one in FP16 or INT8, with the proof of what that costs."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from mrcnn.errors import MrcnnError
from mrcnn.export.precision import half, quantize, report, search
from mrcnn.export.precision.accuracy import MEANINGLESS, Accuracy, Judge, alternate
from mrcnn.export.precision.calibrate import Calibration, OnPart, OnStep, calibrate
from mrcnn.export.precision.images import CalibrationImages, open_images
from mrcnn.export.precision.observers import OBSERVERS
from mrcnn.export.precision.options import DEFAULT_IMAGES, PrecisionOptions
from mrcnn.files import atomic_paths, scratch_folder


@dataclass(frozen=True, kw_only=True)
class _Converted:
    """A graph in another precision.

    Attributes:
        facts: for the report.
        accuracy: where a search has measured just this graph.
        milliseconds: of a picture in float32 and in this precision, where a search has taken the time.
    """

    model: onnx.ModelProto
    facts: Mapping[str, Any]
    accuracy: Accuracy | None = None
    milliseconds: Sequence[float] | None = None


def convert(
    source: Path,
    target: Path,
    options: PrecisionOptions,
    *,
    images: CalibrationImages,
    on_step: OnStep,
    on_part: OnPart,
) -> dict[str, Any]:
    """Writes `target` and beside it the report, as JSON and, where matplotlib is, as a plot.

    Args:
        source: a float32 ONNX file that `mrcnn export` wrote.
        images: to calibrate on, from `calibration_images`.
        on_step: called with a few words at the start of each of `options.steps`.
        on_part: called with a title, a count and a total within a step.

    Returns:
        the report, JSON-able.

    Raises:
        MrcnnError: the pictures or the weights are of no use, a cache is another's, or a file cannot be
            written. `target` is not there then.
    """
    known = calibrate(source, images, options, on_step=on_step, on_part=on_part)
    judge = Judge(known.detections, images, on_progress=on_part)
    if options.max_ap_drop is not None and judge.is_annotated and judge.least < MEANINGLESS:
        raise MrcnnError(
            f"--calib {options.source}: float32 has an AP of {judge.least:.2f} there: of that nothing can be "
            "lost: name the data that the model is for, or a folder of pictures to keep to parity AP"
        )
    if options.precision == "fp16":
        converted = _to_fp16(known)
    else:
        converted = _Int8(source, known, images, judge, options, on_part).convert(target, on_step)
    with atomic_paths(target, report.report_path(target)) as (temporary, figures):
        onnx.save(converted.model, temporary)
        on_step("judging the result")
        after = converted.accuracy or judge.accuracy(temporary, title="pictures")
        times = converted.milliseconds
        # A graph for a GPU has no time of a CPU.
        if times is None and options.precision == "int8" and options.target == "cpu":
            times = alternate([source, temporary], images, on_progress=on_part)
        found = report.complete(target, _found(options, images, judge, converted, known, after, times))
        figures.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def _found(
    options: PrecisionOptions,
    images: CalibrationImages,
    judge: Judge,
    converted: _Converted,
    known: Calibration,
    after: Accuracy,
    times: Sequence[float] | None,
) -> dict[str, Any]:
    """The report, but for what is drawn of it."""
    return {
        "precision": options.precision,
        "target": options.target if options.precision == "int8" else None,
        "images": len(images),
        "annotated": judge.is_annotated,
        "float32": judge.reference.to_dict(),
        "accuracy": after.to_dict(),
        "milliseconds": None if times is None else [round(value, 2) for value in times],
        "ap_drop": round(judge.drop(after), 4),
        "notes": [*known.notes, *_notes(options, images, judge, converted)],
        **converted.facts,
    }


@contextmanager
def calibration_images(options: PrecisionOptions) -> Iterator[CalibrationImages]:
    """The pictures that the options name, or drawn ones.

    Raises:
        MrcnnError: there are none that are usable.
    """
    if options.source is not None:
        yield open_images(options.source, folder=options.folder, limit=options.images)
        return
    from mrcnn.export.verify import draw_images

    with scratch_folder() as folder:
        draw_images(folder)
        yield open_images(folder, folder=None, limit=options.images)


def _notes(
    options: PrecisionOptions, images: CalibrationImages, judge: Judge, converted: _Converted
) -> list[str]:
    if options.source is None:
        return ["ranges come from drawn shapes: --calib DIR has them from your pictures"]
    notes = [*images.notes, *judge.notes]
    limit = options.max_ap_drop
    if limit is not None and judge.is_annotated and len(images) < DEFAULT_IMAGES["int8"]:
        notes.append(
            f"on {len(images)} pictures AP moves by a point or so by chance: "
            f"{DEFAULT_IMAGES['int8']} or more are better"
        )
    if converted.facts.get("int8_share") == 0:
        notes.append("no layer is left in INT8: this is no faster than before; allow a larger --max-ap-drop")
    return notes


def _to_fp16(known: Calibration) -> _Converted:
    kept = _bad_for_half(known.view.model, known)
    return _Converted(model=half.to_half(known.view.model, keep=kept), facts={"kept_fp32": kept})


def _bad_for_half(model: onnx.ModelProto, known: Calibration) -> dict[str, str]:
    return half.out_of_range(model, {name: (s.low, s.high) for name, s in known.statistics.items()})


@dataclass(frozen=True)
class _Variant:
    """The graph with some groups in floating point, as it would be written."""

    model: onnx.ModelProto
    layers: tuple[str, ...]
    kept: tuple[str, ...]
    kept_fp32: Mapping[str, str]


class _Int8:
    """Makes INT8 of a float32 graph, with a search for the groups that stay floating point if asked."""

    def __init__(
        self,
        source: Path,
        known: Calibration,
        images: CalibrationImages,
        judge: Judge,
        options: PrecisionOptions,
        on_part: OnPart,
    ) -> None:
        self._source, self._known, self._images, self._judge = source, known, images, judge
        self._options, self._tell = options, on_part
        observe = OBSERVERS[options.observer]
        self._ranges = {
            name: observe(values, symmetric=options.target == "tensorrt")
            for name, values in known.statistics.items()
        }
        self._work = quantize.work(known.view, known.statistics, options.target)

    def convert(self, target: Path, on_step: OnStep) -> _Converted:
        view, statistics = self._known.view, self._known.statistics
        outcome, times = None, None
        if self._options.max_ap_drop is not None:
            on_step("searching for a mix of precisions")
            with scratch_folder() as folder:
                outcome = self._search(target, folder)
                if self._options.target == "cpu":
                    times = self._times(outcome, folder)
        returned = frozenset(outcome.chosen.keep if outcome else ())
        chosen = self._variant(returned)
        facts: dict[str, Any] = {
            "unseen": sorted({layer.group for layer in view.layers if layer.source not in statistics}),
            "observer": self._options.observer,
            "layers_int8": list(chosen.layers),
            "layers_float": list(chosen.kept),
            "kept_fp32": dict(chosen.kept_fp32),
            "int8_share": report.int8_share(self._work, returned),
        }
        milliseconds = None
        if outcome is not None and self._options.max_ap_drop is not None:
            limit = self._options.max_ap_drop
            facts["search"] = report.search_facts(outcome, self._work, times and times[1:], limit=limit)
            if times:
                milliseconds = [times[0], times[1 + outcome.steps.index(outcome.chosen)]]
        return _Converted(
            model=chosen.model,
            facts=facts,
            accuracy=outcome.chosen.accuracy if outcome else None,
            milliseconds=milliseconds,
        )

    def _variant(self, keep: frozenset[str]) -> _Variant:
        recipe = quantize.Recipe(
            target=self._options.target,
            ranges=self._ranges,
            keep=keep,
            statistics=self._known.statistics,
        )
        made = quantize.quantize(self._known.view, recipe)
        model, kept_fp32 = made.model, dict[str, str]()
        if self._options.target == "tensorrt":
            kept_fp32 = _bad_for_half(model, self._known)
            model = half.to_half(model, keep=kept_fp32)
        return _Variant(model, made.layers, made.kept, kept_fp32)

    def _search(self, target: Path, folder: Path) -> search.Outcome:
        def measure(keep: frozenset[str], few: bool, *, title: str) -> Accuracy:
            onnx.save(self._variant(keep).model, folder / "variant.onnx")
            places = self._images.some(search.FEW) if few else None
            return self._judge.accuracy(folder / "variant.onnx", places=places, title=title)

        # Loss is counted by the annotations, which are not in the key of the ranges.
        truth = hashlib.sha256(repr(self._images.truth()).encode()).hexdigest()
        key = f"{self._known.key} {self._options.target} {self._options.observer} {truth}"
        notebook = search.Notebook(report.search_path(target), key)
        if notebook.known:
            print(f"the search goes on after {notebook.known} measurements", file=sys.stderr)
        try:
            return search.search(
                notebook.remembering(measure),
                self._judge.drop,
                work=self._work,
                limit=self._options.max_ap_drop or 0.0,
            )
        except KeyboardInterrupt:
            kept = f"{notebook.known} measurements are kept: the same command goes on there"
            print(f"\n{kept}", file=sys.stderr)
            raise

    def _times(self, outcome: search.Outcome, folder: Path) -> list[float]:
        """Milliseconds of a picture in float32, and of each step's variant, all in turn."""
        paths = [folder / f"{number}.onnx" for number in range(len(outcome.steps))]
        for step, path in zip(outcome.steps, paths, strict=True):
            onnx.save(self._variant(frozenset(step.keep)).model, path)
        return alternate([self._source, *paths], self._images, on_progress=self._tell)
