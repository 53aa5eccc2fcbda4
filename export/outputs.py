"""The files that `mrcnn export` writes, and what is known to be wrong with them before any work."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from mrcnn.errors import MrcnnError
from mrcnn.files import require_writable
from mrcnn.sidecar import sidecar_path


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where everything is.

    Attributes:
        model: what was given.
        onnx: the same, or what is made of a checkpoint.
        graph: the same, or what that is converted to; the engine is built of it.
        calibration: what is known of the values of `onnx` on pictures.
        timing, layers: TensorRT's measurements, and what it made of each layer.
        references: what the engine is compared with.
    """

    model: Path
    onnx: Path
    graph: Path
    calibration: Path
    engine: Path
    timing: Path
    layers: Path
    references: tuple[Path, ...]

    @classmethod
    def of(cls, args: argparse.Namespace, *, from_checkpoint: bool) -> "Files":
        """As the command line says."""
        model: Path = args.model
        folder: Path = args.output or (Path(model.stem) if from_checkpoint else model.parent)
        onnx = folder / "model.onnx" if from_checkpoint else model
        graph = onnx if args.precision == "fp32" else folder / f"{onnx.stem}.{_suffix(args)}.onnx"
        engine = folder / f"{graph.stem}.engine"
        return cls(
            model=model,
            onnx=onnx,
            graph=graph,
            calibration=args.calib_cache or folder / f"{onnx.stem}.calibration",
            engine=engine,
            timing=args.timing_cache or engine.with_name(engine.name + ".timing"),
            layers=engine.with_suffix(".layers.json"),
            # What a lower precision costs was measured when the graph was converted.
            references=(onnx, model) if from_checkpoint and graph == onnx else (graph,),
        )

    @staticmethod
    def has_engine(args: argparse.Namespace) -> bool:
        """Whether an engine is to be built."""
        return not args.onnx_only and args.target != "cpu"

    def check(self, args: argparse.Namespace) -> None:
        """Refuses what would fail after minutes, or overwrite something else.

        Raises:
            MrcnnError: a file cannot be written, two would be the same, or there are no pictures.
        """
        from mrcnn.runtime.images import image_files

        written = {} if self.onnx == self.model else {"the ONNX file": self.onnx}
        if self.graph != self.onnx:
            from mrcnn.export.precision import report
            from mrcnn.export.precision.cache import check_destination

            written |= {"the converted file": self.graph, "its report": report.report_path(self.graph)}
            if args.calib is not None:
                written["--calib-cache"] = self.calibration
                check_destination(self.calibration)
            if args.max_ap_drop is not None:
                written["the search"] = report.search_path(self.graph)
                written["its plot"] = report.plot_path(self.graph)
        if self.has_engine(args):
            written |= {"the engine": self.engine, "its description": sidecar_path(self.engine)}
            written |= {"--timing-cache": self.timing}
            if args.inspect:
                written["--inspect"] = self.layers
            if not args.no_verify:
                written |= {str(path): report_path(self.engine, path) for path in self.references}
                image_files(args.images)  # refuses what is not there, and folders without pictures
        if args.json and args.json != "-":
            written["--json"] = Path(args.json)
        seen = {os.path.realpath(self.model): "the model"}
        for source in (args.calib, *args.images):
            if source is not None and os.path.isfile(source):  # noqa: PTH113 - says no to long names
                seen[os.path.realpath(source)] = "what is read"
        for what, path in written.items():
            require_writable(path)
            place = os.path.realpath(path)
            if place in seen:
                raise MrcnnError(f"{what} and {seen[place]} would be one file, {path}: name another")
            if path.exists() and not path.is_file() and what != "--json":
                raise MrcnnError(f"{path}: not a regular file")
            seen[place] = what


def _suffix(args: argparse.Namespace) -> str:
    """What a converted file's name has before `.onnx`."""
    return f"{args.precision}-cpu" if args.target == "cpu" else str(args.precision)


def report_path(engine: Path, reference: Path) -> Path:
    """`model.engine` → `model.parity.onnx.json` or `model.parity.pytorch.json`."""
    kind = "onnx" if reference.suffix == ".onnx" else "pytorch"
    return engine.with_name(f"{engine.stem}.parity.{kind}.json")
