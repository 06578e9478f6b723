"""What a database holds, for a person to look at."""

from __future__ import annotations

from dataclasses import dataclass

from partita.store.connection import Connection, explained
from partita.store.migrate import pending_migrations
from partita.store.queries import query


@dataclass(frozen=True, slots=True)
class Contents:
    """What the tables hold: finished imports and the requests they brought, services, runs of the loop."""

    imports: int
    requests: int
    services: int
    runs: int


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """A database as it is; `contents` is None while migrations are pending."""

    server_version: str
    size_bytes: int
    pending: tuple[str, ...]
    contents: Contents | None


async def inspect_database(connection: Connection) -> DatabaseStatus:
    """Look at version, size, schema and contents."""
    pending = await pending_migrations(connection)
    with explained("the look at the database"):
        version = await connection.fetchval(query("server_version"))
        size = await connection.fetchval(query("database_size"))
        contents = None if pending else Contents(**await connection.fetchrow(query("contents")))
    return DatabaseStatus(version, size, pending, contents)
