"""Checkpoints: our own format, and bare torchvision state dicts.

A checkpoint is untrusted input: everything is read with `weights_only=True`, which can build tensors and
plain containers but run no code.
"""

import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from mrcnn.description import ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.files import atomic_path
from mrcnn.imports import codebase_of
from mrcnn.imports.given import Given, read_given
from mrcnn.imports.renamed import spelled
from mrcnn.imports.wrapped import unwrap
from mrcnn.models import build_model
from mrcnn.pickles import Inert, load_arrays, load_torch, refusal
from mrcnn.strict import shown

_FORMAT = "mrcnn-checkpoint"
_FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights with the description of the model that they belong to.

    Attributes:
        training: facts of the training run, JSON-able; empty for a bare state dict.
        assumptions: what a bare state dict left open and how it was decided, one line each.
    """

    description: ModelDescription
    state_dict: Mapping[str, Tensor]
    training: Mapping[str, Any]
    assumptions: tuple[str, ...] = ()

    def build(self) -> GeneralizedRCNN:
        """The model in eval mode with these weights, float32.

        Raises:
            MrcnnError: the weights are not finite, or do not fit the description; the line names the key.
        """
        for name, tensor in self.state_dict.items():
            if tensor.is_floating_point() and not _all_finite(tensor):
                raise MrcnnError(f"the weights are damaged: {self._shown(name)} holds NaN or infinite values")
        with _NoRandomWeights():
            model = build_model(self.description)
        self._check_keys(model.state_dict())
        model.load_state_dict(self.state_dict, strict=False)
        return model.eval()

    def _check_keys(self, wanted: Mapping[str, Tensor]) -> None:
        """Raises MrcnnError where names or shapes are not those of the model's weights."""
        unfit = f"the weights do not fit {self.description.architecture}"
        missing, surplus = (wanted.keys() - self.state_dict.keys(), self.state_dict.keys() - wanted.keys())
        for keys, problem in ((missing, "lack"), (surplus, "have the surplus")):
            # How many batches were seen is of no use here, and PyTorch does without it.
            names = sorted(name for name in keys if not name.endswith("num_batches_tracked"))
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise MrcnnError(f"{unfit}: they {problem} key {self._shown(names[0])}{more}")
        for name, tensor in self.state_dict.items():
            shape, needed = tuple(tensor.shape), tuple(wanted.get(name, tensor).shape)
            if shape != needed:
                raise MrcnnError(f"{unfit}: {self._shown(name)} has shape {shape}, where {needed} is needed")

    def _shown(self, name: str) -> str:
        return spelled(self.state_dict, name)

    @property
    def weights_sha256(self) -> str:
        """Hash of names, shapes, types and values, independent of the file's layout."""
        digest = hashlib.sha256()
        for name in sorted(self.state_dict):
            tensor = self.state_dict[name].contiguous()
            head = f"{name} {tensor.dtype} {tuple(tensor.shape)}\n"
            digest.update(head.encode("utf-8", "backslashreplace"))
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _all_finite(tensor: Tensor) -> bool:
    """Of the extremes alone, which are NaN where any value is: one pass, without a mask of the same size."""
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


class _NoRandomWeights(TorchFunctionMode):
    """Leaves weights as memory happens to hold them where a constructor would draw them: all are loaded next.

    Drawing takes longer than reading them from a file, and would move on the program's generator.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def save_checkpoint(
    path: Path | str,
    *,
    model: GeneralizedRCNN,
    description: ModelDescription,
    training: Mapping[str, Any],
    half: bool = False,
) -> None:
    """Writes weights, description and training facts, atomically.

    Args:
        half: store floating-point weights as float16; they are float32 again when loaded.
    """
    state_dict = {
        name: tensor.half() if half and tensor.is_floating_point() else tensor.detach().cpu()
        for name, tensor in model.state_dict().items()
    }
    document = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "description": description.to_dict(),
        "state_dict": state_dict,
        "training": dict(training),
    }
    with atomic_path(path) as temporary:
        torch.save(document, temporary)


def load_checkpoint(path: Path | str, *, config: Path | None = None) -> Checkpoint:
    """Reads a checkpoint of ours, or one of torchvision, detectron2 or mmdetection, told by its keys.

    State dicts may be wrapped as training scripts do it: under "model", "state_dict" and the like, with a
    moving average beside them, from DataParallel, torch.compile or Lightning, in half precision.

    Args:
        config: a file of what the weights do not tell; see `mrcnn.imports.given`.

    Raises:
        MrcnnError: no such file, not a PyTorch file, one that would run code, or not a model we know.
    """
    path, given = Path(path), read_given(config)
    document, left_out = _read(path)
    try:
        if isinstance(document, Inert):
            raise refusal(document.name)
        if not isinstance(document, Mapping):
            raise MrcnnError(f"holds a {type(document).__name__}, not a checkpoint or state dict")
        if document.get("format") == _FORMAT:
            return _own_checkpoint(document, given)
        return _imported(document, given, left_out)
    except MrcnnError as error:
        raise MrcnnError(f"{path}: {error}") from error


def _imported(document: Mapping[Any, Any], given: Given, left_out: tuple[str, ...]) -> Checkpoint:
    """A state dict, in whatever it is wrapped."""
    found = unwrap(document)
    state_dict = _float32(found.weights)
    translated = codebase_of(state_dict).translate(state_dict, document, given)
    lines = [*found.lines, *translated.assumptions]
    if left_out:
        more = f" and {len(left_out) - 1} more kinds" if len(left_out) > 1 else ""
        lines.append(f"left out, not built: objects beside the weights, of {left_out[0]}{more}")
    return Checkpoint(
        description=translated.description,
        state_dict=translated.state_dict,
        training={},
        assumptions=tuple(lines),
    )


def _read(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The document in the file, and what objects in it were left out."""
    if not path.exists():
        raise MrcnnError(f"{path}: no such file")
    if not path.is_file():
        raise MrcnnError(f"{path}: is not a file, but a checkpoint is needed")
    if path.stat().st_size == 0:
        raise MrcnnError(f"{path}: the file is empty")
    if path.suffix.lower() == ".safetensors":
        raise MrcnnError(
            f"{path}: safetensors is not read: save the weights with torch.save, as loaded by "
            "safetensors.torch.load_file"
        )
    try:
        if path.suffix.lower() == ".pkl" and not zipfile.is_zipfile(path):
            return _tensors(load_arrays(path.read_bytes())), ()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols, of which the errors below say enough
            return load_torch(path)
    except MrcnnError as error:
        raise MrcnnError(f"{path}: {error}") from error
    except pickle.UnpicklingError as error:
        raise MrcnnError(f"{path}: {_unpickling_reason(str(error))}") from error
    except OSError as error:
        raise MrcnnError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, … for damaged files
        raise MrcnnError(f"{path}: is not a PyTorch checkpoint, or is damaged or truncated") from error


def _tensors(document: Any) -> Any:
    """The same with tensors for arrays, in the dict of weights."""
    weights = document.get("model") if isinstance(document, dict) else None
    if not isinstance(weights, dict):
        raise MrcnnError("has no weights under the key 'model', as detectron2's files do")
    usable = {
        name: torch.from_numpy(np.ascontiguousarray(value))
        for name, value in weights.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "fi"
    }
    return {"model": usable}


def _unpickling_reason(message: str) -> str:
    unsupported = re.search(r"(?:GLOBAL|function|class|global:?)\s+`?([\w.]+\.[\w.]+)`?", message)
    if unsupported is None:
        return "is not a PyTorch checkpoint that can be read without running code, or it is damaged"
    return str(refusal(unsupported[1]))


def _own_checkpoint(document: Mapping[str, Any], given: Given) -> Checkpoint:
    version = document.get("format_version")
    if type(version) is not int or version != _FORMAT_VERSION:
        raise MrcnnError(
            f"checkpoint format version {shown(version)}, but this program reads {_FORMAT_VERSION}: "
            "update mrcnn"
        )
    given.refuse_config_of_another("mrcnn")
    for key, kind in (("description", dict), ("state_dict", dict), ("training", dict)):
        if not isinstance(document.get(key), kind):
            raise MrcnnError(f"the checkpoint's {key!r} is missing or no dict")
    return Checkpoint(
        description=given.applied(ModelDescription.from_dict(document["description"])),
        state_dict=_float32(document["state_dict"]),
        training=document["training"],
    )


def _float32(state_dict: Mapping[Any, Any]) -> dict[str, Tensor]:
    if not state_dict:
        raise MrcnnError("the state dict is empty")
    return {name: _plain_tensor(name, value) for name, value in state_dict.items()}


def _plain_tensor(name: Any, value: Any) -> Tensor:
    """One weight as a dense float32 tensor, or as it is where it counts batches."""
    if isinstance(value, Inert):
        raise refusal(value.name)
    if not isinstance(name, str):
        raise MrcnnError(f"not a state dict: the name {shown(name)} is a {type(name).__name__}, not text")
    if not isinstance(value, Tensor):
        raise MrcnnError(
            f"not a state dict: the entry {shown(name)} is a {type(value).__name__}, where a tensor is needed"
        )
    stored = value.layout == torch.strided and not value.is_meta
    # A few bytes can claim terabytes by strides of zero.
    if not stored or value.untyped_storage().nbytes() < value.numel() * value.element_size():
        raise MrcnnError(f"the weight {name!r} is not stored as a dense tensor")
    if value.is_floating_point():
        return value.float().resolve_neg()
    if not name.endswith("num_batches_tracked"):
        raise MrcnnError(f"the weight {name!r} has dtype {value.dtype}, where floating point is needed")
    return value
