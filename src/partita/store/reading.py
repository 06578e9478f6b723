"""Read the request log and its roll-up back, as streams of arrays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from partita.errors import StoreError
from partita.ports import Counts, Rows
from partita.store.binarycopy import fetch_rows, to_unix_ns
from partita.store.connection import Connection, explained
from partita.store.imports import LAWS
from partita.store.queries import query

WINDOW_ROWS = 1_000_000
"""Requests read at a time, about: what bounds memory."""

_REQUESTS = {"ts": "i8", "service": "i4", "size": "f4", "output_size": "f4"}
_ROLLUP = {
    "ts": "i8",
    "service": "i4",
    "bin_s": "f4",
    "requests": "i8",
    "good": "i8",
    "late": "i8",
    "dropped": "i8",
    "law": "S1",
    "shape": "f8",
}
_SIZED = {"ts": "i8", "service": "i4", "bucket": "i4", "requests": "i8"}
_LAW_NAMES = {letter: name for name, letter in LAWS.items()}


@dataclass(frozen=True, slots=True, eq=False)
class RollUp:
    """A block of the roll-up, as parallel arrays in the order of time and service number.

    `law` is "" where instants are in the request log, else as in `ports.Counts`; `shape` is then the law's shape.
    """

    at_ns: NDArray[np.int64]
    service: NDArray[np.object_]
    bin_s: NDArray[np.float32]
    requests: NDArray[np.int64]
    good: NDArray[np.int64]
    late: NDArray[np.int64]
    dropped: NDArray[np.int64]
    law: NDArray[np.object_]
    shape: NDArray[np.float64]

    def counts(self) -> Counts:
        """Return the block as counts, as a trace reader would give it."""
        return Counts(self.at_ns, self.service, self.requests, self.law, self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Sized:
    """Requests of a source by time, service and size, as parallel arrays in the order of time.

    `bucket` is the number of edges that the sizes exceed, -1 where no size was logged.
    """

    at_ns: NDArray[np.int64]
    service: NDArray[np.object_]
    bucket: NDArray[np.int64]
    requests: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Span:
    """What a source holds: its time and its requests."""

    first: datetime
    end: datetime
    requests: int


async def read_span(connection: Connection, source: int) -> Span:
    """Return the time that a source (an import's id; 0 is live) covers; StoreError if it holds nothing."""
    with explained("the look at the request log"):
        row = await connection.fetchrow(query("span"), source)
    if row["first_ts"] is None:
        raise StoreError(f"the request log holds nothing of source {source}")
    return Span(row["first_ts"], row["end_ts"], row["requests"])


async def read_watermark(connection: Connection, source: int) -> datetime | None:
    """Return how far a source's log is complete, or None if nothing was ever written to it."""
    with explained("the look at the watermark"):
        until: datetime | None = await connection.fetchval(query("watermark"), source)
    return until


async def read_gaps(connection: Connection) -> list[tuple[float, float]]:
    """Return the times (unix seconds) in which nobody logged though the live watermark has passed them."""
    with explained("the look at the gaps of the log"):
        rows = await connection.fetch(query("all_gaps"))
    return [(row["begins"], row["ends"]) for row in rows]


async def read_late(connection: Connection) -> dict[str, int]:
    """Return how many live requests of each service came too late for the loop."""
    with explained("the look at late requests"):
        return {row["name"]: row["rows"] for row in await connection.fetch(query("log_late"))}


async def read_requests(
    connection: Connection, source: int, *, start: datetime | None = None, end: datetime | None = None
) -> AsyncIterator[Rows]:
    """Yield the requests of a source from `start` up to `end` in time order, about a million at a time.

    Windows are cut by the roll-up, so that none holds many more requests than that, however the load varies.
    """
    span = await read_span(connection, source)
    start, end = start or span.first, end or span.end
    names = await _service_names(connection)
    with explained("reading the request log"):
        minutes = await connection.fetch(query("minutes"), source, _minute(start), end)
    for low, high in _windows([(row["minute"], row["requests"]) for row in minutes]):
        with explained("reading the request log"):
            found = await fetch_rows(
                connection, query("read_requests"), _REQUESTS, source, max(low, start), min(high, end)
            )
        if len(found):
            yield _as_rows(found, names)


async def read_rollup(
    connection: Connection, source: int, *, start: datetime | None = None, end: datetime | None = None
) -> AsyncIterator[RollUp]:
    """Yield the roll-up of a source from `start` up to `end` in time order, an hour at a time where it is dense."""
    span = await read_span(connection, source)
    low, end = start or span.first.replace(microsecond=0), end or span.end
    names = await _service_names(connection)
    step = max(timedelta(hours=1), (end - low) / 1000)
    while low < end:
        high = min(low + step, end)
        with explained("reading the roll-up"):
            found = await fetch_rows(connection, query("read_rollup"), _ROLLUP, source, low, high)
        if len(found):
            yield _as_rollup(found, names)
        low = high


async def read_sized(
    connection: Connection,
    source: int,
    edges: Sequence[float],
    step_s: float,
    *,
    start: datetime,
    end: datetime,
    service: str | None = None,
) -> AsyncIterator[Sized]:
    """Yield how many requests of which size the log holds from `start` up to `end`, counted by the database by step.

    Of one service if it is named.
    The roll-up keeps no sizes, so this reads every request: a day at a time, and none of it crosses the wire.
    """
    names = await _service_names(connection)
    falling = [-float(np.float32(edge)) for edge in reversed(edges)]
    low = start
    while low < end:
        high = min(low + timedelta(days=1), end)
        with explained("counting requests by size"):
            found = await fetch_rows(
                connection,
                query("sized_requests"),
                _SIZED,
                source,
                low,
                high,
                falling,
                timedelta(seconds=step_s),
                service,
            )
        if len(found):
            yield Sized(
                to_unix_ns(found["ts"]),
                names[found["service"].astype(np.int64)],
                found["bucket"].astype(np.int64),
                found["requests"].astype(np.int64),
            )
        low = high


async def _service_names(connection: Connection) -> NDArray[np.object_]:
    """Return names by number; the entries of unused numbers are None."""
    with explained("the list of services"):
        rows = await connection.fetch(query("services"))
    names = np.empty(max((row["id"] for row in rows), default=0) + 1, object)
    for row in rows:
        names[row["id"]] = row["name"]
    return names


def _minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)


def _windows(minutes: list[tuple[datetime, int]]) -> list[tuple[datetime, datetime]]:
    """Join minutes into windows of up to WINDOW_ROWS requests, or of one minute where that holds more."""
    windows: list[tuple[datetime, datetime]] = []
    held = 0
    for minute, requests in minutes:
        after = minute + timedelta(minutes=1)
        if windows and held + requests <= WINDOW_ROWS:
            windows[-1] = (windows[-1][0], after)
            held += requests
        else:
            windows.append((minute, after))
            held = requests
    return windows


def _as_rows(found: NDArray[np.void], names: NDArray[np.object_]) -> Rows:
    ts = found["ts"].astype(np.int64)
    if np.any(ts[1:] < ts[:-1]):
        found = found[np.argsort(ts, kind="stable")]
    return Rows(
        to_unix_ns(found["ts"]),
        names[found["service"].astype(np.int64)],
        found["size"].astype(np.float32),
        found["output_size"].astype(np.float32),
    )


def _as_rollup(found: NDArray[np.void], names: NDArray[np.object_]) -> RollUp:
    letters, place = np.unique(found["law"], return_inverse=True)
    laws = np.array([_LAW_NAMES.get(letter, "") for letter in letters.tolist()], object)
    good, late, dropped = (found[name].astype(np.int64) for name in ("good", "late", "dropped"))
    return RollUp(
        at_ns=to_unix_ns(found["ts"]),
        service=names[found["service"].astype(np.int64)],
        bin_s=found["bin_s"].astype(np.float32),
        requests=found["requests"].astype(np.int64),
        good=good,
        late=late,
        dropped=dropped,
        law=laws[place],
        shape=found["shape"].astype(np.float64),
    )
