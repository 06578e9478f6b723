"""Migrations: order, checksums, refusals, and two clients at once."""

import asyncio
from dataclasses import replace

import pytest

from partita.errors import StoreError
from partita.store.connection import connect
from partita.store.migrate import Migration, migrate, pending_migrations, require_schema, shipped_migrations

FIRST = Migration(1, "0001_a.sql", "CREATE TABLE a (x int);")
SECOND = Migration(2, "0002_b.sql", "ALTER TABLE a ADD y int;")
THIRD = Migration(3, "0003_c.sql", "ALTER TABLE a ADD z int;")


def apply(dsn: str, *migrations: Migration) -> tuple[str, ...]:
    async def run() -> tuple[str, ...]:
        async with connect(dsn) as connection:
            return await migrate(connection, migrations or None)

    return asyncio.run(run())


def fetch(dsn: str, statement: str) -> list[tuple]:
    async def run() -> list[tuple]:
        async with connect(dsn) as connection:
            return [tuple(row) for row in await connection.fetch(statement)]

    return asyncio.run(run())


def columns(dsn: str) -> list[str]:
    return [
        name
        for (name,) in fetch(
            dsn, "SELECT attname::text FROM pg_attribute WHERE attrelid = 'a'::regclass AND attnum > 0"
        )
    ]


def test_shipped_migrations_are_numbered_from_one_without_gaps() -> None:
    assert [m.number for m in shipped_migrations()] == list(range(1, len(shipped_migrations()) + 1))


def test_applies_what_is_missing_in_order_and_once(empty_pg_dsn: str) -> None:
    assert apply(empty_pg_dsn, FIRST) == ("0001_a.sql",)
    assert apply(empty_pg_dsn, THIRD, SECOND, FIRST) == ("0002_b.sql", "0003_c.sql")
    assert apply(empty_pg_dsn, FIRST, SECOND, THIRD) == ()
    assert columns(empty_pg_dsn) == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ((replace(FIRST, sql="CREATE TABLE a (x bigint);"), THIRD), "0001_a.sql was edited"),
        ((THIRD,), "0001_a.sql was applied, but this release does not have it"),
        ((replace(FIRST, name="0001_other.sql"), THIRD), "0001_a.sql was applied, but this release does not have it"),
        ((FIRST, SECOND, THIRD), "0002_b.sql is out of order: number 3"),
        ((FIRST, THIRD, replace(SECOND, number=3)), "same number"),
    ],
)
def test_refuses_a_history_that_is_not_ours(empty_pg_dsn: str, then: tuple[Migration, ...], message: str) -> None:
    apply(empty_pg_dsn, FIRST, THIRD)
    with pytest.raises(StoreError, match=message):
        apply(empty_pg_dsn, *then)


def test_a_failing_migration_leaves_nothing(empty_pg_dsn: str) -> None:
    broken = Migration(2, "0002_broken.sql", "CREATE TABLE b (x int); SELECT 1 / 0;")
    with pytest.raises(StoreError, match="division by zero"):
        apply(empty_pg_dsn, FIRST, broken)
    assert fetch(empty_pg_dsn, "SELECT to_regclass('a')::text, to_regclass('schema_migration')::text") == [(None, None)]


def test_two_clients_migrate_at_once(empty_pg_dsn: str) -> None:
    async def one() -> tuple[str, ...]:
        async with connect(empty_pg_dsn) as connection:
            return await migrate(connection)

    async def both() -> list[tuple[str, ...]]:
        return await asyncio.gather(one(), one(), one())

    names = tuple(m.name for m in shipped_migrations())
    assert sorted(asyncio.run(both()), key=len) == [(), (), names]


def test_a_database_without_tables_is_refused_with_the_remedy(empty_pg_dsn: str) -> None:
    async def run() -> None:
        async with connect(empty_pg_dsn) as connection:
            assert await pending_migrations(connection) == tuple(m.name for m in shipped_migrations())
            await require_schema(connection)

    with pytest.raises(StoreError, match="run partita db migrate"):
        asyncio.run(run())


def test_a_migrated_database_is_accepted(pg_dsn: str) -> None:
    async def run() -> None:
        async with connect(pg_dsn) as connection:
            await require_schema(connection)

    asyncio.run(run())
