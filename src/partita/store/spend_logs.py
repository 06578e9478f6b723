"""LiteLLM's table of spend logs in a database of its own, read as a stream.

Which rows count, and as what, is the same as for a CSV export (see `traces.litellm`). Columns that a table of an older
LiteLLM lacks (model_group, status, cache_hit) are taken as empty.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import numpy as np

from partita.errors import ConfigError
from partita.ports import Rows
from partita.store.connection import Connection, explained
from partita.store.queries import query

ROWS_AT_ONCE = 20_000
NEEDED = ("request_id", "startTime", "model", "prompt_tokens", "completion_tokens")
READING = "reading the spend logs"


@dataclass(frozen=True, slots=True)
class SpendLogs:
    """A table as it was found, and which of its rows are asked for."""

    table: str
    columns: frozenset[str]
    by_group: bool = True
    status: str | None = None

    @classmethod
    async def find(
        cls, connection: Connection, table: str, *, by_group: bool = True, status: str | None = None
    ) -> SpendLogs:
        """Look at a table, whose schema may stand before its name; ConfigError if it is not there or another one."""
        quoted = ".".join(_quote(part) for part in table.split("."))
        with explained("the look at the spend logs"):
            columns = {row["name"] for row in await connection.fetch(query("columns_of_table"), quoted)}
        if not columns:
            raise ConfigError(f"the database has no table {table}", key="--table", value=table)
        for name in (*NEEDED, *(["status"] if status is not None else [])):
            if name not in columns:
                raise ConfigError(f"{table} lacks the column {name} of the spend logs", key="--table", value=table)
        return cls(quoted, frozenset(columns), by_group, status)

    async def digest(self, connection: Connection) -> str:
        """Return a SHA-256 that tells these rows from any others."""
        with explained(READING):
            found = await connection.fetchval(self._statement("spend_log_digest"), self.status)
        return hashlib.sha256(f"{self.table} {self.by_group} {found}".encode()).hexdigest()

    async def rows(self, connection: Connection) -> AsyncGenerator[Rows]:
        """Yield the requests in the order of time, inside a transaction of the caller's."""
        with explained(READING):
            cursor = await connection.cursor(self._statement("spend_logs"), self.status)
        while True:
            with explained(READING):
                records = await cursor.fetch(ROWS_AT_ONCE)
            if not records:
                return
            yield _as_rows(records)

    def _statement(self, name: str) -> str:
        service = "model"
        if self.by_group and "model_group" in self.columns:
            service = "coalesce(nullif(model_group, ''), model)"
        given = {name: name if name in self.columns else "NULL" for name in ("status", "cache_hit")}
        return query(name).format(table=self.table, service=service, **given)


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _as_rows(records: list[Any]) -> Rows:
    size = len(records)
    sizes = ([np.nan if r[name] is None else r[name] for r in records] for name in ("size", "output_size"))
    return Rows(
        np.fromiter((r["at_us"] for r in records), np.int64, size) * 1000,
        np.array([r["service"] for r in records], object),
        *(np.array(values, np.float32) for values in sizes),
    )
