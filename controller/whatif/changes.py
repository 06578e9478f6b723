"""Where two plain documents differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from partita.controller.whatif.grid import written

ABSENT = "not there"


def changes(first: Any, other: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the path of each difference with both values, shortened for a sentence."""
    if isinstance(first, dict) and isinstance(other, dict):
        pairs = [(key, first.get(key, ABSENT), other.get(key, ABSENT)) for key in sorted(first.keys() | other.keys())]
    elif isinstance(first, list) and isinstance(other, list) and len(first) == len(other):
        pairs = [(str(at), one, two) for at, (one, two) in enumerate(zip(first, other, strict=True))]
    else:
        if first != other:
            yield path, _short(first), _short(other)
        return
    for key, one, two in pairs:
        yield from changes(one, two, f"{path}.{key}" if path else key)


def _short(value: object, limit: int = 40) -> str:
    text = written(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
