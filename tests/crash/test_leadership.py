"""Terms in the database: they end by themselves, and nobody can keep one by standing still."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from partita.errors import NotLeading
from partita.store.connection import connect
from partita.store.leadership import Leadership, Term, require_leading
from partita.store.line import Line

ROLE = "town"


def leadership(dsn: str, holder: str, term_s: float = 1.0) -> Leadership:
    return Leadership(Line(dsn), ROLE, holder, term_s=term_s)


def on(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(body())


async def won(one: Leadership) -> Term:
    """Strive until it is won."""
    while not await one.strive():
        await asyncio.sleep(0.05)
    return one.require()


def test_a_term_that_is_not_renewed_ends_and_the_next_has_a_higher_number(pg_dsn: str) -> None:
    async def body() -> None:
        first, second = leadership(pg_dsn, "first"), leadership(pg_dsn, "second")
        before = await won(first)
        assert not await second.strive()
        assert (await won(second)).number > before.number
        with pytest.raises(NotLeading):
            first.require()
        assert not await first.strive()

    on(body)


def test_a_term_that_is_renewed_lasts(pg_dsn: str) -> None:
    async def body() -> None:
        first, second = leadership(pg_dsn, "first", 2.0), leadership(pg_dsn, "second", 2.0)
        term = await won(first)
        for _ in range(12):
            assert await first.strive()
            assert not await second.strive()
            await asyncio.sleep(0.25)
        assert first.require() == term

    on(body)


def test_a_leader_that_was_frozen_in_a_transaction_does_not_keep_others_from_leading(pg_dsn: str) -> None:
    """Its transaction holds the row of the leadership, until the server ends it."""

    async def body() -> None:
        first, second = leadership(pg_dsn, "first"), leadership(pg_dsn, "second", 60.0)
        async with connect(pg_dsn) as frozen:
            frozen_pid = frozen.get_server_pid()
            await frozen.execute("BEGIN")
            term = await won(first)
            await require_leading(frozen, term)
            assert (await won(second)).number > term.number
            frozen.terminate()
        async with connect(pg_dsn) as connection:
            assert not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE pid = $1", frozen_pid)

    on(body)


def test_whoever_wakes_after_its_term_cannot_write(pg_dsn: str) -> None:
    async def body() -> None:
        first, second = leadership(pg_dsn, "first"), leadership(pg_dsn, "second")
        term = await won(first)
        await won(second)
        async with connect(pg_dsn) as connection, connection.transaction():
            with pytest.raises(NotLeading, match=f"term {term.number} of first is over"):
                await require_leading(connection, term)

    on(body)
