"""The named statements of the store's .sql files; each name is there once."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files


@cache
def query(name: str) -> str:
    """Return the statement with this name; KeyError if there is none."""
    return _all()[name]


@cache
def _all() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted(files("partita.store").iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".sql"):
            parts = re.split(r"^-- name: (\w+)\n", file.read_text("utf-8"), flags=re.MULTILINE)
            found |= {name: body.strip().rstrip(";") for name, body in zip(parts[1::2], parts[2::2], strict=True)}
    return found
