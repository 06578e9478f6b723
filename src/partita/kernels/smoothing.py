"""Exponential smoothing with a damped trend: every service under each row of a grid of parameters."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

LEVEL, TREND, DAMPING = 0, 1, 2
"""Columns of the grid."""


@njit(cache=True)
def smooth_best(
    counts: NDArray[np.float64],
    level: NDArray[np.float64],
    trend: NDArray[np.float64],
    grid: NDArray[np.float64],
    weight: NDArray[np.float64],
    first: int,
    ahead: NDArray[np.int64],
    reach: NDArray[np.float64],
    levels: NDArray[np.float64],
    trends: NDArray[np.float64],
    chosen: NDArray[np.int64],
) -> None:
    """Run the grid over counts ``(services, steps)`` and keep, for each service, the row that foretold best.

    `level` and `trend`, ``(grid, services)``, are those before the first step; NaN is a step that was not measured, and
    counts as what was expected. The best row has the smallest mean absolute error of what states from step `first` on
    foretold for each of the horizons `ahead`, times the row's weight; `reach`, ``(grid, horizons)``, is how far a trend
    carries by then. `levels` and `trends`, ``(services, steps)``, get its states, `chosen` its number.
    """
    services, steps = counts.shape
    rows = grid.shape[0]
    tried = np.empty((2, steps, rows))
    cost, missed = np.empty(rows), np.empty(rows)
    for s in range(services):
        _smooth(counts[s], level[:, s].copy(), trend[:, s].copy(), grid, tried)
        cost[:] = 0.0
        for h in range(ahead.shape[0]):
            _add_missed(counts[s], tried, first, ahead[h], reach[:, h].copy(), missed, cost)
        best = 0
        for g in range(rows):
            cost[g] *= weight[g]
            if cost[g] < cost[best]:
                best = g
        chosen[s] = best
        for t in range(steps):
            levels[s, t], trends[s, t] = tried[0, t, best], tried[1, t, best]


@njit(cache=True)
def smooth(
    counts: NDArray[np.float64],
    level: NDArray[np.float64],
    trend: NDArray[np.float64],
    rows: NDArray[np.float64],
    levels: NDArray[np.float64],
    trends: NDArray[np.float64],
) -> None:
    """Fill `levels` and `trends` with each service's states under its own row of parameters (see `smooth_best`)."""
    for s in range(counts.shape[0]):
        now, slope = level[s], trend[s]
        for t in range(counts.shape[1]):
            slope *= rows[s, DAMPING]
            now += slope
            if not np.isnan(counts[s, t]):
                missed = counts[s, t] - now
                now += rows[s, LEVEL] * missed
                slope += rows[s, LEVEL] * rows[s, TREND] * missed
            levels[s, t], trends[s, t] = now, slope


@njit(cache=True)
def _smooth(
    counts: NDArray[np.float64],
    level: NDArray[np.float64],
    trend: NDArray[np.float64],
    grid: NDArray[np.float64],
    tried: NDArray[np.float64],
) -> None:
    """Run all rows side by side: each waits for its own last step, so one after the other they take twice as long."""
    for t in range(counts.shape[0]):
        count = counts[t]
        known = not np.isnan(count)
        for g in range(grid.shape[0]):
            trend[g] = grid[g, DAMPING] * trend[g]
            level[g] = level[g] + trend[g]
            if known:
                missed = count - level[g]
                level[g] += grid[g, LEVEL] * missed
                trend[g] += grid[g, LEVEL] * grid[g, TREND] * missed
            tried[0, t, g], tried[1, t, g] = level[g], trend[g]


@njit(cache=True)
def _add_missed(
    counts: NDArray[np.float64],
    tried: NDArray[np.float64],
    first: int,
    ahead: int,
    reach: NDArray[np.float64],
    missed: NDArray[np.float64],
    cost: NDArray[np.float64],
) -> None:
    """Add the mean absolute error of what was foretold for so many steps later to each row's cost."""
    rows, known = cost.shape[0], 0
    missed[:] = 0.0
    for t in range(first + ahead, counts.shape[0]):
        if not np.isnan(counts[t]):
            known += 1
            for g in range(rows):
                missed[g] += abs(counts[t] - (tried[0, t - ahead, g] + tried[1, t - ahead, g] * reach[g]))
    for g in range(rows):
        cost[g] += missed[g] / max(known, 1)
