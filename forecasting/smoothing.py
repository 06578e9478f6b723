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
from partita.kernels.smoothing import smooth, smooth_best
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
        first = min(START - 1, len(counts) // 3)
        at = horizons(steps, len(counts) - first)
        level, trend, chosen = best_states(counts, first, sorted({1, int(at[-1])}))
        damping = GRID[chosen, 2]
        quantiles = []
        for h in at:
            expected = _expected(level, trend, first, int(h), damping)
            errors = (counts[first + h :] - expected) / scatter(expected)
            quantiles.append(error_quantiles(errors.T, levels))
        ahead = np.stack([reach(h, damping) for h in range(1, steps + 1)], axis=1)
        point = level[-1][:, None] + trend[-1][:, None] * ahead
        trending = int(np.count_nonzero(GRID[chosen, 1]))
        model = f"smoothing: {trending} of {len(history.services)} services with a trend"
        return make_forecast(
            history, point, spread(at, quantiles, steps), levels=levels, model=model, used_steps=len(counts)
        )


def best_states(
    counts: NDArray[np.float64], first: int, at: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Run every row of the grid over counts ``(steps, services)``, and choose one for each service.

    Returns level and trend after each step, ``(steps, services)``, under the row with the smallest mean absolute error
    (the horizons `at` counting alike, states from step `first` on), and its number.
    """
    known = np.isfinite(counts)
    level, trend = _start(np.where(known, counts, 0.0), known, GRID[:, 1, None] > 0)
    level = np.broadcast_to(level, trend.shape)
    weight = np.where(GRID[:, 1] > 0, 1 + TREND_MUST_GAIN, 1.0)
    carried = np.stack([reach(h, GRID[:, 2]) for h in at], axis=1)
    levels, trends = np.empty((2, *counts.T.shape))
    chosen = np.empty(counts.shape[1], np.int64)
    smooth_best(
        np.where(known, counts, np.nan).T.copy(),
        level.copy(),
        trend.copy(),
        GRID,
        weight,
        first,
        np.array(at, np.int64),
        carried,
        levels,
        trends,
        chosen,
    )
    return levels.T, trends.T, chosen


def states(counts: NDArray[np.float64], chosen: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return level and trend ``(services, steps)`` after each step of counts ``(steps, services)``, by chosen rows."""
    known = np.isfinite(counts)
    level, trend = _start(np.where(known, counts, 0.0), known, GRID[chosen, 1] > 0)
    levels, trends = np.empty((2, *counts.T.shape))
    smooth(np.where(known, counts, np.nan).T.copy(), level, trend, GRID[chosen], levels, trends)
    return levels, trends


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


def _expected(
    level: NDArray[np.float64], trend: NDArray[np.float64], first: int, ahead: int, damping: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what each state from `first` on foretold for `ahead` steps later; its last target is the last step."""
    stop = len(level) - ahead
    return level[first:stop] + trend[first:stop] * reach(ahead, damping)


def reach(ahead: int, damping: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum damping + damping² + … over the steps ahead: how far the trend has carried by then."""
    carried: NDArray[np.float64] = (damping[..., None] ** np.arange(1, ahead + 1)).sum(axis=-1)
    return carried
