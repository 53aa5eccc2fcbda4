"""The document beside a plan."""

import json

import pytest

from mrcnn.description import Deployment, ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.sidecar import HEAD_BYTES, Profile, Sidecar, head_sha256

DESCRIPTION = ModelDescription(
    architecture="maskrcnn_resnet50_fpn", class_names=("__background__", "Bär 🐻"), norm_eps=1e-7
)


def sidecar(**changes: object) -> Sidecar:
    fields: dict[str, object] = {
        "deployment": Deployment(
            description=DESCRIPTION,
            height=None,
            width=None,
            batch=None,
            mask_size=28,
            built_with={"torch": "2"},
        ),
        "plan_sha256": "a" * 64,
        "plan_head_sha256": "b" * 64,
        "plan_bytes": 1000,
        "onnx_sha256": "c" * 64,
        "inputs_sha256": "d" * 64,
        "tensorrt": "10.3.0",
        "gpu": "Orin",
        "capability": (8, 7),
        "plugins": "0.1.0",
        "profiles": (
            Profile(least=(1, 32, 32), best=(1, 800, 1088), most=(4, 800, 1344)),
            Profile.fixed(1, 1344, 800),
        ),
    }
    return Sidecar(**(fields | changes))  # type: ignore[arg-type]


def test_it_reads_what_it_wrote() -> None:
    assert Sidecar.from_json(sidecar().to_json()) == sidecar()


def test_a_program_that_writes_the_same_json_otherwise_changes_nothing() -> None:
    assert Sidecar.from_json(json.dumps(json.loads(sidecar().to_json()), sort_keys=True)) == sidecar()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"gpu": "Orin"', '"gpu": "H100"'),
        ('"capability": [\n    8,\n    7', '"capability": [\n    9,\n    0'),
        ('"score_threshold": 0.05', '"score_threshold": 0.5'),
        ('"plan_bytes": 1000', '"plan_bytes": 1001'),
        ('"checksum": "', '"checksum": "0'),
        ('"checksum"', '"check"'),
        ('"refit": false', '"refit": false, "more": 1'),
    ],
)
def test_a_change_is_noticed(old: str, new: str) -> None:
    text = sidecar().to_json()
    assert text.count(old) == 1
    with pytest.raises(
        MrcnnError, match=r"it was changed after the build: restore it, or build the engine again"
    ):
        Sidecar.from_json(text.replace(old, new))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "format version is None"),
        ('{"format_version": 2}', "format version is 2, this program reads 1"),
        ('{"format_version": 1}', "it was changed after the build"),
    ],
)
def test_other_documents_are_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(MrcnnError, match=words) as error:
        Sidecar.from_json(text)
    assert "\n" not in str(error.value)


def test_the_head_tells_a_cut_plan_from_another() -> None:
    plan = bytes(range(256)) * 100
    assert head_sha256(plan) == head_sha256(plan[:HEAD_BYTES]) == head_sha256(plan[: HEAD_BYTES + 7])
    assert head_sha256(plan) != head_sha256(plan[1:])


def test_the_sizes_of_a_profile_grow() -> None:
    with pytest.raises(MrcnnError, match="must grow from least to best to most"):
        Profile(least=(1, 256, 256), best=(1, 128, 256), most=(1, 512, 512))
    with pytest.raises(MrcnnError, match="must grow"):
        Profile.fixed(0, 128, 128)


def test_no_engine_is_without_profiles() -> None:
    with pytest.raises(MrcnnError, match="names no profile"):
        sidecar(profiles=())


@pytest.mark.parametrize(
    "changes",
    [
        {"gpu": "a\nb"},
        {"tensorrt": "\x1b[2J"},
        {"plugins": "9" * 5000},
        {"plan_bytes": 0},
        {"plan_bytes": 10**100},
    ],
    ids=lambda changes: str(changes)[:30],
)
def test_what_would_be_printed_or_reserved_is_sensible(changes: dict[str, object]) -> None:
    with pytest.raises(MrcnnError, match="engine description: "):
        sidecar(**changes)
