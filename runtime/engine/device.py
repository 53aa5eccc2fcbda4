"""The GPU as the runtime uses it: memory, streams, events, CUDA graphs; over NVIDIA's cuda-python."""

from typing import Protocol

from mrcnn.errors import MrcnnError

__all__ = ["Device", "DeviceError"]

_OUT_OF_MEMORY = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY")


class DeviceError(MrcnnError):
    """CUDA refuses what it was asked, or something went wrong on the GPU; one line.

    Attributes:
        name: CUDA's name of the error, such as "cudaErrorMemoryAllocation"; empty where it has none.
        sticky: whether CUDA refuses everything from now on, until the process is started again.
    """

    def __init__(self, message: str, *, name: str = "", sticky: bool = False) -> None:
        super().__init__(message)
        self.name = name
        self.sticky = sticky

    @property
    def out_of_memory(self) -> bool:
        """Whether something smaller may still work."""
        return self.name in _OUT_OF_MEMORY


class Device(Protocol):
    """One GPU. Addresses, streams, events and graphs are integers, as TensorRT takes them.

    May be used from several threads, each of which calls `enter` first. Every method raises DeviceError where
    CUDA refuses; after some errors CUDA refuses everything, and the process has to be started again.

    Attributes:
        name: as the driver tells it.
        index: its place among the GPUs that this process sees, from 0.
        capability: compute capability (major, minor).
    """

    name: str
    index: int
    capability: tuple[int, int]

    def enter(self) -> None:
        """Makes the GPU's context the calling thread's."""

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes."""

    def allocate(self, size: int) -> int:
        """Memory of the GPU, at least 256-byte aligned; `size` > 0."""

    def free(self, address: int) -> None: ...

    def allocate_pinned(self, size: int) -> int:
        """Memory of the host that copies to and from the GPU do not wait for."""

    def free_pinned(self, address: int) -> None: ...

    def create_stream(self) -> int:
        """One that does not wait for the default stream."""

    def destroy_stream(self, stream: int) -> None: ...

    def synchronize(self, stream: int) -> None:
        """Waits until everything in the stream is done; raises what went wrong in it."""

    def create_event(self) -> int: ...

    def destroy_event(self, event: int) -> None: ...

    def record(self, event: int, stream: int) -> None:
        """The event happens when all that is in the stream now is done."""

    def wait(self, event: int) -> None:
        """Waits for the event, on the host."""

    def stream_wait(self, stream: int, event: int) -> None:
        """What comes next in the stream waits for the event; the host does not."""

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copies between host and GPU, in whatever direction the addresses say."""

    def clear(self, address: int, size: int, stream: int) -> None:
        """Sets memory of the GPU to zero."""

    def begin_capture(self, stream: int) -> None:
        """What is put into the stream from now on is written down instead of done."""

    def end_capture(self, stream: int) -> int:
        """What was written down, as a graph that can be launched. Raises DeviceError where it cannot be
        captured; the stream is usable then."""

    def launch(self, graph: int, stream: int) -> None: ...

    def destroy_graph(self, graph: int) -> None: ...
