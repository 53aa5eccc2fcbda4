"""Settings written as YAML: read as plain values, and asked for by their dotted names."""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mrcnn.errors import MrcnnError
from mrcnn.strict import shown

# A config of detectron2 has some 10 kB. PyYAML takes seconds for a megabyte.
_LARGEST = 2**18  # characters
_LONGEST_LITERAL = 1000
_MOST = 1e9  # no setting is beyond it


def read_yaml(text: str, *, where: str) -> dict[str, Any]:
    """The mapping that the text holds. Nothing in it is built but plain values.

    Raises:
        MrcnnError: the text is no YAML, or holds something else than a mapping. `where` starts the line.
        ModuleNotFoundError: PyYAML is not installed.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Without merge keys (<<): merges of merges, which no config has, fill the memory."""

        def flatten_mapping(self, node: Any) -> None:
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                raise yaml.YAMLError("merge keys (<<) are not read")

    if len(text) > _LARGEST:
        raise MrcnnError(f"{where}: YAML of more than {_LARGEST} characters is not read")
    try:
        tree = yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        place = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = " ".join(str(error.problem).split())
        raise MrcnnError(f"{where}: is not YAML of plain values{place}: {problem}") from error
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
        TypeError,
    ) as error:  # odd numbers, dates
        raise MrcnnError(f"{where}: is not YAML of plain values: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise MrcnnError(f"{where}: is not YAML of plain values: nested too deeply") from error
    if not isinstance(tree, dict):
        raise MrcnnError(f"{where}: must hold a mapping of settings")
    return tree


@dataclass(frozen=True)
class Tree:
    """Settings within settings. What is not there is None; what is of another kind is refused by name.

    Attributes:
        where: starts the line of every refusal.
    """

    settings: Mapping[str, Any]
    where: str

    def value(self, name: str) -> Any:
        """Of the setting with that dotted name. Texts that are literals are read so, as yacs does."""
        found: Any = self.settings
        keys = name.split(".")
        for depth, key in enumerate(keys):
            if found is not None and not isinstance(found, Mapping):
                raise self.refusal(".".join(keys[:depth]), f"must hold settings (got {shown(found)})")
            found = None if found is None else found.get(key)
        if isinstance(found, str) and len(found) <= _LONGEST_LITERAL:
            try:
                return ast.literal_eval(found)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                return found
        return found

    def keys(self, name: str) -> tuple[str, ...]:
        """Those of the settings under that name."""
        found = self.value(name)
        return tuple(key for key in found if isinstance(key, str)) if isinstance(found, Mapping) else ()

    def flag(self, name: str) -> bool | None:
        return self._of_kind(name, "true or false", lambda value: isinstance(value, bool))  # type: ignore[no-any-return]

    def whole(self, name: str) -> int | None:
        return self._of_kind(name, "a whole number", lambda v: _is_number(v) and isinstance(v, int))  # type: ignore[no-any-return]

    def number(self, name: str) -> float | None:
        return self._of_kind(name, "a number", _is_number)  # type: ignore[no-any-return]

    def numbers(self, name: str, count: int) -> tuple[float, ...] | None:
        found = self._of_kind(name, f"a list of {count} numbers", lambda v: is_numbers(v) and len(v) == count)
        return None if found is None else tuple(map(float, found))

    def only(self, name: str, *supported: Any) -> None:
        """Refuses every other value."""
        found = self.value(name)
        found = list(found) if isinstance(found, tuple) else found
        # 1 is true in Python, and no flag in a config.
        if found is not None and not any(found == one and _alike(found, one) for one in supported):
            raise self.refusal(name, f"{shown(found)} has no counterpart: {shown(supported[0])} is supported")

    def refusal(self, name: str, problem: str) -> MrcnnError:
        return MrcnnError(f"{self.where}: {name} {problem}")

    def _of_kind(self, name: str, kind: str, fits: Callable[[Any], bool]) -> Any:
        found = self.value(name)
        if found is not None and not fits(found):
            raise self.refusal(name, f"must be {kind} (got {shown(found)})")
        return found


def is_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MOST <= value <= _MOST


def _alike(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool)
