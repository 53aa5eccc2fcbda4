"""docs/engine-does-not-load.md quotes errors; those that are ours must still be what the code says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "engine-does-not-load.md"
OURS = ("The files", "The machine", "While building")
FOLDERS = ("export", "mrcnn", "plugins", "runtime")

# Words of the operating system's and of TensorRT's that stand among ours.
NOT_OURS = {"No such file or directory", "OutOfMemory (Requested size was"}

# Shorter pieces of a quotation are names and punctuation.
LEAST_LETTERS = 10


def quotations() -> Iterator[str]:
    """What stands in code marks in the first column of the tables of our own errors."""
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE):
        if not section.startswith(OURS):
            continue
        for line in section.splitlines():
            if line.startswith("| `"):
                yield from re.findall(r"`([^`]+)`", line.split(" | ")[0])


def pieces(quotation: str) -> list[str]:
    """The words between names and numbers."""
    plain = re.sub(r"model\.engine(\.json)?|lib\w+\.so|\bMrcnn\w+( and Mrcnn\w+)?", "…", quotation)
    found = [piece.strip(" '():;,=") for piece in plain.split("…")]
    return [piece for piece in found if sum(map(str.isalpha, piece)) >= LEAST_LETTERS]


def templates() -> Iterator[str]:
    """All texts of the program, with … where a value is put in."""
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            yield from _texts(path)


def _texts(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_the_page_quotes_us() -> None:
    assert len(list(quotations())) > 30


@pytest.fixture(scope="module")
def said() -> str:
    return "\n".join(templates())


@pytest.mark.parametrize("quotation", list(quotations()))
def test_what_is_quoted_is_said(quotation: str, said: str) -> None:
    for piece in pieces(quotation):
        assert piece in said or piece in NOT_OURS, piece


def test_other_words_are_not_found(said: str) -> None:
    assert pieces("model.engine.json is not beside it: …") == ["is not beside it"]
    assert "is not beside it" not in said
