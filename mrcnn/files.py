"""Writing files so that they appear whole or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mrcnn.errors import MrcnnError


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renamed to `path` if the block succeeds, else removed.

    The folder of `path` is created, and removed again on failure. The temporary name keeps the suffix of
    `path`, because image writers choose the format by it.

    Raises:
        MrcnnError: the folder cannot be created or written, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    created: list[Path] = []
    done = False
    try:
        created = _make_folder(path.parent)
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp creates files that only their owner may read; give the result the usual mode.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
        done = True
    except OSError as error:
        raise MrcnnError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if not done:
            for folder in created:
                with suppress(OSError):  # somebody else has put something there
                    folder.rmdir()


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
