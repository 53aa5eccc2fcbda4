"""Builds a model with TensorRT for RTX, through the project's own code.

A program of its own, because NVIDIA's parser ends the process where it meets a plugin.

Usage: rtx_build.py MODEL.onnx [--gpu SM89]... [--profile B,H,W B,H,W B,H,W]... [--workspace MB] [--interrupt]
Prints a line of JSON for each GPU: the plan's size, the phases that progress was told of, and of the network
as it was parsed the types of its inputs and outputs and, for each kind of layer, the types of its results
with their number; or the error.
"""

import argparse
import json
import os
import signal
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import onnx
import tensorrt_rtx

from mrcnn.errors import MrcnnError
from mrcnn.export.engine import EngineOptions, build_plan
from mrcnn.sidecar import Profile


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--gpu", action="append")
    parser.add_argument("--profile", nargs=3, action="append", default=[])
    parser.add_argument("--workspace", type=int, default=1024)
    parser.add_argument("--interrupt", action="store_true")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background ignores it
    model = onnx.load(args.model)
    for gpu in args.gpu or ["SM89"]:
        print(json.dumps(answer(gpu, model, args)), flush=True)
    return 0


def answer(gpu: str, model: onnx.ModelProto, args: argparse.Namespace) -> dict[str, Any]:
    phases: list[str] = []

    def on_progress(phase: str, done: int, steps: int) -> None:
        assert 0 <= done <= max(steps, done)
        phases.append(phase)
        if args.interrupt and len(phases) > 100:
            os.kill(os.getpid(), signal.SIGINT)

    module = for_gpu(gpu)
    sizes = [[tuple(map(int, size.split(","))) for size in profile] for profile in args.profile]
    try:
        plan = build_plan(
            module,
            model,
            profiles=[Profile(least=a, best=b, most=c) for a, b, c in sizes],
            options=EngineOptions(workspace_mb=args.workspace, level=3),
            on_progress=on_progress,
        )
    except MrcnnError as error:
        return {"error": str(error)}
    except KeyboardInterrupt:
        return {"interrupted": True}
    return {"bytes": len(plan), "phases": sorted(set(phases)), **module.parsed}


def for_gpu(name: str) -> Any:
    """The module, building for a GPU that need not be there."""

    class Builder(tensorrt_rtx.Builder):
        def create_builder_config(self) -> Any:
            config = super().create_builder_config()
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(tensorrt_rtx.ComputeCapability, name), 0)
            return config

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            module.parsed = describe(network)
            return super().build_serialized_network(network, config)

    class Module:
        parsed: dict[str, Any]

        def __getattr__(self, attribute: str) -> Any:
            return getattr(tensorrt_rtx, attribute)

    module = Module()
    module.Builder = Builder  # type: ignore[attr-defined]
    return module


def describe(network: Any) -> dict[str, Any]:
    """The types in a network: {"inputs": {name: type}, "outputs": …, "layers": {kind: {type: number}}}."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    layers: dict[str, Counter[str]] = defaultdict(Counter)
    for layer in map(network.get_layer, range(network.num_layers)):
        layers[layer.type.name][layer.get_output(0).dtype.name] += 1
    return {
        "inputs": {value.name: value.dtype.name for value in inputs},
        "outputs": {value.name: value.dtype.name for value in outputs},
        "layers": layers,
    }


if __name__ == "__main__":
    sys.exit(main())
