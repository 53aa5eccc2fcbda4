"""Peak memory of a program, measured in a process of its own that runs nothing else."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrcnn.description import Deployment
from mrcnn.errors import MrcnnError

_STATUS = Path("/proc/self/status")


def peak_rss_mb() -> float | None:
    """The largest resident memory of this process so far, in 10^6 bytes; None where there is no /proc.

    `getrusage` would not do: its figure survives `exec`, so that a process started by a large one begins
    with the size of that. The high-water mark in /proc belongs to the address space and starts anew.
    """
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    return None


def runtime_peak_rss_mb(model: Path, images: Sequence[Path], *, threads: int) -> float | None:
    """Of a process that loads the exported model and paints the masks of each image."""
    return _measure({"model": str(model), "images": [str(path) for path in images], "threads": threads})


def reference_peak_rss_mb(
    checkpoint: Path, deployment: Deployment, images: Sequence[Path], *, threads: int, config: Path | None
) -> float | None:
    """Of a process that loads the checkpoint in PyTorch and does the same."""
    return _measure(
        {
            "checkpoint": str(checkpoint),
            "config": None if config is None else str(config),
            "deployment": deployment.to_json(),
            "images": [str(path) for path in images],
            "threads": threads,
        }
    )


def _measure(task: Mapping[str, Any]) -> float | None:
    command = [sys.executable, "-m", __name__]
    result = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["killed, perhaps for lack of memory"])[-1]
        raise MrcnnError(f"measuring memory: the process ended with status {result.returncode}: {reason}")
    value = json.loads(result.stdout.splitlines()[-1])
    return None if value is None else float(value)


def _perform(task: Mapping[str, Any]) -> None:
    """What the measured process does. It imports only what its program needs."""
    from mrcnn.benchmarks import programs

    if "model" in task:
        from mrcnn.runtime import Runtime

        with Runtime(task["model"], threads=task["threads"]) as runtime:
            for image in task["images"]:
                programs.runtime_to_bitmaps(runtime, Path(image).read_bytes())
    else:
        import torch

        from mrcnn.checkpoint import load_checkpoint

        torch.set_num_threads(task["threads"])
        deployment = Deployment.from_json(task["deployment"])
        config = None if task["config"] is None else Path(task["config"])
        checkpoint = load_checkpoint(task["checkpoint"], config=config)
        predictor = programs.load_reference(checkpoint, deployment.description)
        for image in task["images"]:
            programs.pytorch_to_bitmaps(predictor, Path(image).read_bytes())


if __name__ == "__main__":
    _perform(json.load(sys.stdin))
    print(json.dumps(peak_rss_mb()))
