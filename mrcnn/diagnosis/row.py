"""The verdict on one thing, and what the verdicts have in common."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "missing", "problem"]

NO_GPU = "nothing: it has no use without an NVIDIA GPU"


@dataclass(frozen=True)
class Row:
    """One thing: a problem is there and does not work; `do` is None where there is nothing to do."""

    name: str
    state: State
    detail: str
    do: str | None = None


def numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (12, 4) of "12.4.post1"; () of none."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def dotted(version: Sequence[int]) -> str:
    """ "12.4" of (12, 4)."""
    return ".".join(map(str, version))
