"""Builds a model with TensorRT for RTX, through the project's own code.

A program of its own, because NVIDIA's parser ends the process where it meets a plugin.

Usage: rtx_build.py MODEL.onnx [--gpu SM89] [--profile B,H,W B,H,W B,H,W] [--interrupt]
Prints one line of JSON: the plan's size, the outputs' types, or the error.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import onnx
import tensorrt_rtx

from mrcnn.errors import MrcnnError
from mrcnn.export.engine import EngineOptions, Profile, build_plan


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--gpu", default="SM89")
    parser.add_argument("--profile", nargs=3, action="append", default=[])
    parser.add_argument("--interrupt", action="store_true")
    args = parser.parse_args()
    phases: list[str] = []

    def on_progress(phase: str, done: int, steps: int) -> None:
        assert 0 <= done <= max(steps, done)
        phases.append(phase)
        if args.interrupt and len(phases) > 100:
            raise KeyboardInterrupt

    sizes = [[tuple(map(int, size.split(","))) for size in profile] for profile in args.profile]
    try:
        plan = build_plan(
            for_gpu(args.gpu),
            onnx.load(args.model),
            profiles=[Profile(least=a, best=b, most=c) for a, b, c in sizes],
            options=EngineOptions(workspace_mb=1024, level=3),
            on_progress=on_progress,
        )
        answer: dict[str, Any] = {"bytes": len(plan), "phases": sorted(set(phases))}
    except MrcnnError as error:
        answer = {"error": str(error)}
    except KeyboardInterrupt:
        answer = {"interrupted": True}
    print(json.dumps(answer))
    return 0


def for_gpu(name: str) -> Any:
    """The module, building for a GPU that need not be there."""

    class Builder(tensorrt_rtx.Builder):
        def create_builder_config(self) -> Any:
            config = super().create_builder_config()
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(tensorrt_rtx.ComputeCapability, name), 0)
            return config

    class Module:
        def __getattr__(self, attribute: str) -> Any:
            return getattr(tensorrt_rtx, attribute)

    module = Module()
    module.Builder = Builder  # type: ignore[attr-defined]
    return module


if __name__ == "__main__":
    sys.exit(main())
