"""What a controller at work keeps in PostgreSQL: its standing plan, the story of its commands, orders, quarantine.

Whatever a leader writes here is written in a transaction that holds its term, so that nobody whose term is over writes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from partita import __version__
from partita.errors import StoreError
from partita.model.load import Orders
from partita.model.plain import to_json
from partita.model.plan import Command, Plan, target
from partita.model.revive import command_from_plain, from_plain
from partita.store.connection import Connection, atomically, explained
from partita.store.leadership import Term, require_leading
from partita.store.line import Line
from partita.store.queries import query

ANSWER_S = 20.0
"""Seconds after which a database that does not answer counts as away."""

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
        plan, good = (_plan(row[name], "the standing plan") for name in ("plan", "good"))
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
        return Orders(paused, _plan(rollback["detail"], "the plan to roll back to"), reason), rollback["id"]

    async def take_rollbacks(self, number: int) -> None:
        """Note that the rollbacks up to this number have been decided on."""
        async with self._writing("the operator's orders") as connection:
            await connection.execute(query("take_rollbacks"), self._role, number)

    # What was seen, and who is there

    async def keep_observation(self, run: int, tick: int, seen: bytes, state: bytes | None) -> None:
        """Keep what a turn saw, and now and then the state that the loop carried into it; both encoded."""
        async with self._writing("the record of observations") as connection:
            await connection.execute(query("add_observation"), run, tick, seen, state)

    async def forget(self, observations_s: float) -> None:
        """Delete what turns saw so long ago, and quarantines that are long over."""
        async with self._writing("the record of observations") as connection:
            await connection.execute(query("forget_observations"), self._role, observations_s)
            await connection.execute(query("forget_quarantine"), self._role)

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


# What people ask -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ControllerRecord:
    """One controller that runs or ran lately, with its last word."""

    holder: str
    seen_at: datetime
    age_s: float
    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """The heading of one plan that was put into force."""

    run: int
    tick: int
    at_s: float
    gpus: int
    reason: str
    mode: str
    policy: str


async def list_roles(connection: Connection) -> list[str]:
    """List the roles that controllers have reported for, the latest first."""
    with explained("the list of controllers"):
        return [row["role"] for row in await connection.fetch(query("roles"))]


async def list_controllers(connection: Connection, role: str) -> list[ControllerRecord]:
    """List the controllers of a role, the latest heard of first."""
    with explained("the list of controllers"):
        rows = await connection.fetch(query("controllers"), role)
    return [ControllerRecord(r["holder"], r["seen_at"], r["age_s"], json.loads(r["status"])) for r in rows]


async def list_plans(connection: Connection, role: str, *, mode: str = "active", limit: int = 50) -> list[PlanRecord]:
    """List the plans of a role, newest first."""
    with explained("the list of plans"):
        return [PlanRecord(**row) for row in await connection.fetch(query("plans"), role, mode, limit)]


async def read_plan(connection: Connection, run: int, tick: int) -> Plan:
    """Return a plan as it was put into force; StoreError if there is none."""
    with explained("the look at a plan"):
        row = await connection.fetchrow(query("plan_at"), run, tick)
    if row is None:
        raise StoreError(f"the journal holds no plan of decision {tick}, run {run}")
    return _plan(row["detail"], "the plan")


async def lift_quarantine(connection: Connection, role: str) -> None:
    """Let everything be tried again that had failed."""
    with explained("the end of the quarantine"):
        await connection.execute(query("lift_quarantine"), role)


async def give_order(
    connection: Connection, role: str, kind: str, *, by: str, reason: str = "", to: tuple[int, int] | None = None
) -> int:
    """Write an operator's order and return its number."""
    run, tick = to if to is not None else (None, None)
    with explained("the order"):
        number: int = await connection.fetchval(query("add_order"), role, kind, by, reason, run, tick)
    return number


@dataclass(frozen=True, slots=True)
class LeaderRecord:
    """Who leads a role, or led it last; `holds` says whether the term lasts by the database's clock."""

    holder: str
    term: int
    until: datetime
    holds: bool


@dataclass(frozen=True, slots=True)
class StandingRecord:
    """Which decision put the plan in force there, and when."""

    run: int
    tick: int
    term: int
    at: datetime


@dataclass(frozen=True, slots=True)
class QuarantineRecord:
    """What is left alone, why and until when."""

    subject: str
    reason: str
    strikes: int
    until: datetime


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One thing that happened to a command."""

    attempt: int
    term: int
    event: str
    at: datetime
    seen: Any
    problem: str | None


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """One command of a decision with all that happened to it; `undo` marks what took a failed plan back."""

    position: int
    verb: str
    target: str
    reason: str
    detail: Mapping[str, Any]
    state: str
    term: int
    claimed_by: str | None
    finished_at: datetime | None
    problem: str | None
    undo: bool
    events: tuple[EventRecord, ...]


@dataclass(frozen=True, slots=True)
class RunHeading:
    """One run as it was begun."""

    id: int
    kind: str
    policy: str
    role: str
    mode: str
    scenario: Mapping[str, Any]
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class LastDecision:
    """The latest decision of a role, and how many commands it gave."""

    run: int
    tick: int
    action: str
    chosen: str
    reason: str
    commands: int


async def list_known_roles(connection: Connection) -> list[str]:
    """List the roles that were ever controlled, the latest first."""
    with explained("the list of clusters"):
        return [row["role"] for row in await connection.fetch(query("known_roles"))]


async def read_leader(connection: Connection, role: str) -> LeaderRecord | None:
    """Return who leads a role, or led it last."""
    with explained("the look at the leadership"):
        row = await connection.fetchrow(query("leader"), role)
    return None if row is None else LeaderRecord(**row)


async def read_standing_heading(connection: Connection, role: str) -> StandingRecord | None:
    """Return which decision put the plan in force there."""
    with explained("the look at the standing plan"):
        row = await connection.fetchrow(query("standing_heading"), role)
    return None if row is None else StandingRecord(**row)


async def list_quarantine(connection: Connection, role: str) -> list[QuarantineRecord]:
    """List what is left alone now."""
    with explained("the look at the quarantine"):
        return [QuarantineRecord(**row) for row in await connection.fetch(query("quarantined"), role)]


async def read_story(connection: Connection, run: int, tick: int) -> list[CommandRecord]:
    """List the commands of a decision in order, each with all that happened to it."""
    with explained("the look at the journal"):
        rows = await connection.fetch(query("commands_of"), run, tick)
        events = await connection.fetch(query("command_events"), run, tick)
    happened: dict[int, list[EventRecord]] = {row["position"]: [] for row in rows}
    for event in events:
        named = {name: event[name] for name in ("attempt", "term", "event", "at", "problem")}
        seen = None if event["seen"] is None else json.loads(event["seen"])
        happened.setdefault(event["position"], []).append(EventRecord(**named, seen=seen))
    return [
        CommandRecord(**{**row, "detail": json.loads(row["detail"])}, events=tuple(happened[row["position"]]))
        for row in rows
    ]


async def count_commands(
    connection: Connection, role: str, *, since: tuple[int, int]
) -> dict[tuple[int, int], dict[tuple[str, bool], int]]:
    """Count commands by (run, tick) and (state, undo), of the decisions from one (run, tick) on."""
    with explained("the look at the journal"):
        rows = await connection.fetch(query("plan_outcomes"), role, *since)
    counted: dict[tuple[int, int], dict[tuple[str, bool], int]] = {}
    for row in rows:
        counted.setdefault((row["run"], row["tick"]), {})[row["state"], row["undo"]] = row["commands"]
    return counted


async def read_last_decision(connection: Connection, role: str) -> LastDecision | None:
    """Return the latest decision that a role's controller has journaled."""
    with explained("the look at the journal"):
        row = await connection.fetchrow(query("last_decision_of_role"), role)
    return None if row is None else LastDecision(**row)


async def is_taken(connection: Connection, order: int) -> bool:
    """Say whether a rollback has been decided on."""
    with explained("the look at an order"):
        return await connection.fetchval(query("order_taken"), order) is not None


async def read_run(connection: Connection, run: int) -> RunHeading | None:
    """Return a run as it was begun, or None if there is none."""
    with explained("the look at a run"):
        row = await connection.fetchrow(query("run_heading"), run)
    return None if row is None else RunHeading(**{**row, "scenario": json.loads(row["scenario"])})


async def read_modes(connection: Connection, runs: Sequence[int]) -> dict[int, str]:
    """Return the modes of those of these runs that are live."""
    with explained("the list of runs"):
        return {row["id"]: row["mode"] for row in await connection.fetch(query("run_modes"), list(runs))}


async def read_last_observation(connection: Connection, role: str) -> tuple[int, int, bytes] | None:
    """Return what a role's controller saw last, as (run, tick, encoded observation)."""
    with explained("the look at what was observed"):
        row = await connection.fetchrow(query("last_observation_of_role"), role)
    return None if row is None else (row["run"], row["tick"], row["detail"])


async def read_observations(
    connection: Connection, run: int, *, after_tick: int, limit: int = 256
) -> list[tuple[int, bytes, bytes | None]]:
    """Return what turns of a run saw, in order, as (tick, observation, the state it was seen in if that was kept)."""
    with explained("the look at what was observed"):
        rows = await connection.fetch(query("observations"), run, after_tick, limit)
    return [(row["tick"], row["detail"], row["state"]) for row in rows]


async def read_first_kept(connection: Connection, run: int) -> int | None:
    """Return the first turn of a run from which its decisions can be made again, or None if nothing is kept."""
    with explained("the look at what was observed"):
        tick: int | None = await connection.fetchval(query("first_kept"), run)
    return tick


def _plan(text: str, what: str) -> Plan:
    """Read a plan back; StoreError if another version wrote it in a way that this one cannot read."""
    try:
        return from_plain(Plan, json.loads(text))
    except (TypeError, ValueError) as problem:
        raise StoreError(f"{what} was written by another version of Partita: {problem}") from None


async def read_recorded_decision(connection: Connection, run: int, tick: int) -> dict[str, Any] | None:
    """Return a decision's columns, its detail and its plan as they stand in the journal, or None if there is none."""
    with explained("the look at the journal"):
        row = await connection.fetchrow(query("recorded_decision"), run, tick)
    return None if row is None else dict(row)
