"""Write a batch of live requests: rows by binary COPY, counts by second, and the writer's promise, all or nothing.

The SQL function ``log_requests`` of migration 0002 does the same for gateways that have only SQL; the rules for what
is refused are the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from partita.store.binarycopy import POSTGRES_EPOCH_US, copy_rows
from partita.store.connection import Connection, atomically
from partita.store.queries import query

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
OLDEST_US = DAY_US
"""A request that arrived longer ago, by the database's clock, is refused."""
NEWEST_US = 60 * SECOND_US
"""So is one further in the future; clocks of gateways may differ by less."""

GOOD, LATE, DROPPED, UNKNOWN = 0, 1, 2, -1
NO_BATCH, NO_REPLICA = 0, -1

_COLUMNS = {
    "ts": ">i8",
    "service": ">i4",
    "size": ">f4",
    "latency_s": ">f4",
    "queue_s": ">f4",
    "batch": ">i4",
    "status": ">i2",
    "replica": "",
}
_OPTIONAL = tuple(_COLUMNS)[2:]


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Requests as parallel columns; `service` and `replica` are places in the batch's lists of names.

    `at_us` is the arrival in unix microseconds. NaN, NO_BATCH, UNKNOWN and NO_REPLICA stand for what was not recorded.
    """

    service: NDArray[np.int32]
    at_us: NDArray[np.int64]
    size: NDArray[np.float32]
    latency_s: NDArray[np.float32]
    queue_s: NDArray[np.float32]
    batch: NDArray[np.int32]
    status: NDArray[np.int16]
    replica: NDArray[np.int32]

    def __len__(self) -> int:
        return int(self.at_us.shape[0])

    def chosen(self, which: NDArray[Any]) -> Requests:
        """Return some of the requests, by a mask or by places."""
        return Requests(*(getattr(self, name)[which] for name in self.__slots__))

    @classmethod
    def joined(cls, parts: Sequence[Requests]) -> Requests:
        """Put blocks that share their lists of names one after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class Seconds:
    """Requests by second and service, as parallel columns; `second` is unix time."""

    second: NDArray[np.int64]
    service: NDArray[np.int32]
    requests: NDArray[np.int64]
    good: NDArray[np.int64]
    late: NDArray[np.int64]
    dropped: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.second.shape[0])

    @property
    def total(self) -> int:
        """Requests in all."""
        return int(self.requests.sum())

    def chosen(self, which: NDArray[Any]) -> Seconds:
        """Return some of the rows."""
        return Seconds(*(getattr(self, name)[which] for name in self.__slots__))

    @classmethod
    def of(cls, requests: Requests) -> Seconds:
        """Count requests."""
        ones = np.ones(len(requests), np.int64)
        by_status = ((requests.status == status).astype(np.int64) for status in (GOOD, LATE, DROPPED))
        return cls.summed(requests.at_us // SECOND_US, requests.service, ones, *by_status)

    @classmethod
    def summed(cls, second: NDArray[np.int64], service: NDArray[np.int32], *columns: NDArray[np.int64]) -> Seconds:
        """Add up rows of the same second and service; `columns` are requests, good, late, dropped."""
        keys, place = np.unique((second << 31) | service, return_inverse=True)
        sums = []
        for column in columns:
            total = np.zeros(len(keys), np.int64)
            np.add.at(total, place, column)
            sums.append(total)
        return cls(keys >> 31, (keys & 0x7FFF_FFFF).astype(np.int32), *sums)


@dataclass(frozen=True, slots=True)
class Refused:
    """Rows that were not taken for one reason, and what one of them looked like."""

    rows: int
    example: str

    def __add__(self, other: Refused) -> Refused:
        return Refused(self.rows + other.rows, other.example)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What is written in one transaction, once however often it is sent.

    `until_s` is the promise: everything of this writer that arrived before is in this batch or an earlier one; None
    promises nothing. `requests` are rows of the log; `seconds` are counts of further requests without rows, of which
    `thinned` had rows that were given up. `lost` counts requests given up altogether.
    """

    number: int
    until_s: float | None = None
    services: tuple[str, ...] = ()
    replicas: tuple[str, ...] = ()
    requests: Requests | None = None
    seconds: Seconds | None = None
    refused: Mapping[str, Refused] = field(default_factory=dict)
    lost: int = 0
    thinned: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch: `fresh` is false if an earlier attempt had written it.

    `taken` counts requests; `refused` are those of this batch that the database's clock speaks against.
    """

    fresh: bool
    taken: int
    clock_s: float
    refused: Mapping[str, Refused]


_Columns = TypeVar("_Columns", Requests, Seconds)


class Pen:
    """Writes the batches of one writer; remembers what it learnt of the database until `forget`.

    Unseen for `lost_s`, it counts as lost even where a follower would wait longer.
    """

    def __init__(self, writer: str, *, lost_s: float | None = None) -> None:
        self.writer = writer
        self._lost_s = lost_s
        self._ids: dict[str, int] = {}
        self._days: set[int] = set()

    def forget(self) -> None:
        """Learn everything again: the connection is new, the database may be another."""
        self._ids.clear()
        self._days.clear()

    async def open(self, connection: Connection) -> int:
        """Begin a life of this writer and return the number of its first batch."""
        first: int = await connection.fetchval(query("log_open"), self.writer, self._lost_s)
        return first

    async def close(self, connection: Connection, batch: int) -> None:
        """Say goodbye; `batch` is any number of this life."""
        await connection.execute(query("log_close"), self.writer, batch)

    async def write(self, connection: Connection, batch: Batch) -> Written:
        """Write one batch; asyncpg.ObjectInUseError if another process has opened the log under this name."""
        ids = await self._numbers(connection, batch.services)
        if batch.requests is not None:
            await self._make_room(connection, batch.requests.at_us // DAY_US)
        async with atomically(connection):
            begun = await connection.fetchrow(query("log_begin"), self.writer, batch.number)
            clock_s = begun["clock"].timestamp()
            if not begun["fresh"]:
                return Written(False, begun["taken"], clock_s, {})
            return await self._write_fresh(connection, batch, ids, _us(begun["clock"]), _us(begun["complete"]))

    async def _write_fresh(
        self, connection: Connection, batch: Batch, ids: NDArray[np.int32], clock_us: int, complete_us: int
    ) -> Written:
        taken, refused = 0, dict[str, Refused]()
        deltas, late = list[Seconds](), np.zeros(len(ids), np.int64)
        if batch.requests is not None:
            requests = _timely(batch.requests, batch.requests.at_us, clock_us, batch.services, refused)
            if len(requests):
                rows = _encoded(requests, ids, batch.replicas)
                await copy_rows(connection, "request_log", list(_COLUMNS), rows)
                deltas.append(Seconds.of(requests))
            taken += len(requests)
            late += np.bincount(requests.service[requests.at_us < complete_us], minlength=len(ids))
        if batch.seconds is not None:
            seconds = _timely(batch.seconds, batch.seconds.second * SECOND_US, clock_us, batch.services, refused)
            behind = seconds.second < complete_us // SECOND_US
            np.add.at(late, seconds.service[behind], seconds.requests[behind])
            deltas.append(seconds)
            taken += seconds.total
        await self._end(connection, batch, taken, deltas, ids, late, {**batch.refused, **refused})
        return Written(True, taken, clock_us / SECOND_US, refused)

    async def _end(
        self,
        connection: Connection,
        batch: Batch,
        taken: int,
        deltas: Sequence[Seconds],
        ids: NDArray[np.int32],
        late: NDArray[np.int64],
        refused: Mapping[str, Refused],
    ) -> None:
        ts = [datetime.fromtimestamp(second, UTC) for delta in deltas for second in delta.second.tolist()]
        service = [number for delta in deltas for number in ids[delta.service].tolist()]
        counts = [
            [count for delta in deltas for count in getattr(delta, name).tolist()]
            for name in ("requests", "good", "late", "dropped")
        ]
        behind = np.flatnonzero(late)
        await connection.execute(
            query("log_end"),
            self.writer,
            batch.number,
            None if batch.until_s is None else datetime.fromtimestamp(batch.until_s, UTC),
            taken,
            batch.lost,
            batch.thinned,
            ts,
            service,
            *counts,
            ids[behind].tolist(),
            late[behind].tolist(),
            list(refused),
            [entry.rows for entry in refused.values()],
            [entry.example for entry in refused.values()],
        )

    async def _numbers(self, connection: Connection, names: Sequence[str]) -> NDArray[np.int32]:
        """Return the services' numbers; names not seen before get theirs from the database."""
        if unknown := [name for name in names if name not in self._ids]:
            await connection.execute(query("log_services"), unknown)
            self._ids.update({row["name"]: row["id"] for row in await connection.fetch(query("service_ids"), unknown)})
        return np.array([self._ids[name] for name in names], np.int32)

    async def _make_room(self, connection: Connection, days: NDArray[np.int64]) -> None:
        """Make partitions before the transaction, since making one locks others out of making it."""
        if unknown := set(np.unique(days).tolist()) - self._days:
            now_us = round(await connection.fetchval(query("now_s")) * SECOND_US)
            possible = range((now_us - OLDEST_US) // DAY_US, (now_us + NEWEST_US) // DAY_US + 1)
            for day in sorted(unknown & set(possible)):
                await connection.execute(query("ensure_partitions"), *(datetime.fromtimestamp(day * 86_400, UTC),) * 2)
                self._days.add(day)


def _timely(
    columns: _Columns,
    at_us: NDArray[np.int64],
    clock_us: int,
    services: Sequence[str],
    refused: dict[str, Refused],
) -> _Columns:
    """Return what can have arrived when it says; add what cannot to `refused`."""
    impossible = {"old": at_us < clock_us - OLDEST_US, "future": at_us > clock_us + NEWEST_US}
    for reason, which in impossible.items():
        if rows := int(np.count_nonzero(which)):
            first = int(np.argmax(which))
            example = f"{services[columns.service[first]]!a} arrived_s={at_us[first] / SECOND_US:.6f}"
            refused[reason] = refused.get(reason, Refused(0, "")) + Refused(rows, example[:200])
    wrong = impossible["old"] | impossible["future"]
    return columns.chosen(~wrong) if wrong.any() else columns


def _encoded(requests: Requests, ids: NDArray[np.int32], replicas: Sequence[str]) -> list[bytes]:
    """Encode rows of request_log; those with the same fields set and equally long replica names go together."""
    names = [name.encode() for name in replicas]
    lengths = np.array([*map(len, names), 0], np.int64)[requests.replica]  # NO_REPLICA is the last place
    recorded = {
        "size": ~np.isnan(requests.size),
        "latency_s": ~np.isnan(requests.latency_s),
        "queue_s": ~np.isnan(requests.queue_s),
        "batch": requests.batch != NO_BATCH,
        "status": requests.status != UNKNOWN,
    }
    shape = lengths << len(recorded)
    for place, which in enumerate(recorded.values()):
        shape |= which.astype(np.int64) << place
    ts = requests.at_us - POSTGRES_EPOCH_US
    parts = []
    for each in np.unique(shape).tolist():
        which = np.flatnonzero(shape == each) if shape[0] != each or np.any(shape != each) else slice(None)
        present = tuple(name for place, name in enumerate(recorded) if each >> place & 1)
        length = each >> len(recorded)
        rows = np.empty(len(ts[which]), _row_dtype(present, length))
        rows["fields"] = len(_COLUMNS)
        for name in _OPTIONAL:
            rows[f"{name}_len"] = -1
        rows["ts_len"], rows["ts"] = 8, ts[which]
        rows["service_len"], rows["service"] = 4, ids[requests.service[which]]
        for name in present:
            rows[f"{name}_len"], rows[name] = rows.dtype[name].itemsize, getattr(requests, name)[which]
        if length:
            fitting = np.array([name if len(name) == length else b"" for name in names], f"S{length}")
            rows["replica_len"], rows["replica"] = length, fitting[requests.replica[which]]
        parts.append(rows.tobytes())
    return parts


@cache
def _row_dtype(present: tuple[str, ...], replica_length: int) -> np.dtype[np.void]:
    """Return the packed dtype of rows in which only these optional fields are set; a null is a length and nothing."""
    fields = [("fields", ">i2")]
    for name, code in _COLUMNS.items():
        fields.append((f"{name}_len", ">i4"))
        if name == "replica" and replica_length:
            fields.append((name, f"S{replica_length}"))
        elif name in present or name in ("ts", "service"):
            fields.append((name, code))
    return np.dtype(fields)


def _us(at: datetime | None) -> int:
    """Return unix microseconds, exactly; long ago for None."""
    return -(2**62) if at is None else (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
