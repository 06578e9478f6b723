"""What tests of all kinds share: scratch settings, and one PostgreSQL for the whole run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from partita.store import embedded
from partita.store.connection import connect
from partita.store.migrate import migrate

_numbers = count(1)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Let Ctrl-C and a lost terminal end processes, even where a shell began the tests deaf to both."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGHUP, before[1])


@pytest.fixture(scope="session", autouse=True)
def scratch_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep every test away from the user's own database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PARTITA_DSN", raising=False)
        patch.setenv("PARTITA_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def pg_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """DSN of an embedded server that lives as long as the test run; its database "partita" is a migrated template."""
    with embedded.running(tmp_path_factory.mktemp("postgres")) as dsn:

        async def prepare() -> None:
            async with connect(dsn) as connection:
                await migrate(connection)

        asyncio.run(prepare())
        yield dsn


@pytest.fixture
def pg_dsn(pg_server: str) -> Iterator[str]:
    """DSN of a migrated database that is this test's own."""
    with _database(pg_server, "partita") as dsn:
        yield dsn


@pytest.fixture
def empty_pg_dsn(pg_server: str) -> Iterator[str]:
    """DSN of a database without tables that is this test's own."""
    with _database(pg_server, "template0") as dsn:
        yield dsn


@contextmanager
def _database(server: str, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    asyncio.run(_execute(server, f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield _with_database(server, name)
    asyncio.run(_execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


def _with_database(dsn: str, name: str) -> str:
    before, _, options = dsn.partition("?")
    return f"{before.rpartition('/')[0]}/{name}?{options}"


async def _execute(server: str, statement: str) -> None:
    async with connect(_with_database(server, "postgres")) as connection:
        await connection.execute(statement)
