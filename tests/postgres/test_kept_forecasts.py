"""How long forecasts and their scores are kept, and what a controller that takes over finds of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from miniature import Stage, even, gpus, make_loop, service

from partita.controller.trial import SCORES_KEPT, Trial, restored_trial
from partita.forecasting.yardstick import LAST_ARRIVALS
from partita.model.load import Forecast, Load, Scored
from partita.plugins import reactive
from partita.ports import Tick
from partita.store import operation as operation_module
from partita.store.connection import Connection, connect
from partita.store.journal import PostgresJournal, begin_run
from partita.store.line import Line
from partita.store.operation import Operation

NAMES = ("a", "b")
TURNS = 30
DAY_S = 86_400.0


class Poisoned:
    """Forecasts fifty times the last value of the first service, and the second's right."""

    name = "poisoned"

    def forecast(self, history: Load, *, steps: int, levels: Any) -> Forecast:
        last = np.array([50.0, 1.0])[:, None, None] * history.counts[:, -1:, None] / history.step_s
        rps = np.broadcast_to(last, (len(history.services), len(levels), steps)).copy()
        return Forecast(history.services, history.end_s, history.step_s, tuple(levels), rps, self.name, 1.0)


def on(dsn: str, work: Callable[[Connection], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        async with connect(dsn) as connection:
            return await work(connection)

    return asyncio.run(run())


def operating(dsn: str, role: str, work: Callable[[Operation], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        line = Line(dsn)
        try:
            return await work(Operation(line, role))
        finally:
            await line.close()

    return asyncio.run(run())


def played(dsn: str, role: str | None, *, turns: int = TURNS) -> tuple[int, Trial]:
    """Turn a loop over a simulated world and journal it, as a live run of a role or as a replay."""
    services = tuple(service(name) for name in NAMES)
    loop = make_loop(services, gpus(4), {"reactive": reactive}, near=Poisoned())
    stage = Stage(loop, (even(300.0, 400.0), even(100.0, 400.0)), span_s=400.0)
    made = [Tick(t.decision, t.near, t.far, t.plan, scored=t.scored) for t in stage.turns(turns)]

    async def write(connection: Connection, run: int) -> None:
        journal = PostgresJournal(connection, run, batch_ticks=10)
        for tick in made:
            await journal.record(tick)
        await journal.close()

    async def work(connection: Connection) -> int:
        if role is None:
            run = await begin_run(connection, kind="replay", policy="reactive", scenario={})
        else:
            line = Line(dsn)
            try:
                run = await Operation(line, role).begin_run(policy="reactive", scenario={}, mode="active")
            finally:
                await line.close()
        await write(connection, run)
        return run

    return on(dsn, work), stage.state.near_trial


def restored(dsn: str, role: str) -> Trial:
    nothing = Load(NAMES, 0.0, 10.0, np.empty((len(NAMES), 0)))
    return restored_trial(scores_of(dsn, role, SCORES_KEPT), nothing, name="poisoned", naive_name=LAST_ARRIVALS.name)


def scores_of(dsn: str, role: str, limit: int) -> list[Scored]:
    naive = LAST_ARRIVALS.name
    found: list[Scored] = operating(
        dsn, role, lambda o: o.read_scores("near", model="poisoned", naive=naive, limit=limit)
    )
    return found


def test_a_successor_finds_the_standing_of_its_role(pg_dsn: str) -> None:
    _, was = played(pg_dsn, "north")
    operating(pg_dsn, "north", lambda o: o.begin_run(policy="reactive", scenario={}, mode="active"))  # scored nothing
    played(pg_dsn, None)
    found = restored(pg_dsn, "north")
    assert was.demoted.tolist() == found.demoted.tolist() == [True, False]
    assert found.losses.shape == was.losses.shape
    for name in ("losses", "naive_losses", "rates"):
        np.testing.assert_allclose(getattr(found, name), getattr(was, name), rtol=1e-6, err_msg=name)
    assert restored(pg_dsn, "south").demoted.tolist() == [False, False]


def test_scores_of_two_runs_of_a_role_follow_each_other(pg_dsn: str) -> None:
    first, _ = played(pg_dsn, "north", turns=14)
    second, _ = played(pg_dsn, "north", turns=14)
    counted = on(
        pg_dsn,
        lambda c: c.fetchval("SELECT count(*) FROM forecast_score WHERE run = $1 AND horizon = 'near'", second),
    )
    assert 0 < counted < SCORES_KEPT
    scores = scores_of(pg_dsn, "north", counted + 3)
    ticks = [s.tick for s in scores]
    assert ticks[:3] == sorted(ticks[:3])
    assert ticks[3:] == sorted(ticks[3:])
    assert ticks[2] > ticks[3], f"three of run {first}, then those of run {second}"


def aged(dsn: str, run: int) -> None:
    """Let a run's turns lie a day apart, the last of them now."""

    async def work(connection: Connection) -> None:
        now = "extract(epoch FROM clock_timestamp())::float8"
        for table, column in (("forecast", "made_at_s"), ("decision", "at_s")):
            await connection.execute(
                f"UPDATE {table} SET {column} = {now} - ($2::int - tick) * 86400.0 + 60.0 WHERE run = $1", run, TURNS
            )

    on(dsn, work)


def kept(dsn: str, table: str, run: int, column: str = "tick") -> set[int]:
    statement = f"SELECT DISTINCT {column} FROM {table} WHERE run = $1"
    return {row[0] for row in on(dsn, lambda c: c.fetch(statement, run))}


def forget(dsn: str, role: str) -> None:
    operating(dsn, role, lambda o: o.forget(observations_s=DAY_S, forecasts_s=14 * DAY_S, scores_s=20 * DAY_S))


def test_forecasts_and_scores_go_when_they_are_old_enough(pg_dsn: str) -> None:
    run, _ = played(pg_dsn, "north")
    other, _ = played(pg_dsn, "south")
    replay, _ = played(pg_dsn, None)
    for each in (run, other, replay):
        aged(pg_dsn, each)
    before = {each: (kept(pg_dsn, "forecast", each), kept(pg_dsn, "forecast_score", each)) for each in (other, replay)}
    made, came = kept(pg_dsn, "forecast", run), kept(pg_dsn, "forecast_score", run, "scored_tick")
    forget(pg_dsn, "north")
    assert kept(pg_dsn, "forecast", run) == {tick for tick in made if tick >= TURNS - 14} != made
    assert kept(pg_dsn, "forecast_score", run, "scored_tick") == {t for t in came if t >= TURNS - 20} != came
    assert kept(pg_dsn, "decision", run) == set(range(1, TURNS + 1))
    for each, was in before.items():
        assert (kept(pg_dsn, "forecast", each), kept(pg_dsn, "forecast_score", each)) == was


def test_what_is_too_much_for_once_goes_the_next_time(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = played(pg_dsn, "north")
    aged(pg_dsn, run)
    made = kept(pg_dsn, "forecast", run)
    monkeypatch.setattr(operation_module, "MOST_FORGOTTEN", 4)
    forget(pg_dsn, "north")
    left = kept(pg_dsn, "forecast", run)
    assert {tick for tick in made if tick >= TURNS - 14} < left < made
    for _ in range(TURNS):
        forget(pg_dsn, "north")
    assert kept(pg_dsn, "forecast", run) == {tick for tick in made if tick >= TURNS - 14}
