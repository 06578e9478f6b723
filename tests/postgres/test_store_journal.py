"""The journal: what the loop records is what comes back, batch by batch, and nothing twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, get_args

import numpy as np
import pytest

from partita import __version__
from partita.errors import StoreError
from partita.model.cluster import Instance
from partita.model.load import Forecast
from partita.model.plain import to_plain
from partita.model.plan import (
    Acquire,
    Action,
    Appraisal,
    Batching,
    Command,
    CreateInstance,
    Decision,
    DestroyInstance,
    Drain,
    HeldGpu,
    Objective,
    Opinion,
    Plan,
    Release,
    Route,
    SetBatching,
    SetRoutes,
    SetShare,
    StartReplicas,
    StopReplicas,
    SubCluster,
)
from partita.model.revive import command_from_plain
from partita.ports import Journal, Tick
from partita.store.connection import Connection, connect
from partita.store.journal import PostgresJournal, begin_run, list_decisions, list_runs, read_decision

GROUP = SubCluster("all", (Instance("g0", "g0", 80.0),), ("é s",), (Batching("deferred"),))
PLAN = Plan((HeldGpu("g0"),), (GROUP,), (Route("é s", "all"),), reason="one is enough")
COMMANDS: tuple[tuple[Command, str], ...] = (
    (Acquire("g0", "needed"), "g0"),
    (CreateInstance(Instance("g1/1g.10gb@0", "g1", 9.5, "1g.10gb"), "smaller"), "g1/1g.10gb@0"),
    (SetShare("g1/1g.10gb@0", 60.0, "sized"), "g1/1g.10gb@0"),
    (StartReplicas("g0", ("é s",), (Batching("timeout", 0.01, 8, (("queue_policy", "reject"),)),), "serve"), "g0"),
    (SetBatching("g3", ("t",), (Batching("eager"),), "sooner"), "g3"),
    (SetRoutes((GROUP,), (Route("é s", "all"),), "new routes"), "routes"),
    (Drain("g2", ("t",), "idle"), "g2"),
    (StopReplicas("g2", ("t",), "idle"), "g2"),
    (DestroyInstance("g2", "idle"), "g2"),
    (Release("g2", "idle"), "g2"),
)
"""Each command there is, and what it acts on."""


def on(dsn: str, work: Callable[[Connection], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        async with connect(dsn) as connection:
            return await work(connection)

    return asyncio.run(run())


def forecast(made_at_s: float, levels: int = 3, steps: int = 4) -> Forecast:
    rps = np.arange(2 * levels * steps, dtype=np.float64).reshape(2, levels, steps) + made_at_s
    return Forecast(("é s", "t"), made_at_s, 5.0, (0.1, 0.5, 0.9)[:levels], rps, "holt", 60.0)


def decision(tick: int, *, acts: bool) -> Decision:
    appraisal = Appraisal("symphony: 1", PLAN, 1, 0.995, 0.001, 0.0, "t", 0.17, 0.01, 10, {"own": -0.5})
    return Decision(
        tick=tick,
        at_s=10.0 * tick,
        action=Action.ACT if acts else Action.HOLD,
        chosen="symphony: 1" if acts else "standing",
        reason="saves 3 %" if acts else "within the margin",
        opinions=(Opinion("symphony", "propose_capacity", "load falls"), Opinion("odd", "veto", "", "raised")),
        candidates=(appraisal,),
        commands=tuple(command for command, _ in COMMANDS) if acts else (),
        objective=Objective(),
        offered_rps=12.5,
        forecast_rps=13.25,
        gpus_held=2,
        gpus_wanted=1,
    )


def ticks() -> list[Tick]:
    """Ten turns; those of 3 and 6 act, the far forecast is renewed at 5 only."""
    early, late = forecast(0.0, steps=2), forecast(50.0, steps=2)
    return [
        Tick(
            decision(number, acts=number in (3, 6)),
            forecast(10.0 * number),
            early if number < 5 else late,
            PLAN if number in (3, 6) else None,
        )
        for number in range(10)
    ]


def write(batch_ticks: int) -> Callable[[Connection], Coroutine[Any, Any, int]]:
    async def work(connection: Connection) -> int:
        run = await begin_run(connection, kind="replay", policy="symphony", scenario={"seed": 1})
        journal: Journal = PostgresJournal(connection, run, batch_ticks=batch_ticks, term=4)
        for tick in ticks():
            await journal.record(tick)
        await journal.close()
        return run

    return work


@pytest.mark.parametrize("batch_ticks", [1, 4, 256])
def test_all_of_a_run_is_written_once(pg_dsn: str, batch_ticks: int) -> None:
    run = on(pg_dsn, write(batch_ticks))

    async def count(connection: Connection) -> dict[str, int]:
        tables = ("decision", "plan", "command", "forecast")
        return {t: await connection.fetchval(f"SELECT count(*) FROM {t} WHERE run = $1", run) for t in tables}

    assert on(pg_dsn, count) == {"decision": 10, "plan": 2, "command": 20, "forecast": 10 + 2}


def test_a_decision_comes_back_whole(pg_dsn: str) -> None:
    run = on(pg_dsn, write(4))
    found = on(pg_dsn, lambda c: read_decision(c, run, 6))
    wanted = to_plain(decision(6, acts=True))
    for key in wanted.keys() - {"commands", "candidates"}:
        assert found[key] == wanted[key], key
    assert found["candidates"] == [{k: v for k, v in wanted["candidates"][0].items() if k != "plan"}]
    assert found["plan"] == to_plain(PLAN)
    assert {type(command) for command, _ in COMMANDS} == set(get_args(Command))
    assert [command["verb"] for command in found["commands"]] == [type(command).__name__ for command, _ in COMMANDS]
    assert [command["target"] for command in found["commands"]] == [target for _, target in COMMANDS]
    assert [command["detail"] for command in found["commands"]] == wanted["commands"]
    read = [command_from_plain({"verb": c["verb"], **c["detail"]}) for c in found["commands"]]
    assert read == [command for command, _ in COMMANDS]
    assert {(command["state"], command["term"]) for command in found["commands"]} == {("written", 4)}
    assert found["run"]["id"] == run
    assert (found["run"]["policy"], found["run"]["scenario"]) == ("symphony", {"seed": 1})
    assert found["run"]["version"] == __version__
    assert found["run"]["finished_at"] is not None
    assert found["forecasts"]["near"]["rps"] == to_plain(forecast(60.0).rps)
    assert found["forecasts"]["far"]["made_at_s"] == 50.0
    assert found["forecasts"]["far"]["services"] == ["é s", "t"]
    assert found["forecasts"]["far"]["levels"] == [0.1, 0.5, 0.9]
    json.dumps(found, allow_nan=False)


def test_the_forecast_of_a_decision_is_the_one_that_stood(pg_dsn: str) -> None:
    run = on(pg_dsn, write(1))
    assert on(pg_dsn, lambda c: read_decision(c, run, 4))["forecasts"]["far"]["made_at_s"] == 0.0


def test_without_numbers_the_last_that_acted_of_the_last_run(pg_dsn: str) -> None:
    on(pg_dsn, write(4))
    run = on(pg_dsn, write(4))
    found = on(pg_dsn, read_decision)
    assert (found["run"]["id"], found["tick"]) == (run, 6)


def test_where_none_acted_the_last(pg_dsn: str) -> None:
    async def work(connection: Connection) -> Any:
        run = await begin_run(connection, kind="live", policy="static", scenario={})
        journal = PostgresJournal(connection, run)
        for number in range(3):
            await journal.record(Tick(decision(number, acts=False), None, None, None))
        return await read_decision(connection, run)

    found = on(pg_dsn, work)
    assert (found["tick"], found["plan"], found["commands"], found["forecasts"]) == (2, None, [], {})
    assert found["run"]["finished_at"] is None


def test_runs_and_decisions_are_listed(pg_dsn: str) -> None:
    first, second = on(pg_dsn, write(4)), on(pg_dsn, write(4))
    assert [(r.id, r.decisions, r.acts) for r in on(pg_dsn, list_runs)] == [(second, 10, 2), (first, 10, 2)]
    listed = on(pg_dsn, lambda c: list_decisions(c, first, from_tick=4))
    assert [d.tick for d in listed] == [4, 5, 6, 7, 8, 9]
    acts = on(pg_dsn, lambda c: list_decisions(c, first, acts_only=True))
    assert [(d.tick, d.action, d.reason) for d in acts] == [(3, Action.ACT, "saves 3 %"), (6, Action.ACT, "saves 3 %")]


def test_live_every_turn_is_on_disk_before_the_next(pg_dsn: str) -> None:
    async def work(connection: Connection) -> None:
        async with connect(pg_dsn) as other:
            run = await begin_run(connection, kind="live", policy="static", scenario={})
            journal = PostgresJournal(connection, run)
            for tick in ticks():
                await journal.record(tick)
                assert (await read_decision(other, run, tick.decision.tick))["tick"] == tick.decision.tick

    on(pg_dsn, work)


def test_a_batch_that_fails_leaves_nothing(pg_dsn: str) -> None:
    async def work(connection: Connection) -> tuple[int, int]:
        run = await begin_run(connection, kind="replay", policy="static", scenario={})
        journal = PostgresJournal(connection, run, batch_ticks=100)
        for tick in (*ticks(), Tick(decision(6, acts=False), None, None, None)):
            await journal.record(tick)
        with pytest.raises(StoreError, match=f"the database refused the journal of run {run}: duplicate key"):
            await journal.flush()
        tables = ("decision", "plan", "command", "forecast")
        return tuple([await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables])

    assert on(pg_dsn, work) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("run", "tick", "message"),
    [(None, None, "holds no run yet"), (7, None, "holds no run 7")],
)
def test_an_empty_journal(pg_dsn: str, run: int | None, tick: int | None, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        on(pg_dsn, lambda c: read_decision(c, run, tick))


def test_a_tick_that_is_not_there(pg_dsn: str) -> None:
    run = on(pg_dsn, write(4))
    with pytest.raises(StoreError, match=f"run {run} holds no decision of tick 99"):
        on(pg_dsn, lambda c: read_decision(c, run, 99))
