"""The settings of a training run, and the learning rate that follows from them."""

from dataclasses import dataclass, field

from mrcnn.errors import MrcnnError
from mrcnn.training.sampling import Sampling

_WARMUP_START = 1e-3  # the first learning rate, as a fraction of the full one (torchvision's references)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to train.

    Attributes:
        iterations: optimiser steps of the whole run.
        batch_size: images per step, over all processes together.
        learning_rate: after warm-up and before the first decay step.
        warmup: iterations over which the learning rate rises linearly.
        steps: iterations at which the learning rate falls to a tenth.
        recipe: the name of that which the rest came from, for the record; see `mrcnn.training.recipes`.
        sampling: what each step draws from an image.
        amp: mixed precision, float16 with loss scaling on a GPU and bfloat16 on a CPU.
        seed: of everything random.
        snapshot_every: iterations between snapshots: evaluate, write checkpoint, log and curves.
        workers: processes that load images, per training process.
    """

    iterations: int
    batch_size: int
    learning_rate: float
    warmup: int
    steps: tuple[int, ...]
    snapshot_every: int
    momentum: float = 0.9
    weight_decay: float = 1e-4
    recipe: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    amp: bool = False
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "snapshot_every", "learning_rate"):
            if not getattr(self, name) > 0:
                raise MrcnnError(f"{name} must be positive (got {getattr(self, name)})")
        for name in ("warmup", "workers", "seed", "momentum", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise MrcnnError(f"{name} must not be negative (got {getattr(self, name)})")
        if any(later <= earlier for earlier, later in zip((0, *self.steps), self.steps, strict=False)):
            raise MrcnnError(f"steps must be positive and rising (got {list(self.steps)})")

    def learning_rate_at(self, iteration: int) -> float:
        """The learning rate of iteration 0, 1, …"""
        rate = self.learning_rate * 0.1 ** sum(iteration >= step for step in self.steps)
        if iteration < self.warmup:
            rate *= _WARMUP_START + (1 - _WARMUP_START) * iteration / self.warmup
        return rate
