"""The device that a command line asks for, and how many threads PyTorch has on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mrcnn.errors import MissingRequirementError, MrcnnError


def choose_device(name: str | None) -> torch.device:
    """The device of a `--device` option: "cpu", "cuda", "cuda:1", "mps"; None for a GPU where there is one.

    Raises:
        MrcnnError: there is no such kind of device.
        MissingRequirementError: this machine has none of it, or not as many.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise MrcnnError(f"--device {name}: not a device to compute on; use cpu or cuda")
    usable = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    count = usable[device.type]
    if (device.index or 0) >= count:
        found = f"only {count} of these" if count else "no usable GPU"
        raise MissingRequirementError(f"--device {name}: PyTorch finds {found} here; use --device cpu")
    return device


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Inside the block PyTorch computes with that many threads; None for as many as before."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
