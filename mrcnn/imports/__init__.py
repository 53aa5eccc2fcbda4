"""Checkpoints of all codebases, as if they were torchvision's: names, order of rows, conventions.

Each module knows one codebase: `fits` says whether a state dict is of it, `translate` gives the description,
the weights under torchvision's names, and a line for everything that the weights do not tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from mrcnn.description import ModelDescription
from mrcnn.imports.given import Given

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Translated:
    """A checkpoint in our terms.

    Attributes:
        description: of the model, with the other codebase's conventions.
        state_dict: with torchvision's names.
        assumptions: what the weights do not tell and how it was decided, one line each.
    """

    description: ModelDescription
    state_dict: dict[str, Tensor]
    assumptions: tuple[str, ...]


class Codebase(Protocol):
    """What a module of this package offers."""

    def fits(self, weights: Weights) -> bool: ...

    def translate(self, weights: Weights, document: Mapping[Any, Any], given: Given) -> Translated:
        """`document` is the file that the weights come from, `given` what the user says of them."""


def codebase_of(weights: Weights) -> Codebase:
    """The module that translates these weights: torchvision's where they are nobody else's."""
    from mrcnn.imports import detectron2, mmdetection, torchvision

    for module in (detectron2, mmdetection):
        if module.fits(weights):
            return module
    return torchvision
