"""The page of a cluster in PostgreSQL: where gateways read their routes, and listen for changes of them."""

from __future__ import annotations

import json

from partita.errors import Failed
from partita.model.plain import to_json
from partita.model.revive import from_plain
from partita.ports import Page
from partita.store.connection import atomically
from partita.store.line import Line
from partita.store.queries import query

ANSWER_S = 20.0


class PostgresBook:
    """Keeps the page of one role; implements `ports.Book`. Listeners on ``partita_routes`` are told the role."""

    def __init__(self, line: Line, role: str) -> None:
        self._line, self._role = line, role

    async def read(self) -> Page:
        """Return the page as it was last written, or an empty one."""
        async with self._line.held("the look at the routes", within_s=ANSWER_S) as connection:
            row = await connection.fetchrow(query("page"), self._role)
        return Page() if row is None else from_plain(Page, json.loads(row["detail"]))

    async def write(self, page: Page) -> None:
        """Replace the page; Failed if a later term has written it."""
        async with self._line.held("the change of routes", within_s=ANSWER_S) as connection, atomically(connection):
            written = await connection.fetchval(query("put_page"), self._role, page.term, to_json(page))
            await connection.execute(query("tell_routes"), self._role)
        if written is None:
            raise Failed(f"a later term than {page.term} has changed the routes of {self._role}", command=None)
