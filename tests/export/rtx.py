"""TensorRT for RTX in a process of its own, for tests."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest

from mrcnn.sidecar import Profile
from tests.conftest import REPOSITORY

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed; pip install '.[dev]' brings it on x86-64",
)


def build_each(model: onnx.ModelProto, folder: Path, *options: str) -> list[dict[str, Any]]:
    """The answers of `rtx_build.py` with these options, one for each `--gpu`."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tests" / "export" / "rtx_build.py", path, *options],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def build(model: onnx.ModelProto, folder: Path, *options: str) -> dict[str, Any]:
    """The answer for one GPU."""
    (answer,) = build_each(model, folder, *options)
    return answer


def profile_options(profiles: Sequence[Profile]) -> list[str]:
    """The profiles as options of `rtx_build.py`."""
    return [
        option
        for profile in profiles
        for option in (
            "--profile",
            *(",".join(map(str, shape)) for shape in (profile.least, profile.best, profile.most)),
        )
    ]
