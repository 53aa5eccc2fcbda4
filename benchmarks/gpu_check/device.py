"""The GPU as the checks use it, through torch: memory between guards, streams, graphs, events."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrcnn.errors import MissingRequirementError
from mrcnn.plugins.kernels import Kernels

# Bytes on each side of a buffer that nobody may write, and what they hold.
GUARD = 256
_GUARD_BYTE = 0xA5


class Gpu:
    """The first CUDA device. Tests bring a subclass for which the CPU stands in."""

    place = "cuda"

    def synchronize(self) -> None:
        """Waits, and raises what the GPU has to complain about."""
        torch.cuda.synchronize()

    def stream(self) -> int:
        """The current stream, as a cudaStream_t."""
        return int(torch.cuda.current_stream().cuda_stream)

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """The launches of `work` as a CUDA graph; calling the result replays it."""
        graph = torch.cuda.CUDAGraph()
        self.synchronize()
        with torch.cuda.graph(graph):
            work()
        return graph.replay

    def mark(self) -> Any:
        """An event in the current stream."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds_between(self, start: Any, end: Any) -> float:
        """Time between two marks that the GPU has passed."""
        return float(start.elapsed_time(end)) / 1e3

    def wall(self) -> float:
        return time.perf_counter()

    def kernel_times(self, work: Callable[[], object], repeats: int) -> list[dict[str, Any]]:
        """What runs on the GPU during `work`: {kernel, launches, us} per run, the longest first."""
        from torch.profiler import ProfilerActivity, profile

        work()
        self.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(repeats):
                work()
            self.synchronize()
        found = []
        for entry in profiler.key_averages():
            total = getattr(entry, "self_device_time_total", 0.0)
            if total > 0:
                launches = round(entry.count / repeats, 2)
                found.append({"kernel": entry.key, "launches": launches, "us": round(total / repeats, 2)})
        return sorted(found, key=lambda kernel: -kernel["us"])

    def facts(self) -> dict[str, Any]:
        """What the GPU is, JSON-able.

        Raises:
            MissingRequirementError: torch cannot use a GPU here.
        """
        if not torch.cuda.is_available():
            built = (
                "has no CUDA" if torch.version.cuda is None else f"(CUDA {torch.version.cuda}) finds no GPU"
            )
            raise MissingRequirementError(f"torch {torch.__version__} {built} on this machine")
        torch.ones(1, device=self.place).sum().item()  # raises where this torch has no code for the GPU
        properties = torch.cuda.get_device_properties(0)
        return {
            "name": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": int(getattr(properties, "L2_cache_size", 0)),
            "torch_cuda": torch.version.cuda,
        }


@dataclass(frozen=True)
class Bench:
    """What checks work with: a GPU, and the kernels to run on it."""

    gpu: Gpu
    kernels: Kernels


class Buffer:
    """`size` bytes of a GPU's memory between guards.

    Args:
        offset: bytes by which the address is moved away from its alignment to 64.
    """

    def __init__(self, gpu: Gpu, size: int, *, offset: int = 0) -> None:
        start = GUARD + offset
        self._whole = torch.full((start + size + GUARD,), _GUARD_BYTE, dtype=torch.uint8, device=gpu.place)
        self._guards = (self._whole[:start], self._whole[start + size :])
        self._inside = self._whole[start : start + size]
        self._content: torch.Tensor | None = None
        self.size = size
        self.address = self._whole.data_ptr() + start

    @classmethod
    def of(cls, gpu: Gpu, array: "NDArray[Any]", *, offset: int = 0) -> "Buffer":
        """A buffer that holds `array`."""
        buffer = cls(gpu, array.nbytes, offset=offset)
        buffer.upload(array)
        return buffer

    def upload(self, array: "NDArray[Any]") -> None:
        """Puts an array of the buffer's size into it; `problem` then says if somebody has changed it."""
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._inside.copy_(torch.from_numpy(flat))
        self._content = self._inside.clone()

    def poison(self, byte: int) -> None:
        self._inside.fill_(byte)
        self._content = None

    def download(self, shape: tuple[int, ...], dtype: Any) -> "NDArray[Any]":
        content = self._inside.cpu().numpy().copy()
        return np.frombuffer(content, dtype).reshape(shape)

    def problem(self, name: str) -> str | None:
        """A line if a guard or an uploaded content has changed."""
        if any(bool((guard != _GUARD_BYTE).any()) for guard in self._guards):
            return f"{name}: written outside of its memory"
        if self._content is not None and not torch.equal(self._inside, self._content):
            return f"{name}: an input was written to"
        return None


def problems(buffers: dict[str, Buffer]) -> list[str]:
    """The lines of those buffers that have a problem."""
    found = (buffer.problem(name) for name, buffer in buffers.items())
    return [line for line in found if line is not None]
