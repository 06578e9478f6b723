"""Values as plain data: what JSON can hold, the same bytes for the same value."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import PurePath
from typing import Any

import numpy as np


def to_plain(value: object) -> Any:
    """Turn a value into None, bool, int, float, str, lists and dicts with sorted text keys.

    Dataclasses become dicts of their fields, without the class's name. Sets are sorted; numbers that JSON lacks become
    the texts "inf", "-inf" and "nan". TypeError for anything else.
    """
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, np.generic | np.ndarray):
        return to_plain(value.tolist())
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str | PurePath):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {name: to_plain(getattr(value, name)) for name in _field_names(type(value))}
    if isinstance(value, Mapping):
        return {str(key): to_plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, Set):
        return [to_plain(item) for item in sorted(value)]
    if isinstance(value, Sequence):
        return [to_plain(item) for item in value]
    raise TypeError(f"a {type(value).__name__} cannot be written as plain data")


def to_json(value: object) -> str:
    """Write a value as JSON, the same text for the same value."""
    return json.dumps(to_plain(value), ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
