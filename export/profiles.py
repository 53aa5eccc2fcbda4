"""Which input sizes an engine is made for."""

from collections.abc import Sequence
from dataclasses import dataclass

from mrcnn.description import ResizeRule, check_input
from mrcnn.errors import MrcnnError
from mrcnn.sidecar import Profile

Size = tuple[int, int]
Shape = tuple[int | None, int, int]  # (batch or None, height, width)

# More profiles cost as many engines' build time, and a context each.
MOST_PROFILES = 16


@dataclass(frozen=True, kw_only=True)
class SizeWishes:
    """What was asked for on the command line; nothing of it means the default.

    Attributes:
        batch: images per run, fixed.
        shape: the one input size.
        buckets: several input sizes; an image goes into the one that fits it best.
        least, best, most: a range of sizes; `best` is what it is tuned for.
    """

    batch: int | None = None
    shape: Size | None = None
    buckets: tuple[Size, ...] = ()
    least: Shape | None = None
    best: Shape | None = None
    most: Shape | None = None

    def __post_init__(self) -> None:
        ranged = (self.least, self.best, self.most)
        if (self.shape is not None) + bool(self.buckets) + any(ranged) > 1:
            raise MrcnnError("use one of --shape, --bucket, and --min-shape, --opt-shape, --max-shape")
        if any(ranged) and None in (self.best, self.most):
            raise MrcnnError("a range of sizes needs --opt-shape and --max-shape (and may have --min-shape)")
        if len(self.buckets) > MOST_PROFILES:
            raise MrcnnError(
                f"at most {MOST_PROFILES} --bucket can be in one engine (got {len(self.buckets)})"
            )
        if len(set(self.buckets)) < len(self.buckets):
            raise MrcnnError("a --bucket is named twice")
        for batch in (self.batch, *(shape[0] for shape in ranged if shape is not None)):
            if batch is not None and batch < 1:
                raise MrcnnError(f"batch must be in 1…1024 (got {batch})")


def choose_profiles(
    rule: ResizeRule, *, size: Size | None, batch: int | None, wishes: SizeWishes
) -> tuple[Profile, ...]:
    """The profiles of an engine for a graph.

    Without wishes, a graph of any size gets two: landscape and portrait, which together take every image as
    the model's resize rule makes it, so that the engine sees the very pixels that the PyTorch model sees.

    Args:
        rule: the model's.
        size: (height, width) of the graph's input, None where it takes any.
        batch: of the graph's input, None where it takes any.

    Raises:
        MrcnnError: a size is not one that the graph can have, or the graph's own is fixed and another one.
    """
    images = _batch(batch, wishes)
    if size is not None:
        return (_fixed(rule, images, _of_fixed_graph(size, wishes)),)
    if wishes.shape is not None:
        return (_fixed(rule, images, wishes.shape),)
    if wishes.buckets:
        return tuple(_fixed(rule, images, bucket) for bucket in wishes.buckets)
    if wishes.best is not None and wishes.most is not None:
        fixed = batch is not None or wishes.batch is not None
        return (_range(rule, wishes, wishes.best, wishes.most, images, fixed=fixed),)
    return tuple(_checked(rule, p.least, p.best, p.most) for p in default_profiles(rule, batch=images))


def default_profiles(rule: ResizeRule, *, batch: int) -> tuple[Profile, ...]:
    """Landscape and portrait; one alone where the rule makes squares."""
    step = rule.size_divisible
    short, long = rule.padded_size(rule.min_size, rule.max_size)
    usual = min(long, rule.padded_size(1, rule.min_size * 4 // 3)[1])  # most cameras' and COCO's 4:3
    landscape = Profile(least=(batch, step, step), best=(batch, short, usual), most=(batch, short, long))
    portrait = Profile(least=(batch, step, step), best=(batch, usual, short), most=(batch, long, short))
    return (landscape,) if short == long else (landscape, portrait)


def _of_fixed_graph(size: Size, wishes: SizeWishes) -> Size:
    if wishes.buckets or wishes.most or wishes.shape not in (None, size):
        raise MrcnnError(
            f"the graph's input is fixed at {size[0]}x{size[1]} pixels: export the checkpoint again without "
            "--shape to choose other sizes"
        )
    return size


def _batch(fixed: int | None, wishes: SizeWishes) -> int:
    if fixed is not None and wishes.batch not in (None, fixed):
        raise MrcnnError(
            f"the graph's batch is fixed at {fixed}: export the checkpoint again with the batch that you want"
        )
    return fixed or wishes.batch or 1


def _range(
    rule: ResizeRule, wishes: SizeWishes, best: Shape, most: Shape, images: int, *, fixed: bool
) -> Profile:
    def shape(given: Shape, default: int) -> tuple[int, int, int]:
        if fixed and given[0] not in (None, images):
            raise MrcnnError(f"the batch is fixed at {images}, but a shape names {given[0]}")
        return (given[0] or default, given[1], given[2])

    step = rule.size_divisible
    smallest = shape(wishes.least or (None, min(step, best[1]), min(step, best[2])), images)
    usual = shape(best, smallest[0])
    largest = shape(most, usual[0])
    return _checked(rule, smallest, usual, largest)


def _fixed(rule: ResizeRule, images: int, size: Size) -> Profile:
    return _checked(rule, *[(images, *size)] * 3)


def _checked(rule: ResizeRule, *shapes: tuple[int, int, int]) -> Profile:
    """The profile of those three shapes; what is wrong with one of them is told first."""
    for batch, height, width in shapes:
        check_input(rule, height=height, width=width, batch=batch)
    least, best, most = shapes
    return Profile(least=least, best=best, most=most)


def describe(profiles: Sequence[Profile]) -> str:
    """The profiles in words: "1x800x1344", "1x32x32 to 1x800x1344"."""
    return " and ".join(
        _text(p.most) if p.least == p.most else f"{_text(p.least)} to {_text(p.most)}" for p in profiles
    )


def _text(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))
