"""Forecasts as journaled, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from partita.errors import ConfigError, StoreError
from partita.model.load import Forecast, Scored
from partita.store.connection import Connection, explained
from partita.store.queries import query

HORIZONS = ("near", "far")


@dataclass(frozen=True, slots=True)
class ForecastRun:
    """A run that made forecasts; `role` is the cluster that a live one controls."""

    id: int
    kind: str
    policy: str
    version: str
    started_at: datetime
    finished_at: datetime | None
    role: str


async def read_forecast_run(connection: Connection, run: int | None) -> ForecastRun:
    """Return a run that made forecasts, by default the last; StoreError or ConfigError if there is none."""
    with explained("the look at the journal"):
        row = await connection.fetchrow(query("last_run_with_forecasts"), run)
    if row is None:
        if run is not None:
            raise ConfigError(f"the journal holds no forecast of run {run}", key="--run", value=run)
        raise StoreError("the journal holds no forecast yet: partita run and partita replay --journal write them")
    return ForecastRun(**row)


async def read_last_forecasts(connection: Connection, run: int) -> dict[str, tuple[int, Forecast]]:
    """Return the last forecast that a run made at each horizon, and the turn that made it."""
    with explained("the look at the last forecasts"):
        rows = await connection.fetch(query("last_forecasts"), run)
    return {row["horizon"]: (row["tick"], _forecast(row)) for row in rows}


async def read_scores(connection: Connection, run: int, horizon: str, *, limit: int) -> list[Scored]:
    """Return what came of the latest forecasts of a run at a horizon, oldest first."""
    with explained("the look at the scores of forecasts"):
        rows = await connection.fetch(query("last_forecast_scores"), run, horizon, limit)
    return [scored_from(row) for row in reversed(rows)]


def _forecast(row: Mapping[str, Any]) -> Forecast:
    return Forecast(
        tuple(row["services"]),
        row["made_at_s"],
        row["step_s"],
        tuple(row["levels"]),
        np.array(row["rps"], np.float64),
        row["model"],
        row["history_s"],
        row["version"],
    )


def scored_from(row: Mapping[str, Any]) -> Scored:
    """Map a database row."""
    arrays = ("truth_rps", "wape", "pinball", "coverage", "naive_wape", "naive_pinball")
    return Scored(
        tick=row["tick"],
        horizon=row["horizon"],
        model=row["model"],
        naive=row["naive"],
        services=tuple(row["services"]),
        levels=tuple(row["levels"]),
        in_charge=np.array(row["in_charge"], np.bool_),
        **{name: np.array(row[name], np.float64) for name in arrays},
    )
