"""A model that was demoted under one controller is not in charge again under the next."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from crash.house import runtime
from crash.test_log_faults import BUSY, gateway
from crash.town import NAME, Running, Town, cluster_file, controller, until
from miniature import Stage, even, gpus, make_loop, service

from partita.forecasting import NEAR
from partita.model.load import Forecast, Load
from partita.plugins import reactive
from partita.ports import Tick
from partita.store.journal import PostgresJournal
from partita.store.line import Line
from partita.store.operation import Operation


class OnceWrong:
    """The near model of a version that foresaw thirty times too much for the first service."""

    name = NEAR.name

    def forecast(self, history: Load, *, steps: int, levels: Any) -> Forecast:
        made = NEAR.forecast(history, steps=steps, levels=levels)
        return replace(made, rps=made.rps * np.array([30.0, 1.0, 1.0])[:, None, None])


async def leave_scores(dsn: str) -> int:
    """Journal a controller's life in which the model was demoted for one service; return the number of its run."""
    services = tuple(service(name) for name in "abc")
    loop = make_loop(services, gpus(4), {"reactive": reactive}, near=OnceWrong())
    stage = Stage(loop, [even(100.0, 400.0)] * 3, span_s=400.0)
    line = Line(dsn)
    try:
        run = await Operation(line, NAME).begin_run(policy="reactive", scenario={}, mode="active")
        journal = PostgresJournal(line, run, batch_ticks=10)
        for turn in stage.turns(30):
            await journal.record(Tick(turn.decision, turn.near, turn.far, turn.plan, scored=turn.scored))
        await journal.close()
    finally:
        await line.close()
    assert stage.state.near_trial.demoted.tolist() == [True, False, False]
    return run


def test_the_next_controller_goes_on_with_the_naive_forecast(pg_dsn: str, tmp_path: Path) -> None:
    async def body(town: Town, only: Running) -> None:
        await town.leads(only.holder)

        async def forecast() -> list[dict[str, Any]]:
            return await town.fetch(
                "SELECT d.reason, f.model FROM forecast f JOIN decision d ON d.run = f.run AND d.tick = f.tick"
                " WHERE f.horizon = 'near' AND f.run > $1 ORDER BY f.run, f.tick LIMIT 1",
                before,
            )

        with gateway(pg_dsn, "busy", BUSY):
            (first,) = await until("the first forecast", forecast)
        assert "the near forecast of a is the naive one" in first["reason"]
        assert first["model"].endswith("for a")

    before = asyncio.run(leave_scores(pg_dsn))
    with runtime(tmp_path) as house:
        latency = {"alpha_ms": 20, "beta_ms": 30}
        path = cluster_file(
            tmp_path,
            house,
            services=[{"name": name, "slo_ms": 400, "memory_gib": 2, "latency": latency} for name in "abc"],
            policy="symphony",
            control={"near_s": 1, "epoch_s": 60, "rehearse_s": 10},
            discipline={"name": "deferred"},
        )
        with controller(path, pg_dsn, "next") as only:
            asyncio.run(body(Town(pg_dsn, house), only))
            only.check_calm()
