"""Each mistake with an engine's files or machine has its own line, before TensorRT sees anything."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mrcnn import __version__
from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.plugins.kernels import kernels_path
from mrcnn.runtime.engine import checks
from mrcnn.runtime.engine.checks import (
    check_machine,
    check_plan,
    installed_plugins,
    read_plan,
    read_sidecar,
)
from mrcnn.sidecar import HEAD_BYTES, Profile, Sidecar, sidecar_path
from tests.runtime.engine.engine_files import write_engine
from tests.runtime.engine.simulated_tensorrt import MAGIC

HERE = {"gpu": "Simulated GPU", "capability": (9, 0), "tensorrt": "10.13.3.9", "plugins": "0.1.0"}


@pytest.fixture
def engine(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    profile = Profile.fixed(1, 64, 96)
    return write_engine(
        tmp_path / "model.engine",
        tiny_model(height=64, width=96, batch=1),
        profiles=(profile,),
        plugins_embedded=False,
    )


def check_files(engine: Path) -> bytearray:
    sidecar = read_sidecar(engine)
    check_plan(engine, sidecar)
    return read_plan(engine, sidecar)


def refusal(action: Callable[[], object], kind: type[MrcnnError] = MrcnnError) -> str:
    with pytest.raises(MrcnnError) as caught:
        action()
    assert type(caught.value) is kind
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_good_engine_passes(engine: Path) -> None:
    plan = check_files(engine)
    assert plan == engine.read_bytes()
    assert plan.startswith(MAGIC)
    check_machine(engine, read_sidecar(engine), **HERE)


# What is done to the files (plan, sidecar) → what the line says. The plan is some 13 kB, of which the first
# HEAD_BYTES have a hash of their own.


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


class Files(NamedTuple):
    """A plan, and its sidecar."""

    plan: Path
    side: Path

    @classmethod
    def of(cls, engine: Path) -> "Files":
        return cls(engine, sidecar_path(engine))


@dataclass(frozen=True)
class Damage:
    """What is done to the files, and parts of the line that says so."""

    name: str
    do: Callable[[Files], object]
    says: tuple[str, ...]


DAMAGES = [
    Damage(
        "no sidecar",
        lambda files: files.side.unlink(),
        ("model.engine.json is missing beside it", "copy it along"),
    ),
    Damage(
        "edited sidecar",
        lambda files: edit(files.side, "Simulated GPU", "NVIDIA H100"),
        ("model.engine.json: it was changed after the build", "restore it"),
    ),
    Damage("sidecar of text", lambda files: files.side.write_text("hello"), ("not JSON", "mrcnn export")),
    Damage(
        "sidecar of bytes", lambda files: files.side.write_bytes(b"\xff\xfe\xff"), ("not a text", "copy it")
    ),
    Damage(
        "newer sidecar",
        lambda files: edit(
            files.side, '"format_version": 1,\n  "checksum"', '"format_version": 2,\n  "checksum"'
        ),
        ("format version is 2",),
    ),
    Damage(
        "sidecar is a folder", lambda files: (files.side.unlink(), files.side.mkdir()), ("Is a directory",)
    ),
    Damage(
        "longer plan",
        lambda files: append(files.plan),
        ("of another build than model.engine.json", "copy both from the same build"),
    ),
    Damage(
        "another plan of that length",
        lambda files: flip(files.plan, 100),
        ("of another build than model.engine.json", "copy both from the same build"),
    ),
    Damage(
        "another, shorter plan",
        lambda files: (flip(files.plan, 100), cut(files.plan, HEAD_BYTES + 10)),
        ("of another build than model.engine.json", "copy both from the same build"),
    ),
    Damage(
        "cut plan",
        lambda files: cut(files.plan, HEAD_BYTES + 10),
        ("cut off after 4,106 of", "copy it again"),
    ),
    Damage(
        "cut within the head", lambda files: cut(files.plan, 10), ("cut off after 10 of", "copy it again")
    ),
    Damage("a bit flipped", lambda files: flip(files.plan, -1), ("damaged", "copy it again")),
    Damage("empty plan", lambda files: cut(files.plan, 0), ("the file is empty", "copy it again")),
    Damage("no plan", lambda files: files.plan.unlink(), ("No such file or directory",)),
    Damage(
        "plan is a folder",
        lambda files: (files.plan.unlink(), files.plan.mkdir()),
        ("a folder, not an engine",),
    ),
    Damage(
        "plan is a pipe", lambda files: (files.plan.unlink(), os.mkfifo(files.plan)), ("not a regular file",)
    ),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_each_damage_has_its_line(engine: Path, damage: Damage) -> None:
    damage.do(Files.of(engine))
    line = refusal(lambda: check_files(engine))
    assert line.startswith(str(engine))
    for part in damage.says:
        assert part in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("which", [0, 1])
def test_unreadable_files(engine: Path, which: int) -> None:
    Files.of(engine)[which].chmod(0)
    assert "Permission denied" in refusal(lambda: check_files(engine))


def test_names(engine: Path) -> None:
    other = engine.with_name("model.plan")
    shutil.copy(engine, other)
    assert refusal(lambda: read_sidecar(other)).endswith("an engine's name ends in .engine")
    assert "null" in refusal(lambda: read_sidecar(Path("a\0b.engine")))


def test_the_plan_is_read_in_small_parts(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_CHUNK", 7)
    assert check_files(engine) == engine.read_bytes()


# What differs here, and in the sidecar → the line's parts, or None where the engine runs.
MACHINES: list[tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...] | None]] = [
    ("the same", {}, {}, None),
    ("another GPU of the same capability", {"gpu": "Other GPU"}, {}, None),
    (
        "another GPU",
        {"gpu": "Orin", "capability": (8, 7)},
        {},
        ("built for Simulated GPU (compute capability 9.0), this is Orin (8.7)", "build it again here"),
    ),
    ("another GPU, made for it", {"capability": (8, 7)}, {"hardware_compatible": True}, None),
    ("newer GPU, made for it", {"capability": (12, 0)}, {"hardware_compatible": True}, None),
    (
        "too old a GPU",
        {"capability": (7, 5)},
        {"hardware_compatible": True},
        ("(7.5)", "build it again here"),
    ),
    (
        "another TensorRT, build",
        {"tensorrt": "10.13.3.10"},
        {},
        ("built with TensorRT 10.13.3.9, here is 10.13.3.10", "pip install 'tensorrt==10.13.3.9'"),
    ),
    ("another TensorRT, patch", {"tensorrt": "10.13.2.9"}, {}, ("here is 10.13.2.9",)),
    ("another TensorRT, major", {"tensorrt": "11.1.0.106"}, {}, ("here is 11.1.0.106",)),
    ("TensorRT with a suffix", {"tensorrt": "10.13.3.9.post1"}, {}, None),
    ("TensorRT without its build", {"tensorrt": "10.13.3"}, {}, None),
    ("TensorRT without a patch", {"tensorrt": "10.13"}, {}, ("here is 10.13",)),
    ("TensorRT without a version", {"tensorrt": "unknown"}, {}, ("here is unknown",)),
    ("newer minor, made for it", {"tensorrt": "10.16.0.1"}, {"version_compatible": True}, None),
    ("older patch, made for it", {"tensorrt": "10.13.0.1"}, {"version_compatible": True}, None),
    (
        "older minor",
        {"tensorrt": "10.12.9.9"},
        {"version_compatible": True},
        ("here is 10.12.9.9", "pip install 'tensorrt>=10.13,<11'"),
    ),
    ("newer major", {"tensorrt": "11.0.0.1"}, {"version_compatible": True}, ("here is 11.0.0.1",)),
    (
        "other plugins",
        {"plugins": "0.2.0"},
        {},
        (
            "built with the plugins of mrcnn 0.1.0, here are those of 0.2.0",
            ": install that version of it, or build it again",
        ),
    ),
    ("no plugins", {"plugins": None}, {}, ("plugins, which are not built", "python -m mrcnn.plugins.build")),
    ("other plugins, embedded", {"plugins": "0.2.0"}, {"plugins_embedded": True}, None),
    ("no plugins, embedded", {"plugins": None}, {"plugins_embedded": True}, None),
]


@pytest.mark.parametrize(
    ("here", "built", "says"), [case[1:] for case in MACHINES], ids=[c[0] for c in MACHINES]
)
def test_machines(
    engine: Path, here: dict[str, Any], built: dict[str, Any], says: tuple[str, ...] | None
) -> None:
    sidecar = Sidecar(**vars(read_sidecar(engine)) | built)
    if says is None:
        check_machine(engine, sidecar, **HERE | here)
        return
    line = refusal(lambda: check_machine(engine, sidecar, **HERE | here), MissingRequirementError)
    assert line.startswith(f"{engine}: ")
    for part in says:
        assert part in line


def test_the_lines_differ(engine: Path, tmp_path: Path) -> None:
    """The six mistakes that users make most, told apart."""
    lines = []
    for damage in DAMAGES:
        if damage.name in ("no sidecar", "edited sidecar", "longer plan", "cut plan"):
            copy = tmp_path / damage.name / engine.name
            copy.parent.mkdir()
            shutil.copy(engine, copy)
            shutil.copy(sidecar_path(engine), sidecar_path(copy))
            damage.do(Files.of(copy))
            lines.append(refusal(lambda copy=copy: check_files(copy)).rpartition("/")[2])  # type: ignore[misc]
    sidecar = read_sidecar(engine)
    for other in ({"capability": (8, 7)}, {"plugins": "0.2.0"}):
        wrong = HERE | other
        lines.append(
            refusal(lambda wrong=wrong: check_machine(engine, sidecar, **wrong), MissingRequirementError)  # type: ignore[misc]
        )
    assert len(set(lines)) == 6


def test_the_plugins_version_is_the_librarys(tmp_path: Path) -> None:
    if not kernels_path().is_file():
        pytest.skip("the native libraries are not built")
    assert installed_plugins(kernels_path()) == __version__
    assert installed_plugins(tmp_path / "missing.so") is None
    (tmp_path / "broken.so").write_bytes(b"\x7fELF")
    line = refusal(lambda: installed_plugins(tmp_path / "broken.so"), MissingRequirementError)
    assert line.endswith("run python -m mrcnn.plugins.build")
