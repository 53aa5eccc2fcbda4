"""The whole state of a run in one file, from which it continues bit for bit."""

import dataclasses
import pickle
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrcnn.description import ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.files import atomic_path
from mrcnn.training.options import TrainingOptions
from mrcnn.training.sampling import Sampling

_FORMAT = "mrcnn-training-state"

# How runs drew their samples before there were recipes.
_FORMERLY = {"recipe": "fpn", "sampling": dataclasses.asdict(Sampling())}

# Options without an argument of their own: they come with the recipe.
_BY_RECIPE = {field.name for field in dataclasses.fields(Sampling)} - {"rois_per_image"}

# Options that may differ when a run is resumed: they do not touch the steps already taken. Of a recipe only
# the numbers count.
_FREE = ("iterations", "workers", "snapshot_every", "recipe")

_KINDS: dict[str, type | types.UnionType] = {
    "description": dict,
    "options": dict,
    "model": dict,
    "optimizer": dict,
    "scaler": dict,
    "iteration": int,
    "history": list,
    "best_ap": float | None,
    "seconds": float,
}


@dataclasses.dataclass
class RunState:
    """What changes while a run goes on.

    Attributes:
        iteration: optimiser steps done.
        history: one record per iteration and one per evaluation, as written to log.jsonl.
        best_ap: highest validation AP so far (of masks or key points where the model has them), or None.
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
        missing = [key for key, kind in _KINDS.items() if not isinstance(document.get(key), kind)]
        if missing:
            raise MrcnnError(f"{path}: is damaged: {', '.join(missing)} missing or of another type")
        if document["description"] != description.to_dict():
            raise MrcnnError(f"{path}: is of another model or other data; give the arguments of that run")
        before, now = _flat({**_FORMERLY, **document["options"]}), _flat(dataclasses.asdict(options))
        if lacking := [name for name in now if name not in before]:
            raise MrcnnError(f"{path}: is damaged: its options lack {', '.join(lacking)}")
        other = [name for name in now if name not in _FREE and before[name] != now[name]]
        if other:
            differences = ", ".join(
                f"{name} {_shown(before[name])}, not {_shown(now[name])}" for name in other
            )
            given = " ".join(dict.fromkeys(_argument(name, before) for name in other))
            raise MrcnnError(
                f"{path}: that run has {differences}: give {given}, or start anew in another --output"
            )
        try:
            self.model.load_state_dict(document["model"])
            self.optimizer.load_state_dict(document["optimizer"])
            self.scaler.load_state_dict(document["scaler"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise MrcnnError(f"{path}: is damaged: its weights or optimiser do not fit the model") from error
        self.iteration = document["iteration"]
        self.history = document["history"]
        self.best_ap = document["best_ap"]
        self.seconds = document["seconds"]


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with those of the sampling beside them, as they were stored before there were recipes."""
    sampling = options["sampling"]
    rest = {name: value for name, value in options.items() if name != "sampling"}
    return {**sampling, **rest} if isinstance(sampling, dict) else rest


def _argument(name: str, before: Mapping[str, Any]) -> str:
    """What to give on the command line so that `name` is as before."""
    if name == "amp":
        return "--amp" if before["amp"] else "no --amp"
    if name in _BY_RECIPE:
        name = "recipe"
    option = "lr" if name == "learning_rate" else name.replace("_", "-")
    return f"--{option} {_shown(before[name])}"


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "''"
    return str(value)


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
