"""The named statements of queries.sql."""

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
    text = files("partita.store").joinpath("queries.sql").read_text("utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return {name: body.strip().rstrip(";") for name, body in zip(parts[1::2], parts[2::2], strict=True)}
