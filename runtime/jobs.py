"""From images to detections in three steps, which may run in three threads: prepare, start, finish."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mrcnn.runtime.backend import Backend, Batch, Finished, Outputs, Pending
from mrcnn.runtime.images import ImageLike, to_rgb
from mrcnn.runtime.keypoints import decode_heatmaps
from mrcnn.runtime.preprocess import rescale_boxes
from mrcnn.runtime.result import Detections
from mrcnn.runtime.sizes import Size, check_sides, network_sizes, serving


class Picture(NamedTuple):
    """An image on its way: its place in the caller's list, its pixels, its sizes in the network.

    The pixels are (h, w, 3) uint8 RGB, or what the backend takes instead.
    """

    place: int
    pixels: Any
    resized: Size
    padded: Size


@dataclass
class Job:
    """Images that were submitted together, and what became of each.

    Attributes:
        alone: there is one image, whose detections or error are the job's.
        prepared, running: pictures that share a run, with what `Backend.prepare` and `start` gave for it.
        results: by the image's place; an error is that of its image, or of the run that it was in.
    """

    images: Sequence[ImageLike]
    color: str
    alone: bool = False
    prepared: list[tuple[list[Picture], Any]] = field(default_factory=list)
    running: list[tuple[list[Picture], Pending]] = field(default_factory=list)
    results: dict[int, Detections | Exception] = field(default_factory=dict)


class Jobs:
    """The three steps for one backend; without state of its own."""

    def __init__(self, backend: Backend, *, min_score: float) -> None:
        self._backend = backend
        self._min_score = min_score

    def picture(self, place: int, image: ImageLike, color: str) -> Picture:
        """Reads an image and finds its sizes.

        Raises:
            MrcnnError: it cannot be used.
        """
        pixels = self._backend.take(image, color=color)
        if pixels is None:
            pixels = to_rgb(image, color=color)
        check_sides(*pixels.shape[:2])  # a resize would refuse the whole run
        rule = self._backend.deployment.description.resize
        resized, padded = network_sizes(rule, self._backend.ranges, pixels.shape[:2])
        return Picture(place, pixels, resized, padded)

    def run(self, group: list[Picture]) -> dict[int, Detections]:
        """All three steps for pictures of one padded size: place → detections."""
        return self._detect(group, self._backend.start(self._prepare(group)).outputs())

    def prepare(self, job: Job) -> Job:
        """Reads and resizes; an image that cannot be used keeps its error, the others go on."""
        groups: defaultdict[Size, list[Picture]] = defaultdict(list)
        for place, image in enumerate(job.images):
            try:
                picture = self.picture(place, image, job.color)
            except Exception as error:  # also a bug is of one image alone
                job.results[place] = error
            else:
                groups[picture.padded].append(picture)
        job.images = ()
        for padded, pictures in groups.items():
            most = serving(self._backend.ranges, padded).most[0]
            for first in range(0, len(pictures), most):
                group = pictures[first : first + most]
                try:
                    job.prepared.append((group, self._prepare(group)))
                except Exception as error:
                    _fail(job, group, error)
        return job

    def start(self, job: Job) -> Job:
        """Starts the job's last run, after its others are done.

        A run holds one of the backend's few places until somebody takes its outputs. Were several of one job
        left to `finish`, jobs could wait for each other.
        """
        prepared, job.prepared = job.prepared, []
        for number, (group, inputs) in enumerate(prepared, start=1):
            try:
                run = self._backend.start(inputs)
                if number < len(prepared):
                    run = Finished(run.outputs())
            except Exception as error:
                _fail(job, group, error)
            else:
                job.running.append((group, run))
        return job

    def finish(self, job: Job) -> Detections | list[Detections | Exception]:
        """Waits for the network and gives per image its detections or its error."""
        # Not a loop over the list: whatever is raised, the job holds no run that was not taken, since an
        # exception keeps the job, and a run keeps its place.
        running, job.running = job.running[::-1], []
        try:
            while running:
                group, run = running.pop()
                try:
                    job.results.update(self._detect(group, run.outputs()))
                except Exception as error:
                    _fail(job, group, error)
        finally:
            running.clear()
        results = [job.results[place] for place in sorted(job.results)]
        if not job.alone:
            return results
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    def _prepare(self, group: list[Picture]) -> Any:
        padded = group[0].padded
        batch = Batch(
            images=[picture.pixels for picture in group],
            resized=[picture.resized for picture in group],
            padded=padded,
            rows=max(len(group), serving(self._backend.ranges, padded).least[0]),
        )
        return self._backend.prepare(batch)

    def _detect(self, group: list[Picture], outputs: Outputs) -> dict[int, Detections]:
        return {
            picture.place: self._detections({name: value[row] for name, value in outputs.items()}, picture)
            for row, picture in enumerate(group)
        }

    def _detections(self, row: dict[str, Any], picture: Picture) -> Detections:
        """The outputs for one image, without their padding, in pixels of that image."""
        size = picture.pixels.shape[:2]
        kept = row["scores"] >= self._min_score
        kept[row["num_detections"] :] = False
        deployment = self._backend.deployment
        rule = deployment.description.keypoints
        points = scores = None
        if rule is not None:
            points, scores = decode_heatmaps(
                row["keypoints"][kept], row["boxes"][kept], network_size=picture.resized, image_size=size
            )
        # Indexing with `kept` copies: what is returned does not keep the padded outputs alive.
        return Detections(
            boxes=rescale_boxes(row["boxes"][kept], network_size=picture.resized, image_size=size),
            scores=row["scores"][kept],
            labels=row["labels"][kept].astype(np.int64),
            class_names=deployment.description.class_names,
            image_size=size,
            mask_probs=row["masks"][kept] if deployment.mask_size is not None else None,
            keypoints=points,
            keypoint_scores=scores,
            keypoint_rule=rule,
        )


def _fail(job: Job, group: list[Picture], error: Exception) -> None:
    """The error is the result of each picture that was in the run."""
    job.results.update((picture.place, error) for picture in group)
