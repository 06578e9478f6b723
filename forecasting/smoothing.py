"""The near forecast: exponential smoothing with a damped trend.

Source: Holt's linear method in its error-correction form with a damped trend (Gardner and McKenzie 1985). Each service
takes the parameters, from a small grid, that were best on its own recent history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.forecasting.history import measured_counts
from partita.forecasting.quantiles import LEVELS, error_quantiles, horizons, make_forecast, scatter, spread
from partita.model.load import Forecast, Load

GRID = np.array(
    [
        # level, trend, damping; those without a trend first: among equals the first is taken
        (0.1, 0.0, 1.0),
        (0.3, 0.0, 1.0),
        (0.6, 0.0, 1.0),
        (1.0, 0.0, 1.0),
        (0.3, 0.1, 0.9),
        (0.6, 0.2, 0.9),
        (0.5, 0.1, 1.0),
    ]
)

START = 10
"""Measured steps from which the first level and trend are read; with fewer there is no trend."""

TREND_MUST_GAIN = 0.02
"""Share of its error by which a trend must beat the best plain level: a trend that does not pay overshoots."""


@dataclass(frozen=True, slots=True)
class Smoothing:
    """Exponential smoothing with a damped trend, from the last `window` steps.

    A window of 360 steps holds errors enough for a 0.99 quantile, and what lies before it has a weight below 1e-16 in
    all but the slowest level.
    """

    name: str = "smoothing"
    window: int = 360

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Forecast `steps` steps after the history; ForecastError if a service has fewer than two measured steps."""
        counts = measured_counts(history, self.window).T
        level, trend, first = _smooth(counts)
        at = horizons(steps, counts.shape[0] - first)
        chosen = _choose(counts, level, trend, first, sorted({1, int(at[-1])}))
        column = np.arange(counts.shape[1])
        level, trend, damping = level[:, chosen, column], trend[:, chosen, column], GRID[chosen, 2]
        quantiles = []
        for h in at:
            expected = _expected(level, trend, first, int(h), damping)
            errors = (counts[first + h :] - expected) / scatter(expected)
            quantiles.append(error_quantiles(errors.T, levels))
        ahead = np.stack([_reach(h, damping) for h in range(1, steps + 1)], axis=1)
        point = level[-1][:, None] + trend[-1][:, None] * ahead
        trending = int(np.count_nonzero(GRID[chosen, 1]))
        model = f"smoothing: {trending} of {len(history.services)} services with a trend"
        return make_forecast(
            history, point, spread(at, quantiles, steps), levels=levels, model=model, used_steps=len(counts)
        )


def _smooth(counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Run every row of the grid over counts ``(steps, services)``.

    Returns level and trend after each step, shape ``(steps, grid, services)``, and the first step whose state has left
    the start behind.
    """
    steps, services = counts.shape
    alpha, beta, damping = (np.repeat(GRID[:, i, None], services, axis=1) for i in range(3))
    gain = alpha * beta
    known = np.isfinite(counts)
    filled = np.where(known, counts, 0.0)
    whole = np.isfinite(counts.sum(axis=1))
    levels, trends = np.empty((2, steps, len(GRID), services))
    level, trend = _start(filled, known, GRID[:, 1, None] > 0)
    missed = np.empty_like(gain)
    for t in range(steps):
        next_level, next_trend = levels[t], trends[t]
        np.multiply(damping, trend, out=next_trend)
        np.add(level, next_trend, out=next_level)
        np.subtract(filled[t], next_level, out=missed)
        if not whole[t]:
            missed *= known[t]  # an unmeasured step is what was expected
        next_level += alpha * missed
        next_trend += gain * missed
        level, trend = next_level, next_trend
    return levels, trends, min(START - 1, steps // 3)


def _start(
    filled: NDArray[np.float64], known: NDArray[np.bool_], trending: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit mean and line to the first measured steps; return level and trend before the first step, by grid row."""
    first = (known & (known.cumsum(axis=0) <= START)).astype(np.float64)
    number = first.sum(axis=0)
    time = np.arange(1, len(filled) + 1, dtype=np.float64)[:, None]
    mean = (first * filled).sum(axis=0) / number
    middle = (first * time).sum(axis=0) / number
    apart = first * (time - middle)
    slope = (apart * filled).sum(axis=0) / np.maximum((apart * apart).sum(axis=0), 1.0)
    slope = np.where(number >= START, slope, 0.0) * trending
    return mean - slope * middle, slope


def _choose(
    counts: NDArray[np.float64], level: NDArray[np.float64], trend: NDArray[np.float64], first: int, at: Sequence[int]
) -> NDArray[np.int64]:
    """Pick the grid row with the smallest mean absolute error by service, the horizons `at` counting alike."""
    cost = np.zeros(level.shape[1:])
    for h in at:
        missed = counts[first + h :, None, :] - _expected(level, trend, first, h, GRID[:, 2, None])
        np.abs(missed, out=missed)
        known = np.isfinite(counts[first + h :])
        np.copyto(missed, 0.0, where=~known[:, None, :])
        cost += missed.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    cost *= np.where(GRID[:, 1] > 0, 1 + TREND_MUST_GAIN, 1.0)[:, None]
    chosen: NDArray[np.int64] = np.argmin(cost, axis=0)
    return chosen


def _expected(
    level: NDArray[np.float64], trend: NDArray[np.float64], first: int, ahead: int, damping: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what each state from `first` on foretold for `ahead` steps later; its last target is the last step."""
    stop = len(level) - ahead
    return level[first:stop] + trend[first:stop] * _reach(ahead, damping)


def _reach(ahead: int, damping: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum damping + damping² + … over the steps ahead: how far the trend has carried by then."""
    carried: NDArray[np.float64] = (damping[..., None] ** np.arange(1, ahead + 1)).sum(axis=-1)
    return carried
