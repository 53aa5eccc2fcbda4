"""An exported ONNX file becomes an engine with its sidecar, on the machine that it is for."""

import hashlib
import importlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from mrcnn.description import Deployment
from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.export.engine import EngineOptions, OnProgress, build_plan, layer_information
from mrcnn.export.lower import lower
from mrcnn.files import atomic_path, atomic_paths, read_regular, write_text
from mrcnn.plugins import toolchain
from mrcnn.plugins.kernels import plugins_path
from mrcnn.runtime.engine.checks import check_plan, installed_plugins, read_plan, read_sidecar
from mrcnn.runtime.engine.tensorrt import load_plugins, unload_plugins
from mrcnn.sidecar import Profile, Sidecar, head_sha256, sidecar_path

_LARGEST_CACHE = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Target:
    """The machine that builds: TensorRT's module, the GPU, and the plugins."""

    trt: Any
    gpu: str
    capability: tuple[int, int]
    plugins: Path
    plugins_version: str


def find_target() -> Target:
    """This machine.

    Raises:
        MissingRequirementError: it lacks TensorRT, a GPU, or the plugins; the line says which.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        raise MissingRequirementError(f"TensorRT is not installed here ({error})") from error
    except Exception as error:  # its libraries are missing, or are those of another CUDA
        reason = " ".join(str(error).split())
        raise MissingRequirementError(f"TensorRT is installed here and does not load ({reason})") from error
    if not hasattr(trt, "Builder"):
        raise MissingRequirementError("TensorRT is here, but not its builder")
    try:
        answer = toolchain.probe("gpus")
    except toolchain.ToolError as error:
        raise MissingRequirementError(f"the NVIDIA driver does not answer ({error})") from error
    if not answer.get("gpus"):
        reason = answer.get("error") or "the driver finds none"
        raise MissingRequirementError(f"there is no NVIDIA GPU here ({reason})")
    gpu = answer["gpus"][0]
    path = plugins_path()
    version = installed_plugins(path)
    if version is None:
        raise MissingRequirementError(
            "the TensorRT plugins are not built here: `mrcnn doctor` says what they need"
        )
    return Target(
        trt=trt,
        gpu=gpu["name"],
        capability=(gpu["capability"][0], gpu["capability"][1]),
        plugins=path,
        plugins_version=version,
    )


def build_engine(
    source: Path,
    engine: Path,
    *,
    deployment: Deployment,
    profiles: tuple[Profile, ...],
    options: EngineOptions,
    target: Target,
    timing_cache: Path | None = None,
    layers: Path | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> bool:
    """Builds `source` into `engine` and writes the sidecar, unless they are there already, from equal inputs.

    Args:
        source: an ONNX file that `mrcnn export` wrote; `deployment`: what it says of itself.
        timing_cache: measurements of earlier builds, used and updated.
        layers: gets what the engine inspector says.
        force: build in any case.

    Returns:
        whether it was built.

    Raises:
        EngineError: TensorRT refuses the graph.
        MrcnnError: a file cannot be read or written. Nothing is left half-written.
    """
    content = _read(source)
    onnx_sha256 = hashlib.sha256(content).hexdigest()
    inputs = _fingerprint(onnx_sha256, profiles, options, target)
    if not force and (layers is None or layers.is_file()) and is_current(engine, inputs):
        return False
    measured = _read_cache(timing_cache)
    handle = load_plugins(target.trt, target.plugins, version=deployment.plugin_version)
    try:
        plan = build_plan(
            target.trt,
            _lowered(content, source),
            profiles=profiles if deployment.height is None or deployment.batch is None else (),
            options=options,
            timing_cache=measured,
            on_progress=on_progress,
        )
    finally:
        if options.plugins is not None:  # the engine brings its own, also where it is inspected or verified
            unload_plugins(target.trt, handle)
    sidecar = Sidecar(
        deployment=deployment,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_head_sha256=head_sha256(plan),
        plan_bytes=len(plan),
        onnx_sha256=onnx_sha256,
        inputs_sha256=inputs,
        tensorrt=str(target.trt.__version__),
        gpu=target.gpu,
        capability=target.capability,
        plugins=target.plugins_version,
        profiles=profiles,
        plugins_embedded=options.plugins is not None,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        refit=options.refit,
    )
    with atomic_paths(engine, sidecar_path(engine)) as (plan_file, sidecar_file):
        plan_file.write_bytes(plan)
        sidecar_file.write_text(sidecar.to_json(), encoding="utf-8")
    if timing_cache is not None and measured:
        with atomic_path(timing_cache) as temporary:
            temporary.write_bytes(measured)
    if layers is not None:
        holds_code = options.version_compatible or options.plugins is not None
        write_text(layers, layer_information(target.trt, plan, holds_code=holds_code) + "\n")
    return True


def is_current(engine: Path, inputs_sha256: str) -> bool:
    """Whether the engine is there, whole, and built from these inputs."""
    with suppress(MrcnnError):
        sidecar = read_sidecar(engine)
        if sidecar.inputs_sha256 == inputs_sha256:
            check_plan(engine, sidecar)
            read_plan(engine, sidecar)
            return True
    return False


def _fingerprint(
    onnx_sha256: str, profiles: tuple[Profile, ...], options: EngineOptions, target: Target
) -> str:
    """Of all that decides what is built. A timing cache decides how long it takes."""
    inputs = {
        "onnx": onnx_sha256,
        "profiles": [asdict(profile) for profile in profiles],
        "options": {name: str(value) for name, value in asdict(options).items()},
        "tensorrt": str(target.trt.__version__),
        "gpu": [target.gpu, *target.capability],
        "plugins": hashlib.sha256(_read(target.plugins)).hexdigest(),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _lowered(content: bytes, source: Path) -> onnx.ModelProto:
    try:
        return lower(onnx.load_model_from_string(content))
    except (ValueError, KeyError, StopIteration) as error:
        raise MrcnnError(
            f"{source}: not a graph of this version of mrcnn: export it again ({error})"
        ) from error


def _read_cache(path: Path | None) -> bytearray | None:
    if path is None:
        return None
    try:
        return bytearray(read_regular(path, most_bytes=_LARGEST_CACHE))
    except FileNotFoundError:
        return bytearray()


def _read(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise MrcnnError(f"{source}: {error.strerror or error}") from error
