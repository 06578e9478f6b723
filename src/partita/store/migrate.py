"""The schema: migrations as plain SQL files, applied in order, checksummed, never edited once applied."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from partita.errors import StoreError
from partita.store.connection import Connection, atomically, explained
from partita.store.queries import query


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of SQL; `number` leads its name."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Checksum of the text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def shipped_migrations() -> tuple[Migration, ...]:
    """List the migrations of this release, in order."""
    found = [entry for entry in files("partita.migrations").iterdir() if re.fullmatch(r"\d{4}_\w+\.sql", entry.name)]
    entries = sorted(found, key=lambda entry: entry.name)
    return tuple(Migration(int(e.name[:4]), e.name, e.read_text("utf-8")) for e in entries)


async def migrate(connection: Connection, migrations: Sequence[Migration] | None = None) -> tuple[str, ...]:
    """Apply the migrations that are missing and return their names; all of them or none.

    StoreError if an applied file was edited, is missing, or a new one comes before an applied one.
    """
    wanted = shipped_migrations() if migrations is None else tuple(migrations)
    with explained("the migration"):
        async with atomically(connection):
            await connection.execute(query("lock_migrations"))
            await connection.execute(query("create_schema_migration"))
            pending = _pending(await connection.fetch(query("applied_migrations")), wanted)
            for migration in pending:
                await connection.execute(migration.sql)
                await connection.execute(query("record_migration"), migration.number, migration.name, migration.sha256)
    return tuple(migration.name for migration in pending)


async def pending_migrations(connection: Connection) -> tuple[str, ...]:
    """List the migrations that are not applied yet; StoreError as in `migrate`."""
    with explained("the look at the schema"):
        known = await connection.fetchval(query("has_schema_migration"))
        applied = await connection.fetch(query("applied_migrations")) if known else []
    return tuple(migration.name for migration in _pending(applied, shipped_migrations()))


async def require_schema(connection: Connection) -> None:
    """Raise StoreError unless every migration of this release is applied."""
    if missing := await pending_migrations(connection):
        raise StoreError(f"the database lacks {', '.join(missing)}: run partita db migrate")


def _pending(applied: Sequence[Connection], wanted: Sequence[Migration]) -> list[Migration]:
    shipped = {migration.number: migration for migration in wanted}
    if len(shipped) != len(wanted):
        raise StoreError("two migrations have the same number")
    for row in applied:
        ours = shipped.get(row["number"])
        if ours is None or ours.name != row["name"]:
            raise StoreError(f"migration {row['name']} was applied, but this release does not have it: is it older?")
        if ours.sha256 != row["sha256"]:
            raise StoreError(f"migration {row['name']} was edited after it had been applied")
    last = max((row["number"] for row in applied), default=0)
    done = {row["number"] for row in applied}
    pending = sorted((m for m in wanted if m.number not in done), key=lambda m: m.number)
    for migration in pending:
        if migration.number < last:
            raise StoreError(f"migration {migration.name} is out of order: number {last} was applied before it")
    return pending
