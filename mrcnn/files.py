"""Writing files so that they appear whole or not at all."""

import errno
import json
import os
import secrets
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mrcnn.errors import MrcnnError


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renamed to `path` if the block succeeds, else removed.

    The folder of `path` is created, and removed again on failure. The temporary name keeps the suffix of
    `path`, because image writers choose the format by it. A device such as /dev/null is written to as it is.

    Raises:
        MrcnnError: the folder cannot be created or written, or the disk is full.
    """
    with atomic_paths(path) as (temporary,):
        yield temporary


@contextmanager
def atomic_paths(*paths: Path | str) -> Iterator[list[Path]]:
    """As `atomic_path` for files that belong together: all get their names at the end, or none does."""
    targets = [Path(path) for path in paths]
    temporaries: list[Path] = []
    created: list[Path] = []
    done = False
    current = targets[0]
    try:
        for current in targets:
            created += _make_folder(current.parent)
            if _is_device(current):
                temporaries.append(current)
                continue
            if current.is_dir():
                raise MrcnnError(f"cannot write {current}: it is a folder")
            temporaries.append(current.parent / f".part-{secrets.token_hex(8)}{current.suffix}")
            os.close(os.open(temporaries[-1], os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield list(temporaries)
        with _uninterrupted():
            for current, temporary in zip(targets, temporaries, strict=True):
                temporary.replace(current)
            done = True
    except OSError as error:
        if error.filename in map(str, temporaries):
            current = targets[list(map(str, temporaries)).index(str(error.filename))]
        raise MrcnnError(f"cannot write {current}: {error.strerror or error}") from error
    finally:
        for target, temporary in zip(targets, temporaries, strict=False):
            if temporary != target:
                temporary.unlink(missing_ok=True)
        if not done:
            for folder in created:
                with suppress(OSError):  # somebody else has put something there
                    folder.rmdir()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for large files that are soon gone.

    Raises:
        MrcnnError: it cannot be made, or the disk is full.
    """
    remedy = "the variable TMPDIR names the folder of temporary files"
    try:
        made = TemporaryDirectory(prefix="mrcnn-")
    except OSError as error:
        raise MrcnnError(f"no temporary files are possible: {error.strerror}: {remedy}") from error
    with made as folder:
        try:
            yield Path(folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise MrcnnError(f"{folder}: {error.strerror}: {remedy}") from error


def require_writable(path: Path) -> None:
    """Raises MrcnnError where `path` is known not to be writable; nothing is created."""
    try:
        if path.is_dir():
            raise MrcnnError(f"cannot write {path}: it is a folder")
        # A link that leads nowhere is there as well, and in the way of a folder.
        existing = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    except (OSError, ValueError) as error:  # a name that is too long, or holds a null character
        raise MrcnnError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    if not existing.is_dir():
        raise MrcnnError(f"cannot write {path}: {existing} is not a folder")
    if not os.access(existing, os.W_OK):
        raise MrcnnError(f"cannot write {path}: Permission denied")


def read_regular(path: Path, *, most_bytes: int) -> bytes:
    """A file's content. From a pipe or a device nothing is read: it may never end.

    Raises:
        FileNotFoundError: it is not there.
        MrcnnError: it is no regular file, larger than `most_bytes`, or cannot be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "Is a directory" if stat.S_ISDIR(found.st_mode) else "not a regular file"
            raise MrcnnError(f"{path}: {kind}")
        if found.st_size > most_bytes:
            raise MrcnnError(f"{path}: {found.st_size:,} bytes, more than {most_bytes:,}")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise MrcnnError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back for the few moments in which files get their names.

    By Python's handlers: a mask holds a signal back from one thread, and another one takes it.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    arrived: list[int] = []
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda number, _: arrived.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if arrived:
            signal.raise_signal(arrived[0])


def _is_device(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _make_folder(folder: Path) -> list[Path]:
    """Creates `folder`; returns what had to be created, innermost first."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def write_text(path: Path | str, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, document: Any) -> None:
    """Writes `document` as indented JSON, atomically; `-` writes to standard output instead."""
    text = json.dumps(document, indent=2) + "\n"
    if str(path) == "-":
        print(text, end="")
    else:
        write_text(path, text)
