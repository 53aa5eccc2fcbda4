"""Key points in COCO documents: which points there are, and where an object has them.

https://cocodataset.org/#format-data, "Keypoint Detection".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mrcnn.description import KeypointRule
from mrcnn.errors import MrcnnError
from mrcnn.families import COCO_PERSON

Json = dict[str, Any]


def rule_of(categories: Sequence[Json]) -> KeypointRule:
    """The points that categories list under `keypoints` and `skeleton`; COCO's persons', if none does.

    Points whose names begin with "left" and "right", and go on alike, change places in mirror images.

    Raises:
        MrcnnError: a category's list is no list of names, or two categories differ; the line lacks the file.
    """
    rules = {category["name"]: _rule(category) for category in categories if "keypoints" in category}
    if not rules:
        return COCO_PERSON
    first, rule = next(iter(rules.items()))
    for name, other in rules.items():
        if other != rule:
            raise MrcnnError(f"the categories {first!a} and {name!a} have different key points")
    return rule


def _rule(category: Json) -> KeypointRule:
    names, edges = category["keypoints"], category.get("skeleton") or []
    where = f"category {category['id']}"
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MrcnnError(f"{where} has keypoints that are no list of names")
    if not isinstance(edges, list) or not all(map(_is_edge, edges)):
        raise MrcnnError(f"{where} has a skeleton that is no list of pairs of numbers")
    try:
        return KeypointRule(
            names=tuple(names),
            mirrored=_mirrored(names),
            skeleton=tuple((first - 1, second - 1) for first, second in edges),
        )
    except MrcnnError as error:
        raise MrcnnError(f"{where}: {error}") from error


def _is_edge(edge: Any) -> bool:
    return isinstance(edge, list) and len(edge) == 2 and all(type(index) is int for index in edge)


def _mirrored(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    opposite = {name: f"right{name.removeprefix('left')}" for name in names if name.startswith("left")}
    return tuple((names.index(left), names.index(r)) for left, r in opposite.items() if r in names)


def points_of(annotation: Mapping[str, Any], rule: KeypointRule) -> npt.NDArray[np.float32]:
    """An annotation's points (P, 3): x, y in pixels, and the visibility: 0 unknown, 1 hidden, 2 visible.

    Args:
        annotation: one that `check_annotation` lets pass.

    Raises:
        MrcnnError: it has none, or another number of them; the line lacks the file and the annotation.
    """
    numbers = annotation.get("keypoints")
    if numbers is None:
        raise MrcnnError("has no keypoints, which a model with key points needs")
    if len(numbers) != 3 * len(rule):
        raise MrcnnError(
            f"has {len(numbers)} numbers as keypoints, but x, y and visibility of {len(rule)} points are "
            f"{3 * len(rule)}"
        )
    return np.array(numbers, np.float32).reshape(-1, 3)
