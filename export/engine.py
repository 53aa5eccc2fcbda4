"""A lowered graph becomes a TensorRT plan.

The same code builds with TensorRT 10.3 to 11: what a version does not have is looked for by name, never by
number, since enumerations moved between 10 and 11. Precision is in the graph (strongly typed networks),
because TensorRT 11 has no flags for it. `trt` is the module, `tensorrt`; TensorRT for RTX has the same
interface, and builds without a GPU, which the tests use.

Needs neither torch nor onnxscript.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import onnx

from mrcnn.errors import MrcnnError
from mrcnn.export.lower import plugin_nodes
from mrcnn.runtime.engine.tensorrt import error_log
from mrcnn.sidecar import Profile

# (title, steps done, steps in all) of the builder's innermost phase.
OnProgress = Callable[[str, int, int], None]


class EngineError(MrcnnError):
    """TensorRT refused the graph or could not build it; the message says which node, why and what to do."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How to build.

    Attributes:
        workspace_mb: most scratch memory of a layer, in 2^20 bytes; None: what the GPU has.
        version_compatible: the plan runs on later minor versions of this major one too, and in the lean
            runtime.
        hardware_compatible: it also runs on GPUs of other architectures from Ampere on, more slowly.
        refit: its weights can be exchanged; slower where layers cannot be merged.
        plugins: a library to carry inside the plan, so that nothing else needs to be installed.
        level: the builder's effort, 0 to 5; None: TensorRT's own.
        tf32: convolutions round their factors to 10 bits, as PyTorch's do on a GPU; several times as fast
            from Ampere on, and no longer exact.
    """

    workspace_mb: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    plugins: Path | None = None
    level: int | None = None
    tf32: bool = False


def build_plan(
    trt: Any,
    model: onnx.ModelProto,
    *,
    profiles: Sequence[Profile] = (),
    options: EngineOptions | None = None,
    timing_cache: bytearray | None = None,
    on_progress: OnProgress | None = None,
) -> bytes:
    """Builds the plan of a lowered model. Its plugins must be in TensorRT's registry already.

    Args:
        profiles: at least one where a dimension of the inputs is not fixed; none where all are.
        timing_cache: measurements of earlier builds (may be empty); replaced by those of this build.
        on_progress: called from TensorRT's threads while it builds.

    Raises:
        EngineError: it cannot be built.
        KeyboardInterrupt: Ctrl-C, within a step of the builder.
    """
    try:
        return _build(trt, model, profiles, options or EngineOptions(), timing_cache, on_progress)
    except (RuntimeError, TypeError, ValueError) as error:  # as its bindings complain
        raise EngineError(
            f"TensorRT {trt.__version__} fails: {' '.join(str(error).split())[:300]}"
        ) from error


def _build(
    trt: Any,
    model: onnx.ModelProto,
    profiles: Sequence[Profile],
    options: EngineOptions,
    timing_cache: bytearray | None,
    on_progress: OnProgress | None,
) -> bytes:
    log = error_log(trt)
    builder = trt.Builder(log.logger)
    network = builder.create_network(_strongly_typed(trt))
    _parse(trt, network, log.logger, model)
    config = builder.create_builder_config()
    _configure(trt, config, options)
    _add_profiles(builder, config, network, profiles)
    cache = None if timing_cache is None else _timing_cache(config, bytes(timing_cache))
    monitor = _monitor(trt, on_progress)
    config.progress_monitor = monitor
    moment = log.now()
    plan = _interruptible(lambda: builder.build_serialized_network(network, config), monitor)
    if plan is None:
        reason = log.reason(moment)
        reason += _remedy(reason, options)
        raise EngineError(f"TensorRT {trt.__version__} could not build the engine: {reason}")
    if cache is not None and timing_cache is not None:
        timing_cache[:] = bytes(cache.serialize())
    return bytes(plan)


def layer_information(trt: Any, plan: bytes, *, holds_code: bool) -> str:
    """What the engine inspector says of each layer, as JSON; needs the GPU and the plugins.

    Args:
        holds_code: the plan was built version-compatible or with plugins inside: its code may run.

    Raises:
        EngineError: TensorRT cannot load the plan.
    """
    log = error_log(trt)
    moment = log.now()
    runtime = trt.Runtime(log.logger)
    runtime.engine_host_code_allowed = holds_code
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"TensorRT {trt.__version__} cannot load what it built: {log.reason(moment)}")
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _timing_cache(config: Any, content: bytes) -> Any:
    """The measurements in `content`, or none where they are another GPU's, another TensorRT's, or damaged."""
    if not hasattr(config, "create_timing_cache"):
        return None
    for measured in (content, b""):
        try:
            cache = config.create_timing_cache(measured)
        except (RuntimeError, TypeError):
            continue
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


def _interruptible(build: Callable[[], Any], monitor: Any) -> Any:
    """Builds in a thread of its own: in one that waits for TensorRT, Python cannot raise Ctrl-C."""
    done: Future[Any] = Future()

    def work() -> None:
        try:
            done.set_result(build())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=work, name="mrcnn-build", daemon=True).start()
    interrupt: KeyboardInterrupt | None = None
    while not done.done():
        try:
            wait([done], timeout=0.1)
        except KeyboardInterrupt as error:
            interrupt, monitor.interrupted = error, True
    if interrupt is not None:
        raise interrupt
    return done.result()


def _strongly_typed(trt: Any) -> int:
    """The flags of a network whose types are those of the graph; TensorRT 11 knows no others."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(trt: Any, network: Any, logger: Any, model: onnx.ModelProto) -> None:
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        raise EngineError(_parser_error(trt, parser, model))
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    made = {layer.name for layer in layers if layer.type == trt.LayerType.PLUGIN_V3}
    missing = {name: op for name, op in plugin_nodes(model).items() if name not in made}
    for name, op in missing.items():
        raise EngineError(
            f"node {name!r} ({op}) did not become a plugin: load libmrcnn_plugins.so before the build"
        )


def _parser_error(trt: Any, parser: Any, model: onnx.ModelProto) -> str:
    """The first error of the parser as a line: which node, why, what to do."""
    if parser.num_errors == 0:
        return f"TensorRT {trt.__version__} cannot read the graph, and does not say why"
    error = parser.get_error(0)
    nodes: Mapping[str, str] = {node.name: node.op_type for node in model.graph.node}
    index = error.node()
    name = error.node_name() if hasattr(error, "node_name") else ""
    if not name and 0 <= index < len(model.graph.node):
        name = model.graph.node[index].name
    op = nodes.get(name, "")
    reason = " ".join(error.desc().split())
    remedy = "export it with this version of mrcnn again"
    if op in plugin_nodes(model).values():
        remedy = "load libmrcnn_plugins.so of this TensorRT's major version first: `mrcnn doctor`"
    return f"TensorRT {trt.__version__} cannot import node {name!r} ({op or 'unknown'}): {reason}; {remedy}"


def _configure(trt: Any, config: Any, options: EngineOptions) -> None:
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.plugins is not None:
        config.plugins_to_serialize = [str(options.plugins)]
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.level is not None:
        config.builder_optimization_level = options.level
    # Names of layers in the inspector's answers and in profiles; it costs nothing at run time.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED


def _add_profiles(builder: Any, config: Any, network: Any, profiles: Sequence[Profile]) -> None:
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    dynamic = any(size < 0 for value in inputs for size in value.shape)
    if dynamic and not profiles:
        raise EngineError(
            "the graph's input size is not fixed: name the sizes that the engine is to be made for"
        )
    for profile in profiles:
        sizes = (profile.least, profile.best, profile.most)
        made = builder.create_optimization_profile()
        for value in inputs:
            shapes = [(b, h, w, 3) if value.name == "images" else (b, 2) for b, h, w in sizes]
            if len(value.shape) != len(shapes[0]) or any(
                size not in (-1, s) for shape in shapes for size, s in zip(value.shape, shape, strict=True)
            ):
                raise EngineError(
                    f"the graph's input {value.name!r} has the fixed shape {tuple(value.shape)}, "
                    f"which a profile of {shapes[0]} to {shapes[2]} does not fit"
                )
            made.set_shape(value.name, *shapes)
        if config.add_optimization_profile(made) < 0:
            raise EngineError(f"TensorRT refuses the profile of {profile.least} to {profile.most}")


def _remedy(reason: str, options: EngineOptions) -> str:
    """What to do about it, where the reason is one that users meet."""
    text = reason.lower()
    if options.workspace_mb is not None and ("memory" in text or "could not find any implementation" in text):
        return f"; raise --workspace {options.workspace_mb}, or leave it out"
    if "memory" in text:
        return "; end other programs on the GPU, or choose smaller shapes"
    return ""


def _monitor(trt: Any, on_progress: OnProgress | None) -> Any:
    """Tells of TensorRT's progress, and stops it after Ctrl-C, which its own threads do not see."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, _parent: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def _tell(self, phase: str, done: int) -> None:
            if on_progress is not None:
                on_progress(phase, done, self._steps.get(phase, done))

    return Monitor()
