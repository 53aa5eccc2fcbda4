"""The JSON of the commands that measure: their figures, and where they come from."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from mrcnn.errors import MrcnnError
from mrcnn.files import require_writable

SCHEMA_VERSION = 1

# Those whose version may change a result; only installed ones are reported.
_PACKAGES = (
    "mrcnn",
    "numpy",
    "opencv-python-headless",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnx",
    "torch",
    "torchvision",
    "pycocotools",
)


def document(kind: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """A report: `schema_version` and `kind`, then the `figures`, then the environment."""
    return {"schema_version": SCHEMA_VERSION, "kind": kind, **figures, **environment()}


def check_destination(path: Path) -> None:
    """Refuses, before the work, a file for a report that cannot be written, or that holds something else.

    Raises:
        MrcnnError: the line says which.
    """
    require_writable(path)
    try:
        if not path.is_file() or path.stat().st_size == 0:  # a pipe or a device takes everything
            return
        with path.open("rb") as file:
            start = file.read(200)
    except OSError as error:
        raise MrcnnError(f"{path}: {error.strerror or error}") from error
    if b'"schema_version"' not in start:
        raise MrcnnError(f"--json {path}: is there and no report, so it is not replaced: name another file")


def environment() -> dict[str, Any]:
    """What one must know to doubt or repeat a figure, JSON-able.

    `git_commit` ends in "-dirty" where files differ from the commit, and is None outside a checkout.
    """
    return {
        "machine": {
            "cpu": _cpu_model(),
            "cores": available_cores(),
            "memory_gb": _memory_gb(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git_commit": _git_commit(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def available_cores() -> int:
    """The cores that this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    # ARM kernels give no "model name", but name the board (a Jetson) as "Model".
    facts = dict(part.split(":", 1) for part in reversed(lines) if ":" in part)
    named = {key.strip().lower(): value.strip() for key, value in facts.items()}
    return named.get("model name") or named.get("model") or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    folder = Path(__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None  # installed, perhaps inside the checkout of something else
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
