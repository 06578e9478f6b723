"""Bring a trace into the request log exactly once.

One file is one transaction: rows, roll-up, watermark and the note that it is done appear together or not at all, so a
client killed at any moment leaves nothing to clean up and the next one starts over. (Batches with a recorded resume
position would save repeated work after a crash, but would show half a trace to readers, and would have to write rows
twice to the log, since PostgreSQL skips its own log only for partitions made in the same transaction.) What a file
brought is known by its content's checksum and the options it was read with.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
from numpy.typing import NDArray

from partita.errors import StoreError, TraceError
from partita.ports import Counts, Rows, TraceInfo
from partita.store.binarycopy import copy_rows, encode_rows, from_unix_ns
from partita.store.connection import Connection, atomically, explained
from partita.store.queries import query
from partita.store.room import local_data_folder, require_room

CHUNK_ROWS = 100_000
LOCK_WAIT_S = 5.0
LAWS = {"even": b"e", "poisson": b"p", "gamma": b"g", "weibull": b"w"}
"""How gaps inside a bin are spread -> its letter in the column `law`."""

SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS

REQUEST_LAYOUT = {"ts": "i8", "source": "i4", "service": "i4", "size": "f4", "output_size": "f4"}
SECOND_LAYOUT = {"ts": "i8", "source": "i4", "service": "i4", "bin_s": "f4", "requests": "i8"}
COUNT_LAYOUT = {**SECOND_LAYOUT, "law": "S1", "shape": "f8"}


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """One row of trace_import: a file that was, or is being, imported.

    `rows` were written (log rows of a request trace, bins of a count trace), holding `requests` requests between
    `first_ts` and `end_ts`.
    """

    id: int
    file: str
    sha256: str
    options: Mapping[str, Any]
    format: str
    kind: str
    state: str
    rows: int
    requests: int
    first_ts: datetime | None
    end_ts: datetime | None
    started_at: datetime
    finished_at: datetime | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ImportRecord:
        """Map a database row."""
        return cls(**{**row, "options": json.loads(row["options"])})


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def read_imports(connection: Connection) -> list[ImportRecord]:
    """List what was imported, oldest first."""
    with explained("the list of imports"):
        return [ImportRecord.from_row(row) for row in await connection.fetch(query("imports"))]


class Import:
    """An open import. `record` is the row of trace_import; with `done_before` there is nothing left to write."""

    def __init__(
        self, connection: Connection, record: ImportRecord, bin_s: float | None, data_folder: Path | None
    ) -> None:
        self.record = record
        self._connection = connection
        self._bin_s = bin_s
        self._services = _ServiceIds(connection)
        self._log = _Buffer(connection, "request_log", REQUEST_LAYOUT, data_folder)
        self._seconds = _Buffer(connection, "request_rollup", SECOND_LAYOUT, data_folder)
        self._counts = _Buffer(connection, "request_rollup", COUNT_LAYOUT, data_folder)
        self._open_keys = np.empty(0, np.int64)
        self._open_counts = np.empty(0, np.int64)
        self._days = set[int]()
        self._first_ns: int | None = None
        self._last_ns = 0
        self._rows = 0
        self._requests = 0

    @property
    def done_before(self) -> bool:
        """Whether this content was imported with these options already."""
        return self.record.state == "done"

    async def write_rows(self, rows: Rows) -> None:
        """Write requests and their roll-up; TraceError if they go back in time."""
        if len(rows.at_ns) == 0:
            return
        self._advance(rows.at_ns)
        service = await self._services.ids(rows.service)
        for day in np.unique(rows.at_ns // DAY_NS).tolist():
            await self._ensure_day(day)
        columns: dict[str, NDArray[Any] | float] = {
            "ts": from_unix_ns(rows.at_ns),
            "source": self.record.id,
            "service": service,
            "size": rows.size,
            "output_size": rows.output_size,
        }
        await self._log.add(encode_rows(REQUEST_LAYOUT, columns), len(service))
        self._rows += len(rows.at_ns)
        self._requests += len(rows.at_ns)
        await self._roll_up(rows.at_ns // SECOND_NS, service)

    async def write_counts(self, counts: Counts) -> None:
        """Write bins of a count trace; TraceError if they go back in time or name an unknown law."""
        if len(counts.at_ns) == 0:
            return
        if self._bin_s is None:
            raise TraceError("a trace of requests cannot hold counts", file=self.record.file)
        self._advance(counts.at_ns)
        columns: dict[str, NDArray[Any] | float] = {
            "ts": from_unix_ns(counts.at_ns),
            "source": self.record.id,
            "service": await self._services.ids(counts.service),
            "bin_s": self._bin_s,
            "requests": counts.count,
            "law": _law_letters(counts.law, self.record.file),
            "shape": counts.shape,
        }
        await self._counts.add(encode_rows(COUNT_LAYOUT, columns), len(counts.at_ns))
        self._rows += len(counts.at_ns)
        self._requests += int(counts.count.sum())

    def _advance(self, at_ns: NDArray[np.int64]) -> None:
        if (self._first_ns is not None and at_ns[0] < self._last_ns) or np.any(at_ns[1:] < at_ns[:-1]):
            raise TraceError("time goes backwards", file=self.record.file)
        if self._first_ns is None:
            self._first_ns = int(at_ns[0])
        self._last_ns = int(at_ns[-1])

    async def _ensure_day(self, day: int) -> None:
        if day not in self._days:
            await self._connection.execute(query("ensure_partitions"), *(_instant(day * DAY_NS),) * 2)
            self._days.add(day)

    async def _roll_up(self, second: NDArray[np.int64], service: NDArray[np.int32]) -> None:
        """Count by second and service; the last second stays open, since the next block may go on with it."""
        keys, counts = np.unique((second << 31) | service, return_counts=True)
        keys, place = np.unique(np.concatenate([self._open_keys, keys]), return_inverse=True)
        added = np.concatenate([self._open_counts, counts])
        total = np.zeros(len(keys), np.int64)
        np.add.at(total, place, added)
        closed = int(np.searchsorted(keys, second[-1] << 31))
        self._open_keys, self._open_counts = keys[closed:], total[closed:]
        await self._write_seconds(keys[:closed], total[:closed])

    async def _write_seconds(self, keys: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        if len(keys):
            columns: dict[str, NDArray[Any] | float] = {
                "ts": from_unix_ns((keys >> 31) * SECOND_NS),
                "source": self.record.id,
                "service": keys & 0x7FFF_FFFF,
                "bin_s": 1.0,
                "requests": counts,
            }
            await self._seconds.add(encode_rows(SECOND_LAYOUT, columns), len(keys))

    async def finish(self) -> None:
        """Send what is buffered, move the watermark and note that the file is done."""
        await self._write_seconds(self._open_keys, self._open_counts)
        for buffer in (self._log, self._seconds, self._counts):
            await buffer.flush()
        first = end = None
        if self._first_ns is not None:
            width_ns = SECOND_NS if self._bin_s is None else round(self._bin_s * SECOND_NS)
            last_ns = self._last_ns // SECOND_NS * SECOND_NS if self._bin_s is None else self._last_ns
            first, end = _instant(self._first_ns), _instant(last_ns + width_ns)
            await self._connection.execute(query("move_watermark"), self.record.id, end)
        row = await self._connection.fetchrow(
            query("finish_import"), self.record.id, self._rows, self._requests, first, end
        )
        self.record = ImportRecord.from_row(row)

    async def settle(self) -> None:
        """Refresh block ranges and statistics of the days written; without it queries are only slower."""
        for day in sorted(self._days):
            await self._connection.execute(query("settle_partitions"), *(_instant(day * DAY_NS),) * 2)


@asynccontextmanager
async def begin_import(
    connection: Connection, *, file: str, sha256: str, info: TraceInfo, options: Mapping[str, Any] | None = None
) -> AsyncIterator[Import]:
    """Open the import of one file; leaving the block commits it, an exception undoes it.

    With `done_before` the same content was imported with the same `options`: write nothing. StoreError if another
    client is importing it now, or if the database cannot take it.
    """
    with explained(f"the import of {file}"):
        record = await _register(connection, file, sha256, info, _as_json(options or {}))
        opened = Import(connection, record, info.bin_s, await local_data_folder(connection))
        if opened.done_before:
            yield opened
            return
        try:
            async with atomically(connection):
                yield opened
                await opened.finish()
        except BaseException as problem:
            with suppress(Exception):
                await connection.execute(query("forget_import"), record.id)
            if isinstance(problem, asyncpg.UniqueViolationError):
                raise TraceError("two counts for the same service and bin", file=file) from None
            raise
        finally:
            with suppress(Exception):
                await connection.execute(query("unlock_import"), record.id)
        await opened.settle()


async def _register(connection: Connection, file: str, sha256: str, info: TraceInfo, options: str) -> ImportRecord:
    """Return the file's row, locked by this session unless it is done.

    The row is read again once it is locked: whoever held the lock may have finished it, or given up and removed it.
    """
    while True:
        await connection.execute(query("add_import"), file, sha256, options, info.format, info.kind)
        row = await connection.fetchrow(query("import_by_content"), sha256, options)
        if row is None:
            continue
        if row["state"] == "done":
            return ImportRecord.from_row(row)
        if not await _lock(connection, row["id"]):
            raise StoreError(f"{file} is being imported by another client")
        again = await connection.fetchrow(query("import_by_content"), sha256, options)
        if again is not None and again["id"] == row["id"] and again["state"] == "running":
            await connection.execute(query("restart_import"), row["id"], file, info.format, info.kind)
            return ImportRecord.from_row(again)
        await connection.execute(query("unlock_import"), row["id"])


async def _lock(connection: Connection, number: int) -> bool:
    """Try to lock an import for LOCK_WAIT_S: the server needs a moment to notice that a client was killed."""
    until = time.monotonic() + LOCK_WAIT_S
    while not await connection.fetchval(query("try_lock_import"), number):
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.05)
    return True


class _Buffer:
    """Encoded rows on their way to one table, sent about CHUNK_ROWS at a time."""

    def __init__(self, connection: Connection, table: str, columns: Iterable[str], data_folder: Path | None) -> None:
        self._connection, self._table, self._columns = connection, table, tuple(columns)
        self._data_folder = data_folder
        self._parts: list[bytes] = []
        self._length = 0

    async def add(self, rows: bytes, length: int) -> None:
        self._parts.append(rows)
        self._length += length
        if self._length >= CHUNK_ROWS:
            await self.flush()

    async def flush(self) -> None:
        if self._length:
            require_room(self._data_folder)
            await copy_rows(self._connection, self._table, self._columns, self._parts)
        self._parts, self._length = [], 0


class _ServiceIds(dict[str, int]):
    """Service name -> number; names not seen before get theirs from the database."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    async def ids(self, names: NDArray[np.object_]) -> NDArray[np.int32]:
        try:
            return self._look_up(names)
        except KeyError:
            await self._learn(sorted({str(name) for name in names.tolist()} - self.keys()))
            return self._look_up(names)

    def _look_up(self, names: NDArray[np.object_]) -> NDArray[np.int32]:
        return np.fromiter(map(self.__getitem__, names.tolist()), np.int32, len(names))

    async def _learn(self, names: list[str]) -> None:
        await self._connection.execute(query("add_services"), names)
        self.update({row["name"]: row["id"] for row in await self._connection.fetch(query("service_ids"), names)})


def _law_letters(laws: NDArray[np.object_], file: str) -> NDArray[np.bytes_]:
    unknown = sorted(set(laws.tolist()) - LAWS.keys())
    if unknown:
        raise TraceError(f"law {unknown[0]!r} is none of {', '.join(LAWS)}", file=file)
    return np.array(list(map(LAWS.__getitem__, laws.tolist())), "S1")


def _as_json(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True, default=str)


def _instant(at_ns: int) -> datetime:
    return datetime.fromtimestamp(at_ns // SECOND_NS, UTC).replace(microsecond=at_ns % SECOND_NS // 1000)
