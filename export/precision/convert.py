"""From a float32 graph to one in FP16 or INT8, with the proof of what that costs."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from mrcnn.description import METADATA_KEY, Deployment
from mrcnn.errors import MrcnnError
from mrcnn.export.precision import cache, half, quantize, report, search, statistics
from mrcnn.export.precision.accuracy import Accuracy, Judge
from mrcnn.export.precision.images import CalibrationImages, network_inputs, open_images
from mrcnn.export.precision.layers import GraphView, view
from mrcnn.export.precision.observers import OBSERVERS
from mrcnn.export.precision.options import PrecisionOptions
from mrcnn.export.precision.statistics import Statistics
from mrcnn.files import atomic_path

OnStep = Callable[[str], None]
OnPart = Callable[[str, int, int], None]

# Part of a cache's binding; counts up when statistics are collected in another way.
_SETTINGS = "1"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The float32 graph and the pictures, with what is known of the graph's values on them."""

    view: GraphView
    images: CalibrationImages
    statistics: Mapping[str, Statistics]
    key: str


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
        on_step("calibrating")
        known = _known(source, images, options, on_part)
        on_step("running float32")
        judge = Judge(source, images, on_progress=on_part)
        if options.precision == "fp16":
            converted, facts = _to_fp16(known)
        else:
            converted, facts = _to_int8(known, judge, options, target, on_step, on_part)
        with atomic_path(target) as temporary:
            onnx.save(converted, temporary)
            on_step("judging the result")
            accuracy = judge.accuracy(temporary, title="judging")
    found = _report(options, images, judge, accuracy) | facts
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


def _known(source: Path, images: CalibrationImages, options: PrecisionOptions, on_part: OnPart) -> Source:
    model = onnx.load(source)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in properties:
        raise MrcnnError(f"{source}: an ONNX model, but not one that `mrcnn export` wrote")
    deployment = Deployment.from_json(properties[METADATA_KEY])
    if deployment.precision != "fp32":
        raise MrcnnError(f"{source}: is in {deployment.precision} already: give the float32 file")
    seen = view(model)
    if images.dataset is not None:
        from mrcnn.evaluation import map_labels

        map_labels(deployment.description.class_names, images.dataset)  # refuses another model's data
    binding = {
        "weights": deployment.weights_sha256,
        "graph": hashlib.sha256(source.read_bytes()).hexdigest(),
        "images": images.digest,
        "settings": _SETTINGS,
    }
    use_cache = options.source is not None
    collected = None
    if use_cache and not options.recalibrate:
        collected = cache.load_cache(options.cache, binding)
    if collected is None:

        def feeds() -> Iterator[Any]:
            for done, feed in enumerate(network_inputs(source, images, range(len(images)))):
                on_part("pictures", done, len(images))
                yield feed

        collected = statistics.collect(seen, feeds())
        if use_cache:
            cache.save_cache(options.cache, collected, binding)
    key = hashlib.sha256(repr(sorted(binding.items())).encode()).hexdigest()
    return Source(view=seen, images=images, statistics=collected, key=key)


def _to_fp16(known: Source) -> tuple[onnx.ModelProto, dict[str, Any]]:
    kept = _bad_for_half(known.view.model, known)
    return half.to_half(known.view.model, keep=kept), {"kept_fp32": kept}


def _bad_for_half(model: onnx.ModelProto, known: Source) -> dict[str, str]:
    return half.out_of_range(model, {name: (s.low, s.high) for name, s in known.statistics.items()})


def _to_int8(
    known: Source, judge: Judge, options: PrecisionOptions, target: Path, on_step: OnStep, on_part: OnPart
) -> tuple[onnx.ModelProto, dict[str, Any]]:
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
                places = known.images.some(search.FEW) if few else None
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
    chosen = variant(frozenset(outcome.chosen.keep if outcome else ()))
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
        "int8_share": round(
            sum(
                share for group, share in work.items() if outcome is None or group not in outcome.chosen.keep
            ),
            4,
        ),
    }
    if outcome is not None and options.max_ap_drop is not None:
        facts["search"] = report.search_facts(outcome, work, limit=options.max_ap_drop)
    return model, facts


def _report(
    options: PrecisionOptions, images: CalibrationImages, judge: Judge, accuracy: Accuracy
) -> dict[str, Any]:
    notes = list(images.notes)
    if options.source is None:
        notes = ["ranges come from drawn shapes: --calib DIR has them from your pictures"]
    return {
        "precision": options.precision,
        "target": options.target if options.precision == "int8" else None,
        "images": len(images),
        "annotated": judge.is_annotated,
        "float32": judge.reference.to_dict(),
        "accuracy": accuracy.to_dict(),
        "ap_drop": round(judge.drop(accuracy), 4),
        "notes": notes,
    }
