"""Files appear whole or not at all, and leave nothing behind."""

from pathlib import Path

import pytest

from mrcnn.errors import MrcnnError
from mrcnn.files import atomic_path, write_json, write_text


def test_a_file_appears_with_its_folders(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b" / "c.json", {"x": 1})
    assert (tmp_path / "a" / "b" / "c.json").read_text() == '{\n  "x": 1\n}\n'


def _write_half(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError


def test_a_failure_leaves_the_old_file_and_no_new_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "old.txt", "old")
    for path in (tmp_path / "old.txt", tmp_path / "new" / "deep" / "x.txt"):
        with pytest.raises(ZeroDivisionError):
            _write_half(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "old"


def test_the_longest_legal_name_can_be_written(tmp_path: Path) -> None:
    name = "n" * 250 + ".json"
    write_text(tmp_path / name, "x")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_path_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MrcnnError, match="cannot write"):
        write_text(tmp_path / "file" / "below.txt", "x")
