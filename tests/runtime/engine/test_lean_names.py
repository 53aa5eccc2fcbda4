"""The simulated TensorRT has the names and arguments of NVIDIA's, with which our logger and loader work.

The lean runtime is the real one as far as it goes without a GPU; `tests/plugins` says where it comes from.
"""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.plugins.test_tensorrt_lean import install
from tests.runtime.engine import simulated_tensorrt

VERSIONS = ("10.15.1.29", "11.4.0.106")

# NVIDIA's class → ours, and the properties that ours have as attributes.
CLASSES: dict[str, tuple[type, tuple[str, ...]]] = {
    "IExecutionContext": (simulated_tensorrt.Context, ()),
    "ICudaEngine": (
        simulated_tensorrt.Engine,
        ("device_memory_size_v2", "num_io_tensors", "num_optimization_profiles"),
    ),
    "Runtime": (simulated_tensorrt.Runtime, ("engine_host_code_allowed",)),
    "IPluginRegistry": (simulated_tensorrt.Registry, ()),
    "ILogger": (simulated_tensorrt.ILogger, ()),
}
ENUMS = {
    "DataType": simulated_tensorrt.DataType,
    "TensorIOMode": simulated_tensorrt.TensorIOMode,
    "ExecutionContextAllocationStrategy": simulated_tensorrt.ExecutionContextAllocationStrategy,
}

# Never makes a trt.Runtime, which would crash without a GPU.
PROGRAM = """
import json, sys
from pathlib import Path
import tensorrt_lean_bindings as trt
from mrcnn.errors import MissingRequirementError
from mrcnn.runtime.engine.tensorrt import error_log, load_plugins

asked = json.loads(sys.argv[1])
log = error_log(trt)
moment = log.now()
for severity in trt.ILogger.Severity.__members__.values():
    log.logger.log(severity, f"it says {severity.name}")
try:
    load_plugins(trt, Path("no_such_library.so"), version="1")
    refusal = None
except MissingRequirementError as error:
    refusal = str(error)
print(json.dumps({
    "version": trt.__version__,
    "classes": {name: {member: getattr(getattr(trt, name), member).__doc__ for member in members
                       if hasattr(getattr(trt, name), member)} for name, members in asked["classes"].items()},
    "enums": {name: list(getattr(trt, name).__members__) for name in asked["enums"]},
    "severities": list(trt.ILogger.Severity.__members__),
    "functions": [name for name in asked["functions"] if callable(getattr(trt, name))],
    "logged": log.now() - moment,
    "reason": log.reason(moment),
    "refusal": refusal,
}))
"""


def methods(cls: type) -> Iterator[tuple[str, list[str]]]:
    """(name, arguments) of what ours defines."""
    for name, value in vars(cls).items():
        if inspect.isfunction(value) and not name.startswith("_"):
            yield name, list(inspect.signature(value).parameters)[1:]


@pytest.fixture(scope="module", params=VERSIONS)
def answer(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What NVIDIA's module of that version has of what was asked."""
    asked = {
        "classes": {
            name: [*(method for method, _ in methods(cls)), *properties]
            for name, (cls, properties) in CLASSES.items()
        },
        "enums": list(ENUMS),
        "functions": ["get_plugin_registry", "Runtime"],
    }
    path = os.pathsep.join([str(install(request.param)), str(REPOSITORY)])
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert ran.returncode == 0, f"status {ran.returncode}: {ran.stderr[-4000:]}"
    document: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    assert document["version"] == request.param
    return document


@pytest.mark.parametrize("name", CLASSES)
def test_methods_and_arguments(answer: dict[str, Any], name: str) -> None:
    cls, properties = CLASSES[name]
    found = answer["classes"][name]
    assert set(properties) <= set(found)
    for method, arguments in methods(cls):
        assert method in found, method
        text = " ".join(found[method].split())
        for argument in arguments:
            assert f"{argument}: " in text, f"{method}({argument}): {text}"


def test_enums(answer: dict[str, Any]) -> None:
    for name, ours in ENUMS.items():
        assert set(ours.__members__) <= set(answer["enums"][name])
    assert set(simulated_tensorrt.Severity.__members__) == set(answer["severities"])


def test_functions(answer: dict[str, Any]) -> None:
    assert answer["functions"] == ["get_plugin_registry", "Runtime"]


def test_the_logger_is_one(answer: dict[str, Any]) -> None:
    """Derived from NVIDIA's class, and called through it."""
    assert answer["logged"] == 2
    assert answer["reason"] == "it says INTERNAL_ERROR"


def test_a_missing_library_is_a_line(answer: dict[str, Any]) -> None:
    assert answer["refusal"] == (
        f"no_such_library.so: TensorRT {answer['version']} does not find MrcnnRoIAlign, MrcnnRoIPool and "
        "MrcnnNMS in it: run python -m mrcnn.plugins.build"
    )


def test_what_the_runtime_uses_is_simulated() -> None:
    """A check of the check: the lists above are not empty."""
    names: Callable[[type], set[str]] = lambda cls: {name for name, _ in methods(cls)}  # noqa: E731
    assert {"execute_async_v3", "set_device_memory", "infer_shapes"} <= names(simulated_tensorrt.Context)
    assert {"create_execution_context", "get_tensor_profile_shape"} <= names(simulated_tensorrt.Engine)
    assert names(simulated_tensorrt.Runtime) == {"deserialize_cuda_engine"}
