"""Bare state dicts of torchvision's detection models, and of models made from its parts."""

from collections.abc import Mapping
from typing import Any

from mrcnn.imports import Translated, Weights
from mrcnn.imports.given import Given
from mrcnn.imports.rows import check_anchors, same_for_all
from mrcnn.models.recognise import recognise


def fits(weights: Weights) -> bool:
    """Whether the names are those of torchvision's GeneralizedRCNN."""
    return "roi_heads.box_predictor.cls_score.weight" in weights


def translate(weights: Weights, document: Mapping[Any, Any], given: Given) -> Translated:  # noqa: ARG001
    """Any model of torchvision's R-CNN family that this version builds.

    Raises:
        MrcnnError: the keys are not those of such a model; the line names the first that is not.
    """
    given.refuse_config_of_another("torchvision")
    state = dict(weights)
    scores = state.get("roi_heads.box_predictor.cls_score.weight")
    classes = len(scores) if scores is not None and scores.ndim else 0
    lines = same_for_all(state, classes=classes, background=True) if classes > 1 else []
    description, assumptions = recognise(state)
    description = given.applied(description)
    check_anchors(state, description.anchors)
    return Translated(description, state, (*_still_open(assumptions, given), *lines))


def _still_open(assumptions: tuple[str, ...], given: Given) -> tuple[str, ...]:
    """Without those that the user has decided."""
    decided = {"class_names": "class name", "keypoints": "key points", "norm_eps": "frozen batch norm"}
    starts = tuple(start for name, start in decided.items() if name in given.fields)
    return tuple(line for line in assumptions if not line.startswith(starts)) if starts else assumptions
