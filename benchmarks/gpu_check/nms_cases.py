"""The NMS calls that are checked: what they differ in, and their seeded inputs. NumPy alone."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mrcnn.benchmarks.gpu_check.roi_align_cases import deal

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

Boxes = Literal["random", "clusters", "identical", "chain", "disjoint", "strange"]
Scores = Literal["distinct", "ties", "equal", "strange", "low", "falling"]
Groups = Literal["one", "levels", "classes", "many classes", "any"]

BOXES: tuple[Boxes, ...] = ("random", "clusters", "identical", "chain", "disjoint", "strange")
SCORES: tuple[Scores, ...] = ("distinct", "ties", "falling", "strange", "equal")
GROUPS: tuple[Groups, ...] = ("one", "levels", "classes", "many classes", "any")

# Around a word of 32, a tile of 1024 boxes, the RPN's 4819, and more than fits one pass of anything.
CANDIDATES = (0, 1, 31, 32, 33, 1000, 1023, 1024, 1025, 4819, 20_000, 91_000, 100_000)

# Each draws the rest of the sweep anew.
SWEEP_SEEDS = (200, 201, 202)

_SIDE = 1000.0
_MAX_BOXES = 200_000


@dataclass(frozen=True, kw_only=True)
class NMSCase:
    """One call of NMS.

    Attributes:
        boxes, scores, groups: which, see `boxes_of`, `scores_of` and `groups_of`.
    """

    name: str = ""
    seed: int = 0
    batch: int = 1
    candidates: int = 1000
    max_output: int = 100
    iou_threshold: float = 0.5
    score_threshold: float = -np.inf
    boxes: Boxes = "random"
    scores: Scores = "distinct"
    groups: Groups = "one"

    @property
    def words(self) -> str:
        """What the case is, in a few words."""
        return (
            f"{self.batch}x{self.candidates} {self.boxes} boxes, {self.scores} scores, "
            f"groups: {self.groups}, IoU {self.iou_threshold:g}, score {self.score_threshold:g}, "
            f"{self.max_output} kept"
        )


def inputs_of(case: NMSCase) -> tuple[Floats, Floats, Ints]:
    """boxes (B, N, 4), scores (B, N) and group (B, N)."""
    parts = []
    for image in range(case.batch):
        generator = np.random.default_rng([case.seed, image])
        scores = scores_of(case, generator)
        parts.append((boxes_of(case, scores, generator), scores, groups_of(case, generator)))
    count = case.candidates
    boxes = np.array([part[0] for part in parts], np.float32).reshape(case.batch, count, 4)
    scores = np.array([part[1] for part in parts], np.float32).reshape(case.batch, count)
    group = np.array([part[2] for part in parts], np.int32).reshape(case.batch, count)
    return boxes, scores, group


def boxes_of(case: NMSCase, scores: Floats, generator: np.random.Generator) -> Floats:
    """(N, 4) xyxy of one image.

    random     everywhere, of all sizes
    clusters   moved a little from a few places, as a detector's
    identical  all the same
    chain      in the order of scores each overlaps the one before and the one after, and no other: as long a
               chain of decisions as there can be
    disjoint   none overlaps
    strange    NaN, infinite, inverted, empty and gigantic ones among random ones
    """
    count = case.candidates
    if case.boxes == "identical":
        return np.tile(np.array([10, 20, 110, 140], np.float32), (count, 1))
    if case.boxes in ("chain", "disjoint"):
        return _in_rows(case, scores)
    if case.boxes == "clusters":
        places = _random_boxes(max(1, count // 50), generator)
        chosen = places[generator.integers(len(places), size=count)]
        sides = np.tile(chosen[:, 2:] - chosen[:, :2], 2)
        return (chosen + generator.normal(0, 0.08, (count, 4)) * sides).astype(np.float32)
    boxes = _random_boxes(count, generator)
    if case.boxes == "strange" and count:
        _make_strange(boxes, generator)
    return boxes


def _random_boxes(count: int, generator: np.random.Generator) -> Floats:
    corner = generator.uniform(0, _SIDE, (count, 2))
    sides = np.exp(generator.uniform(np.log(5), np.log(200), (count, 2)))
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)


def _in_rows(case: NMSCase, scores: Floats) -> Floats:
    """Boxes of 100 x 100 side by side, the next one where the next score is."""
    width, overlap = 100.0, case.iou_threshold
    # Neighbours at distance d overlap with IoU (w - d) / (w + d); half again as far they must not.
    step = 2 * width if case.boxes == "disjoint" else 0.75 * width * (1 - overlap) / (1 + overlap)
    order = np.argsort(-scores, kind="stable")
    place = np.empty(len(scores), np.int64)
    place[order] = np.arange(len(scores))
    left, top = place % 1000 * step, place // 1000 * (2 * width)
    return np.stack([left, top, left + width, top + width], axis=1).astype(np.float32)


def _make_strange(boxes: Floats, generator: np.random.Generator) -> None:
    kinds = [
        [np.nan, 0, 100, 100],
        [0, 0, 100, np.nan],
        [np.inf, 0, np.inf, 100],
        [-np.inf, -np.inf, np.inf, np.inf],
        [0, 0, 3e38, 3e38],
        [-3e38, -3e38, 3e38, 3e38],
        [100, 100, 0, 0],
        [100, 0, 0, 100],
        [50, 50, 50, 50],
        [50, 0, 50, 100],
        [0, 0, 1e-30, 1e-30],
        [0, 0, _SIDE, _SIDE],
    ]
    count = max(1, len(boxes) // 3)
    rows = generator.integers(len(boxes), size=count)
    boxes[rows] = np.array(kinds, np.float32)[generator.integers(len(kinds), size=count)]


def scores_of(case: NMSCase, generator: np.random.Generator) -> Floats:
    """(N,) scores of one image.

    distinct  no two equal, in random order          falling  no two equal, best first
    ties      one of 16 values                       equal    all the same
    strange   NaN, infinities, -0, subnormals among ties of both signs
    low       none above the threshold of 2
    """
    count = case.candidates
    distinct = (np.arange(count, 0, -1) / (count + 1)).astype(np.float32)
    if case.scores == "falling":
        return distinct
    if case.scores == "equal":
        return np.full(count, 0.5, np.float32)
    if case.scores == "ties":
        return (generator.integers(16, size=count) / 16).astype(np.float32)
    if case.scores == "strange":
        values = [
            np.nan,
            -np.nan,
            np.inf,
            -np.inf,
            -0.0,
            0.0,
            1e-45,
            -1e-45,
            1e-38,
            -0.5,
            0.5,
            1.0,
            3e38,
            -3e38,
        ]
        return np.array(values, np.float32)[generator.integers(len(values), size=count)]
    return generator.permutation(distinct)


def groups_of(case: NMSCase, generator: np.random.Generator) -> Ints:
    """(N,) groups of one image: one, 5 levels, 91 or 1203 classes, or any int32 with the extremes."""
    count = case.candidates
    if case.groups == "any":
        few = generator.integers(-(2**31), 2**31, size=40)
        few[:8] = (-(2**31), 2**31 - 1, -1, 0, 255, 510, -255, 256)  # 0, 255 and 510 share a bucket
        return few[generator.integers(len(few), size=count)].astype(np.int32)
    number = {"one": 1, "levels": 5, "classes": 91, "many classes": 1203}[case.groups]
    return generator.integers(number, size=count).astype(np.int32)


def sweep_cases(seed: int) -> Iterator[NMSCase]:
    """Every number of candidates with every kind of boxes, the rest drawn from decks."""
    generator = np.random.default_rng(seed)
    combinations = list(itertools.product(CANDIDATES, BOXES))
    decks = {
        "batch": (1, 2, 8, 3, 5),
        "scores": SCORES,
        "groups": GROUPS,
        "max_output": (100, 1000, 1, 2000, 37),
        "iou_threshold": (0.5, 0.7, 0.3, 0.0, 1.0, 0.45),
        "score_threshold": (-np.inf, 0.05, 0.5),
    }
    drawn = {name: deal(deck, len(combinations), generator) for name, deck in decks.items()}
    for i, (candidates, boxes) in enumerate(combinations):
        chosen = {name: cards[i] for name, cards in drawn.items()}
        chosen["batch"] = max(1, min(chosen["batch"], _MAX_BOXES // max(1, candidates)))
        if boxes == "chain":
            chosen["scores"] = "distinct"  # it follows them
        yield NMSCase(
            name=f"sweep {seed}.{i}", seed=1000 * seed + i, candidates=candidates, boxes=boxes, **chosen
        )


def named_cases() -> Iterator[NMSCase]:
    """What the sweep may miss, and the worst cases of each kernel."""
    yield NMSCase(name="no images", batch=0)
    yield NMSCase(name="no candidates", candidates=0, batch=3)
    yield NMSCase(name="all below the threshold", scores="low", score_threshold=2.0, batch=3, candidates=5000)
    yield NMSCase(name="one image of three below", candidates=1500, batch=3, score_threshold=0.999)
    for candidates in (33, 1024, 1025, 5000, 100_000):
        for groups in ("one", "any"):
            yield NMSCase(name=f"chain of {candidates}, groups: {groups}", boxes="chain", groups=groups,
                          candidates=candidates, max_output=2000)  # fmt: skip
    yield NMSCase(name="one bucket of 100000, none overlaps", boxes="disjoint", candidates=100_000,
                  max_output=2000)  # fmt: skip
    yield NMSCase(name="one bucket of 20000 identical boxes", boxes="identical", candidates=20_000)
    yield NMSCase(name="20000 equal scores", scores="equal", boxes="clusters", candidates=20_000, batch=2)
    yield NMSCase(name="the RPN's levels", boxes="clusters", groups="levels", candidates=4819, batch=8,
                  iou_threshold=0.7, max_output=1000)  # fmt: skip
    yield NMSCase(name="91 classes of 1000", boxes="clusters", groups="classes", candidates=91_000, batch=2,
                  score_threshold=0.05)  # fmt: skip
    yield NMSCase(name="eight images of 91 classes", boxes="clusters", groups="classes", candidates=91_000,
                  batch=8)  # fmt: skip
    yield NMSCase(
        name="more to keep than there is", candidates=50, max_output=2000, batch=8, boxes="disjoint"
    )
    yield NMSCase(name="300 images", candidates=100, batch=300, groups="classes", scores="ties")


def nms_cases(*, quick: bool) -> list[NMSCase]:
    """All cases; quick: those with few boxes, and some of the sweep."""
    named = [replace(case, seed=50_000 + i) for i, case in enumerate(named_cases())]
    if not quick:
        return [*named, *(case for seed in SWEEP_SEEDS for case in sweep_cases(seed))]
    small = [case for case in named if case.batch * case.candidates <= 100_000]
    return [*small, *list(sweep_cases(SWEEP_SEEDS[0]))[::4]]
