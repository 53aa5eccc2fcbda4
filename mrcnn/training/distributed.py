"""One process, or the processes that torchrun started, behind the same few calls."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mrcnn.devices import choose_device


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all that train together."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of each process's `values`; the same on all of them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values / self.size

    def gather(self, part: Any) -> list[Any]:
        """Each process's `part`, in the order of the ranks."""
        if self.size == 1:
            return [part]
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, part)
        return parts


@contextmanager
def join_world(device: str | None = None) -> Iterator[World]:
    """Joins the processes that torchrun started, or is alone where it did not.

    Args:
        device: "cpu", "cuda", …; by default a GPU where there is one.

    Raises:
        MrcnnError: there is no such device, see `choose_device`.
    """
    chosen = choose_device(device)
    if "WORLD_SIZE" not in os.environ:
        yield World(device=chosen)
        return
    if chosen == torch.device("cuda"):
        chosen = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(device=chosen, rank=dist.get_rank(), size=dist.get_world_size())
    finally:
        dist.destroy_process_group()
