"""Follow the live request log: fold what gateways wrote into the roll-up exactly once, and read it as load.

Requests reach the roll-up by two steps. A gateway's batch brings its counts by second as rows of ``rollup_delta``; a
follower takes them out and adds them to ``request_rollup`` in the transaction that moves the watermark. So gateways
never wait for each other over the row of a busy second, and a crash on either side leaves every request counted once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil, floor, inf

import asyncpg
import numpy as np
from numpy.typing import NDArray

from partita.errors import StoreError
from partita.model.load import Arrivals, Load, Outcome
from partita.ports import LogView
from partita.store.binarycopy import fetch_rows, to_unix_ns
from partita.store.connection import Connection
from partita.store.line import Lent, Line
from partita.store.live_health import LogHealth, read_health
from partita.store.queries import query

_log = logging.getLogger("partita.store")

LOST_WRITER_S = 600.0
RECENT_REQUESTS = 100_000
FOLD_ROWS = 100_000
"""Rows of batches folded in one transaction: many are there when nobody has followed for long."""

SECOND_NS = 1_000_000_000

_COUNTS = {"ts": "i8", "service": "i4", "requests": "i8"}
_REQUESTS = {"ts": "i8", "service": "i4", "size": "f4"}
_TEND_EVERY_S = 10
_FATES_OVER_S = 600
"""What became of requests is told if they come to the log within this time, and perhaps up to twice as late."""
_ANSWER_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Good, late and dropped by service of the requests that arrived from `begin` on, as last seen."""

    begin: int
    fates: NDArray[np.int64]


class LiveLog:
    """The log of live requests; implements `ports.RequestLog`.

    `services` are those the controller knows, in the order of every Load. A writer that was not seen for
    `lost_writer_s` no longer holds the watermark; until then a silent gateway stops it, since its log is missing and
    not zero. Several followers may read at once: each request is folded by one of them, and its outcome told by all.
    They share the watermark, so the shortest of their `lost_writer_s` moves it for all.
    StoreError says that the database is away: read again later; a `Line` then connects anew.
    """

    def __init__(
        self,
        line: Line | Connection,
        services: Sequence[str],
        *,
        lost_writer_s: float = LOST_WRITER_S,
        recent_requests: int = RECENT_REQUESTS,
    ) -> None:
        self._line = line if isinstance(line, Line) else Lent(line)
        self._services = tuple(services)
        self._lost_writer_s = lost_writer_s
        self._recent_requests = recent_requests
        self._ids: dict[str, int] = {}
        self._learnt = 0
        self._tended_s = -inf
        self._untended = ""
        self._seen: _Seen | None = None
        self._folded = np.zeros((len(self._services), 3), np.int64)

    async def read(self, since_s: float, window_s: float) -> LogView:
        """Return the load from `since_s` on up to the watermark, and the requests of the last `window_s` seconds.

        Outcomes are those of requests that came to the log since the last read, of which the fate is known. If the
        requests of the window are more than `recent_requests`, `recent_span_s` is shorter by whole seconds, but holds
        one at least. While nobody has ever logged, the watermark is `since_s`.
        """
        since, more = floor(since_s), True
        async with self._line.held("reading the live log", within_s=_ANSWER_WITHIN_S) as connection:
            while more:
                async with connection.transaction(isolation="repeatable_read"):
                    await connection.execute(query("take_turn_following"))
                    await connection.execute(query("settings_of_a_turn"))
                    places = await self._places(connection)
                    folded, more = await self._fold(connection, places)
                    if not more:
                        moved = await connection.fetchval(query("move_live_watermark"), self._lost_writer_s)
                        watermark = since if moved is None else floor(moved.timestamp())
                        load = await self._load(connection, places, since, watermark, 1)
                        fates, seen = await self._fates(connection, places, self._folded + folded, watermark)
                        recent, begin = await self._recent(connection, places, watermark, floor(window_s))
                self._folded += folded  # committed; told at the end, by a later read if this one fails before it
        self._seen = seen
        self._folded[:] = 0
        await self._tend()
        told = {
            name: Outcome(int(fate.sum()), *fate.tolist()) for name, fate in zip(self._services, fates, strict=True)
        }
        return LogView(float(watermark), load, told, recent, (float(begin), float(watermark)))

    async def _fold(self, connection: Connection, places: dict[int, int]) -> tuple[NDArray[np.int64], bool]:
        """Fold batches; return their good, late and dropped by service, and whether there may be more.

        Then the watermark must not move yet.
        """
        folded = np.zeros((len(self._services), 3), np.int64)
        rows = await connection.fetch(query("fold_deltas"), FOLD_ROWS)
        for row in rows:
            if (place := places.get(row["service"])) is not None:
                folded[place] += row["good"], row["late"], row["dropped"]
        return folded, sum(row["rows"] for row in rows) == FOLD_ROWS

    async def _fates(
        self, connection: Connection, places: dict[int, int], folded: NDArray[np.int64], watermark: int
    ) -> tuple[NDArray[np.int64], _Seen]:
        """Return good, late and dropped by service since the last read, whoever folded them, and what is seen now.

        The first time these are those folded by us. `self._seen` is replaced after the commit, so that a read that
        failed costs no outcome.
        """
        begin = watermark - _FATES_OVER_S
        if self._seen is None:
            return folded, _Seen(begin, await self._fates_since(connection, places, begin))
        now = await self._fates_since(connection, places, self._seen.begin)
        fates = np.maximum(now - self._seen.fates, 0)
        if begin - self._seen.begin < _FATES_OVER_S:
            return fates, _Seen(self._seen.begin, now)
        return fates, _Seen(begin, await self._fates_since(connection, places, begin))

    async def _fates_since(self, connection: Connection, places: dict[int, int], begin: int) -> NDArray[np.int64]:
        fates = np.zeros((len(self._services), 3), np.int64)
        for number, *counts in await connection.fetch(query("live_fates"), _instant(begin)):
            if (place := places.get(number)) is not None:
                fates[place] = counts
        return fates

    async def history(self, since_s: float, step_s: float = 1.0) -> Load:
        """Return the load by steps of whole seconds up to the watermark, without folding anything.

        It starts at `since_s`, or where the log begins if that is later. Steps that touch a time in which nobody was
        logging are NaN.
        """
        since, step = floor(since_s), max(1, round(step_s))
        async with self._line.held("reading the history of the log", within_s=10 * _ANSWER_WITHIN_S) as connection:
            until = await connection.fetchval(query("watermark"), 0)
            first = await connection.fetchval(query("live_begin"))
            watermark = since if until is None else floor(until.timestamp())
            begin = watermark if first is None else min(floor(first.timestamp()), watermark)
            since += max(0, begin - since) // step * step
            return await self._load(connection, await self._places(connection), since, watermark, step)

    async def health(self) -> LogHealth:
        """Say who logs, how far, and what went wrong with rows."""
        async with self._line.held("the look at the live log", within_s=_ANSWER_WITHIN_S) as connection:
            return await read_health(connection, self._services, self._lost_writer_s)

    async def now_s(self) -> float:
        """Return the database's clock, in unix seconds."""
        async with self._line.held("the look at the database's clock", within_s=_ANSWER_WITHIN_S) as connection:
            now: float = await connection.fetchval(query("now_s"))
            return now

    async def close(self) -> None:
        """Close the connection, if it is ours."""
        await self._line.close()

    async def _tend(self) -> None:
        """Prepare partitions and block ranges now and then; another time will do if somebody is in the way.

        What fails here costs a warning only, since what was read is committed and must be told.
        """
        if time.monotonic() - self._tended_s < _TEND_EVERY_S:
            return
        self._tended_s = time.monotonic()
        troubles = []
        try:
            async with self._line.held("tending the live log", within_s=_ANSWER_WITHIN_S) as connection:
                for work in (query("prepare_live_log"), query("forget_live_log"), query("summarise_live_log")):
                    try:
                        await connection.execute(work)
                    except asyncpg.LockNotAvailableError:
                        continue
                    except asyncpg.PostgresError as problem:
                        troubles.append(str(problem))
        except StoreError as problem:
            troubles.append(str(problem))
        before, self._untended = self._untended, "; ".join(troubles)
        if self._untended not in ("", before):
            _log.warning("the live log is read, but not prepared for what comes: %s", self._untended)

    async def _places(self, connection: Connection) -> dict[int, int]:
        """Return the place of each service by its number in the database."""
        if self._learnt != self._line.opened:
            self._ids, self._learnt = {}, self._line.opened
        if unknown := [name for name in self._services if name not in self._ids]:
            self._ids.update({row["name"]: row["id"] for row in await connection.fetch(query("service_ids"), unknown)})
        return {self._ids[name]: place for place, name in enumerate(self._services) if name in self._ids}

    async def _load(
        self, connection: Connection, places: dict[int, int], since: int, watermark: int, step: int
    ) -> Load:
        steps = max(0, watermark - since) // step
        counts = np.zeros((len(self._services), steps))
        if steps:
            found = await self._counts(connection, since, since + steps * step, step)
            at, place = (found["second"] - since) // step, _placed(found["service"], places)
            silent = await self._silent(connection, since, steps, step)
            if step == 1:  # a second with requests was logged by somebody, whoever says he began later
                silent[at] = False
            known = place >= 0
            np.add.at(counts, (place[known], at[known]), found["requests"][known])
            counts[:, silent] = np.nan
        return Load(self._services, float(since), float(step), counts)

    async def _counts(self, connection: Connection, since: int, until: int, step: int) -> dict[str, NDArray[np.int64]]:
        found = await fetch_rows(
            connection, query("live_counts"), _COUNTS, _instant(since), _instant(until), timedelta(seconds=step)
        )
        second = to_unix_ns(found["ts"]) // SECOND_NS
        return {"second": second, **{name: found[name].astype(np.int64) for name in ("service", "requests")}}

    async def _silent(self, connection: Connection, since: int, steps: int, step: int) -> NDArray[np.bool_]:
        """Say which steps touch a time in which nobody was logging."""
        silent = np.zeros(steps, np.bool_)
        for row in await connection.fetch(query("live_gaps"), _instant(since)):
            begins = since if row["begins"].year == 1 else max(since, row["begins"].timestamp())
            silent[floor((begins - since) / step) : ceil((row["ends"].timestamp() - since) / step)] = True
        return silent

    async def _recent(
        self, connection: Connection, places: dict[int, int], watermark: int, window: int
    ) -> tuple[Arrivals, int]:
        """Return the latest requests and the second they begin at."""
        counts = (await self._load(connection, places, watermark - window, watermark, 1)).counts
        held = np.nan_to_num(counts.sum(axis=0))[::-1].cumsum()
        seconds = min(window, max(1, int(np.searchsorted(held, self._recent_requests, side="right"))))
        begin = watermark - seconds
        # Nothing tells the planner that today's rows lie in the order of time before they were analysed.
        await connection.execute(query("prefer_indexes"))
        found = await fetch_rows(connection, query("live_requests"), _REQUESTS, _instant(begin), _instant(watermark))
        place = _placed(found["service"], places)
        found, place = found[place >= 0], place[place >= 0]
        ns, size = to_unix_ns(found["ts"]), found["size"].astype(np.float32)
        return _with_unlogged(ns, place, size, np.nan_to_num(counts[:, window - seconds :]), begin), begin


def _placed(numbers: NDArray[np.integer], places: dict[int, int]) -> NDArray[np.int64]:
    """Map the database's numbers of services to places; -1 for those that are not configured."""
    known, inverse = np.unique(numbers.astype(np.int64), return_inverse=True)
    return np.array([places.get(number, -1) for number in known.tolist()], np.int64)[inverse]


def _with_unlogged(
    ns: NDArray[np.int64],
    place: NDArray[np.int64],
    size: NDArray[np.float32],
    counts: NDArray[np.float64],
    begin: int,
) -> Arrivals:
    """Group requests by service, and add those of which only the count is known.

    Their instants are drawn evenly over their second, as those of a Poisson process are; the same second is always
    drawn the same way. `counts` has shape ``(services, seconds)``.
    """
    services, seconds = counts.shape
    logged = np.bincount(place * seconds + (ns // SECOND_NS - begin), minlength=services * seconds)
    missing = np.maximum(counts.astype(np.int64) - logged.reshape(services, seconds), 0)
    if missing.any():
        drawn_place = np.repeat(np.arange(services), missing.sum(axis=1))
        second = np.concatenate([np.repeat(np.arange(seconds), row) for row in missing])
        drawn = (begin + second) * SECOND_NS + np.random.default_rng(begin).integers(0, SECOND_NS, len(second))
        ns, place = np.concatenate([ns, drawn]), np.concatenate([place, drawn_place])
        size = np.concatenate([size, np.full(len(second), np.nan, np.float32)])
    order = np.lexsort((ns, place))
    offsets = np.zeros(services + 1, np.int64)
    np.cumsum(np.bincount(place, minlength=services), out=offsets[1:])
    return Arrivals(ns[order], offsets, size[order])


def _instant(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)
