"""Plain JSON-like data into dataclasses, refusing what does not fit by name."""

import dataclasses
import reprlib
import types
import typing
from typing import Any, TypeVar

from mrcnn.errors import MrcnnError

T = TypeVar("T")


def from_plain(target: type[T], plain: Any, *, where: str) -> T:
    """Builds the dataclass `target` from dicts, lists and scalars as `json.loads` gives them.

    Missing keys take the field's default. Fields may be dataclasses, tuples, `dict[str, X]`, optionals
    and scalars; integers are accepted for floats.

    Raises:
        MrcnnError: a key is unknown or missing, or a value has the wrong type. `where` starts the line.
    """
    return typing.cast(T, _convert(target, plain, where))


def _convert(target: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(target)
    if dataclasses.is_dataclass(target) and isinstance(target, type):
        return _convert_dataclass(target, value, where)
    if origin in (types.UnionType, typing.Union):
        members = typing.get_args(target)
        if value is None and type(None) in members:
            return None
        (member,) = (m for m in members if m is not type(None))
        return _convert(member, value, where)
    if origin is tuple:
        return _convert_tuple(typing.get_args(target), value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        member = typing.get_args(target)[1]
        return {str(key): _convert(member, item, f"{where}.{str(key)[:60]!r}") for key, item in value.items()}
    if target is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise _wrong(where, "a number of sensible size", "…") from None
    if type(value) is not target:
        raise _wrong(where, target.__name__, value)
    return value


def _convert_dataclass(target: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    hints = typing.get_type_hints(target)
    fields = {f.name: f for f in dataclasses.fields(target)}
    for key in value:
        if key not in fields:
            raise MrcnnError(f"{where}: unknown key {shown(key)} (known: {', '.join(fields)})")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise MrcnnError(f"{where}: key {name!r} is missing")
    return target(**{key: _convert(hints[key], item, f"{where}.{key}") for key, item in value.items()})


def _convert_tuple(members: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(where, "a list", value)
    if len(members) == 2 and members[1] is Ellipsis:
        members = (members[0],) * len(value)
    if len(members) != len(value):
        raise _wrong(where, f"a list of {len(members)}", value)
    pairs = zip(members, value, strict=True)
    return tuple(_convert(member, item, f"{where}[{i}]") for i, (member, item) in enumerate(pairs))


def shown(value: Any) -> str:
    """A value as it may stand in a line. Lists in lists, each there many times, can be endless."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = "a very long number"
    return text if len(text) <= 60 else text[:57] + "..."


def _wrong(where: str, expected: str, value: Any) -> MrcnnError:
    return MrcnnError(f"{where}: expected {expected} (got {shown(value)})")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
