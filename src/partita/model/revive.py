"""Values from plain data: what `plain.to_plain` wrote, read back as the dataclass it was.

Types are read off the dataclass's own annotations; a command says which it is by its verb. Only what the store and the
executors keep is covered: frozen dataclasses of numbers, texts, enums, tuples, mappings, arrays, optional values and
unions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from partita.model.plain import to_plain
from partita.model.plan import Command

T = TypeVar("T")

VERBS: Mapping[str, type[Any]] = {kind.__name__: kind for kind in get_args(Command)}
"""Name of a command -> its class."""


def from_plain(kind: type[T], value: Any) -> T:
    """Read back a value of a type; TypeError or ValueError if the data cannot be one."""
    revived: T = _revive(kind, value)
    return revived


def command_to_plain(command: Command) -> dict[str, Any]:
    """Write a command with its verb, so that it can be read back."""
    return {"verb": type(command).__name__, **to_plain(command)}


def command_from_plain(value: Mapping[str, Any]) -> Command:
    """Read a command back; ValueError for a verb that this version does not know."""
    if value.get("verb") not in VERBS:
        raise ValueError(f"no command is called {value.get('verb')!r}")
    command: Command = _revive(VERBS[value["verb"]], {k: v for k, v in value.items() if k != "verb"})
    return command


def _revive(kind: Any, value: Any) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any or kind is object:
        return value
    if origin in (Union, UnionType):
        return _one_of(parts, value)
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value)
    if origin is tuple:
        return _tuple(parts, value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise TypeError(f"{value!r} is no mapping")
        return {_revive(parts[0], k): _revive(parts[1], v) for k, v in value.items()}
    if origin is np.ndarray:
        return np.asarray(value, get_args(parts[1])[0])
    return _scalar(kind, value)


def _dataclass(kind: type, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    hints = _hints(kind)
    unknown = value.keys() - hints.keys()
    if unknown:
        raise ValueError(f"a {kind.__name__} has no {', '.join(sorted(unknown))}")
    return kind(**{name: _revive(hints[name], value[name]) for name in hints if name in value})


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _tuple(parts: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r} is no sequence")
    if len(parts) == 2 and parts[1] is Ellipsis:
        return tuple(_revive(parts[0], item) for item in value)
    return tuple(_revive(part, item) for part, item in zip(parts, value, strict=True))


def _one_of(parts: tuple[Any, ...], value: Any) -> Any:
    if value is None and NoneType in parts:
        return None
    if isinstance(value, Mapping) and "verb" in value:
        return command_from_plain(value)
    for part in (p for p in parts if p is not NoneType):
        if part is bool or part is int or part is float or part is str:
            if type(value) is part:
                return value
            continue
        try:
            return _revive(part, value)
        except (TypeError, ValueError):
            continue
    if float in parts and isinstance(value, int | str):
        return float(value)
    if len(real := [p for p in parts if p is not NoneType]) == 1:
        return _revive(real[0], value)
    raise TypeError(f"{value!r} is none of {parts}")


def _scalar(kind: Any, value: Any) -> Any:
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError(f"{value!r} is no number")
        return float(value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
