"""Futures: at which rates of all services plans are rehearsed.

Marginal quantiles do not add: where services do not rise together, all at their own upper quantile at once is a load
that hardly ever comes, and where they do it is one that comes more often than its level says. So joint sample paths of
the near forecast are ranked by the GPU time that they ask for in all, and those at a level of that are rehearsed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from partita.errors import ForecastError
from partita.forecasting.paths import level_errors, sample_paths
from partita.model.load import Forecast, Load
from partita.model.service import Service
from partita.model.staggered import Kinds, Overheads, sets_needed

REHEARSED_LEVEL = 0.9
"""Level of the load that candidates are rehearsed at: of what all services ask for together, or of each alone."""

LOWEST_LEVEL, HIGHEST_LEVEL = 0.5, 0.95
"""Levels between which several paths lie evenly."""


def rehearsed_rates(
    near: Forecast,
    history: Load,
    *,
    at_least: NDArray[np.float64],
    gpu_s: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    paths: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the mean rates over the horizon to rehearse, ``(paths, services)``; no rate is below `at_least`.

    `gpu_s` says what a request of each service takes of a GPU at such rates. Without paths (0), or with a history that
    is too short to say what goes together, each service is at its own upper quantile.
    """
    alone = np.maximum(near.lasting(REHEARSED_LEVEL), at_least)[None, :]
    if paths == 0 or len(near.services) == 0:
        return alone
    try:
        errors = level_errors(history, near.rps.shape[2])
    except ForecastError:
        return alone
    drawn = sample_paths(near, errors, errors.errors.shape[2], rng).mean(axis=2)
    rates = np.maximum(drawn, at_least)
    order = np.argsort(rates @ gpu_s(alone[0]), kind="stable")
    levels = np.array([REHEARSED_LEVEL]) if paths == 1 else np.linspace(LOWEST_LEVEL, HIGHEST_LEVEL, paths)
    chosen: NDArray[np.float64] = rates[order[np.rint(levels * (len(order) - 1)).astype(np.int64)]]
    return chosen


def gpu_seconds(
    services: Sequence[Service], rates_rps: Sequence[float], kinds: Kinds, overheads: Overheads
) -> NDArray[np.float64]:
    """Return the part of such a set of instances that a request a second of each service keeps busy, at these rates.

    A service that no instance can answer counts nothing: no load of it is heavier than another.
    """
    busy = [
        sets_needed([service], [rate], kinds, overheads) / rate if rate > 0 else 0.0
        for service, rate in zip(services, rates_rps, strict=True)
    ]
    return np.where(np.isfinite(busy), busy, 0.0)
