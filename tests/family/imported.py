"""Another codebase's weights as a checkpoint, without a file: most tests need none, and one is large."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mrcnn.checkpoint import Checkpoint
from mrcnn.imports import codebase_of
from mrcnn.imports.given import Given


def imported(weights: Mapping[str, Tensor], given: Given | None = None, **meta: Any) -> Checkpoint:
    """`meta` is what mmdetection stores under that key."""
    found = codebase_of(weights).translate(weights, {"meta": meta}, given or Given())
    return Checkpoint(
        description=found.description,
        state_dict=found.state_dict,
        training={},
        assumptions=found.assumptions,
    )
