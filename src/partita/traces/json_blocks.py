"""Files with one JSON object a line, as a stream of blocks, every broken line named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.errors import TraceError
from partita.traces.files import open_text

LINES_AT_ONCE = 8192
MOST_TOKENS = 1 << 40


@dataclass(frozen=True, slots=True)
class JsonBlock:
    """Some lines of a file as objects, with the numbers (from 1) of their lines; blank lines are passed over."""

    path: Path
    rows: list[int]
    records: list[dict[str, Any]]

    def fail(self, message: str, at: int, column: str | None = None) -> TraceError:
        """Make the error for the object `at` of this block."""
        return TraceError(message, file=str(self.path), row=self.rows[at], column=column)

    def whole_numbers(self, key: str) -> NDArray[np.int64]:
        """Return a field that every object must have as a whole number, not negative."""
        return np.fromiter((self._whole(at, key) for at in range(len(self.records))), np.int64, len(self.records))

    def _whole(self, at: int, key: str) -> int:
        record = self.records[at]
        if key not in record:
            raise self.fail(f"{key} is missing (found: {keys_of(record)})", at)
        value = record[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise self.fail(f"{value!r} is not a whole number", at, key)
        if not 0 <= value < MOST_TOKENS:
            raise self.fail(f"{value!r} is not between 0 and {MOST_TOKENS:,}", at, key)
        return int(value)


def is_number(value: object) -> bool:
    """Say whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def keys_of(record: dict[str, Any]) -> str:
    """List an object's keys for a sentence."""
    names = list(record)
    return ", ".join([*names[:12], "…"] if len(names) > 12 else names) or "none"


def first_record(head: str) -> dict[str, Any] | None:
    """Return the object on the first line that is not blank, None if there is none."""
    line = next((line for line in head.splitlines() if line.strip()), "")
    if not line.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def read_json_blocks(path: Path) -> Iterator[JsonBlock]:
    """Yield the file's objects; TraceError for a line that is none."""
    numbered = ((row, line) for row, line in enumerate(open_text(path), start=1) if line and not line.isspace())
    while lines := list(islice(numbered, LINES_AT_ONCE)):
        yield JsonBlock(path, [row for row, _ in lines], _parse(lines, path))


def _parse(lines: Sequence[tuple[int, str]], path: Path) -> list[dict[str, Any]]:
    records = []
    for row, line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise TraceError(f"{line[:80]!r} is not JSON", file=str(path), row=row) from None
        if not isinstance(record, dict):
            raise TraceError(f"{line[:80]!r} is not a JSON object", file=str(path), row=row)
        records.append(record)
    return records
