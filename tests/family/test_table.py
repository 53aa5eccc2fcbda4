"""The README's table of models is the one that the tests of the rows give."""

import pytest

from tests.family import table
from tests.family.rows import LIKE, ROWS


def test_the_readme_has_the_table_of_the_tests() -> None:
    readme = table.README.read_text(encoding="utf-8")
    assert readme == table.with_table(readme), "run python -m tests.family.table"


def test_every_row_is_in_it() -> None:
    lines = table.table().splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == list(ROWS)
    assert {line.count(" | ") for line in lines} == {len(table.COLUMNS) + 1}


def test_plugins_are_counted() -> None:
    assert table.plugins("Mask R-CNN, ResNet-50-FPN") == "2 × MrcnnRoIAlign, 2 × MrcnnNMS"
    assert table.plugins("Faster R-CNN, VGG-16, RoIPool") == "1 × MrcnnRoIPool, 2 × MrcnnNMS"


def test_a_test_that_skips_rows_is_no_column() -> None:
    @pytest.mark.skip
    def skipped(built: object) -> None: ...

    def of_no_row() -> None: ...

    for test, reason in ((skipped, "marked"), (of_no_row, "no row")):
        with pytest.raises(AssertionError, match=reason):
            table.require_every_row(test)


def test_rows_are_like_rows() -> None:
    """Whose stages the export compares."""
    assert LIKE.keys() | set(LIKE.values()) <= ROWS.keys()
    assert not LIKE.keys() & set(LIKE.values())
