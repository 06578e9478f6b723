"""A connection that is opened when it is needed, and again after it was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from partita.errors import StoreError
from partita.store.connection import Connection, connect, explained


class Line:
    """A connection to `dsn` for one user at a time; use it only inside one event loop.

    Whatever goes wrong inside `held`, the connection is given up: it may be in the middle of a statement.
    """

    def __init__(self, dsn: str, *, timeout_s: float = 5.0) -> None:
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._stack: AsyncExitStack | None = None
        self._connection: Connection = None
        self.opened = 0
        """How often a connection was made: what was learnt over an earlier one may no longer hold."""

    @asynccontextmanager
    async def held(self, doing: str, *, within_s: float | None = None) -> AsyncIterator[Connection]:
        """Yield the connection for one block; StoreError if the database is away or the block takes longer."""
        async with self._turn:
            try:
                async with asyncio.timeout(within_s):
                    with explained(doing):  # inside, so that it does not take our limit for the database's
                        yield await self._ready()
            except TimeoutError:
                await self._give_up()
                raise StoreError(
                    f"the database did not answer within {within_s:g} s, so {doing} was given up"
                ) from None
            except BaseException:  # cancellation too may have come in the middle of a statement
                await self._give_up()
                raise

    async def close(self) -> None:
        """Close the connection; a later `held` opens another."""
        stack, self._stack, self._connection = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    async def _ready(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            await self._give_up()
            stack = AsyncExitStack()
            self._connection = await stack.enter_async_context(connect(self._dsn, timeout_s=self._timeout_s))
            self._stack = stack
            self.opened += 1
        return self._connection

    async def _give_up(self) -> None:
        if self._connection is not None and not self._connection.is_closed():
            self._connection.terminate()
        await self.close()


class Lent(Line):
    """Somebody's connection as a line; it is neither opened nor closed here."""

    def __init__(self, connection: Connection) -> None:
        super().__init__("")
        self._connection = connection
        self.opened = 1

    async def close(self) -> None:
        """Leave the connection to its owner."""

    async def _ready(self) -> Connection:
        return self._connection

    async def _give_up(self) -> None:
        pass
