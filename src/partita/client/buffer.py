"""What was recorded and is not written yet, within a bound of memory.

Requests are collected in an open chunk. A cut closes it: it then has the promise that everything which arrived before
an instant is in it or in an earlier chunk. Chunks wait in order. When they hold too many rows, the oldest ones give up
their rows and keep their counts by second, so that the load stays exact; only if that is not enough do counts go too.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from partita.client.columns import Names, Slo, judged
from partita.store.live_batch import Refused, Requests, Seconds

COLUMNS = ("service", "arrived_s", "size", "latency_s", "queue_s", "batch", "status", "replica")


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Requests that are written together.

    Chunks are numbered in order; joined ones have a `first` and a `last` number. `seconds` counts requests without
    rows, of which `thinned` had rows that were given up.
    """

    first: int
    last: int
    services: tuple[str, ...] = ()
    replicas: tuple[str, ...] = ()
    requests: Requests | None = None
    seconds: Seconds | None = None
    refused: Mapping[str, Refused] = field(default_factory=dict)
    until_s: float | None = None
    thinned: int = 0

    @property
    def rows(self) -> int:
        """How many rows it keeps in memory, of requests and of counts."""
        return sum(len(part) for part in (self.requests, self.seconds) if part is not None)

    @property
    def holds(self) -> int:
        """How many requests it stands for."""
        rows = 0 if self.requests is None else len(self.requests)
        return rows + (0 if self.seconds is None else self.seconds.total)

    def without_rows(self) -> Chunk:
        """Return the chunk with counts in place of rows."""
        if self.requests is None:
            return self
        counted = Seconds.of(self.requests)
        return replace(
            self, replicas=(), requests=None, seconds=_sum([counted, self.seconds]) if self.seconds else counted
        )

    def followed_by(self, later: Chunk) -> Chunk:
        """Join two chunks."""
        services, replicas = Names(), Names()
        places = [(services.place(chunk.services), replicas.place((*chunk.replicas, None))) for chunk in (self, later)]
        requests = [
            replace(chunk.requests, service=service[chunk.requests.service], replica=replica[chunk.requests.replica])
            for chunk, (service, replica) in zip((self, later), places, strict=True)
            if chunk.requests is not None
        ]
        seconds = [
            replace(chunk.seconds, service=service[chunk.seconds.service])
            for chunk, (service, _) in zip((self, later), places, strict=True)
            if chunk.seconds is not None
        ]
        return Chunk(
            first=self.first,
            last=later.last,
            services=tuple(services.places),
            replicas=tuple(replicas.places),
            requests=Requests.joined(requests) if requests else None,
            seconds=_sum(seconds) if seconds else None,
            refused=_both(self.refused, later.refused),
            until_s=self.until_s if later.until_s is None else later.until_s,
            thinned=self.thinned + later.thinned,
        )


class Buffer:
    """Collects requests from any number of threads; keeps `max_rows` of them, and cuts chunks of `batch_rows`.

    With `counts_only` rows are given up as soon as they are counted, which is then no loss.
    """

    def __init__(self, *, max_rows: int, batch_rows: int, slo_s: Slo, counts_only: bool) -> None:
        self._lock = threading.Lock()
        self._max_rows = max_rows
        self._batch_rows = max(1, min(batch_rows, max_rows // 4))
        self._slo_s = slo_s
        self._counts_only = counts_only
        self._number = 0
        self._waiting: deque[Chunk] = deque()
        self._taken: Chunk | None = None
        self._kept = 0
        self._unreported = 0
        self.lost = 0
        """Requests that were given up, row and count."""
        self.thinned = 0
        """Requests whose row was given up."""
        self.rejected: dict[str, int] = {}
        """Rows that could not be logged, by reason."""
        self._reopen()

    def add(self, row: tuple[Any, ...]) -> None:
        """Take one request, as a tuple of COLUMNS."""
        with self._lock:
            self._rows.append(row)
            if len(self._rows) + self._open_rows >= self._batch_rows:
                self._cut(None)

    def add_columns(self, columns: Mapping[str, Any]) -> None:
        """Take many requests."""
        with self._lock:
            self._judge(columns)
            if len(self._rows) + self._open_rows >= self._batch_rows:
                self._cut(None)

    def cut(self, until_s: float) -> int:
        """Close the open chunk with a promise, and return the last chunk's number."""
        with self._lock:
            self._cut(until_s)
            return self._number

    def take(self) -> Chunk | None:
        """Return the oldest chunk; it stays as it is until `settle`."""
        with self._lock:
            if self._taken is None and self._waiting:
                self._taken = self._waiting.popleft()
            return self._taken

    def settle(self, refused: Mapping[str, Refused]) -> None:
        """Forget the chunk that was taken: it is written, except for what the database refused."""
        with self._lock:
            if self._taken is not None:
                self._kept -= self._taken.rows
                self._taken = None
            self._reject(refused)

    def reject(self, reason: str, rows: int) -> None:
        """Count rows as refused."""
        with self._lock:
            self._reject({reason: Refused(rows, "")})

    def take_lost(self) -> int:
        """Return how many requests were given up since this was last asked."""
        with self._lock:
            lost, self._unreported = self._unreported, 0
            return lost

    def still_holds(self, number: int) -> bool:
        """Say whether anything up to this chunk is not written."""
        with self._lock:
            oldest = self._taken or (self._waiting[0] if self._waiting else None)
            return oldest is not None and oldest.first <= number

    @property
    def waiting(self) -> int:
        """Requests that are not written yet."""
        with self._lock:
            chunks = [*self._waiting, *([self._taken] if self._taken else [])]
            return sum(chunk.holds for chunk in chunks) + len(self._rows) + self._open_rows

    # Under the lock -------------------------------------------------------------------------------------------------

    def _reopen(self) -> None:
        self._services, self._replicas = Names(), Names()
        self._rows: list[tuple[Any, ...]] = []
        self._parts: list[Requests] = []
        self._refused: dict[str, Refused] = {}
        self._open_rows = 0

    def _judge(self, columns: Mapping[str, Any]) -> None:
        requests, refused = judged(columns, self._services, self._replicas, self._slo_s)
        self._parts.append(requests)
        self._open_rows += len(requests)
        self._refused = _both(self._refused, refused)
        self._reject(refused)

    def _reject(self, refused: Mapping[str, Refused]) -> None:
        for reason, entry in refused.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + entry.rows

    def _cut(self, until_s: float | None) -> None:
        if self._rows:
            rows, self._rows = self._rows, []
            self._judge(dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)))
        chunk = Chunk(
            self._number + 1,
            self._number + 1,
            tuple(self._services.places),
            tuple(self._replicas.places),
            Requests.joined(self._parts) if self._open_rows else None,
            refused=self._refused,
            until_s=until_s,
        )
        self._reopen()
        self._number += 1
        self._append(chunk.without_rows() if self._counts_only else chunk)
        self._shrink()

    def _append(self, chunk: Chunk) -> None:
        """Queue a chunk; a small one joins the one before, so that a long wait does not fill memory with chunks."""
        if self._waiting and self._waiting[-1].rows + chunk.rows <= self._batch_rows:
            before = self._waiting.pop()
            self._kept -= before.rows
            chunk = before.followed_by(chunk)
        self._waiting.append(chunk)
        self._kept += chunk.rows

    def _shrink(self) -> None:
        """Keep within `max_rows`: first thin the oldest chunks, then join them, then give them up."""
        place = 0
        while self._kept > self._max_rows and place < len(self._waiting):
            chunk = self._waiting[place]
            thin = chunk.without_rows()
            if chunk.requests is not None:
                thin = replace(thin, thinned=chunk.thinned + len(chunk.requests))
                self.thinned += len(chunk.requests)
            if place and self._waiting[place - 1].rows < self._batch_rows:
                before = self._waiting[place - 1]
                self._waiting[place - 1] = before.followed_by(thin)
                del self._waiting[place]
                self._kept += self._waiting[place - 1].rows - before.rows - chunk.rows
            else:
                self._waiting[place] = thin
                self._kept += thin.rows - chunk.rows
                place += 1
        while self._kept > self._max_rows and self._waiting:
            oldest = self._waiting.popleft()
            self._kept -= oldest.rows
            self.lost += oldest.holds
            self._unreported += oldest.holds


def _sum(parts: Sequence[Seconds]) -> Seconds:
    columns = [[getattr(part, name) for part in parts] for name in Seconds.__slots__]
    return Seconds.summed(*map(np.concatenate, columns))


def _both(first: Mapping[str, Refused], second: Mapping[str, Refused]) -> dict[str, Refused]:
    return {
        reason: sum((each[reason] for each in (first, second) if reason in each), Refused(0, ""))
        for reason in {**first, **second}
    }
