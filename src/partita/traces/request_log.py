"""Request logs of LLM servers: one JSON object a request, in the words of OpenAI's API and of vLLM.

Understood are, in this order, the keys of TIMES for when a request came, SERVICES for its model, and INPUTS and OUTPUTS
for its tokens. They are looked for in the object itself, in its `usage`, and in the same way in its `response`, `body`
and `response.body`, where logs of whole answers have them. All other keys are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from partita.ports import Counts, Rows, TraceInfo
from partita.traces.azure_llm import ONE_SERVICE
from partita.traces.json_blocks import MOST_TOKENS, JsonBlock, first_record, is_number, keys_of, read_json_blocks
from partita.traces.order import LateRows, too_late
from partita.traces.times import to_ns

TIMES = ("arrival_time", "arrival", "arrival_timestamp", "start_time", "timestamp", "created_at", "created")
SERVICES = ("model", "service")
INPUTS = ("prompt_tokens", "input_tokens", "num_prompt_tokens", "input_length")
OUTPUTS = ("completion_tokens", "output_tokens", "num_generation_tokens", "output_length")
PLACES = ((), ("response",), ("body",), ("response", "body"))

_UNITS = ((1e11, 1_000_000_000), (1e14, 1_000_000), (1e17, 1_000), (9.2e18, 1))
"""A number below the first is in units of so many ns: seconds up to the year 5138, then ms, us and ns."""


class RequestLogReader:
    """Reads requests; the service is the model, the sizes are tokens."""

    name = "openai"

    def recognises(self, path: Path, head: str) -> bool:
        """Say whether the first object has an instant, and a model or tokens."""
        record = first_record(head)
        return (
            record is not None
            and _find(record, TIMES)[0] is not None
            and (_find(record, SERVICES)[0] is not None or _find(record, (*INPUTS, *OUTPUTS))[0] is not None)
        )

    def info(self, path: Path) -> TraceInfo:
        """Describe the file."""
        return TraceInfo(self.name, "requests")

    def blocks(self, path: Path) -> Iterator[Rows | Counts]:
        """Yield the requests in the order of time; a log that is written when requests end is put into it."""
        late = LateRows()
        for block in read_json_blocks(path):
            rows = _rows(block)
            if (at := late.first_too_late(rows.at_ns)) is not None:
                key, value = _find(block.records[at], TIMES)
                raise too_late(str(path), block.rows[at], str(key), value)
            yield late.add(rows)
        yield from late.rest()


def _rows(block: JsonBlock) -> Rows:
    size = len(block.records)
    return Rows(
        _times(block),
        np.array([_service(block, at) for at in range(size)], object),
        np.fromiter((_tokens(block, at, INPUTS) for at in range(size)), np.float32, size),
        np.fromiter((_tokens(block, at, OUTPUTS) for at in range(size)), np.float32, size),
    )


def _find(record: dict[str, Any], keys: Sequence[str]) -> tuple[str | None, Any]:
    """Return the first of these keys that has a value, by its path, and the value; (None, None) if none has."""
    for place in PLACES:
        inside: Any = record
        for part in place:
            inside = inside.get(part) if isinstance(inside, dict) else None
        if not isinstance(inside, dict):
            continue
        usage = inside.get("usage")
        for key in keys:
            for within, path in ((inside, place), (usage, (*place, "usage"))):
                if isinstance(within, dict) and (value := within.get(key)) is not None:
                    return ".".join((*path, key)), value
    return None, None


def _times(block: JsonBlock) -> NDArray[np.int64]:
    """Return the instants; those written as text are read together."""
    at_ns, texts = np.zeros(len(block.records), np.int64), dict[int, str]()
    for at, record in enumerate(block.records):
        key, value = _find(record, TIMES)
        if key is None:
            raise block.fail(f"none of {', '.join(TIMES)} says when it came (found: {keys_of(record)})", at)
        if isinstance(value, str):
            texts[at] = value
        elif (ns := _from_number(value)) is not None:
            at_ns[at] = ns
        else:
            raise block.fail(f"{value!r} is not a time", at, key)
    if texts:
        found = to_ns(pl.Series(list(texts.values()), dtype=pl.String))
        if (wrong := found.is_null()).any():
            at = list(texts)[int(np.argmax(wrong.to_numpy()))]
            raise block.fail(f"{texts[at]!r} is not a time", at, _find(block.records[at], TIMES)[0])
        at_ns[list(texts)] = found.to_numpy()
    return at_ns


def _from_number(value: object) -> int | None:
    if not is_number(value):
        return None
    assert isinstance(value, int | float)
    unit = next((unit for below, unit in _UNITS if abs(value) < below), None)
    if unit is None:
        return None
    return value * unit if isinstance(value, int) else floor(value) * unit + round(value % 1 * unit)


def _service(block: JsonBlock, at: int) -> str:
    key, value = _find(block.records[at], SERVICES)
    if key is None:
        return ONE_SERVICE
    if not isinstance(value, str) or not value:
        raise block.fail(f"{value!r} is not a name", at, key)
    return value


def _tokens(block: JsonBlock, at: int, keys: Sequence[str]) -> float:
    key, value = _find(block.records[at], keys)
    if key is None:
        return np.nan
    if not is_number(value) or not 0 <= value < MOST_TOKENS:
        raise block.fail(f"{value!r} is not a number of tokens", at, key)
    return float(value)
