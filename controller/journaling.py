"""The journal of a replay that connects when the first turn is written, in the event loop that writes it."""

from __future__ import annotations

from contextlib import AsyncExitStack

from partita.controller.config import Scenario
from partita.ports import Tick
from partita.store.connection import connect
from partita.store.journal import REPLAY_BATCH_TICKS, PostgresJournal, begin_run


class ReplayJournal:
    """Writes one replayed run into the database; implements `ports.Journal`. `run` is its number there, once begun."""

    def __init__(self, dsn: str, *, policy: str, scenario: Scenario) -> None:
        self.run: int | None = None
        self._dsn, self._policy, self._scenario = dsn, policy, scenario
        self._open = AsyncExitStack()
        self._journal: PostgresJournal | None = None

    async def record(self, tick: Tick) -> None:
        """Write one turn."""
        if self._journal is None:
            connection = await self._open.enter_async_context(connect(self._dsn))
            self.run = await begin_run(
                connection, kind="replay", policy=self._policy, scenario=self._scenario.document()
            )
            self._journal = PostgresJournal(connection, self.run, batch_ticks=REPLAY_BATCH_TICKS)
        await self._journal.record(tick)

    async def close(self) -> None:
        """Write what is left and disconnect."""
        try:
            if self._journal is not None:
                await self._journal.close()
        finally:
            await self._open.aclose()
