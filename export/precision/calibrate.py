"""The float32 model on the pictures: what lies between its layers, and what it finds.

Both come of one pass, since on a CPU it is the float32 model that takes the time.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from mrcnn.description import Deployment
from mrcnn.errors import MrcnnError
from mrcnn.export.metadata import read_deployment
from mrcnn.export.precision import cache
from mrcnn.export.precision.accuracy import detect
from mrcnn.export.precision.images import CalibrationImages
from mrcnn.export.precision.layers import GraphView, view
from mrcnn.export.precision.options import PrecisionOptions
from mrcnn.export.precision.statistics import Collector, Statistics, observed
from mrcnn.files import scratch_folder
from mrcnn.runtime import Detections
from mrcnn.runtime.backend_onnx import OnnxBackend
from mrcnn.runtime.jobs import Jobs

OnStep = Callable[[str], None]
OnPart = Callable[[str, int, int], None]

# Part of a cache's binding; counts up when statistics are collected in another way.
_SETTINGS = "1"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The float32 graph on the pictures.

    Attributes:
        view: the graph.
        statistics: of its values.
        detections: in each picture.
        notes: what a user should know, one line each.
        key: changes with the weights, the graph, the pictures and how statistics are collected.
    """

    view: GraphView
    statistics: Mapping[str, Statistics]
    detections: list[Detections]
    key: str
    notes: tuple[str, ...] = ()


def calibrate(
    source: Path, images: CalibrationImages, options: PrecisionOptions, *, on_step: OnStep, on_part: OnPart
) -> Calibration:
    """Runs the float32 model in `source` on the pictures.

    Statistics that `options.cache` has already are taken from there; new ones are left there, unless the
    pictures were drawn. A cache of something else is replaced, but one that the user has named is refused.

    Raises:
        MrcnnError: the file is no float32 model of this project, the weights or the annotations are of no
            use, or the cache is another's.
    """
    model = onnx.load(source)
    deployment = _checked(source, read_deployment(model), images)
    _name_nodes(model)
    seen = view(model)
    if not seen.layers:
        raise MrcnnError(f"{source}: no layer has constant weights that could be converted: export it again")
    binding = {
        "weights": deployment.weights_sha256,
        "graph": hashlib.sha256(source.read_bytes()).hexdigest(),
        "images": images.digest,
        "settings": _SETTINGS,
    }
    key = hashlib.sha256(repr(sorted(binding.items())).encode()).hexdigest()
    known, note = _cached(options, binding, _channels(seen))
    if known is not None:
        on_step("running float32")
        detections = detect(source, images, range(len(images)), title="pictures", on_progress=on_part)
    else:
        on_step("calibrating")
        known, detections = observe(seen, images, on_progress=on_part)
        if options.source is not None:
            cache.save_cache(options.cache, known, binding)
    return Calibration(view=seen, statistics=known, detections=detections, key=key, notes=note)


def _cached(
    options: PrecisionOptions, binding: Mapping[str, str], channels: Mapping[str, int | None]
) -> tuple[dict[str, Statistics] | None, tuple[str, ...]]:
    """Statistics from before, and what should be said of a cache that is not used."""
    if options.source is None or options.recalibrate:
        return None, ()
    try:
        return cache.load_cache(options.cache, binding, channels=channels), ()
    except cache.StaleCacheError as error:
        if options.is_own_cache:
            raise
        return None, (f"calibrated anew: {options.cache} was made from {error.origin}",)


def _channels(seen: GraphView) -> dict[str, int | None]:
    """The channels of each value that may be rounded; None of one that is read by no layer."""
    read = {layer.source: seen.channels(layer) for layer in seen.layers}
    return {name: read.get(name) for name in observed(seen)}


def _name_nodes(model: onnx.ModelProto) -> None:
    """Gives every node a name of its own, which other programs' graphs need not have."""
    names: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in names:
            node.name = f"{node.op_type}_{number}"
        names.add(node.name)


def observe(
    graph: GraphView, images: CalibrationImages, *, on_progress: OnPart
) -> tuple[dict[str, Statistics], list[Detections]]:
    """Statistics of the graph's values over the pictures, and the detections in each.

    The pictures go through the runtime's own pre- and post-processing. The detections are those of
    `Runtime.infer` but for rounding: ONNX Runtime fuses less where it is watched.

    Raises:
        MrcnnError: a weight or a value is not finite.
    """
    collector = Collector(graph)
    with scratch_folder() as folder:
        path = folder / "watched.onnx"
        onnx.save(collector.model, path)
        backend = _WatchedBackend(path, collector)
    jobs = Jobs(backend, min_score=0)
    detections: list[Detections] = []
    try:
        for place in range(len(images)):
            on_progress("pictures", place, len(images))
            detections += jobs.run([jobs.picture(place, images.read(place), "rgb")]).values()
    finally:
        backend.close()
    return collector.result(), detections


class _WatchedBackend(OnnxBackend):
    """Hands what a collector wants to see to it, and on what the model gives."""

    def __init__(self, path: Path, collector: Collector) -> None:
        super().__init__(path, device="cpu", threads=None)
        self._collector = collector

    def values(self, images: NDArray[Any], image_sizes: NDArray[Any]) -> dict[str, NDArray[Any]]:
        values = super().values(images, image_sizes)
        self._collector.add(values)
        return {name: value for name, value in values.items() if name not in self._collector.outputs}


def _checked(source: Path, deployment: Deployment | None, images: CalibrationImages) -> Deployment:
    if deployment is None:
        raise MrcnnError(f"{source}: an ONNX model, but not one that `mrcnn export` wrote")
    if deployment.precision != "fp32":
        raise MrcnnError(f"{source}: is in {deployment.precision} already: give the float32 file")
    if images.dataset is not None:
        from mrcnn.evaluation import map_labels

        map_labels(deployment.description.class_names, images.dataset)  # refuses another model's data
    return deployment
