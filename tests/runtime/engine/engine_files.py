"""Engines for the simulated TensorRT, and their sidecars, out of ONNX files."""

import hashlib
import json
from pathlib import Path
from typing import Any

import onnxruntime

from mrcnn.description import METADATA_KEY, Deployment
from mrcnn.sidecar import Profile, Sidecar, head_sha256, sidecar_path
from tests.runtime.engine.simulated_device import SimulatedDevice
from tests.runtime.engine.simulated_tensorrt import MAGIC, VERSION


def write_engine(
    path: Path,
    onnx: Path,
    *,
    profiles: tuple[Profile, ...],
    activations: int = 1000,
    plugins_embedded: bool = True,
    version: str = VERSION,
    built_profiles: tuple[Profile, ...] | None = None,
    prefix: bytes = b"",
    **sidecar: Any,
) -> Path:
    """Writes a plan around an ONNX file, and its sidecar.

    Args:
        built_profiles: of the plan, where the sidecar is to tell other ones.
        prefix: stands before the plan, which is none then.
        sidecar: fields of the sidecar that differ from what a build for the simulated GPU writes.
    """
    header = {
        "profiles": [[p.least, p.best, p.most] for p in built_profiles or profiles],
        "activations": activations,
        "version": version,
        "host_code": plugins_embedded,
        "plugins": not plugins_embedded,
    }
    plan = prefix + MAGIC + json.dumps(header).encode() + b"\n" + onnx.read_bytes()
    path.write_bytes(plan)
    fields: dict[str, Any] = {
        "deployment": sidecar.get("deployment") or deployment_of(onnx),
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
        "plan_head_sha256": head_sha256(plan),
        "plan_bytes": len(plan),
        "onnx_sha256": "",
        "inputs_sha256": "",
        "tensorrt": version,
        "gpu": SimulatedDevice.name,
        "capability": SimulatedDevice.capability,
        "plugins": "0.1.0",
        "profiles": profiles,
        "plugins_embedded": plugins_embedded,
    }
    sidecar_path(path).write_text(Sidecar(**fields | sidecar).to_json(), encoding="utf-8")
    return path


def deployment_of(onnx: Path) -> Deployment:
    """The metadata in an ONNX file."""
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    return Deployment.from_json(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
