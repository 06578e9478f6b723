"""LiteLLM's spend logs out of their database, as any other trace is read: by a reader, in blocks.

Everything is read inside one transaction, so that the digest and every pass over the rows see the same table, whatever
a running proxy adds to it. An event loop in a thread of its own does the reading, since whoever asks may be in a loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from partita.ports import Rows, TraceInfo
from partita.store.connection import Connection, connect, without_password
from partita.store.spend_logs import SpendLogs
from partita.traces.litellm import TABLE, ServiceBy

Answer = TypeVar("Answer")


@contextmanager
def open_spend_logs(
    dsn: str, *, table: str = TABLE, service_by: ServiceBy = "model_group", status: str | None = None
) -> Iterator[tuple[SpendLogsInDatabase, Path]]:
    """Connect to a database of LiteLLM's; yield its reader and what stands for a path in messages."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="partita-spend-logs", daemon=True)
    thread.start()

    def wait(work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    connecting = connect(dsn)
    try:
        connection = wait(connecting.__aenter__())
        try:
            transaction = connection.transaction(isolation="repeatable_read", readonly=True)
            wait(transaction.start())
            found = wait(SpendLogs.find(connection, table, by_group=service_by == "model_group", status=status))
            place = without_password(dsn).partition("://")[2].partition("?")[0]
            yield SpendLogsInDatabase(found, connection, loop), Path(f"{table} in {place}")
        finally:
            wait(connecting.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class SpendLogsInDatabase:
    """Reads the rows of the spend logs that a transaction sees."""

    name = "litellm"

    def __init__(self, logs: SpendLogs, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._logs, self._connection, self._loop = logs, connection, loop

    def recognises(self, path: Path, head: str) -> bool:
        """No file is a database."""
        return False

    def info(self, path: Path) -> TraceInfo:
        """Describe the table."""
        return TraceInfo(self.name, "requests")

    def blocks(self, path: Path) -> Iterator[Rows]:
        """Yield the requests."""
        source = self._logs.rows(self._connection)

        async def following() -> Rows | None:
            return await anext(source, None)

        try:
            while (rows := self._wait(following())) is not None:
                yield rows
        finally:
            self._wait(source.aclose())

    def digest(self) -> str:
        """Return what tells these rows from any others."""
        return self._wait(self._logs.digest(self._connection))

    def _wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
