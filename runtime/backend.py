"""What every engine that runs a model offers to `Runtime`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from mrcnn.description import Deployment
from mrcnn.runtime.sizes import InputRange, Size

# What is said to whoever uses a model after its end.
CLOSED = "this Runtime is closed"

# The graph's outputs by name (see ARCHITECTURE.md), as arrays that belong to whoever gets them.
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Batch:
    """Images that share one run.

    Attributes:
        images: (h, w, 3) uint8 RGB each, of any size; or what `Backend.take` gave.
        resized: for each, the (height, width) that it gets inside the padding.
        padded: (height, width) of the network's input.
        rows: images in the network's input; those past `images` are black.
    """

    images: Sequence[Any]
    resized: Sequence[Size]
    padded: Size
    rows: int


class Pending(Protocol):
    """A run that was started."""

    def outputs(self) -> Outputs:
        """Waits for its end, once.

        Raises:
            MrcnnError: the run failed, or what it gave breaks the contract.
        """


@dataclass(frozen=True)
class Finished:
    """A run that is done already."""

    result: Outputs

    def outputs(self) -> Outputs:
        """At once."""
        return self.result


class Backend(Protocol):
    """One model, loaded. All methods may be called from several threads at once.

    Attributes:
        deployment: what the model is.
        device: "cpu" or "cuda".
        ranges: the inputs that it takes; at least one.
    """

    deployment: Deployment
    device: str
    ranges: tuple[InputRange, ...]

    @property
    def memory_bytes(self) -> dict[str, int]:
        """What it holds on the GPU, by purpose; empty where that is not known."""

    def take(self, image: object, *, color: str) -> Any:
        """An image that lies where only this backend can read it, on a GPU; None for all others.

        Returns:
            what `Batch.images` may hold; it has a `shape` of (h, w, 3).

        Raises:
            MrcnnError: it is no (h, w, 3) uint8, or on another GPU.
        """

    def prepare(self, batch: Batch) -> Any:
        """The work on the CPU before a run; the result is for `start`."""

    def start(self, prepared: Any) -> Pending:
        """Starts a run, or does it; waits while as many as the backend can hold are under way."""

    def close(self) -> None:
        """Waits for what was started, and frees everything; nothing may be started afterwards."""
