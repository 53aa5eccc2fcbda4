"""Weights under our names, which remember how the user's file spells them: errors speak of that."""

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from mrcnn.errors import MrcnnError

# A pattern of their names, and our name for what it has matched.
Names = Iterable[tuple[str, Callable[[re.Match[str]], str]]]


class Renamed(dict[str, Tensor]):
    """Weights by our names.

    Attributes:
        theirs: our name → that in the user's file, of all weights that came from it.
    """

    theirs: Mapping[str, str]

    def __init__(self, weights: Mapping[str, Tensor], theirs: Mapping[str, str]) -> None:
        super().__init__(weights)
        self.theirs = theirs

    def spelled(self, name: str) -> str:
        """Our name, quoted, as the file has it; of a weight that it lacks, as it would have it."""
        if name in self.theirs:
            return repr(self.theirs[name])
        module, _, kind = name.rpartition(".")
        # A bias is named as the weight beside it.
        for ours, theirs in self.theirs.items():
            beside = ours.rpartition(".")
            if beside[0] == module and theirs.endswith(f".{beside[2]}"):
                return repr(f"{theirs.removesuffix(beside[2])}{kind}")
        return f"{name!r} (so called in torchvision)"


def rename(weights: Mapping[str, Tensor], names: Names, *, codebase: str) -> Renamed:
    """The weights under our names.

    Raises:
        MrcnnError: one has no counterpart here, or two have the same.
    """
    renamed: dict[str, Tensor] = {}
    theirs: dict[str, str] = {}
    for name, tensor in weights.items():
        ours = _renamed(name, names, codebase)
        if ours in renamed:
            raise MrcnnError(f"the {codebase} weights {theirs[ours]!r} and {name!r} are the same layer's")
        renamed[ours], theirs[ours] = tensor, name
    return Renamed(renamed, theirs)


def spelled(state: Mapping[str, Tensor], name: str) -> str:
    """A weight's name, quoted, as the user's file has it."""
    return state.spelled(name) if isinstance(state, Renamed) else repr(name)


def _renamed(name: str, names: Names, codebase: str) -> str:
    for pattern, ours in names:
        if match := re.fullmatch(pattern, name):
            return ours(match)
    if re.search(r"(?:box_head|bbox_head|box_predictor)\.\d\.", name):  # one head a stage
        raise MrcnnError(f"the {codebase} weight {name!r} is of a Cascade R-CNN, which is not supported")
    raise MrcnnError(
        f"the {codebase} weight {name!r} has no counterpart: Faster, Mask and Keypoint R-CNN on ResNet or "
        "ResNeXt, with C4 or FPN, are imported"
    )
