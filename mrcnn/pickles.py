"""Plain pickles of NumPy arrays, such as detectron2's model zoo has, read without running what they name."""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from mrcnn.errors import MrcnnError


def load_arrays(content: bytes) -> Any:
    """The document in a pickle of dicts, lists, strings, numbers and NumPy arrays, also of Python 2.

    Raises:
        MrcnnError: it names anything else, which could run any code, or it is damaged.
    """
    try:
        return _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    except _RefusedError as error:
        raise MrcnnError(
            f"refused: loading it would need the Python object {error}, and a pickle that builds objects can "
            "run any code"
        ) from error
    except Exception as error:  # what damaged bytes raise is not told by the documentation
        raise MrcnnError("is not a pickle of arrays, or is damaged or truncated") from error


class _RefusedError(Exception):
    pass


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None


def _new_array(kind: Any, shape: Any, _: Any) -> np.ndarray:
    """The empty array that a pickle begins with, and no other."""
    if kind is not np.ndarray or shape != (0,):
        raise ValueError("no array")
    return np.empty(0, np.int8)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # by which Python 3 writes bytes into old protocols
        raise ValueError(encoding)
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
}
