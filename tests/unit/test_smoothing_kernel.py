"""The smoothing kernel against Holt's recursion written out for one service and one row of parameters at a time."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest

from partita.kernels.smoothing import smooth_best

GRID = np.array([(0.3, 0.0, 1.0), (0.6, 0.2, 0.9), (1.0, 0.0, 1.0)])
WEIGHT = np.array([1.0, 1.02, 1.0])
AHEAD = np.array([1, 4])


def states(counts: list[float], level: float, trend: float, row: tuple[float, ...]) -> list[tuple[float, float]]:
    """Return level and trend after each step; one that was not measured changes nothing but by the trend."""
    alpha, beta, damping = row
    found = []
    for count in counts:
        expected = level + damping * trend
        missed = 0.0 if isnan(count) else count - expected
        level, trend = expected + alpha * missed, damping * trend + alpha * beta * missed
        found.append((level, trend))
    return found


def cost(counts: list[float], found: list[tuple[float, float]], first: int, damping: float) -> float:
    """Add up the mean absolute errors at the horizons."""
    total = 0.0
    for ahead in AHEAD.tolist():
        carried = sum(damping**k for k in range(1, ahead + 1))
        pairs = [(counts[t], *found[t - ahead]) for t in range(first + ahead, len(counts)) if not isnan(counts[t])]
        total += sum(abs(count - level - trend * carried) for count, level, trend in pairs) / max(len(pairs), 1)
    return total


@pytest.mark.parametrize("seed", range(6))
def test_the_row_that_foretold_best_is_kept(seed: int) -> None:
    rng, services, steps, first = np.random.default_rng(seed), 5, 40, 3
    counts = rng.poisson(50 + 3 * rng.integers(0, 2, (services, 1)) * np.arange(steps)).astype(np.float64)
    counts[rng.random(counts.shape) < 0.1] = np.nan
    level, trend = rng.uniform(40, 60, (2, len(GRID), services))
    trend = (trend - 50) * (GRID[:, 1:2] > 0)
    reach = np.array([[sum(row[2] ** k for k in range(1, a + 1)) for a in AHEAD.tolist()] for row in GRID])
    levels, trends, chosen = np.empty((services, steps)), np.empty((services, steps)), np.empty(services, np.int64)
    smooth_best(counts, level, trend, GRID, WEIGHT, first, AHEAD, reach, levels, trends, chosen)
    for s in range(services):
        own = counts[s].tolist()
        tried = [states(own, level[g, s], trend[g, s], tuple(row)) for g, row in enumerate(GRID.tolist())]
        costs = [cost(own, found, first, GRID[g, 2]) * WEIGHT[g] for g, found in enumerate(tried)]
        assert costs[chosen[s]] == pytest.approx(min(costs), rel=1e-9)
        assert np.stack((levels[s], trends[s]), axis=1) == pytest.approx(np.array(tried[chosen[s]]), rel=1e-9)
