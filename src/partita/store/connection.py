"""Connections, and what goes wrong with them in one sentence."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg

from partita.errors import ConfigError, StoreError

Connection = Any
"""An asyncpg connection (asyncpg ships no types)."""

CONNECT_TIMEOUT_S = 5.0

_GONE = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    ConnectionError,
)


class NoRoom(Exception):
    """The database's disk is about to be full; `explained` turns it into a StoreError."""


@asynccontextmanager
async def connect(dsn: str, *, timeout_s: float = CONNECT_TIMEOUT_S) -> AsyncIterator[Connection]:
    """Connect for the length of a block; ConfigError for a malformed DSN, StoreError if nobody can be reached."""
    connection = await connect_once(dsn, timeout_s)
    try:
        yield connection
    finally:
        if not connection.is_closed():
            await connection.close(timeout=CONNECT_TIMEOUT_S)


async def connect_once(dsn: str, timeout_s: float, *, command_timeout_s: float | None = None) -> Connection:
    """Return an open connection, which is the caller's to close; errors as in `connect`."""
    shown = without_password(dsn)
    if not dsn.startswith(("postgresql://", "postgres://")):
        raise ConfigError(f"{shown!r} must begin with postgresql://", key="dsn", value=shown)
    try:
        return await asyncpg.connect(dsn, timeout=timeout_s, command_timeout=command_timeout_s)
    except asyncpg.InvalidPasswordError:
        raise StoreError(f"the database at {shown} refused the user or password") from None
    except asyncpg.InvalidAuthorizationSpecificationError as problem:
        raise StoreError(f"the database at {shown} refused the login: {problem}") from None
    except asyncpg.InvalidCatalogNameError:
        raise StoreError(f"the server at {shown} has no such database") from None
    except TimeoutError:
        raise StoreError(f"no database answered at {shown} within {timeout_s:g} s") from None
    except OSError as problem:
        raise StoreError(f"no database answers at {shown}: {problem.strerror or problem}") from None
    except asyncpg.PostgresError as problem:
        raise StoreError(f"the database at {shown} refused the connection: {problem}") from None
    except (ValueError, asyncpg.InterfaceError) as problem:
        raise ConfigError(f"{shown!r} is not a usable connection string: {problem}", key="dsn", value=shown) from None


def without_password(dsn: str) -> str:
    """Return a DSN that can be shown."""
    hidden = re.sub(r"^(\w+://[^:/@]*):[^@]*@", r"\1@", dsn)
    return re.sub(r"(?<=[?&])password=[^&]*&?", "", hidden).rstrip("?&")


@asynccontextmanager
async def atomically(connection: Connection) -> AsyncIterator[None]:
    """Run a block as one transaction; what went wrong inside is what comes out, even if the rollback fails too."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    except BaseException:  # cancellation too must roll back
        try:
            await transaction.rollback()
        except Exception:  # the server is gone, or will find us gone, and rolls back by itself
            connection.terminate()
        raise
    await transaction.commit()


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn what PostgreSQL reports inside the block into one StoreError that says what was being done."""
    try:
        yield
    except (asyncpg.DiskFullError, NoRoom):
        raise StoreError(f"the database's disk is full, so {doing} was given up and nothing of it was kept") from None
    except asyncpg.UndefinedTableError as problem:
        raise StoreError(f"the database lacks Partita's tables ({problem}): run partita db migrate") from None
    except _GONE as problem:
        raise StoreError(f"the database went away, so {doing} was given up: {_first_line(problem)}") from None
    except TimeoutError:
        raise StoreError(f"the database did not answer in time, so {doing} was given up") from None
    except asyncpg.PostgresError as problem:
        raise StoreError(f"the database refused {doing}: {_first_line(problem)}") from None


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]
