"""Finds the weights in what training scripts save around them.

A whole detector shows itself by its layer of class scores: the dict that holds it is the state dict, and what
stands before its name was put there by DataParallel ("module."), Lightning ("model."), and the like.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mrcnn.errors import MrcnnError
from mrcnn.pickles import Inert, refusal

# The layer of class scores, in torchvision and detectron2, and in mmdetection.
_MARKS = ("roi_heads.box_predictor.cls_score.weight", "roi_head.bbox_head.fc_cls.weight")
# Where weights usually are, torchvision's references first.
_USUAL = ("model", "state_dict", "model_state_dict")
_EMA = re.compile(r"(?:^|[_.])(?:ema|swa)(?:[_.]|$)")
# torch.compile writes it before the names of what it has compiled.
_COMPILED = "_orig_mod."
# How often an average was taken, in PyTorch's and in mmengine's averaged models.
_COUNTERS = ("n_averaged", "steps")
_DEEPEST = 3


@dataclass(frozen=True)
class Unwrapped:
    """Weights without what was around them.

    Attributes:
        weights: by the names that the model's code gives them; values are as yet unchecked.
        lines: what was chosen or left out, one line each.
    """

    weights: Mapping[Any, Any]
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Place:
    """Where a detector's weights are: under these keys, with names that start with `prefix`."""

    keys: tuple[str, ...]
    prefix: str
    names: Mapping[Any, Any]

    @property
    def shown(self) -> str:
        return repr(".".join((*self.keys, self.prefix)).rstrip("."))

    @property
    def averaged(self) -> bool:
        return any(_EMA.search(part) for part in (*self.keys, self.prefix))


def unwrap(document: Mapping[Any, Any]) -> Unwrapped:
    """The weights of the one detector in a file.

    Where there is a moving average of the weights beside the weights themselves, the average is taken, since
    that is what training scripts evaluate.

    Raises:
        MrcnnError: there are several detectors and nothing says which is meant, or an object is where weights
            should be.
    """
    places = list(_places(document, ()))
    if not places:
        return Unwrapped(_usual(document))
    place, lines = _chosen(places, document)
    weights, others = {}, []
    for name, value in place.names.items():
        if isinstance(name, str) and name.startswith(place.prefix):
            weights[name.removeprefix(place.prefix)] = value
        else:
            others.append(name)
    rivals = tuple(other.prefix for other in places if other.names is place.names and other is not place)
    left = [n for n in others if n not in _COUNTERS and not str(n).startswith(rivals or ("\0",))]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        lines.append(f"weights outside {place.shown} are left out: {left[0]!r}{more}")
    return Unwrapped(weights, tuple(lines))


def _places(document: Mapping[Any, Any], keys: tuple[str, ...]) -> Iterator[_Place]:
    names = {k.replace(_COMPILED, "") if isinstance(k, str) else k: v for k, v in document.items()}
    for name in names:
        for mark in _MARKS:
            if isinstance(name, str) and (name == mark or name.endswith(f".{mark}")):
                yield _Place(keys, name.removesuffix(mark), names)
    if len(keys) < _DEEPEST:
        for key, value in document.items():
            if isinstance(key, str) and isinstance(value, Mapping):
                yield from _places(value, (*keys, key))


def _chosen(places: list[_Place], document: Mapping[Any, Any]) -> tuple[_Place, list[str]]:
    """The place that is meant, and a line where that is not plain."""
    averaged = [place for place in places if place.averaged]
    plain = [place for place in places if not place.averaged]
    if averaged and plain and _is_mmengine(document):
        place = _only(plain)
        return place, [f"weights under {place.shown}, where mmengine saves their moving average"]
    place = _only(averaged or plain)
    rival = next((other for other in [*plain, *places] if other is not place), None)
    if rival is not None and place.averaged and not rival.averaged:
        return place, [
            f"weights under {place.shown}, a moving average, rather than those under {rival.shown}: "
            "it is what training scripts evaluate"
        ]
    if rival is not None:
        return place, [f"weights under {place.shown} rather than those under {rival.shown}"]
    usual = not place.keys or place.keys[0] in _USUAL
    return place, [] if usual else [f"weights under {place.shown}: the file has no others"]


def _only(places: list[_Place]) -> _Place:
    """The one place, or the one under the usual key.

    Raises:
        MrcnnError: there are several.
    """
    for key in _USUAL:
        usual = [place for place in places if place.keys[:1] == (key,)]
        if len(usual) == 1:
            return usual[0]
    if len(places) > 1:
        raise MrcnnError(
            f"holds the weights of {len(places)} detectors, under {places[0].shown} and {places[1].shown}: "
            "save one of them alone"
        )
    return places[0]


def _is_mmengine(document: Mapping[Any, Any]) -> bool:
    """Its EMAHook exchanges what `state_dict` and `ema_state_dict` hold when it saves."""
    meta = document.get("meta")
    return "message_hub" in document or (isinstance(meta, Mapping) and "mmengine_version" in meta)


def _usual(document: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """What is under a usual key: no detector that is known, but its first name can be told."""
    for key in _USUAL:
        value = document.get(key)
        if isinstance(value, Inert):
            raise refusal(value.name)
        if isinstance(value, Mapping):
            document = value
            break
    if document and all(str(key).startswith("module.") for key in document):
        return {str(key).removeprefix("module."): value for key, value in document.items()}
    return document
