"""Which sizes an engine is made for."""

import pytest

from mrcnn.description import ResizeRule
from mrcnn.errors import MrcnnError
from mrcnn.export.profiles import SizeWishes, choose_profiles, default_profiles, describe
from mrcnn.runtime.sizes import InputRange, network_sizes
from mrcnn.sidecar import Profile

RULE = ResizeRule()


def profiles(
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    rule: ResizeRule = RULE,
    **wishes: object,
) -> tuple[Profile, ...]:
    return choose_profiles(rule, size=size, batch=batch, wishes=SizeWishes(**wishes))  # type: ignore[arg-type]


def test_without_wishes_landscape_and_portrait() -> None:
    landscape, portrait = profiles()
    assert landscape == Profile(least=(1, 32, 32), best=(1, 800, 1088), most=(1, 800, 1344))
    assert portrait == Profile(least=(1, 32, 32), best=(1, 1088, 800), most=(1, 1344, 800))


def test_a_rule_that_makes_squares_needs_one() -> None:
    (square,) = profiles(rule=ResizeRule(min_size=512, max_size=512))
    assert square == Profile(least=(1, 32, 32), best=(1, 512, 512), most=(1, 512, 512))


@pytest.mark.parametrize(
    "rule", [RULE, ResizeRule(min_size=500, max_size=600), ResizeRule(min_size=33, max_size=99)]
)
def test_the_default_takes_every_image_unchanged(rule: ResizeRule) -> None:
    ranges = [InputRange(profile.least, profile.most) for profile in default_profiles(rule, batch=1)]
    for height in range(1, 400, 7):
        for width in range(1, 400, 7):
            resized = rule.output_size(height, width)
            assert network_sizes(rule, ranges, (height, width)) == (resized, rule.padded_size(*resized))


def test_one_shape_buckets_and_a_range() -> None:
    assert profiles(shape=(640, 960), batch=2) == (Profile.fixed(2, 640, 960),)
    assert profiles(buckets=((640, 960), (960, 640))) == (
        Profile.fixed(1, 640, 960),
        Profile.fixed(1, 960, 640),
    )
    assert profiles(best=(None, 640, 960), most=(4, 800, 1344)) == (
        Profile(least=(1, 32, 32), best=(1, 640, 960), most=(4, 800, 1344)),
    )
    assert profiles(least=(2, 320, 320), best=(4, 640, 960), most=(8, 800, 1344)) == (
        Profile(least=(2, 320, 320), best=(4, 640, 960), most=(8, 800, 1344)),
    )


def test_a_graph_of_fixed_size() -> None:
    assert profiles(size=(640, 960), batch=2) == (Profile.fixed(2, 640, 960),)
    assert profiles(size=(640, 960), shape=(640, 960)) == (Profile.fixed(1, 640, 960),)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shape": (100, 100)}, "multiples of 32"),
        ({"buckets": ((640, 960), (641, 960))}, "multiples of 32"),
        ({"buckets": ((640, 960), (640, 960))}, "named twice"),
        ({"buckets": tuple((32 * i, 32) for i in range(1, 18))}, "at most 16"),
        ({"shape": (640, 960), "buckets": ((640, 960),)}, "use one of --shape, --bucket"),
        ({"shape": (640, 960), "most": (1, 640, 960)}, "use one of --shape, --bucket"),
        ({"least": (1, 64, 64)}, "needs --opt-shape and --max-shape"),
        ({"best": (1, 64, 64)}, "needs --opt-shape and --max-shape"),
        ({"best": (1, 640, 640), "most": (1, 320, 960)}, "must grow"),
        ({"best": (1, 64, 64), "most": (1, 64, 65)}, "multiples of 32"),
        ({"best": (1, 64, 64), "most": (2000, 64, 64)}, "batch must be in"),
        (
            {"best": (1, 64, 64), "most": (2, 64, 64), "batch": 4},
            "the batch is fixed at 4, but a shape names 1",
        ),
        ({"size": (640, 960), "shape": (960, 640)}, "fixed at 640x960 pixels"),
        ({"size": (640, 960), "buckets": ((640, 960),)}, "fixed at 640x960 pixels"),
        ({"size": (640, 960), "best": (1, 64, 64), "most": (1, 64, 64)}, "fixed at 640x960 pixels"),
    ],
)
def test_wishes_that_cannot_be_had(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(MrcnnError, match=words):
        profiles(**arguments)  # type: ignore[arg-type]


def test_a_fixed_batch_is_another() -> None:
    with pytest.raises(MrcnnError, match="batch is fixed at 2: export the checkpoint again"):
        choose_profiles(RULE, size=None, batch=2, wishes=SizeWishes(batch=4))


def test_words() -> None:
    wide = Profile(least=(1, 32, 32), best=(1, 800, 1088), most=(1, 800, 1344))
    assert describe([wide, Profile.fixed(2, 640, 960)]) == "1x32x32 to 1x800x1344 and 2x640x960"
