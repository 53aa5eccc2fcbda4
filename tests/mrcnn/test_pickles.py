"""Plain pickles of arrays, read without running what they name, in no more memory than they need."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from mrcnn.checkpoint import load_checkpoint
from mrcnn.errors import MrcnnError
from mrcnn.pickles import load_arrays

TEXT = b"X" + struct.pack("<I", 1000) + bytes(1000)
LATIN1 = b"X\x06\0\0\0latin1"
ENCODE = b"c_codecs\nencode\n"
NEW = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R"
BYTES = b"B" + struct.pack("<I", 1000) + bytes(1000)
DTYPE = b"cnumpy\ndtype\nX\x02\0\0\0u1\x89\x88\x87R"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_back(protocol: int) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    document = {"model": {"a": array, "b": array, "c": array.T, "d": np.float32(2).reshape(())[None]}}
    found = load_arrays(pickle.dumps(document, protocol=protocol))["model"]
    assert found["a"] is found["b"]
    for name, value in document["model"].items():
        assert np.array_equal(found[name], value)
        assert torch.from_numpy(np.ascontiguousarray(found[name])).dtype == torch.float32


@pytest.mark.parametrize(
    "content",
    [
        # One text, encoded again and again; an array of the same bytes again and again.
        b"\x80\x02(" + TEXT + b"q\0" + (ENCODE + b"h\0" + LATIN1 + b"\x86R") * 50 + b"l.",
        b"\x80\x03(" + BYTES + b"q\0" + (NEW + b"(K\x01M\xe8\x03\x85" + DTYPE + b"\x89h\0tb") * 50 + b"l.",
        # A place in the memo before which there would be half a million empty ones.
        b"\x80\x02}r" + struct.pack("<I", 2**19) + b".",
        b"}p524288\n.",
    ],
)
def test_a_small_file_fills_no_large_memory(content: bytes) -> None:
    with pytest.raises(MrcnnError, match="is not a pickle of arrays, or is damaged"):
        load_arrays(content)


def test_files_of_pytorch_are_known_whatever_their_name(tmp_path: Path) -> None:
    weights = {"fc.weight": torch.zeros(3)}
    torch.save({"model": weights}, tmp_path / "a.pkl")
    (tmp_path / "b.PKL").write_bytes(pickle.dumps({"model": {"fc.weight": np.zeros(3, np.float32)}}))
    for name in ("a.pkl", "b.PKL"):
        with pytest.raises(MrcnnError, match="this is not a torchvision R-CNN"):
            load_checkpoint(tmp_path / name)
