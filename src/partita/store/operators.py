"""What operators look at and ask for: controllers, plans, the story of commands, what was recorded, orders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from partita.errors import StoreError
from partita.model.plan import Plan
from partita.store.connection import Connection, explained
from partita.store.operation import revived_plan
from partita.store.queries import query


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
    return revived_plan(row["detail"], "the plan")


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
class OrderedDecision:
    """The decision with which an order was taken, and how many commands it gave."""

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


async def read_decision_on(connection: Connection, order: int) -> OrderedDecision | None:
    """Return the decision with which a rollback was taken; None if that did not note it, being of an older version."""
    with explained("the look at the journal"):
        row = await connection.fetchrow(query("decision_on_order"), order)
    return None if row is None else OrderedDecision(**row)


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


async def read_recorded_decision(connection: Connection, run: int, tick: int) -> dict[str, Any] | None:
    """Return a decision's columns, its detail and its plan as they stand in the journal, or None if there is none."""
    with explained("the look at the journal"):
        row = await connection.fetchrow(query("recorded_decision"), run, tick)
    return None if row is None else dict(row)
