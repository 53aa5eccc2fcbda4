"""The whole state of a run in one file, from which it continues bit for bit."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrcnn.description import ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.files import atomic_path
from mrcnn.training.options import TrainingOptions

_FORMAT = "mrcnn-training-state"

# Options that may differ when a run is resumed: they do not touch the steps already taken.
_FREE = ("iterations", "workers", "snapshot_every")


@dataclasses.dataclass
class RunState:
    """What changes while a run goes on.

    Attributes:
        iteration: optimiser steps done.
        history: one record per iteration and one per evaluation, as written to log.jsonl.
        best_ap: highest validation AP so far (mask AP where the model has masks), or None.
        seconds: training time so far.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    iteration: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_ap: float | None = None
    seconds: float = 0.0

    def save(self, path: Path, *, description: ModelDescription, options: TrainingOptions) -> None:
        """Writes the state, atomically."""
        document = {
            "format": _FORMAT,
            "description": description.to_dict(),
            "options": dataclasses.asdict(options),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "iteration": self.iteration,
            "history": self.history,
            "best_ap": self.best_ap,
            "seconds": self.seconds,
        }
        with atomic_path(path) as temporary:
            torch.save(document, temporary)

    def restore(self, path: Path, *, description: ModelDescription, options: TrainingOptions) -> None:
        """Takes the state from a file that `save` wrote in a run of the same model and options.

        Raises:
            MrcnnError: no such file, not such a file, or one of another model or of other options.
        """
        document = _read(path)
        if document["description"] != description.to_dict():
            raise MrcnnError(f"{path}: is of another model or other data; give the arguments of that run")
        for name, value in dataclasses.asdict(options).items():
            before = document["options"].get(name)
            if name not in _FREE and before != value:
                raise MrcnnError(
                    f"{path}: that run has {name} {_shown(before)}, this one {_shown(value)}: "
                    "give the same, or start anew without --resume"
                )
        self.model.load_state_dict(document["model"])
        self.optimizer.load_state_dict(document["optimizer"])
        self.scaler.load_state_dict(document["scaler"])
        self.iteration = document["iteration"]
        self.history = document["history"]
        self.best_ap = document["best_ap"]
        self.seconds = document["seconds"]


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MrcnnError(f"{path}: no such file; there is nothing to resume")
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise MrcnnError(f"{path}: is not a training state, or is damaged") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise MrcnnError(f"{path}: is not a training state of `mrcnn train`")
    return document
