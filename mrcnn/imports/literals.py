"""Settings written as Python, read without running it: assignments of literals and `dict(...)`."""

import ast
from collections.abc import Mapping
from typing import Any

from mrcnn.errors import MrcnnError


class Unread:
    """The value of an expression that is no literal."""

    def __repr__(self) -> str:
        return "that is not written out"


UNREAD = Unread()


def read_assignments(text: str, *, where: str) -> dict[str, Any]:
    """The values that the lines `name = value` of a module give; `UNREAD` for what is not written out.

    Raises:
        MrcnnError: the text is not Python.
    """
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise MrcnnError(f"{where}: is not a config in Python's syntax: {error}") from error
    values: dict[str, Any] = {}
    for statement in module.body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name):
                values[target.id] = _value(statement.value, values)
    return values


def is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _value(node: ast.expr, known: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return known.get(node.id, UNREAD)
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item, known) for item in node.elts]
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        return {_value(k, known): _value(v, known) for k, v in zip(node.keys, node.values, strict=True) if k}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {item.arg: _value(item.value, known) for item in node.keywords if item.arg}
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return UNREAD


def at(settings: Any, *keys: str) -> Any:
    """The value under keys within keys; None where there is none."""
    for key in keys:
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings
