"""Quantiles from a model's own errors: how wrong it was at each horizon is how wrong it will be.

An error is taken in units of the root of what was predicted (plus one), the way counts scatter, so that errors made at
night say something about noon. A forecast is never narrower than Poisson arrivals at its own rate: few requests scatter
at least that much whatever the residuals of a short or quiet history show.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from partita.model.load import Forecast, Load

LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Levels of the quantiles that are forecast, journaled and scored."""

FEW_ERRORS = 20
"""With fewer errors than this a service's spread is made symmetric: their signs say little yet."""

LEAST_ERRORS = 8
"""Errors wanted at a horizon before it is judged by itself; farther ones grow with the root of the horizon."""

_EXACT_UP_TO = 200.0


def horizons(steps: int, length: int) -> NDArray[np.int64]:
    """Choose the horizons (in steps, from 1) at which errors of a history of `length` steps are measured."""
    farthest = max(1, min(steps, length - LEAST_ERRORS))
    return np.unique(np.rint(np.geomspace(1, farthest, 5)).astype(np.int64))


def scatter(predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unit in which errors of a prediction are measured."""
    unit: NDArray[np.float64] = np.sqrt(np.maximum(predicted, 0.0) + 1.0)
    return unit


def error_quantiles(
    errors: NDArray[np.float64], levels: Sequence[float] | NDArray[np.float64], *, mirrored: bool = True
) -> NDArray[np.float64]:
    """Return the quantiles of each row's errors, shape ``(services, levels)``; NaN errors are missing.

    Levels may be the same for all rows, or ``(services, levels)``.

    The i-th smallest of n errors stands for level i/(n + 1), which is what the next error of an unchanged kind keeps.
    Rows without any error give NaN; where there are few and `mirrored`, each counts with either sign.
    """
    count = np.isfinite(errors).sum(axis=1)
    few = count < FEW_ERRORS
    if mirrored and few.any():
        errors = np.hstack([errors, np.where(few[:, None], -errors, np.nan)])
        count = np.isfinite(errors).sum(axis=1)
    ranked = np.sort(errors, axis=1)
    position = np.clip(np.atleast_2d(levels) * (count[:, None] + 1) - 1, 0, np.maximum(count - 1, 0)[:, None])
    below = position.astype(np.int64)
    above = np.minimum(below + 1, np.maximum(count - 1, 0)[:, None])
    low, high = np.take_along_axis(ranked, below, axis=1), np.take_along_axis(ranked, above, axis=1)
    mixed: NDArray[np.float64] = low + (position - below) * (high - low)
    return mixed


def spread(at: NDArray[np.int64], quantiles: Sequence[NDArray[np.float64]], steps: int) -> NDArray[np.float64]:
    """Carry the error quantiles measured at horizons `at` to every step, shape ``(services, levels, steps)``.

    Linear in between, and beyond the last growing with the root of the horizon, as a random walk does.
    """
    known = list(quantiles)
    for i, row in enumerate(known):
        known[i] = np.where(np.isfinite(row), row, known[i - 1] if i else 0.0)
    ahead = np.arange(1, steps + 1)
    weights = between(at, ahead) * np.sqrt(np.maximum(ahead / at[-1], 1.0))
    carried: NDArray[np.float64] = np.stack(known, axis=2) @ weights
    return carried


def between(at: NDArray[np.int64], ahead: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how much what is known at some horizons counts at each step ahead, linear, ``(horizons, steps)``."""
    return np.stack([np.interp(ahead, at, unit) for unit in np.eye(len(at))])


def make_forecast(
    history: Load,
    point: NDArray[np.float64],
    offsets: NDArray[np.float64],
    *,
    levels: Sequence[float],
    model: str,
    used_steps: int,
) -> Forecast:
    """Put point counts ``(services, steps)`` and error quantiles together: finite, never negative, never crossing."""
    point = np.maximum(point, 0.0)
    lines = point[:, None, :] + offsets * scatter(point)[:, None, :]
    return sound_forecast(history, point, lines, levels=levels, model=model, used_steps=used_steps)


def sound_forecast(
    history: Load,
    point: NDArray[np.float64],
    counts: NDArray[np.float64],
    *,
    levels: Sequence[float],
    model: str,
    used_steps: int,
    proven: NDArray[np.bool_] | None = None,
) -> Forecast:
    """Make a forecast of lines ``(services, levels, steps)``, none inside Poisson's at the point's rate.

    Lines of services that are `proven`, by errors enough, are taken as they are: what is counted may come evenly.
    """
    floor = slice(None) if proven is None else ~proven
    for i, (level, poisson) in enumerate(zip(levels, poisson_quantiles(point[floor], tuple(levels)), strict=True)):
        if level > 0.5:
            counts[floor, i] = np.maximum(counts[floor, i], poisson)
        elif level < 0.5:
            counts[floor, i] = np.minimum(counts[floor, i], poisson)
    rps = np.sort(np.maximum(counts, 0.0), axis=1) / history.step_s
    return Forecast(
        history.services, history.end_s, history.step_s, tuple(levels), rps, model, used_steps * history.step_s
    )


def poisson_quantiles(mean: NDArray[np.float64], levels: tuple[float, ...]) -> list[NDArray[np.float64]]:
    """Return the quantiles of Poisson counts at each level: exact on a grid up to 200, Cornish-Fisher beyond."""
    means, exact = _poisson_table(levels)
    found = []
    for i, z in enumerate(special.ndtri(np.asarray(levels))):
        many = mean + z * np.sqrt(mean) + (z * z - 1) / 6
        found.append(np.where(mean > _EXACT_UP_TO, many, np.interp(mean, means, exact[i])))
    return found


@lru_cache(maxsize=16)
def _poisson_table(levels: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    means = np.concatenate([[0.0], np.geomspace(1e-3, _EXACT_UP_TO, 400)])
    reached = special.pdtr(np.arange(300)[:, None], means[None, :])
    return means, np.stack([(reached < level).sum(axis=0).astype(np.float64) for level in levels])
