"""Log requests from async code."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import asyncpg

from partita.client.buffer import Buffer, Chunk
from partita.client.columns import LONGEST_NAME, Column, Slo, Status, is_name
from partita.errors import ConfigError, PartitaError
from partita.store.connection import Connection, without_password
from partita.store.line import Line
from partita.store.live_batch import Batch, Pen, Refused, Written

_log = logging.getLogger("partita.client")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
"""Between attempts while the database is away; each wait is twice the one before, and begins anew for `flush`."""
_SHORTEST_WAIT_S = 0.1
_WARN_EVERY_S = 10.0
_ANSWER_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class LogReport:
    """What became of the requests recorded so far.

    `written` are in the database, `waiting` not yet; `lost` were given up for want of memory, `thinned` are written as
    counts only for that reason; `rejected` are rows by reason, `problem` is what the database last complained of.
    """

    written: int = 0
    waiting: int = 0
    lost: int = 0
    thinned: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    problem: str | None = None


class AsyncRequestLog:
    """Logs requests in batches, in the background; use it as an async context manager.

    Recording never waits and never raises over what a request holds: rows that cannot be are counted and refused. The
    database may be away, at the start too: up to `max_rows` requests wait in memory, then the oldest keep only their
    counts, then the oldest are given up; a warning says so, and the database is told.

    Every `flush_s` the log is written up to now, with the promise that all requests that arrived more than `lag_s` ago
    have been recorded: `lag_s` must be longer than the longest latency if requests are recorded when they are answered.
    Without traffic the promise still goes out, so that silence is known to be no load.

    `writer` names this process; the default is made of host and process number. A name that stays the same over
    restarts lets a killed gateway's successor take its place at once; when two processes have the same name at a time,
    the older one takes another. A request without a status gets it from its latency and `slo_s`, which is one number or
    one by service. With `counts_only` no rows are written, only counts by second, for rates past one database.
    """

    def __init__(
        self,
        dsn: str,
        *,
        writer: str | None = None,
        flush_s: float = 0.5,
        lag_s: float = 2.0,
        max_rows: int = 1_000_000,
        batch_rows: int = 50_000,
        slo_s: Slo = None,
        counts_only: bool = False,
    ) -> None:
        if not dsn.startswith(("postgresql://", "postgres://")):
            shown = without_password(dsn)
            raise ConfigError(f"{shown!r} must begin with postgresql://", key="dsn", value=shown)
        name = f"{socket.gethostname()}:{os.getpid()}" if writer is None else writer
        if not is_name(name):
            raise ConfigError(f"{name!r} must have 1 to 200 characters", key="writer", value=name)
        for key, value, least in (("flush_s", flush_s, 0.01), ("lag_s", lag_s, 0.0), ("max_rows", max_rows, 4)):
            if not value >= least:
                raise ConfigError(f"must be at least {least:g}, not {value:g}", key=key, value=value)
        self._buffer = Buffer(max_rows=max_rows, batch_rows=batch_rows, slo_s=slo_s, counts_only=counts_only)
        self._line = Line(dsn)
        self._asked_name = name
        self._pen = Pen(name)
        self._flush_s, self._lag_s = flush_s, lag_s
        self._clock = _Clock()
        self._next: int | None = None
        self._batch: Batch | None = None
        self._learnt = 0
        self._written = 0
        self._warned_of: tuple[int, int] = (0, 0)
        self._problem: str | None = None
        self._warnings = _Warnings()
        self._wake, self._progress = asyncio.Event(), asyncio.Event()
        self._closing = False
        self._writing = False
        self._task: asyncio.Task[None] | None = None

    @property
    def writer(self) -> str:
        """The name in the database."""
        return self._pen.writer

    def record(
        self,
        service: str,
        *,
        arrived_s: float,
        latency_s: float | None = None,
        size: float | None = None,
        queue_s: float | None = None,
        batch: int | None = None,
        status: Status | str | None = None,
        replica: str | None = None,
    ) -> None:
        """Log one request that arrived at `arrived_s` (unix time); call it from any thread.

        `latency_s` is from arrival to answer, `queue_s` the part before its batch started, `size` whatever the
        service's buckets are of, `batch` how many were served together; None is not known. `status` is "good", "late"
        or "dropped".
        """
        self._buffer.add((service, arrived_s, size, latency_s, queue_s, batch, status, replica))

    def record_many(
        self,
        service: str | Column,
        *,
        arrived_s: Column,
        latency_s: Column | None = None,
        size: Column | None = None,
        queue_s: Column | None = None,
        batch: Column | None = None,
        status: Column | None = None,
        replica: str | Column | None = None,
    ) -> None:
        """Log many requests, given as columns of equal length; a single service or replica is that of all.

        Numpy arrays are fastest. In them a NaN in `size`, or in the times of a dropped request, is not known; any other
        NaN is refused. ValueError if the lengths differ.
        """
        columns: dict[str, Any] = {
            "service": service,
            "arrived_s": arrived_s,
            "size": size,
            "latency_s": latency_s,
            "queue_s": queue_s,
            "batch": batch,
            "status": status,
            "replica": replica,
        }
        for name, column in columns.items():
            if column is not None and not isinstance(column, str) and len(column) != len(arrived_s):
                raise ValueError(f"{name} has {len(column)} entries, but arrived_s has {len(arrived_s)}")
        if len(arrived_s):
            self._buffer.add_columns(columns)

    async def flush(self, timeout_s: float | None = None) -> bool:
        """Write what was recorded; False if that did not succeed in time, or nobody writes (not open, or closed)."""
        if not self._writing:
            return not self._buffer.waiting
        number = self._cut()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._writing and self._buffer.still_holds(number):
                    self._progress.clear()
                    self._wake.set()
                    await self._progress.wait()
        return not self._buffer.still_holds(number)

    def report(self) -> LogReport:
        """Say what became of the requests so far."""
        return LogReport(
            self._written,
            self._buffer.waiting,
            self._buffer.lost,
            self._buffer.thinned,
            dict(self._buffer.rejected),
            self._problem,
        )

    async def open(self) -> Self:
        """Start writing in the background."""
        if self._task is None:
            self._writing, self._closing = True, False
            self._task = asyncio.create_task(self._write_for_ever(), name="partita request log")
        return self

    async def close(self, timeout_s: float = 5.0) -> LogReport:
        """Write the rest, say goodbye to the database, and report; what is still waiting then is not written."""
        task, self._task = self._task, None
        if task is not None:
            deadline = time.monotonic() + timeout_s
            self._closing = True
            flushed = await self.flush(timeout_s)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self._writing = False
            self._progress.set()
            if flushed and self._next is not None:
                await self._say_goodbye(max(0.1, deadline - time.monotonic()))
            await self._line.close()
        report = self.report()
        if report.waiting:
            _log.warning("closed the request log with %d requests not written: %s", report.waiting, report.problem)
        return report

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # In the background ----------------------------------------------------------------------------------------------

    def _cut(self) -> int:
        """Close a chunk; the last one promises everything, since nothing more will come."""
        number = self._buffer.cut(self._clock.now_s() - (0.0 if self._closing else self._lag_s))
        given_up = (self._buffer.thinned, self._buffer.lost)
        if given_up != self._warned_of and self._warnings.due("full"):
            _log.warning(
                "the request log is full: %d requests keep only their counts and %d are lost so far (%s)",
                *given_up,
                self._problem or "the database is too slow",
            )
            self._warned_of = given_up
        return number

    async def _write_for_ever(self) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            try:
                await self._write_all()
                wait_s = FIRST_WAIT_S
                await self._woken_within(self._flush_s)
            except Exception as problem:  # whatever it is, the gateway goes on, and so does its log
                self._complain(problem)
                await asyncio.sleep(_SHORTEST_WAIT_S)
                hurried = await self._woken_within(wait_s - _SHORTEST_WAIT_S)
                wait_s = FIRST_WAIT_S if hurried else min(2 * wait_s, LONGEST_WAIT_S)
            self._cut()

    async def _woken_within(self, limit_s: float) -> bool:
        """Wait until somebody wants something written; False if nobody does for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._wake.wait()
        woken = self._wake.is_set()
        self._wake.clear()
        return woken

    async def _write_all(self) -> None:
        while (chunk := self._buffer.take()) is not None:
            written = await self._write(chunk)
            self._buffer.settle(written.refused)
            self._written += written.taken
            self._batch, self._problem = None, None
            self._progress.set()
            if abs(self._clock.compared(written.clock_s)) > max(self._lag_s, 1.0) and self._warnings.due("clock"):
                _log.warning("this machine's clock and the database's differ by more than %g s", max(self._lag_s, 1.0))

    async def _write(self, chunk: Chunk) -> Written:
        """Write a chunk; an attempt after one that failed sends the same batch under the same number."""
        async with self._line.held("writing the request log", within_s=_ANSWER_WITHIN_S) as connection:
            if self._learnt != self._line.opened:
                self._pen.forget()
                self._learnt = self._line.opened
            while True:
                if self._next is None:
                    self._next = await self._pen.open(connection)
                if self._batch is None:
                    self._batch = self._as_batch(chunk, self._next)
                    self._next += 1
                try:
                    return await self._pen.write(connection, self._batch)
                except asyncpg.ObjectInUseError:
                    await self._rename(connection)
                except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as problem:
                    self._refuse_all(problem)

    def _as_batch(self, chunk: Chunk, number: int) -> Batch:
        return Batch(
            number,
            chunk.until_s,
            chunk.services,
            chunk.replicas,
            chunk.requests,
            chunk.seconds,
            chunk.refused,
            self._buffer.take_lost(),
            chunk.thinned,
        )

    async def _rename(self, connection: Connection) -> None:
        """Go on under another name, since a process that started later has taken ours."""
        taken = self._pen.writer
        self._pen = Pen(f"{self._asked_name[:190]}~{uuid.uuid4().hex[:8]}")
        first = await self._pen.open(connection)
        self._next = first + 1
        self._batch = replace(self._batch, number=first) if self._batch is not None else None
        _log.warning("another process logs as %s, so this one goes on as %s", taken, self._pen.writer)

    def _refuse_all(self, problem: Exception) -> None:
        """Keep a batch that the database will never take from holding up the log for ever."""
        batch = self._batch
        if batch is None or (batch.requests is None and batch.seconds is None):
            raise problem
        rows = (0 if batch.requests is None else len(batch.requests)) + (
            0 if batch.seconds is None else batch.seconds.total
        )
        _log.error("the database refused %d requests: %s", rows, problem)
        refused = {**batch.refused, "database": Refused(rows, ascii(str(problem))[:LONGEST_NAME])}
        self._batch = replace(batch, services=(), replicas=(), requests=None, seconds=None, refused=refused)
        self._buffer.reject("database", rows)

    async def _say_goodbye(self, within_s: float) -> None:
        try:
            async with self._line.held("closing the request log", within_s=within_s) as connection:
                await self._pen.close(connection, (self._next or 1) - 1)
        except (PartitaError, OSError) as problem:
            self._complain(problem)

    def _complain(self, problem: Exception) -> None:
        self._problem = str(problem) or type(problem).__name__
        if self._warnings.due("away"):
            _log.warning("the request log waits: %s", self._problem)


class _Warnings:
    """Keeps each kind of warning to one in _WARN_EVERY_S."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def due(self, kind: str) -> bool:
        now = time.monotonic()
        if now - self._said.get(kind, -_WARN_EVERY_S) < _WARN_EVERY_S:
            return False
        self._said[kind] = now
        return True


class _Clock:
    """Time for promises, which must not go back when somebody sets the machine's clock."""

    def __init__(self) -> None:
        self._ahead_s = time.time() - time.monotonic()

    def now_s(self) -> float:
        return max(time.time(), self._ahead_s + time.monotonic())

    def compared(self, database_s: float) -> float:
        """Return how far the machine's clock is ahead; if it was set back to agree with the database, follow it."""
        ahead = time.time() - database_s
        if self.now_s() - time.time() > 1.0 and abs(ahead) < 1.0:
            self._ahead_s = time.time() - time.monotonic()
        return ahead
