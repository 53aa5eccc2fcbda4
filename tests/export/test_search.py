"""The search for a mix of precisions, on models whose accuracy is made up."""

import json
from pathlib import Path

import pytest

from mrcnn.export.precision.accuracy import Accuracy
from mrcnn.export.precision.search import Measure, Notebook, search

WORK = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}


class MadeUp:
    """Each group in INT8 costs some points, which add up; on few pictures as on all."""

    def __init__(self, **costs: float) -> None:
        self.costs = costs
        self.calls: list[tuple[frozenset[str], bool]] = []

    def __call__(self, keep: frozenset[str], few: bool, *, title: str = "") -> Accuracy:  # noqa: ARG002
        self.calls.append((keep, few))
        parity = 100 - sum(cost for name, cost in self.costs.items() if name not in keep)
        return Accuracy(parity_box=parity, parity_mask=None)


def run(measure: Measure, limit: float, work: dict[str, float] = WORK):  # type: ignore[no-untyped-def]
    return search(measure, lambda accuracy: 100 - accuracy.parity, work=work, limit=limit)


def test_what_is_good_enough_needs_no_search() -> None:
    made = MadeUp(a=0.1, b=0.1, c=0.1, d=0.1)
    found = run(made, 0.5)
    assert (found.reached, found.chosen.keep, found.gains) == (True, (), {})
    assert made.calls == [(frozenset(), False)]


def test_the_one_sensitive_group_is_returned_alone() -> None:
    found = run(MadeUp(a=0.1, b=0.1, c=9, d=0.1), 0.5)
    assert (found.reached, found.chosen.keep) == (True, ("c",))
    assert found.gains == pytest.approx({"a": 0.1, "b": 0.1, "c": 9, "d": 0.1})
    assert found.chosen.drop == pytest.approx(0.3)


def test_groups_are_returned_in_the_order_of_gain_per_work() -> None:
    """b gains less than d, but costs half of its speed."""
    found = run(MadeUp(a=0, b=3, c=0, d=4), 0.5)
    assert found.order[:2] == ("b", "d")
    assert found.chosen.keep == ("b", "d")


@pytest.mark.parametrize("needed", range(1, 12))
def test_no_more_groups_are_returned_than_needed(needed: int) -> None:
    groups = {f"g{number:02}": 0.05 for number in range(12)}
    made = MadeUp(**{name: 1 + 0.01 * (12 - int(name[1:])) for name in groups})
    limit = 100 - made(frozenset(sorted(groups)[:needed]), False).parity + 1e-9
    made.calls.clear()
    found = run(made, limit, groups)
    assert found.chosen.keep == tuple(sorted(groups)[:needed])
    on_all = [keep for keep, few in made.calls if not few]
    assert len(on_all) == len(set(on_all)) <= 6  # bisection, not one after the other


@pytest.mark.parametrize("needed", [1, 20, 37, 63])
def test_a_little_work_is_not_worth_another_pass(needed: int) -> None:
    groups = {f"g{number:02}": 1 / 64 for number in range(64)}
    made = MadeUp(**dict.fromkeys(groups, 1.0))
    found = run(made, 64 - needed + 1e-9, groups)
    assert found.reached
    assert needed <= len(found.chosen.keep) <= needed + 2  # 2/64 = 3 %
    assert len([few for _, few in made.calls if not few]) <= 7


def test_a_limit_out_of_reach_returns_everything_and_says_so() -> None:
    found = search(MadeUp(a=1, b=1, c=1, d=1), lambda _: 5.0, work=WORK, limit=0.5)
    assert not found.reached
    assert set(found.chosen.keep) == set(WORK)


def test_a_search_that_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = MadeUp(a=1, b=2, c=3, d=4)
    expected = run(whole, 1.5)

    class InterruptedError(Exception):
        pass

    first = MadeUp(a=1, b=2, c=3, d=4)

    def interrupted(keep: frozenset[str], few: bool, *, title: str) -> Accuracy:
        if len(first.calls) == 4:
            raise InterruptedError
        return first(keep, few, title=title)

    with pytest.raises(InterruptedError):
        run(Notebook(tmp_path / "n", "key").remembering(interrupted), 1.5)
    second = MadeUp(a=1, b=2, c=3, d=4)
    found = run(Notebook(tmp_path / "n", "key").remembering(second), 1.5)
    assert found == expected
    assert len(second.calls) == len(whole.calls) - 4


def test_measurements_of_something_else_are_forgotten(tmp_path: Path) -> None:
    made = MadeUp(a=1)
    Notebook(tmp_path / "n", "key").remembering(made)(frozenset(), True, title="")
    assert Notebook(tmp_path / "n", "key").known == 1
    assert Notebook(tmp_path / "n", "other").known == 0


@pytest.mark.parametrize(
    "measured",
    [
        "[]",
        '{"a": {"b": 1}}',
        '{"a": []}',
        '{"a": {"parity_box": "x", "parity_mask": 1}}',
        '{"a": {"parity_box": NaN, "parity_mask": 1}}',
        '{"a": {"parity_box": -1, "parity_mask": 1}}',
    ],
)
def test_measurements_that_are_none_are_forgotten(measured: str, tmp_path: Path) -> None:
    (tmp_path / "n").write_text(f'{{"key": "key", "measured": {measured}}}')
    assert Notebook(tmp_path / "n", "key").known == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "key"}'])
def test_a_damaged_notebook_is_an_empty_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "n").write_text(text)
    notebook = Notebook(tmp_path / "n", "key")
    assert notebook.known == 0
    notebook.remembering(MadeUp(a=1))(frozenset(), True, title="")
    assert len(json.loads((tmp_path / "n").read_text())["measured"]) == 1
