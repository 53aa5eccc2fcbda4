"""Files appear whole or not at all, and leave nothing behind."""

import errno
import os
import signal
import tempfile
from pathlib import Path

import pytest

from mrcnn.errors import MrcnnError
from mrcnn.files import (
    atomic_path,
    atomic_paths,
    read_regular,
    require_writable,
    scratch_folder,
    write_json,
    write_text,
)


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


def test_files_that_belong_together_appear_together(tmp_path: Path) -> None:
    pair = (tmp_path / "a.plan", tmp_path / "a.json")
    for path in pair:
        path.write_text("old")

    def write(text: str, *, fail: bool) -> None:
        with atomic_paths(*pair) as temporaries:
            for temporary in temporaries:
                temporary.write_text(text)
            if fail:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write("half", fail=True)
    assert [path.read_text() for path in pair] == ["old", "old"]
    write("new", fail=False)
    assert [path.read_text() for path in pair] == ["new", "new"]
    assert len(list(tmp_path.iterdir())) == 2


def test_ctrl_c_between_two_names_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def interrupting(self: Path, target: Path) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupting)
    # A program that was started in the background ignores it.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    pair = (tmp_path / "a.plan", tmp_path / "a.json")

    def write() -> None:
        with atomic_paths(*pair) as temporaries:
            for temporary in temporaries:
                temporary.write_text("new")

    try:
        with pytest.raises(KeyboardInterrupt):
            write()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert [path.read_text() for path in pair] == ["new", "new"]


def test_a_folder_in_the_way_changes_none_of_a_pair(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    (tmp_path / "a.plan").write_text("old")
    pair = atomic_paths(tmp_path / "a.plan", tmp_path / "a.json")
    with pytest.raises(MrcnnError, match=r"cannot write .*a\.json: it is a folder"), pair:
        pass
    assert (tmp_path / "a.plan").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_device_stays_one() -> None:
    write_json(os.devnull, {"x": 1})
    assert not Path(os.devnull).is_file()


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    require_writable(tmp_path / "new" / "deep" / "x")
    require_writable(tmp_path / "file")
    with pytest.raises(MrcnnError, match="it is a folder"):
        require_writable(tmp_path)
    with pytest.raises(MrcnnError, match="file is not a folder"):
        require_writable(tmp_path / "file" / "below")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["a" * 5000, "b" * 300 + "/c"])
def test_a_name_that_is_too_long_is_one_line(name: str) -> None:
    with pytest.raises(MrcnnError, match="File name too long"):
        require_writable(Path(name))


def test_only_regular_files_of_a_sensible_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("four")
    assert read_regular(tmp_path / "file", most_bytes=4) == b"four"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MrcnnError, match="Is a directory"):
        read_regular(tmp_path, most_bytes=4)
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(MrcnnError, match="not a regular file"):
            read_regular(path, most_bytes=4)
    with pytest.raises(MrcnnError, match="4 bytes, more than 3"):
        read_regular(tmp_path / "file", most_bytes=3)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none", most_bytes=3)


def test_a_link_to_itself_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(MrcnnError, match="loop is not a folder"):
        require_writable(tmp_path / "loop" / "model.onnx")


def test_no_room_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        with scratch_folder():
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(MrcnnError, match="No space left on device: the variable TMPDIR names"):
        full()

    def none(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "mkdtemp", none)
    with pytest.raises(MrcnnError, match="no temporary files are possible: No usable"):
        full()
