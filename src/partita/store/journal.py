"""The journal on PostgreSQL: every turn of the loop, written in batches and read back as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from partita import __version__
from partita.errors import StoreError
from partita.model.load import Forecast, Scored
from partita.model.plain import to_json, to_plain
from partita.model.plan import Action, Appraisal, Command, Decision, Plan, target
from partita.ports import Tick
from partita.store.binarycopy import (
    copy_rows,
    pack_bools,
    pack_float8,
    pack_floats,
    pack_int4,
    pack_int8,
    pack_jsonb,
    pack_row,
    pack_texts,
)
from partita.store.connection import Connection, atomically, explained
from partita.store.leadership import Term, require_leading
from partita.store.line import Lent, Line
from partita.store.queries import query

REPLAY_BATCH_TICKS = 256
ANSWER_S = 20.0
"""Seconds after which a database that does not answer counts as away."""

_COLUMNS = {
    "forecast": [
        "run",
        "tick",
        "horizon",
        "made_at_s",
        "step_s",
        "model",
        "version",
        "history_s",
        "services",
        "levels",
        "rps",
    ],
    "forecast_score": [
        "run",
        "tick",
        "horizon",
        "scored_tick",
        "model",
        "naive",
        "services",
        "levels",
        "truth_rps",
        "wape",
        "pinball",
        "coverage",
        "naive_wape",
        "naive_pinball",
        "in_charge",
    ],
    "plan": ["run", "tick", "gpus", "reason", "detail"],
    "command": ["run", "tick", "position", "verb", "target", "reason", "detail", "term"],
    "decision": [
        "run",
        "tick",
        "at_s",
        "action",
        "chosen",
        "reason",
        "offered_rps",
        "forecast_rps",
        "gpus_held",
        "gpus_wanted",
        "detail",
    ],
}


async def begin_run(connection: Connection, *, kind: str, policy: str, scenario: object) -> int:
    """Open a run (`kind` is "live" or "replay") and return its number; `scenario` is anything `to_plain` takes."""
    with explained("the start of a run"):
        number: int = await connection.fetchval(query("begin_run"), kind, policy, to_json(scenario), __version__)
    return number


class PostgresJournal:
    """Writes the ticks of one run; implements `ports.Journal`.

    Ticks are written when `batch_ticks` of them have come, and at `close`: live, that is 1, since a plan must be on
    disk before it is applied; replay can start over and writes REPLAY_BATCH_TICKS at a time. A forecast that stands
    for several ticks is written once. The connection must be used by nobody else; a `Line` may be shared. With
    `leading`, every batch is written only while that term lasts, else NotLeading.
    """

    def __init__(
        self,
        connection: Connection | Line,
        run: int,
        *,
        batch_ticks: int = 1,
        term: int = 0,
        leading: Term | None = None,
    ) -> None:
        self.run = run
        self._line = connection if isinstance(connection, Line) else Lent(connection)
        self._batch_ticks = batch_ticks
        self._leading = leading
        self._term = term if leading is None else leading.number
        self._rows: dict[str, list[bytes]] = {table: [] for table in _COLUMNS}
        self._written: dict[str, Forecast] = {}

    async def record(self, tick: Tick) -> None:
        """Take one turn, and write the batch when it is full."""
        for horizon, forecast in (("near", tick.near), ("far", tick.far)):
            if forecast is not None and self._written.get(horizon) is not forecast:
                self._rows["forecast"].append(_forecast_row(self.run, tick.decision.tick, horizon, forecast))
                self._written[horizon] = forecast
        for scored in tick.scored:
            self._rows["forecast_score"].append(_score_row(self.run, tick.decision.tick, scored))
        if tick.plan is not None:
            self._rows["plan"].append(_plan_row(self.run, tick.decision.tick, tick.plan))
        for position, command in enumerate(tick.decision.commands):
            self._rows["command"].append(_command_row(self.run, tick.decision.tick, position, command, self._term))
        self._rows["decision"].append(_decision_row(self.run, tick.decision))
        if len(self._rows["decision"]) >= self._batch_ticks:
            await self.flush()

    async def flush(self) -> None:
        """Write what has come since the last batch, all of it or nothing; what cannot be written is not tried again."""
        batch, self._rows = self._rows, {table: [] for table in _COLUMNS}
        doing = f"the journal of run {self.run}"
        async with self._line.held(doing, within_s=ANSWER_S) as connection, atomically(connection):
            if self._leading is not None:
                await require_leading(connection, self._leading)
            for table, rows in batch.items():
                if rows:
                    await copy_rows(connection, table, _COLUMNS[table], rows)

    async def close(self) -> None:
        """Write the rest and note the run's end."""
        await self.flush()
        async with self._line.held(f"the end of run {self.run}", within_s=ANSWER_S) as connection:
            await connection.execute(query("finish_run"), self.run)


# Rows, one mapping a type -------------------------------------------------------------------------------------------


def decision_detail(decision: Decision) -> dict[str, Any]:
    """Return what led to a decision, as the column detail holds it."""
    return {
        "opinions": decision.opinions,
        "candidates": [_appraisal(candidate) for candidate in decision.candidates],
        "objective": decision.objective,
    }


def _decision_row(run: int, decision: Decision) -> bytes:
    return pack_row(
        [
            pack_int8(run),
            pack_int8(decision.tick),
            pack_float8(decision.at_s),
            decision.action.value.encode(),
            decision.chosen.encode(),
            decision.reason.encode(),
            pack_float8(decision.offered_rps),
            pack_float8(decision.forecast_rps),
            pack_int4(decision.gpus_held),
            pack_int4(decision.gpus_wanted),
            pack_jsonb(to_json(decision_detail(decision))),
        ]
    )


def _appraisal(candidate: Appraisal) -> dict[str, Any]:
    """Leave the candidate's plan out: the one chosen stands in its own table, the others would fill the disk."""
    return {
        "label": candidate.label,
        "gpus": candidate.gpus,
        "attainment": candidate.attainment,
        "attainment_error": candidate.attainment_error,
        "shortfall": candidate.shortfall,
        "worst_service": candidate.worst_service,
        "cost": candidate.cost,
        "change_cost": candidate.change_cost,
        "commands": candidate.commands,
        "terms": candidate.terms,
        "rejected": candidate.rejected,
    }


def _plan_row(run: int, tick: int, plan: Plan) -> bytes:
    detail = pack_jsonb(to_json(plan))
    return pack_row([pack_int8(run), pack_int8(tick), pack_int4(len(plan.gpus)), plan.reason.encode(), detail])


def _command_row(run: int, tick: int, position: int, command: Command, term: int) -> bytes:
    return pack_row(
        [
            pack_int8(run),
            pack_int8(tick),
            pack_int4(position),
            type(command).__name__.encode(),
            target(command).encode(),
            command.reason.encode(),
            pack_jsonb(to_json(command)),
            pack_int8(term),
        ]
    )


def _forecast_row(run: int, tick: int, horizon: str, forecast: Forecast) -> bytes:
    return pack_row(
        [
            pack_int8(run),
            pack_int8(tick),
            horizon.encode(),
            pack_float8(forecast.made_at_s),
            pack_float8(forecast.step_s),
            forecast.model.encode(),
            (forecast.version or __version__).encode(),
            pack_float8(forecast.history_s),
            pack_texts(forecast.services),
            pack_floats(np.asarray(forecast.levels, np.float64)),
            pack_floats(forecast.rps.astype(np.float32)),
        ]
    )


def _score_row(run: int, scored_tick: int, scored: Scored) -> bytes:
    return pack_row(
        [
            pack_int8(run),
            pack_int8(scored.tick),
            scored.horizon.encode(),
            pack_int8(scored_tick),
            scored.model.encode(),
            scored.naive.encode(),
            pack_texts(scored.services),
            pack_floats(np.asarray(scored.levels, np.float64)),
            *(
                pack_floats(values.astype(np.float32))
                for values in (
                    scored.truth_rps,
                    scored.wape,
                    scored.pinball,
                    scored.coverage,
                    scored.naive_wape,
                    scored.naive_pinball,
                )
            ),
            pack_bools(scored.in_charge),
        ]
    )


# Reading back -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run, and how many decisions it holds; `acts` of them changed something."""

    id: int
    kind: str
    policy: str
    version: str
    started_at: datetime
    finished_at: datetime | None
    decisions: int
    acts: int


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """The heading of one decision."""

    run: int
    tick: int
    at_s: float
    action: Action
    chosen: str
    reason: str
    offered_rps: float
    forecast_rps: float
    gpus_held: int
    gpus_wanted: int

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> DecisionRecord:
        """Map a database row."""
        return cls(**{**row, "action": Action(row["action"])})


async def list_runs(connection: Connection, *, limit: int = 20) -> list[RunRecord]:
    """List the latest runs, newest first."""
    with explained("the list of runs"):
        return [RunRecord(**row) for row in await connection.fetch(query("runs"), limit)]


async def list_decisions(
    connection: Connection, run: int, *, from_tick: int = 0, acts_only: bool = False, limit: int = 1000
) -> list[DecisionRecord]:
    """List the decisions of a run in order, from a tick on."""
    with explained("the list of decisions"):
        rows = await connection.fetch(query("decisions"), run, from_tick, acts_only, limit)
    return [DecisionRecord.from_row(row) for row in rows]


async def read_decision(connection: Connection, run: int | None = None, tick: int | None = None) -> dict[str, Any]:
    """Return one decision with all that led to it, as plain data.

    `run` None is the latest run; `tick` None the run's last decision that acted, or its last if none did. Keys are the
    columns of the table decision and those of its detail (opinions, candidates, objective); ``run`` is a dict (id,
    kind, policy, scenario, …); ``commands`` a list of dicts (verb, target, reason, state, … and the command's own
    fields under detail); ``plan`` the plan put into force or None; ``forecasts`` maps "near" and "far" to the forecasts
    that stood, with rps as lists (services, levels, steps). StoreError if there is none.
    """
    with explained("the look at the journal"):
        head = await (connection.fetchrow(query("last_run")) if run is None else connection.fetchrow(query("run"), run))
        if head is None:
            raise StoreError("the journal holds no run yet" if run is None else f"the journal holds no run {run}")
        row = await _find_decision(connection, head["id"], tick)
        key = (head["id"], row["tick"])
        plan = await connection.fetchval(query("plan"), *key)
        commands = await connection.fetch(query("commands"), *key)
        forecasts = await connection.fetch(query("standing_forecasts"), *key)
    detail = json.loads(row["detail"])
    return {
        **{name: value for name, value in row.items() if name not in ("run", "detail")},
        **detail,
        "run": {**_plain_row(head), "scenario": json.loads(head["scenario"])},
        "commands": [{**_plain_row(command), "detail": json.loads(command["detail"])} for command in commands],
        "plan": None if plan is None else json.loads(plan),
        "forecasts": {forecast["horizon"]: _plain_row(forecast) for forecast in forecasts},
    }


async def _find_decision(connection: Connection, run: int, tick: int | None) -> Mapping[str, Any]:
    if tick is not None:
        row = await connection.fetchrow(query("decision"), run, tick)
    else:
        row = await connection.fetchrow(query("last_act"), run) or await connection.fetchrow(
            query("last_decision"), run
        )
    if row is None:
        raise StoreError(f"run {run} holds no decision" + ("" if tick is None else f" of tick {tick}"))
    found: Mapping[str, Any] = row
    return found


def _plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(
        {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
    )
    return plain
