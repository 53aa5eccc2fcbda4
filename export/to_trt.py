"""`mrcnn export`, also `python export/to_trt.py`: a checkpoint or an ONNX file becomes a TensorRT engine."""

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    # Run as a file, Python looks for modules beside it; the packages are found from the checkout instead.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from mrcnn.diagnosis.machine import importable
from mrcnn.errors import MissingRequirementError, MrcnnError, install_command, missing_package
from mrcnn.export import arguments, overrides
from mrcnn.export.outputs import Files
from mrcnn.export.progress import Progress
from mrcnn.files import write_json
from mrcnn.report import document

if TYPE_CHECKING:
    from mrcnn.description import Deployment
    from mrcnn.export.precision.images import CalibrationImages
    from mrcnn.export.precision.options import PrecisionOptions
    from mrcnn.export.profiles import SizeWishes
    from mrcnn.sidecar import Profile

EXAMPLES = """\
  mrcnn export ckpt.pth                                 ckpt/model.onnx and ckpt/model.engine, any image size
  mrcnn export ckpt.pth --shape 800x1344 --batch 1      one input size: the fastest engine
  mrcnn export ckpt.pth --bucket 800x1344 --bucket 1344x800       one for wide images, one for high ones
  mrcnn export ckpt.pth --precision fp16 --calib photos/
  mrcnn export ckpt.pth --precision int8 --calib val.json --max-ap-drop 0.5    what loses AP stays in FP16
  mrcnn export ckpt/model.onnx --precision int8 --target cpu --calib photos/   for ONNX Runtime, no engine
  mrcnn export ckpt.pth --onnx-only                     here; then, on the GPU machine, without PyTorch:
  mrcnn export ckpt/model.onnx --images photos/

files, beside each other:
  model.onnx               the graph, validated; runs on ONNX Runtime anywhere
  model.int8.onnx          what --precision makes of it (.fp16, .int8, .int8-cpu), with a .report.json
  model.engine             a plain TensorRT plan, for this GPU and this TensorRT
  model.engine.json        what it is: the runtime reads it first
  model.engine.timing      TensorRT's measurements, which make the next build shorter
  model.parity.*.json      what the engine finds, compared with the ONNX file and the checkpoint
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        type=Path,
        metavar="CKPT|ONNX",
        help="a checkpoint of ours, torchvision, detectron2 or mmdetection, or an ONNX file of this command",
    )
    parser.add_argument(
        "--output",
        type=arguments.named,
        metavar="DIR",
        help="folder to write to (default: CKPT's name here, or where ONNX is)",
    )
    parser.add_argument("--onnx-only", action="store_true", help="write model.onnx and stop there")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="F", help="write a report ('-': standard output)"
    )
    arguments.add_sizes(
        parser.add_argument_group("the network's input (height x width in pixels, multiples of 32)")
    )
    arguments.add_precision(parser.add_argument_group("precision"))
    arguments.add_engine(parser.add_argument_group("the engine"))
    check = parser.add_argument_group("the comparison with ONNX Runtime and PyTorch after the build")
    check.add_argument(
        "--images",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR|FILE",
        help="your own pictures, of which 16 are looked at",
    )
    check.add_argument("--no-verify", action="store_true", help="leave it out")
    overrides.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    wishes = arguments.wishes(args)
    from_checkpoint = _is_checkpoint(args.model)
    _refuse_vain_options(args, from_checkpoint=from_checkpoint)
    files = Files.of(args, from_checkpoint=from_checkpoint)
    precision = arguments.precision_options(args, cache=files.calibration)
    files.check(args)
    has_engine = files.has_engine(args)
    if from_checkpoint and not importable(["torch"]):
        raise missing_package(ModuleNotFoundError("torch", name="torch"))  # before anything is shown
    if not from_checkpoint:
        _need("onnx", *(() if args.no_verify and precision is None else ("scipy", "pycocotools")))
    built: dict[str, Any] = {}
    missing: MissingRequirementError | None = None
    steps = (4 if from_checkpoint else 1) + (0 if precision is None else precision.steps) + has_engine
    # Pictures that are no use are told before the work.
    with _pictures(precision) as images, Progress(steps) as progress:
        if from_checkpoint:
            exported = _export(args, files, wishes, progress)
        else:
            exported = _read_onnx(files.onnx, wishes, progress, builds=has_engine)
        if precision is not None and images is not None:
            exported = _convert(files, exported, precision, images, progress)
        if has_engine:
            try:
                built = _build(args, files, exported, progress)
            except MissingRequirementError as error:
                missing = error  # the ONNX file is there all the same, and is told of first
    report = exported.report | built
    if args.json != "-":
        _tell(report)
    if built and not args.no_verify:
        report |= _verify(args, files, exported)
    if missing:
        report |= {"engine": None, "missing": str(missing)}
    if args.json:
        write_json(args.json, document("export", report))
    if missing:
        raise missing
    if args.json != "-":
        path = shlex.quote(str(files.engine if has_engine else files.graph))
        print(f"next: mrcnn infer {path} PHOTO.jpg --output overlays")
    return 1 if report.get("equal") is False else 0


def _is_checkpoint(path: Path) -> bool:
    if path.suffix == ".engine":
        raise MrcnnError(
            f"{path}: an engine already: give the .onnx file or the checkpoint that it is made of"
        )
    return path.suffix != ".onnx"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an ONNX file is, and the inputs that an engine of it is to be made for."""

    deployment: "Deployment"
    profiles: "tuple[Profile, ...]"
    report: dict[str, Any]


def _export(args: argparse.Namespace, files: Files, wishes: "SizeWishes", progress: Progress) -> Exported:
    """The checkpoint's ONNX file."""
    progress.step("reading the checkpoint")  # PyTorch alone takes seconds to load
    from mrcnn.checkpoint import load_checkpoint
    from mrcnn.export.profiles import choose_profiles
    from mrcnn.export.to_onnx import InputRule, export_onnx

    inputs = InputRule(size=wishes.shape, batch=wishes.batch, dtype=args.input_dtype or "float32")
    checkpoint = load_checkpoint(args.model, config=args.config)
    checkpoint = replace(checkpoint, description=overrides.described(checkpoint.description, args))
    rule = checkpoint.description.resize
    profiles = choose_profiles(rule, size=inputs.size, batch=inputs.batch, wishes=wishes)
    deployment = export_onnx(checkpoint, files.onnx, inputs=inputs, on_step=progress.step)
    report = {
        "onnx": str(files.onnx),
        "architecture": deployment.description.architecture,
        "classes": deployment.description.num_classes - 1,
        "input": _input_words(deployment),
        "assumptions": list(checkpoint.assumptions),
        "weights_sha256": deployment.weights_sha256,
        "validated": True,
    }
    return Exported(deployment=deployment, profiles=profiles, report=report)


def _read_onnx(path: Path, wishes: "SizeWishes", progress: Progress, *, builds: bool) -> Exported:
    """An ONNX file that was exported elsewhere, after ONNX Runtime and ONNX's checker have read it."""
    import onnx

    from mrcnn.export.profiles import choose_profiles
    from mrcnn.runtime.backend_onnx import OnnxBackend

    progress.step("reading the graph")
    backend = OnnxBackend(path, device="cpu", threads=None)
    backend.close()
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise MrcnnError(f"{path}: not a valid ONNX graph: {' '.join(str(error).split())[:300]}") from error
    deployment = backend.deployment
    if deployment.quantized_for == "cpu" and builds:
        raise MrcnnError(
            f"{path}: is laid out for ONNX Runtime's INT8 kernels on a CPU, which TensorRT has not: convert "
            "the float32 file with --precision int8 --target tensorrt"
        )
    size = (deployment.height, deployment.width) if deployment.height and deployment.width else None
    rule = deployment.description.resize
    profiles = choose_profiles(rule, size=size, batch=deployment.batch, wishes=wishes)
    return Exported(deployment=deployment, profiles=profiles, report={"onnx": str(path)})


@contextmanager
def _pictures(options: "PrecisionOptions | None") -> "Iterator[CalibrationImages | None]":
    if options is None:
        yield None
        return
    from mrcnn.export.precision.convert import calibration_images

    with calibration_images(options) as images:
        yield images


def _convert(
    files: Files,
    exported: Exported,
    options: "PrecisionOptions",
    images: "CalibrationImages",
    progress: Progress,
) -> Exported:
    """The same in a lower precision."""
    from mrcnn.export.precision.convert import convert

    converted = convert(
        files.onnx, files.graph, options, images=images, on_step=progress.step, on_part=progress.part
    )
    target = options.target if options.precision == "int8" else None
    deployment = replace(exported.deployment, precision=options.precision, quantized_for=target)
    return replace(exported, deployment=deployment, report=exported.report | {"converted": converted})


def _build(args: argparse.Namespace, files: Files, exported: Exported, progress: Progress) -> dict[str, Any]:
    """Builds the engine; the report of it."""
    from mrcnn.export.build import build_engine, find_target
    from mrcnn.export.engine import EngineOptions
    from mrcnn.export.profiles import describe

    try:
        target = find_target()
    except MissingRequirementError as error:
        options = arguments.engine_options(args, exported.deployment)
        if args.output is not None and args.model.suffix == ".onnx":
            options += ["--output", str(args.output)]
        again = shlex.join(["mrcnn", "export", str(files.graph), *options])
        raise MissingRequirementError(
            f"{error}; {files.graph} is ready: on the GPU machine run: {again}"
        ) from error
    if not args.no_verify:
        _need("cuda.bindings")  # told now, not after minutes
    progress.step("building the engine, for minutes")
    built = build_engine(
        files.graph,
        files.engine,
        deployment=exported.deployment,
        profiles=exported.profiles,
        options=EngineOptions(
            workspace_mb=args.workspace,
            version_compatible=args.version_compatible,
            hardware_compatible=args.hardware_compatible,
            refit=args.refit,
            plugins=target.plugins if args.embed_plugins else None,
            level=args.effort,
            tf32=args.tf32,
        ),
        target=target,
        timing_cache=files.timing,
        layers=files.layers if args.inspect else None,
        force=args.force,
        on_progress=progress.part,
    )
    return {
        "engine": str(files.engine),
        "built": built,
        "inputs": describe(exported.profiles),
        "tensorrt": str(target.trt.__version__),
        "gpu": target.gpu,
    }


def _verify(args: argparse.Namespace, files: Files, exported: Exported) -> dict[str, Any]:
    from mrcnn.export.profiles import default_profiles
    from mrcnn.export.verify import verify

    rule, batch = exported.deployment.description.resize, exported.profiles[0].least[0]
    verdict = verify(
        files.engine,
        files.references,
        images=args.images,
        precision=exported.deployment.precision,
        # Of the default profiles the engine sees what PyTorch sees, and that is to be shown.
        same_input=exported.profiles != default_profiles(rule, batch=batch),
        quiet=args.json == "-",
        config=args.config,
    )
    if verdict.equal is None and args.json != "-":
        print("not compared: nothing is found in drawn shapes; give pictures of your own with --images")
    return {"parity": [str(path) for path in verdict.reports], "equal": verdict.equal}


def _tell(report: dict[str, Any]) -> None:
    """What was written."""
    from mrcnn.export.precision.report import lines

    if "architecture" in report:
        print(f"{report['architecture']}, {report['classes']} classes")
        for assumption in report["assumptions"]:
            print(f"assumed: {assumption}")
        size = Path(report["onnx"]).stat().st_size / 1e6
        print(f"wrote {report['onnx']} ({size:.0f} MB): {report['input']}, every stage equal to PyTorch's")
    for line in lines(report["converted"]) if "converted" in report else ():
        print(line)
    if "engine" in report:
        size = Path(report["engine"]).stat().st_size / 1e6
        done = "wrote" if report["built"] else "up to date (--force builds it again):"
        print(
            f"{done} {report['engine']} ({size:.0f} MB): {report['inputs']}, "
            f"TensorRT {report['tensorrt']}, {report['gpu']}"
        )


def _input_words(deployment: "Deployment") -> str:
    size = f"{deployment.height}x{deployment.width} pixels" if deployment.height else "any image size"
    batch = "any batch" if deployment.batch is None else f"batch {deployment.batch}"
    return f"{size}, {batch}"


def _need(*modules: str) -> None:
    """Raises MissingRequirementError for a package that building an engine needs, other than TensorRT."""
    for name in modules:
        if not importable([name]):
            package = {"cuda.bindings": "cuda-python"}.get(name, name)
            also = ", 'cuda-python>=12.9.1,<13' where CUDA is 12" if package != name else ""
            raise MissingRequirementError(
                f"the package {package} is not installed: {install_command('engine')}{also}"
            )


def _refuse_vain_options(args: argparse.Namespace, *, from_checkpoint: bool) -> None:
    """An option that would change nothing is a misunderstanding."""
    if not from_checkpoint:
        vain = overrides.given(args) + (["--input-dtype"] if args.input_dtype else [])
        if vain:
            raise MrcnnError(f"{vain[0]} is for checkpoints: in an ONNX file that is decided already")
        if args.onnx_only and args.precision == "fp32":
            raise MrcnnError(
                f"{args.model} is an ONNX file already: leave --onnx-only out to build an engine"
            )
        if not Files.has_engine(args) and (args.shape or args.batch):
            raise MrcnnError(
                f"{args.model}: --shape and --batch are for engines and checkpoints: in an ONNX file they "
                "are decided already"
            )
    if not Files.has_engine(args) and (vain := arguments.engine_options(args, None)):
        raise MrcnnError(f"{vain[0]} is for engines, but none is to be built here: leave it out")


if __name__ == "__main__":
    from mrcnn.cli import main

    sys.exit(main(["export", *sys.argv[1:]]))
