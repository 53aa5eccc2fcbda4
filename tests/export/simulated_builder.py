"""The building half of a stand-in for the module `tensorrt`: what it builds runs on the simulated GPU.

Names, arguments and refusals are those of TensorRT's Python API, as far as `mrcnn.export.engine` uses it;
NVIDIA's own builder is driven in test_engine.py. A "plan" holds the lowered graph, with the bodies of the
plugins put back, so that ONNX Runtime can stand in for the GPU. Nothing is optimised, and nothing is shown of
speed or rounding.
"""

import enum
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import onnx
from onnx import helper

from mrcnn.export import ops
from mrcnn.export.graph_builder import DOMAIN
from mrcnn.plugins import toolchain
from tests.runtime.engine.simulated_device import SimulatedDevice
from tests.runtime.engine.simulated_tensorrt import MAGIC, Runtime, SimulatedTensorrt

PLUGINS = "MrcnnRoIAlign MrcnnRoIPool MrcnnNMS"
CACHE = b"simulated timing cache: "


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1  # 0 in TensorRT 11


class BuilderFlag(enum.Enum):
    TF32 = 1
    REFIT = 2
    VERSION_COMPATIBLE = 3


class LayerType(enum.Enum):
    PLUGIN_V3 = 1
    OTHER = 2


class IProgressMonitor:
    def __init__(self) -> None:
        self.constructed = True


class SimulatedBuilding(SimulatedTensorrt):
    """The module.

    Attributes:
        configs: of all builds so far. `fail` has the kinds "parse" and "build" besides.
        steps: of the build's one phase.
    """

    NetworkDefinitionCreationFlag = NetworkDefinitionCreationFlag
    BuilderFlag = BuilderFlag
    LayerType = LayerType
    IProgressMonitor = IProgressMonitor
    MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
    ProfilingVerbosity = enum.Enum("ProfilingVerbosity", ["DETAILED"])
    HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS"])
    LayerInformationFormat = enum.Enum("LayerInformationFormat", ["JSON"])

    def __init__(self, device: SimulatedDevice, **options: Any) -> None:
        super().__init__(device, **options)
        self.configs: list[Config] = []
        self.steps = 5
        self.Builder = partial(Builder, self)
        self.OnnxParser = partial(OnnxParser, self)
        self.Runtime = partial(InspectingRuntime, self)


class InspectingRuntime(Runtime):
    """The full package's, whose engines can be inspected."""

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        engine = super().deserialize_cuda_engine(serialized_engine)
        if engine is not None:
            engine.create_engine_inspector = Inspector
        return engine


class Inspector:
    def get_engine_information(self, kind: enum.Enum) -> str:
        return json.dumps({"Layers": [kind.name]})


class Layer:
    def __init__(self, node: onnx.NodeProto, plugins: bool) -> None:
        self.name = node.name
        self.type = LayerType.PLUGIN_V3 if plugins and node.domain == DOMAIN else LayerType.OTHER


class Value:
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        self.name = value.name
        dims = value.type.tensor_type.shape.dim
        self.shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)


class Network:
    model: onnx.ModelProto
    layers: Sequence[Layer] = ()
    inputs: Sequence[Value] = ()

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    def get_input(self, index: int) -> Value:
        return self.inputs[index]


class ParserError:
    def __init__(self, node: int, name: str, text: str) -> None:
        self._node, self._name, self._text = node, name, text

    def node(self) -> int:
        return self._node

    def node_name(self) -> str:
        return self._name

    def desc(self) -> str:
        return self._text


class OnnxParser:
    def __init__(self, trt: SimulatedBuilding, network: Network, logger: Any) -> None:
        self.trt, self.network = trt, network
        trt.logger = trt.logger or logger
        self.errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> ParserError:
        return self.errors[index]

    def parse(self, model: bytes) -> bool:
        graph = onnx.load_model_from_string(model)
        assert not graph.functions, "TensorRT 10.3 would prefer a body to the plugin"
        if self.trt.fails("parse"):
            node = graph.graph.node[3]
            self.errors.append(ParserError(3, node.name, "Assertion failed: simulated refusal"))
            return False
        known = bool(self.trt.registry.creators)
        self.network.model = graph
        self.network.layers = [Layer(node, known) for node in graph.graph.node]
        self.network.inputs = [Value(value) for value in graph.graph.input]
        return True


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, name: str, least: Any, best: Any, most: Any) -> None:
        self.shapes[name] = [tuple(least), tuple(best), tuple(most)]


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class Config:
    progress_monitor: Any = None
    hardware_compatibility_level: Any = None
    plugins_to_serialize: Sequence[str] = ()
    builder_optimization_level = 3
    profiling_verbosity: Any = None

    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.limits: dict[Any, int] = {}
        self.profiles: list[Profile] = []
        self.cache: TimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.limits[pool] = size

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.content and not cache.content.startswith(CACHE) and not ignore_mismatch:
            return False
        self.cache = cache
        return True


class Builder:
    def __init__(self, trt: SimulatedBuilding, logger: Any) -> None:
        self.trt = trt
        trt.logger = trt.logger or logger

    def create_network(self, flags: int) -> Network:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return Network()

    def create_builder_config(self) -> Config:
        config = Config()
        self.trt.configs.append(config)
        return config

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, self.trt.steps)
        going = True
        for step in range(self.trt.steps):
            going = monitor.step_complete("Building", step)
            if not going:
                break
        monitor.phase_finish("Building")
        if not going or self.trt.fails("build"):
            self.trt.error("Internal Error (Could not find any implementation for node box/pooled)")
            return None
        if config.cache is not None:
            config.cache.content = config.cache.content or CACHE
            config.cache.content += b"|"
        shapes = [next(value.shape[:3] for value in network.inputs if value.name == "images")] * 3
        profiles = [[shape[:3] for shape in profile.shapes["images"]] for profile in config.profiles] or [
            shapes
        ]
        header = {
            "profiles": profiles,
            "activations": 1000,
            "version": self.trt.__version__,
            "host_code": bool(config.plugins_to_serialize) or BuilderFlag.VERSION_COMPATIBLE in config.flags,
            "plugins": not config.plugins_to_serialize,
        }
        return MAGIC + json.dumps(header).encode() + b"\n" + runnable(network.model).SerializeToString()


def runnable(lowered: onnx.ModelProto) -> onnx.ModelProto:
    """The lowered graph for ONNX Runtime: with the bodies of the plugins."""
    model = onnx.ModelProto()
    model.CopyFrom(lowered)
    pooled = next(node for node in model.graph.node if node.op_type == "MrcnnRoIAlign")
    attributes = {a.name: helper.get_attribute_value(a) for a in pooled.attribute}
    rule = {name: attributes[name] for name in ("spatial_scales", "canonical_size", "canonical_level")}
    pooling = ops.roi_align_function(aligned=bool(attributes["aligned"]), samples=None, **rule)
    model.functions.extend([pooling, ops.nms_function()])
    return model


def one_gpu(question: str, *_: Any) -> dict[str, Any]:
    """Stands in for `mrcnn.plugins.toolchain.probe`: the simulated GPU."""
    assert question == "gpus"
    gpu = {
        "name": SimulatedDevice.name,
        "capability": list(SimulatedDevice.capability),
        "memory_bytes": 1 << 30,
    }
    return {"installed": True, "cuda": [13, 0], "gpus": [gpu], "error": None}


def install(patch: Any, plugins: Any, *, eager: bool = False) -> SimulatedBuilding:
    """Gives this process a simulated GPU with TensorRT and our plugins.

    Args:
        patch: called with (object, name, value), as `setattr`, or pytest's `monkeypatch.setattr`.
        plugins: a path for what stands in for the plugin library.
    """
    import sys

    from mrcnn import __version__
    from mrcnn.export import build
    from mrcnn.runtime.engine import backend

    plugins.write_text(PLUGINS)
    device = SimulatedDevice(eager=eager, total=1 << 32)
    trt = SimulatedBuilding(device)
    sys.modules["tensorrt"] = trt  # type: ignore[assignment]
    for module in (build, backend):
        patch(module, "plugins_path", lambda: plugins)
        patch(module, "installed_plugins", lambda _: __version__)
    patch(toolchain, "probe", one_gpu)
    patch(backend, "_open_gpu", lambda: device)
    return trt
