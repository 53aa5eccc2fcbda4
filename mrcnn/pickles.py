"""Pickles read without running what they name: plain ones of arrays, and checkpoints of PyTorch."""

import argparse
import io
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mrcnn.errors import MrcnnError

_MOST_BINPUT = 255  # places that are written in one byte
_MOST_UNPACKED = 4  # times the size of a file
_UNPACKED_ANYWAY = 2**26  # bytes


def load_arrays(content: bytes) -> Any:
    """The document in a pickle of dicts, lists, strings, numbers and NumPy arrays, also of Python 2.

    Raises:
        MrcnnError: it names anything else, which could run any code, or it is damaged.
    """
    try:
        _check_memo(content)
        return _ArraysOnly(content).load()
    except _RefusedError as error:
        raise refusal(str(error)) from error
    except Exception as error:  # what damaged bytes raise is not told by the documentation
        raise MrcnnError("is not a pickle of arrays, or is damaged or truncated") from error


class _RefusedError(Exception):
    pass


def _check_memo(content: bytes) -> None:
    """Refuses a place in the memo that no writer has come to: the unpickler makes room for all before it."""
    written = 0
    for operation, place, _ in pickletools.genops(content):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if int(place or 0) > written + _MOST_BINPUT:
                raise ValueError("no such place")
            written += 1


class _ArraysOnly(pickle.Unpickler):
    """Makes no more bytes than the file has: one text can be named thousands of times."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._left = {"texts": len(content), "arrays": len(content)}
        take = self._take

        class Array(np.ndarray):
            def __setstate__(self, state: Any) -> None:
                super().__setstate__(state)
                take("arrays", self.nbytes)

        self._allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy.core.multiarray", "_reconstruct"): partial(_new_array, Array),
            ("numpy.core.numeric", "_frombuffer"): _array_of,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): self._encode,
            ("collections", "OrderedDict"): OrderedDict,
        }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None

    def _take(self, what: str, count: int) -> None:
        self._left[what] -= count
        if self._left[what] < 0:
            raise ValueError(f"more {what} than the file can hold")

    def _encode(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":  # by which Python 3 writes bytes into old protocols
            raise ValueError(encoding)
        self._take("texts", len(text))
        return text.encode("latin1")


def _new_array(made: type[np.ndarray], kind: Any, shape: Any, _: Any) -> np.ndarray:
    """The empty array that a pickle begins with, and no other."""
    if kind is not np.ndarray or shape != (0,):
        raise ValueError("no array")
    return np.empty(0, np.int8).view(made)


def _array_of(content: bytes, kind: np.dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    """How protocol 5 writes arrays; the bytes are not copied."""
    return np.frombuffer(content, kind).reshape(shape, order=order)


class Inert:
    """Stands for an object that is not wanted: takes anything, does nothing.

    Attributes:
        name: of the class or function in whose place it is.
    """

    name: ClassVar[str] = ""

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


class _InertDict(Inert):
    """The same for classes derived from dict, whose entries PyTorch's loader puts into nothing else."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


def load_torch(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The document in a file of `torch.save`, and the names of the objects that were left out.

    PyTorch's loader of tensors and plain containers reads it, so no code runs. Training scripts put objects
    of theirs beside the weights (settings, histories of losses): in the place of each is an `Inert`.

    Raises:
        pickle.UnpicklingError, OSError, …: what `torch.load` raises for a file that is not usable.
    """
    import torch

    _check_packed(path)
    foreign = _foreign(path)
    stand_ins = [_stand_in(name) for name in foreign]
    # torchvision's training scripts store their arguments; a Namespace is only a bag.
    with torch.serialization.safe_globals([argparse.Namespace, *stand_ins]):
        return torch.load(path, map_location="cpu", weights_only=True), foreign


def _check_packed(path: Path) -> None:
    """Refuses a file that unpacks to many times its size; PyTorch packs nothing, and others little."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _MOST_UNPACKED * path.stat().st_size + _UNPACKED_ANYWAY:
        raise MrcnnError(f"refused: its {path.stat().st_size} bytes unpack to {unpacked}")


def _foreign(path: Path) -> tuple[str, ...]:
    """What a file names that PyTorch's loader does not know; nothing where only loading it can tell."""
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an older format, or damaged: loading says which
        return ()
    return tuple(sorted(set(names) - {"argparse.Namespace"}))


def _stand_in(name: str) -> tuple[type[Inert], str]:
    # As defaultdict, omegaconf's and mmengine's ConfigDict, yacs's CfgNode.
    like_dict = re.search(r"(?:[Dd]ict|CfgNode)$", name) is not None
    return type("Inert", (_InertDict if like_dict else Inert,), {"name": name}), name


def refusal(name: str) -> MrcnnError:
    """For a file that is nothing without the Python object `name`."""
    return MrcnnError(
        f"refused: loading it would need the Python object {name!r}, and a pickle that builds objects can "
        "run any code; save the weights alone: torch.save(model.state_dict(), 'weights.pth')"
    )
