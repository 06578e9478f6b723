"""Log requests from plain code, with or without threads."""

from __future__ import annotations

import asyncio
import atexit
import threading
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from partita.client.columns import Column, Slo, Status
from partita.client.sender import AsyncRequestLog, LogReport


class RequestLog:
    """`AsyncRequestLog` for code that is not async: the same, written by a thread of its own.

    It writes from the start until `close`; use it as a context manager, or let the end of the program close it. Make it
    after a fork, not before: threads do not survive one.
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
        self._log = AsyncRequestLog(
            dsn,
            writer=writer,
            flush_s=flush_s,
            lag_s=lag_s,
            max_rows=max_rows,
            batch_rows=batch_rows,
            slo_s=slo_s,
            counts_only=counts_only,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="partita request log", daemon=True)
        self._thread.start()
        self._call(self._log.open())
        self._report: LogReport | None = None
        atexit.register(self.close)

    @property
    def writer(self) -> str:
        """The name in the database."""
        return self._log.writer

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
        """Log one request, from any thread; see `AsyncRequestLog.record`."""
        self._log.record(
            service,
            arrived_s=arrived_s,
            latency_s=latency_s,
            size=size,
            queue_s=queue_s,
            batch=batch,
            status=status,
            replica=replica,
        )

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
        """Log many requests, given as columns, from any thread; see `AsyncRequestLog.record_many`."""
        self._log.record_many(
            service,
            arrived_s=arrived_s,
            latency_s=latency_s,
            size=size,
            queue_s=queue_s,
            batch=batch,
            status=status,
            replica=replica,
        )

    def flush(self, timeout_s: float | None = None) -> bool:
        """Write what was recorded; False if that did not succeed in time, or the log is closed."""
        if self._report is not None:
            return not self._log.report().waiting
        written: bool = self._call(self._log.flush(timeout_s))
        return written

    def report(self) -> LogReport:
        """Say what became of the requests so far."""
        return self._log.report()

    def close(self, timeout_s: float = 5.0) -> LogReport:
        """Write the rest, say goodbye to the database, and report; what is still waiting then is not written."""
        if self._report is None:
            atexit.unregister(self.close)
            with suppress(NotInTime):
                self._call(self._log.close(timeout_s), timeout_s + 5.0)
            self._report = self._log.report()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout_s)
        return self._report

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _call(self, coroutine: Any, timeout_s: float | None = None) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)
