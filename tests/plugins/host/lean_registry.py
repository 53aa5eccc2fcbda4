"""What NVIDIA's plugin registry does with our library; prints JSON. Runs in a process of its own.

Reads from stdin `{"library": path, "refused": {name: path, …}, "cases": [{"op": …, "fields": […]}, …]}`. A
field is `[name, type, values]` with a type of `trt.PluginFieldType`, and a string for CHAR.

`trt.Runtime` must never be made here: without a GPU it is an object around a null pointer.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt_lean_bindings as trt  # type: ignore[import-not-found]

DTYPES = {
    "FLOAT16": np.float16,
    "FLOAT32": np.float32,
    "FLOAT64": np.float64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
}


def field(name: str, kind: str, values: Any) -> Any:
    """A PluginField, as TensorRT's ONNX parser would fill it."""
    data = values.encode() if kind == "CHAR" else np.array(values, DTYPES[kind])
    return trt.PluginField(name, data, getattr(trt.PluginFieldType, kind))


def create(case: dict[str, Any], phase: Any) -> dict[str, Any]:
    """Makes a plugin; says what it is, or what it said on stderr when it was refused."""
    creator = trt.get_plugin_registry().get_creator(case["op"], "1", "mrcnn")
    fields = [field(*given) for given in case["fields"]]
    collection = trt.PluginFieldCollection(fields)
    with tempfile.TemporaryFile() as said:
        ours = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            plugin = creator.create_plugin("layer", collection, phase)
        finally:
            os.dup2(ours, 2)
            os.close(ours)
        said.seek(0)
        stderr = said.read().decode(errors="replace")
    return {"stderr": stderr, "plugin": None if plugin is None else describe(plugin)}


def describe(plugin: Any) -> dict[str, Any]:
    """What the bindings can reach of a plugin; the interfaces live as long as `plugin`."""
    core, build, runtime = (
        plugin.get_capability_interface(getattr(trt.PluginCapabilityType, kind))
        for kind in ("CORE", "BUILD", "RUNTIME")
    )
    return {
        "kinds": [interface.interface_info.kind for interface in (plugin, core, build, runtime)],
        "identity": [core.plugin_name, core.plugin_version, core.plugin_namespace],
        "num_outputs": build.num_outputs,
        "timing_cache_id": build.timing_cache_id,
        "format_combination_limit": build.format_combination_limit,
    }


def creators() -> dict[str, Any]:
    """Our creators, as the registry lists them."""
    ours = [c for c in trt.get_plugin_registry().all_creators if c.plugin_namespace == "mrcnn"]
    return {
        c.name: {
            "version": c.plugin_version,
            "kind": c.interface_info.kind,
            "fields": [[f.name, f.type.name, f.size] for f in c.field_names],
        }
        for c in ours
    }


def found(registry: Any, *key: str) -> bool:
    return registry.get_creator(*key) is not None


def main() -> None:
    request = json.load(sys.stdin)
    library = request["library"]
    registry = trt.get_plugin_registry()
    report: dict[str, Any] = {"version": trt.__version__}
    report["refused"] = {
        name: registry.load_library(path) is None for name, path in request["refused"].items()
    }
    handle = registry.load_library(library)
    report["loaded"] = handle is not None
    report["creators"] = creators()
    report["found"] = {
        op: {
            "right": found(registry, op, "1", "mrcnn"),
            "other version": found(registry, op, "2", "mrcnn"),
            "no namespace": found(registry, op, "1", ""),
            "other name": found(registry, op.lower(), "1", "mrcnn"),
        }
        for op in ("MrcnnRoIAlign", "MrcnnRoIPool", "MrcnnNMS")
    }
    report["loaded_twice"] = registry.load_library(library) is not None
    for phase in ("BUILD", "RUNTIME"):
        report[phase] = [create(case, getattr(trt.TensorRTPhase, phase)) for case in request["cases"]]
    registry.deregister_library(handle)
    report["creators_after_deregister"] = list(creators())
    report["mapped_after_deregister"] = library in Path("/proc/self/maps").read_text(encoding="utf-8")
    report["reloaded"] = registry.load_library(library) is not None
    report["creators_after_reload"] = creators()
    report["after_reload"] = create(request["cases"][0], trt.TensorRTPhase.BUILD)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
