"""What a controller at work keeps in PostgreSQL: its standing plan, the story of its commands, orders, quarantine.

Whatever a leader writes here is written in a transaction that holds its term, so that nobody whose term is over writes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from partita import __version__
from partita.errors import StoreError
from partita.model.load import Orders, Scored
from partita.model.plain import to_json
from partita.model.plan import Command, Plan, target
from partita.model.revive import command_from_plain, from_plain
from partita.store.connection import Connection, atomically
from partita.store.forecasts import scored_from
from partita.store.leadership import Term, require_leading
from partita.store.line import Line
from partita.store.queries import query

ANSWER_S = 20.0
"""Seconds after which a database that does not answer counts as away."""

MOST_FORGOTTEN = 10_000
"""Forecasts of a run that are deleted at once: far more than are made meanwhile, and done within a second."""

Seen = object
"""Anything `to_json` can write: what was observed of a command's target."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The plan in force, the decision that put it there, and the last plan that was seen in place.

    `need` is how many replicas of each service the near forecast needed then.
    """

    run: int
    tick: int
    plan: Plan
    good: Plan
    need: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One command of the journal: its place in its decision, its last state, and how often it was tried."""

    position: int
    command: Command
    state: str
    attempts: int
    undo: bool


class Operation:
    """Reads and writes all that for one role; `term` is whose leadership writes rest on, None before there is one."""

    def __init__(self, line: Line, role: str) -> None:
        self._line, self._role = line, role
        self.term: Term | None = None

    # Runs and the standing plan

    async def begin_run(self, *, policy: str, scenario: object, mode: str) -> int:
        """Open a run and return its number."""
        async with self._writing("the start of a run") as connection:
            number: int = await connection.fetchval(
                query("begin_live_run"), policy, to_json(scenario), __version__, self._role, mode
            )
        return number

    async def read_standing(self) -> Standing | None:
        """Return the plan in force, or None if there never was one."""
        async with self._reading("the look at the standing plan") as connection:
            row = await connection.fetchrow(query("standing"), self._role)
        if row is None:
            return None
        plan, good = (revived_plan(row[name], "the standing plan") for name in ("plan", "good"))
        return Standing(row["run"], row["tick"], plan, good, json.loads(row["need"]))

    async def put_standing(self, standing: Standing) -> None:
        """Replace the plan in force."""
        async with self._writing("the standing plan") as connection:
            await connection.execute(
                query("put_standing"),
                self._role,
                standing.run,
                standing.tick,
                self._number,
                to_json(standing.plan),
                to_json(standing.good),
                to_json(standing.need),
            )

    # The story of commands

    async def read_entries(self, run: int, tick: int) -> list[Entry]:
        """List the commands of one decision in order."""
        async with self._reading("the look at the journal") as connection:
            rows = await connection.fetch(query("command_positions"), run, tick)
            tried = {r["position"]: r["attempt"] for r in await connection.fetch(query("last_attempts"), run, tick)}
        return [
            Entry(
                row["position"],
                command_from_plain({"verb": row["verb"], **json.loads(row["detail"])}),
                row["state"],
                tried.get(row["position"], 0),
                row["undo"],
            )
            for row in rows
        ]

    async def add_commands(
        self, run: int, tick: int, commands: Sequence[Command], *, first: int, undo: bool = False
    ) -> None:
        """Write commands beside those of a decision, from a position on: what is left after a crash, or undoes it."""
        async with self._writing("the journal") as connection:
            for position, command in enumerate(commands, first):
                await connection.execute(
                    query("add_command"),
                    run,
                    tick,
                    position,
                    type(command).__name__,
                    target(command),
                    command.reason,
                    to_json(command),
                    self._number,
                    undo,
                )

    async def tell(
        self,
        run: int,
        tick: int,
        position: int,
        *,
        attempt: int,
        event: str,
        seen: Seen = None,
        problem: str | None = None,
    ) -> None:
        """Write what happened to a command: before its executor is called ('started') and after."""
        state = {"started": "claimed", "busy": "claimed", "left": "written"}.get(event, event)
        claimed_by = self.term.holder if self.term is not None and event == "started" else None
        async with self._writing("the journal") as connection:
            await connection.execute(
                query("add_command_event"),
                run,
                tick,
                position,
                attempt,
                self._number,
                event,
                None if seen is None else to_json(seen),
                problem,
            )
            await connection.execute(query("set_command_state"), run, tick, position, state, claimed_by, problem)

    # Quarantine

    async def strike(self, subjects: Mapping[str, str], for_s: float) -> None:
        """Leave these alone (subject -> reason) for a while; each further strike doubles it, up to a day."""
        async with self._writing("the quarantine") as connection:
            for subject, reason in sorted(subjects.items()):
                await connection.execute(query("strike"), self._role, subject, reason, for_s)

    async def quarantined(self) -> dict[str, str]:
        """Return what is left alone now, with the reason."""
        async with self._reading("the look at the quarantine") as connection:
            rows = await connection.fetch(query("quarantined"), self._role)
        return {row["subject"]: row["reason"] for row in rows}

    # Orders

    async def read_orders(self) -> tuple[Orders, int]:
        """Return what the operator wants, and the number of the rollback in it (0: none)."""
        async with self._reading("the look at the operator's orders") as connection:
            last = await connection.fetchrow(query("last_pause"), self._role)
            rollback = await connection.fetchrow(query("open_rollback"), self._role)
        paused = ""
        if last is not None and last["kind"] != "resume":
            why = f": {last['reason']}" if last["reason"] else ""
            paused = f"{last['kind']} by {last['by']}{why}"
        if rollback is None or rollback["detail"] is None:
            return Orders(paused), 0 if rollback is None else rollback["id"]
        reason = f"rollback by {rollback['by']} to the plan of decision {rollback['to_tick']}, run {rollback['to_run']}"
        return Orders(paused, revived_plan(rollback["detail"], "the plan to roll back to"), reason), rollback["id"]

    async def take_rollbacks(self, number: int, run: int, tick: int) -> None:
        """Note that the rollbacks up to this number have been decided on, and by which decision."""
        async with self._writing("the operator's orders") as connection:
            await connection.execute(query("take_rollbacks"), self._role, number, run, tick)

    # What was seen, and who is there

    async def keep_observation(self, run: int, tick: int, seen: bytes, state: bytes | None) -> None:
        """Keep what a turn saw, and now and then the state that the loop carried into it; both encoded."""
        async with self._writing("the record of observations") as connection:
            await connection.execute(query("add_observation"), run, tick, seen, state)

    async def forget(self, *, observations_s: float, forecasts_s: float, scores_s: float) -> None:
        """Delete what turns saw, forecast and scored so long ago, and quarantines that are long over.

        Of forecasts and scores no more than MOST_FORGOTTEN of a run go at once: the next call goes on.
        """
        async with self._writing("the record of observations") as connection:
            await connection.execute(query("forget_observations"), self._role, observations_s)
            await connection.execute(query("forget_quarantine"), self._role)
        async with self._writing("the record of forecasts") as connection:
            await connection.execute(query("forget_forecasts"), self._role, forecasts_s, MOST_FORGOTTEN)
            await connection.execute(query("forget_scores"), self._role, scores_s, MOST_FORGOTTEN)

    async def read_scores(self, horizon: str, *, model: str, naive: str, limit: int) -> list[Scored]:
        """Return what came of a model's latest forecasts at a horizon under this role's controllers, oldest first."""
        async with self._reading("the look at the scores of forecasts") as connection:
            rows = await connection.fetch(query("last_scores_of_role"), self._role, horizon, limit, model, naive)
        return [scored_from(row) for row in reversed(rows)]

    async def report(self, holder: str, status: object) -> None:
        """Say how things are, for `partita status`; standbys do too."""
        async with self._reading("the report of a controller") as connection:
            await connection.execute(query("report_controller"), self._role, holder, to_json(status))

    async def retire(self, holder: str) -> None:
        """Take a controller that ends off the list."""
        async with self._reading("the report of a controller") as connection:
            await connection.execute(query("retire_controllers"), self._role, holder)

    @property
    def _number(self) -> int:
        return 0 if self.term is None else self.term.number

    @asynccontextmanager
    async def _reading(self, doing: str) -> AsyncIterator[Connection]:
        async with self._line.held(doing, within_s=ANSWER_S) as connection:
            yield connection

    @asynccontextmanager
    async def _writing(self, doing: str) -> AsyncIterator[Connection]:
        """Write all of a block or nothing, and only while our term lasts."""
        async with self._line.held(doing, within_s=ANSWER_S) as connection, atomically(connection):
            if self.term is not None:
                await require_leading(connection, self.term)
            yield connection


def revived_plan(text: str, what: str) -> Plan:
    """Read a plan back; StoreError if another version wrote it in a way that this one cannot read."""
    try:
        return from_plain(Plan, json.loads(text))
    except (TypeError, ValueError) as problem:
        raise StoreError(f"{what} was written by another version of Partita: {problem}") from None
