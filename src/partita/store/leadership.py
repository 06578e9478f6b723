"""Who leads: a row with a term and an end, by the database's clock.

A bare advisory lock would stay with a holder that is frozen for ever. Here a leader must renew its row; one that wakes
after its term finds it over, by its own monotonic clock before it can ask anybody, and by the database whenever it
writes. What remains is a call that had left the leader before it froze: executors refuse terms older than the last.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from partita.errors import NotLeading
from partita.store.connection import Connection
from partita.store.line import Line
from partita.store.queries import query

TERM_S = 6.0
"""How long a leadership lasts without being renewed; with CAMPAIGN_S it bounds how long nobody leads."""
CAMPAIGN_S = 1.0
"""How often a standby tries to take over, and about how often a leader renews."""
CAUTION = 0.8
"""Part of the term after which a leader that could not renew stops to act, before others may begin."""


@dataclass(frozen=True, slots=True)
class Term:
    """One leadership: for which role, by whom, the how-manieth."""

    role: str
    holder: str
    number: int


class Leadership:
    """Holds, renews and gives up the leadership of one role."""

    def __init__(self, line: Line, role: str, holder: str, *, term_s: float = TERM_S) -> None:
        self._line = line
        self._role, self._holder = role, holder
        self._term_s = term_s
        self._valid_until = 0.0
        self.term: Term | None = None

    def holds(self) -> bool:
        """Say whether we lead now, as far as can be known without asking."""
        return self.term is not None and _now_s() < self._valid_until

    def require(self) -> Term:
        """Return the term we lead; NotLeading if it is over."""
        if self.term is None or not self.holds():
            raise NotLeading(f"{self._holder} does not lead {self._role}: its term is over")
        return self.term

    async def strive(self) -> bool:
        """Renew our term, or try to begin one; say whether we lead. StoreError if the database is away."""
        asked_at = _now_s()
        async with self._line.held("the leadership", within_s=self._term_s) as connection:
            number = await self._renewed(connection) if self.term is not None else None
            if number is None:
                number = await connection.fetchval(query("campaign"), self._role, self._holder, self._term_s)
        if number is None:
            self.term, self._valid_until = None, 0.0
            return False
        self.term = Term(self._role, self._holder, number)
        self._valid_until = asked_at + self._term_s * CAUTION
        return True

    async def _renewed(self, connection: Connection) -> int | None:
        assert self.term is not None
        number: int | None = await connection.fetchval(
            query("renew"), self._role, self._holder, self.term.number, self._term_s
        )
        return number

    async def resign(self) -> None:
        """Give the leadership up, so that a standby need not wait for its end."""
        term, self.term, self._valid_until = self.term, None, 0.0
        if term is not None:
            async with self._line.held("the end of a leadership", within_s=self._term_s) as connection:
                await connection.execute(query("resign"), term.role, term.holder, term.number)


def _now_s() -> float:
    """Return a time that goes on while the machine is suspended, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


async def require_leading(connection: Connection, term: Term) -> None:
    """Make sure, inside a transaction, that a term lasts until its end; NotLeading if it is over."""
    if await connection.fetchval(query("leading"), term.role, term.holder, term.number) is None:
        raise NotLeading(f"term {term.number} of {term.holder} is over: another controller may lead {term.role}")
