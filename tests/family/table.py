"""The README's table of models, made of what `test_rows.py` runs for each row.

python -m tests.family.table      writes it into README.md
"""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from tests.conftest import REPOSITORY
from tests.family import test_rows
from tests.family.rows import ROWS, plugins_of

README = REPOSITORY / "README.md"
BEGIN, END = "<!-- models: tests/family/table.py -->\n", "<!-- end of models -->\n"

# A column of the table and the test behind it, which runs for every row or is no column.
COLUMNS: Mapping[str, Callable[..., None]] = {
    "built": test_rows.test_it_is_built,
    "train step": test_rows.test_a_training_step,
    "export": test_rows.test_the_file_has_no_weight_twice,
    "parity": test_rows.test_images_of_any_size_are_equal,
    "any size": test_rows.test_images_of_any_size_are_equal,
    "batch of 2": test_rows.test_a_batch_of_two_is_two_images,
}
LOWERED = "TensorRT: lowered, plugins"


def table() -> str:
    """In Markdown, with its last line break."""
    for test in (*COLUMNS.values(), test_rows.test_what_tensorrt_gets):
        require_every_row(test)
    head = ["model", *COLUMNS, LOWERED]
    rows = [[name, *["✓"] * len(COLUMNS), plugins(name)] for name in ROWS]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def plugins(name: str) -> str:
    """Those that `test_what_tensorrt_gets` finds in the row's lowered graph: "2 × MrcnnNMS, …"."""
    counts = Counter(plugins_of(ROWS[name]()))
    return ", ".join(f"{number} × {op}" for op, number in counts.items())


def require_every_row(test: Any) -> None:
    """Fails unless the test takes the fixtures of the rows, and nothing keeps it from running."""
    assert {"built", "exported"} & inspect.signature(test).parameters.keys(), f"{test.__name__}: no row"
    assert not getattr(test, "pytestmark", []), f"{test.__name__}: marked"


def with_table(readme: str) -> str:
    """The README with this table between its marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert after, f"README.md lacks the lines {BEGIN.strip()} and {END.strip()}"
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
