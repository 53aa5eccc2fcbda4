from pathlib import Path

import pytest
from PIL import Image

from mrcnn.benchmarks.images import read_images
from mrcnn.errors import MrcnnError
from mrcnn.runtime.images import image_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "notes.txt", "below/c.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_folders_give_their_pictures_sorted_and_files_are_taken_as_they_are(folder: Path) -> None:
    assert image_files([folder]) == [folder / "a.JPG", folder / "b.png", folder / "below/c.jpeg"]
    assert image_files([folder / "notes.txt", folder / "below"]) == [
        folder / "notes.txt",
        folder / "below/c.jpeg",
    ]
    assert image_files([folder], limit=1) == [folder / "a.JPG"]


def test_what_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(MrcnnError, match="no such file"):
        image_files([folder / "none"])
    (folder / "empty").mkdir()
    with pytest.raises(MrcnnError, match="no pictures in this folder"):
        image_files([folder / "empty"])


def test_unreadable_images_are_passed_over_and_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (3, 2), (255, 0, 0)).save(folder / "b.png")
    skipped: list[dict[str, str]] = []
    ((path, pixels),) = read_images(image_files([folder]), skipped, progress="reading")
    assert path == folder / "b.png"
    assert pixels.shape == (2, 3, 3)
    assert [entry["image"] for entry in skipped] == [str(folder / "a.JPG"), str(folder / "below/c.jpeg")]
    assert f"skipped: {folder / 'a.JPG'}" in capsys.readouterr().err


def test_when_no_image_can_be_read_that_is_an_error(folder: Path) -> None:
    with pytest.raises(MrcnnError, match="none of the images"):
        list(read_images([folder / "notes.txt"], [], progress="reading"))
