"""Several models on the same pictures: what each finds, how far it agrees with the first, and its time."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mrcnn.benchmarks.contention import OtherWork
from mrcnn.benchmarks.images import read_each
from mrcnn.benchmarks.latency import NOT_MEASURED
from mrcnn.benchmarks.matching import Floats
from mrcnn.benchmarks.programs import changed_rules, file_to_bitmaps, fixed_input
from mrcnn.benchmarks.timing import percentiles_ms, speedup, take_turns
from mrcnn.data.coco import CocoDataset
from mrcnn.data.sample import DetectionDataset
from mrcnn.evaluation import AveragePrecision, average_precision, map_labels, with_categories
from mrcnn.findings import Findings, findings_of
from mrcnn.opening import OpenModel, is_exported, open_model
from mrcnn.parity_ap import parity_ap
from mrcnn.runtime import read_image
from mrcnn.runtime.images import RgbArray

# A round is one picture, so that more would not be timed often enough to matter.
_TIMED_PICTURES = 8

# What average precision is measured of.
KINDS = ("box", "mask", "keypoint")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One that the models are run on.

    Attributes:
        pixels: reads it; raises MrcnnError where that cannot be done.
        file: the bytes of a picture file of it.
        index: its place in the dataset, if it comes from one.
    """

    name: str
    pixels: Callable[[], RgbArray]
    file: Callable[[], bytes]
    index: int | None = None


def pictures_of_files(paths: Sequence[Path]) -> list[Picture]:
    return [Picture(name=str(p), pixels=partial(read_image, p), file=p.read_bytes) for p in paths]


def pictures_of_data(data: DetectionDataset, indices: Sequence[int]) -> list[Picture]:
    """The images of a dataset; those that are no files become such in memory."""
    pictures = []
    for index in indices:
        pixels = partial(data.image, index)
        if isinstance(data, CocoDataset):
            path = data.image_path(index)
            pictures.append(Picture(name=str(path), pixels=pixels, file=path.read_bytes, index=index))
        else:
            file = partial(_as_png, pixels)
            pictures.append(Picture(name=f"image {index}", pixels=pixels, file=file, index=index))
    return pictures


def measure_models(
    paths: Sequence[Path],
    pictures: Sequence[Picture],
    *,
    data: DetectionDataset | None,
    repeats: int,
    warmup: int,
    threads: int,
    config: Path | None = None,
) -> dict[str, Any]:
    """Runs every model on every picture once, and times all of them in turn on a few; JSON-able.

    Args:
        paths: of checkpoints and exported models. The first is what the others are compared with.
        data: what the pictures come from, to measure average precision; None to leave that out.
        threads: CPU threads of each model.
        config: what the weights of the checkpoints do not tell; see `mrcnn.imports.given`.

    Raises:
        MrcnnError: a model cannot be used, its classes fit neither the data nor the first model, or no
            picture can be read.
    """
    with ExitStack() as stack:
        opened = [
            stack.enter_context(
                open_model(path, threads=threads, config=None if is_exported(path) else config)
            )
            for path in tqdm(paths, desc="opening", unit="model", leave=False, disable=None)
        ]
        contenders = [
            _contender(name, path, model, opened[0], data)
            for name, path, model in zip(short_names(paths), paths, opened, strict=True)
        ]
        seen = _run_all(contenders, pictures, data)
        programs = {str(i): file_to_bitmaps(model.predictor) for i, model in enumerate(opened)}
        with OtherWork() as other_work:
            seconds = take_turns(programs, seen.files, repeats=repeats, warmup=warmup, progress="timing")
    return {
        "images": len(seen.read),
        "timed_images": len(seen.files),
        "repeats": repeats,
        "warmup": warmup,
        "threads": threads,
        "models": _entries(contenders, seen, data, list(seconds.values())),
        "other_work_cores": other_work.cores,
        "not_measured": list(NOT_MEASURED),
        "notes": other_work.doubts(),
        "skipped": seen.skipped,
    }


def short_names(paths: Sequence[Path]) -> list[str]:
    """The ends of the paths, each as short as it takes to differ from the others."""
    return [_short_name(path, [other for other in paths if other != path]) for path in paths]


def _short_name(path: Path, others: Sequence[Path]) -> str:
    for count in range(1, len(path.parts)):
        end = path.parts[-count:]
        if all(other.parts[-count:] != end for other in others):
            return str(Path(*end))
    return str(path)


@dataclass(frozen=True, kw_only=True)
class _Contender:
    """A model with what it has found so far.

    Attributes:
        category_ids: the data's category of each of its labels, from `map_labels`; None without data.
        labels: the first model's label of each of its labels; None where they are the same.
        notes: what one should know of it, and what speaks against comparing it with the first; a line each.
        findings: per picture, with the first model's labels.
        results: COCO results of all pictures, with the data's categories.
    """

    name: str
    path: Path
    model: OpenModel
    category_ids: Sequence[int | None] | None
    labels: Sequence[int | None] | None
    notes: tuple[str, ...]
    findings: list[Findings] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Seen:
    """The pictures that could be read, the files of the first few, and those that could not be read."""

    read: list[Picture] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Labels:
    """A model's labels as if they were a dataset's categories."""

    class_names: tuple[str, ...]

    @property
    def category_ids(self) -> tuple[int, ...]:
        return tuple(range(len(self.class_names)))


def _contender(
    name: str, path: Path, model: OpenModel, first: OpenModel, data: DetectionDataset | None
) -> _Contender:
    own, category_ids, labels = model.description, None, None
    notes = list(model.assumptions)
    if data is not None:
        category_ids, assumptions = map_labels(own.class_names, data)
        notes += assumptions
    if model.weights_sha256 != first.weights_sha256:
        notes.append("has other weights than the first model")
    if changed := changed_rules(own, first.description):
        notes.append(f"has another {changed} than the first model")
    if own.class_names != first.description.class_names:
        of = "the first model"
        labels, assumptions = map_labels(own.class_names, _Labels(first.description.class_names), of=of)
        notes += assumptions
    if fixed := fixed_input(model.ranges):
        notes.append(f"its {fixed}")
    if model.quantized_for == "tensorrt" and path.suffix == ".onnx":
        notes.append("is laid out for TensorRT: its time on ONNX Runtime says nothing")
    if model.device != first.device:
        notes.append(f"runs on {model.device}, the first model on {first.device}")
    return _Contender(
        name=name, path=path, model=model, category_ids=category_ids, labels=labels, notes=tuple(notes)
    )


def _run_all(
    contenders: Sequence[_Contender], pictures: Sequence[Picture], data: DetectionDataset | None
) -> _Seen:
    """One pass for average precision and parity: each model sees each picture once."""
    seen = _Seen()
    read = read_each(
        pictures,
        lambda picture: picture.pixels(),
        seen.skipped,
        name=lambda picture: picture.name,
        progress="comparing",
    )
    for picture, pixels in read:
        for contender in contenders:
            found = contender.model.predictor.infer(pixels, color="rgb")
            contender.findings.append(_relabelled(findings_of(found), contender.labels))
            if data is not None and picture.index is not None and contender.category_ids is not None:
                results = found.to_coco(data.image_id(picture.index))
                contender.results.extend(with_categories(results, contender.category_ids))
        seen.read.append(picture)
        if len(seen.files) < _TIMED_PICTURES:
            seen.files.append(picture.file())
    return seen


def _relabelled(findings: Findings, labels: Sequence[int | None] | None) -> Findings:
    """With other labels; what has none is left out."""
    if labels is None:
        return findings
    new = [labels[label] for label in findings.labels.tolist()]
    kept = [index for index, label in enumerate(new) if label is not None]
    return Findings(
        boxes=findings.boxes[kept],
        scores=findings.scores[kept],
        labels=np.array([new[index] for index in kept], np.int64),
        rles=None if findings.rles is None else tuple(findings.rles[index] for index in kept),
        keypoints=None if findings.keypoints is None else findings.keypoints[kept],
    )


def _entries(
    contenders: Sequence[_Contender], seen: _Seen, data: DetectionDataset | None, seconds: Sequence[Floats]
) -> list[dict[str, Any]]:
    """The figures of each model; differences, parity and speed are against the first, its own included."""
    truth = None
    if data is not None:
        truth = data.ground_truth([picture.index for picture in seen.read if picture.index is not None])
    first = contenders[0]
    entries: list[dict[str, Any]] = []
    bar = tqdm(contenders, desc="scoring", unit="model", leave=False, disable=None)
    for contender, own_seconds in zip(bar, seconds, strict=True):
        average: dict[str, Any] = dict.fromkeys(KINDS)
        if truth is not None:
            scores = average_precision(truth, contender.results, description=contender.model.description)
            average = {kind: _plain(getattr(scores, kind)) for kind in KINDS}
        reference = entries[0] if entries else average
        both_masks = first.model.description.has_masks and contender.model.description.has_masks
        entries.append(
            {
                "name": contender.name,
                "model": str(contender.path),
                "precision": contender.model.precision,
                "device": contender.model.device,
                "size_mb": round(contender.path.stat().st_size / 1e6, 3),
                "detections": sum(map(len, contender.findings)),
                **average,
                **{f"{kind}_difference": _difference(average[kind], reference[kind]) for kind in KINDS},
                "parity_ap_box": parity_ap(first.findings, contender.findings, kind="bbox"),
                "parity_ap_mask": (
                    parity_ap(first.findings, contender.findings, kind="segm") if both_masks else None
                ),
                **percentiles_ms(own_seconds),
                **speedup(own_seconds, seconds[0]),
                "notes": list(contender.notes),
            }
        )
    return entries


def _plain(scores: AveragePrecision | None) -> dict[str, float | None] | None:
    return None if scores is None else asdict(scores)


def _difference(
    scores: dict[str, float | None] | None, reference: dict[str, float | None] | None
) -> float | None:
    """How much higher the AP is than the reference's."""
    own, others = (None if one is None else one["AP"] for one in (scores, reference))
    return None if own is None or others is None else own - others


def _as_png(pixels: Callable[[], RgbArray]) -> bytes:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels()).save(file, "PNG")
    return file.getvalue()
