"""`mrcnn infer`: overlays and COCO results of images, folders and videos."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mrcnn.errors import MrcnnError
from mrcnn.files import atomic_path, write_json, write_text
from mrcnn.report import document

if TYPE_CHECKING:
    from mrcnn.runtime.images import RgbArray
    from mrcnn.runtime.result import Detections
    from mrcnn.runtime.runtime import Runtime

EXAMPLES = """\
  mrcnn infer model.onnx photo.jpg --output found
  mrcnn infer model.engine photos/ --output found
  mrcnn infer model.onnx photos/ clip.mp4 --output found --score 0.7
  mrcnn infer model.onnx photos/ --output found --score 0 --no-overlay --json | jq '.images | length'

files in the output folder:
  photo.jpg, clip.mp4   the input with masks or key points, boxes and labels drawn over it
  detections.json       a COCO results file: pycocotools reads it with COCO("images.json").loadRes(...)
  images.json           which image_id is which file (or frame of a video), and the categories
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", type=Path, help="an exported model (.onnx, .engine)")
    add("inputs", metavar="IMAGE|FOLDER|VIDEO", nargs="+", type=Path, help="what to look at")
    add("--output", required=True, metavar="DIR", type=Path, help="folder for the results")
    add("--score", type=float, default=0.5, metavar="P", help="leave out what scores less (default: 0.5)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    add("--threads", type=int, metavar="N", help="CPU threads (default: one per core)")
    add("--no-overlay", action="store_true", help="write the JSON files only")
    add("--json", nargs="?", const="-", metavar="F", help="also write one JSON report (to standard output)")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from mrcnn.runtime.images import UnreadableError
    from mrcnn.runtime.runtime import Runtime

    failed: list[dict[str, str]] = []
    try:
        jobs = _jobs(args.inputs, args.output, failed)
        if not args.no_overlay:
            _protect_inputs(jobs)
    except (OSError, RuntimeError) as error:  # names that are too long, loops of links, no working folder
        raise MrcnnError(str(error)) from error
    # Of one named file the error itself is the answer; of a folder it is one of its files.
    alone = len(args.inputs) == len(jobs) == 1 and jobs[0].path == args.inputs[0] and not failed
    _silence_pillow()
    with Runtime(args.model, device=args.device, threads=args.threads, min_score=args.score) as runtime:
        results = _Results(runtime.class_names, failed)
        try:
            for job in tqdm(jobs, unit="file", disable=None, leave=False):
                try:
                    _process(runtime, job, None if args.no_overlay else job.overlay, results)
                except MrcnnError as error:
                    if alone and not (results.images and isinstance(error, UnreadableError)):
                        raise
                    _report(results.failed, job.path, error)
        finally:
            # Also after Ctrl-C: what was found until then is whole, and worth keeping.
            if results.images:
                results.write(args.output)
    if args.json is not None:
        write_json(args.json, document("infer", results.report(args.model)))
    if args.json != "-":
        print(results.summary(args.output))
    return 1 if results.failed else 0


class _Job(NamedTuple):
    """A file to process, and where its overlay goes."""

    path: Path
    overlay: Path
    is_video: bool


class _Results:
    """What was found so far, in the form in which it is written."""

    def __init__(self, class_names: Sequence[str], failed: list[dict[str, str]]) -> None:
        self.images: list[dict[str, Any]] = []
        self.detections: list[dict[str, Any]] = []
        self.failed = failed
        self._categories = [{"id": label, "name": name} for label, name in enumerate(class_names)][1:]

    def add(self, path: Path, found: "Detections", *, frame: int | None = None) -> None:
        height, width = found.image_size
        image_id = len(self.images) + 1
        image = {"id": image_id, "file_name": str(path), "width": width, "height": height}
        if frame is not None:
            image["frame"] = frame
        self.images.append(image)
        self.detections += found.to_coco(image_id)

    def write(self, folder: Path) -> None:
        """`images.json` is a COCO document without annotations, against which the results can be loaded."""
        images = {"info": {}, "images": self.images, "annotations": [], "categories": self._categories}
        write_text(folder / "images.json", json.dumps(images) + "\n")
        write_text(folder / "detections.json", json.dumps(self.detections) + "\n")

    def report(self, model: Path) -> dict[str, Any]:
        return {
            "model": str(model),
            "images": self.images,
            "categories": self._categories,
            "detections": self.detections,
            "failed": self.failed,
        }

    def summary(self, folder: Path) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        where = f": see {folder}" if self.images else ""
        return f"{len(self.detections)} objects in {len(self.images)} images{failed}{where}"


def _report(failed: list[dict[str, str]], path: Path, error: Exception) -> None:
    from tqdm import tqdm

    tqdm.write(f"mrcnn infer: {error}", file=sys.stderr)
    failed.append({"file": str(path), "error": str(error)})


def _process(runtime: "Runtime", job: _Job, overlay: Path | None, results: _Results) -> None:
    if job.is_video:
        _process_video(runtime, job.path, overlay, results)
        return
    from mrcnn.runtime.images import read_image
    from mrcnn.runtime.overlay import draw

    pixels = read_image(job.path)
    found = runtime.infer(pixels, color="rgb")
    results.add(job.path, found)  # what was found is true also where the overlay cannot be written
    if overlay is not None:
        _write_picture(overlay, draw(pixels, found, color="rgb"))


def _process_video(runtime: "Runtime", path: Path, overlay: Path | None, results: _Results) -> None:
    from contextlib import ExitStack

    from tqdm import tqdm

    from mrcnn.runtime.overlay import draw
    from mrcnn.runtime.video import Video, video_writer

    video = Video(path)
    with ExitStack() as stack:
        if overlay is not None:
            write = stack.enter_context(video_writer(overlay, frame_rate=video.frame_rate))
        frames = tqdm(video, path.name, video.frame_count, unit="frame", disable=None, leave=False)
        for number, frame in enumerate(frames):
            found = runtime.infer(frame)
            if overlay is not None:
                write(draw(frame, found))
            results.add(path, found, frame=number)


def _write_picture(path: Path, pixels: "RgbArray") -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, quality=92)


def _jobs(inputs: Sequence[Path], output: Path, failed: list[dict[str, str]]) -> list[_Job]:
    """The files behind the arguments, each with an overlay name of its own; closed folders go to `failed`.

    Raises:
        MrcnnError: a folder has nothing to look at.
    """
    from mrcnn.runtime.video import SUFFIXES as VIDEOS

    jobs: list[_Job] = []
    taken: set[Path] = set()
    for path, name in _files(inputs, output, failed):
        is_video = path.suffix.lower() in VIDEOS
        suffix = ".mp4" if is_video else ".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
        overlay, copies = name.with_suffix(suffix), 1
        while overlay in taken:
            copies += 1
            overlay = name.with_name(f"{name.stem}-{copies}{suffix}")
        taken.add(overlay)
        jobs.append(_Job(path, output / overlay, is_video))
    return jobs


def _protect_inputs(jobs: Sequence[_Job]) -> None:
    """Raises MrcnnError where an overlay would replace an input."""
    # Not Path.resolve, which raises where links lead in a circle.
    sources = {os.path.realpath(job.path) for job in jobs}
    for job in jobs:
        if os.path.realpath(job.overlay) in sources:
            raise MrcnnError(f"{job.overlay} would be overwritten: choose another folder for --output")


def _files(inputs: Sequence[Path], output: Path, failed: list[dict[str, str]]) -> Iterator[tuple[Path, Path]]:
    """Each file, with its path relative to the folder that was named.

    Where the output folder lies inside that one, what it holds is no input.
    """
    from mrcnn.runtime.images import SUFFIXES as IMAGES
    from mrcnn.runtime.video import SUFFIXES as VIDEOS

    for path in inputs:
        if not path.is_dir():
            yield path, Path(path.name)
            continue
        known = len(failed)

        def closed(error: OSError) -> None:
            line = MrcnnError(f"{error.filename}: {error.strerror}")
            _report(failed, Path(error.filename), line)

        found = [Path(folder, name) for folder, _, names in os.walk(path, onerror=closed) for name in names]
        files = [f for f in sorted(found) if f.suffix.lower() in IMAGES | VIDEOS and f.exists()]
        if path.resolve() in output.resolve().parents:
            files = [f for f in files if output.resolve() not in f.resolve().parents]
        if not files and len(failed) == known:
            raise MrcnnError(f"{path}: no images or videos in this folder")
        yield from ((file, file.relative_to(path)) for file in files)


def _silence_pillow() -> None:
    """Pillow warns about pictures that it then refuses; one line about each is enough."""
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\.")
