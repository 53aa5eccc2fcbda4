"""The documents' links lead somewhere, and no file carries a path of the machine it was written on."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

_LINK = re.compile(r"\]\(([^()\s]+)\)")
# Whole path components at the start of an absolute path; inside an address they are somebody else's.
_MACHINE_PATH = re.compile(r"(?<![\w./~$}-])/(?:home|root|Users|work|mnt)/[\w.]+")


def tracked_files() -> list[Path]:
    """What belongs to the repository; without git (a source archive), whatever is not built or hidden."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        files = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        skipped = ("build", "dist", "out", "__pycache__")
        files = [
            path
            for path in REPOSITORY.rglob("*")
            if not any(part.startswith(".") or part in skipped for part in path.relative_to(REPOSITORY).parts)
        ]
    return [path for path in files if path.is_file()]


DOCUMENTS = [path for path in tracked_files() if path.suffix == ".md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_relative_links_lead_to_files(document: Path) -> None:
    targets = [link.partition("#")[0] for link in _LINK.findall(document.read_text(encoding="utf-8"))]
    local = [
        target for target in targets if target and "://" not in target and not target.startswith("mailto:")
    ]
    missing = [target for target in local if not (document.parent / target).exists()]
    assert not missing


def test_there_are_documents() -> None:
    assert {"CONTRIBUTING.md", "CHANGELOG.md"} <= {path.name for path in DOCUMENTS}


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image or a checkpoint
        found += [f"{path.relative_to(REPOSITORY)}: {match[0]}" for match in _MACHINE_PATH.finditer(text)]
    assert not found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see /" + "home/anna/x.pth", True),
        ('"/' + "root/.cache", True),
        ("https://host/" + "home/anna", False),
        ("out/demo", False),
        ("$HOME/" + "work/x", False),
    ],
)
def test_what_counts_as_such_a_path(text: str, found: bool) -> None:
    assert bool(_MACHINE_PATH.search(text)) is found
