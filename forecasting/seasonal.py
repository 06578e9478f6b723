"""The far forecast: the same time yesterday or last week, plus drift, where that has been worth it; else the level.

A cycle is never assumed: a service is given one only where, over its last day, the season before would have foretold
it no worse than its own recent level did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.forecasting.history import measured_counts
from partita.forecasting.past import DAY_S, whole_day
from partita.forecasting.quantiles import (
    LEAST_ERRORS,
    LEVELS,
    error_quantiles,
    horizons,
    make_forecast,
    scatter,
    spread,
)
from partita.model.load import Forecast, Load

LEVEL_STEPS = 3
"""Steps whose mean is the level: the last value, less some of its noise."""

MOST_TARGETS = 1440
"""Latest steps on which errors are measured: a day of minutes."""


@dataclass(frozen=True, slots=True)
class _Season:
    """A way to foretell: from `lag` steps back (0: from the level alone), with the drift found by each step."""

    name: str
    lag: int
    drift: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SeasonalNaive:
    """Seasonal naive with drift: by day from a day of history on, by day or week from two weeks on, else the level."""

    name: str = "seasonal-naive"

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Forecast `steps` steps after the history; ForecastError if a service has fewer than two measured steps."""
        counts = measured_counts(history)
        length = counts.shape[1]
        level = _level(counts)
        seasons = _seasons(counts, history.step_s)
        at = horizons(steps, length)
        targets = np.arange(max(1, length - _recent(length, history.step_s)), length)
        chosen = _choose(counts, level, seasons, at, targets)
        quantiles, ahead = [], np.arange(1, steps + 1)
        for h in at:
            errors = _pick(chosen, [_errors(counts, level, season, int(h), targets) for season in seasons])
            quantiles.append(error_quantiles(errors, levels))
        future = np.arange(length, length + steps)
        point = _pick(chosen, [_expected(counts, level, season, future, ahead) for season in seasons])
        return make_forecast(
            history,
            point,
            spread(at, quantiles, steps),
            levels=levels,
            model=_explain(seasons, chosen, history),
            used_steps=length,
        )


def _recent(length: int, step_s: float) -> int:
    """Return on how many of the latest steps errors are measured: a day where there is more than that."""
    return int(min(length, max(DAY_S / step_s, 2 * LEAST_ERRORS), MOST_TARGETS))


def _level(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the last measured steps after each step; NaN before the first measured one."""
    known = np.isfinite(counts)
    filled = np.where(known, counts, 0.0)
    total, number = filled.copy(), known.astype(np.float64)
    for back in range(1, LEVEL_STEPS):
        total[:, back:] += filled[:, :-back]
        number[:, back:] += known[:, :-back]
    mean = np.where(number > 0, total / np.maximum(number, 1.0), np.nan)
    latest = np.maximum.accumulate(np.where(number > 0, np.arange(counts.shape[1]), 0), axis=1)
    level: NDArray[np.float64] = np.take_along_axis(mean, latest, axis=1)
    return level


def _seasons(counts: NDArray[np.float64], step_s: float) -> list[_Season]:
    """List the ways to foretell that the history is long enough to judge; the level comes last."""
    length, day = counts.shape[1], whole_day(step_s)
    found = []
    if day and length >= day + LEAST_ERRORS:
        found.append(_Season("day", day, _drift(counts, day)))
    if day and length >= 14 * day:
        found.append(_Season("week", 7 * day, _drift(counts, 7 * day)))
    return [*found, _Season("level", 0, np.zeros_like(counts))]


def _drift(counts: NDArray[np.float64], lag: int) -> NDArray[np.float64]:
    """Return by how much the last season up to each step lay above the one before it; NaN before the first pair."""
    change = counts[:, lag:] - counts[:, :-lag]
    known = np.isfinite(change)
    total = np.where(known, change, 0.0).cumsum(axis=1)
    number = known.cumsum(axis=1)
    if change.shape[1] > lag:
        total[:, lag:] -= total[:, :-lag].copy()
        number[:, lag:] -= number[:, :-lag].copy()
    drift = np.full(counts.shape, np.nan)
    drift[:, lag:] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return drift


def _expected(
    counts: NDArray[np.float64],
    level: NDArray[np.float64],
    season: _Season,
    targets: NDArray[np.int64],
    ahead: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Foretell the steps `targets`, each from `ahead` steps before it; NaN where there is nothing to go by.

    For steps after the history an unmeasured season falls back on the level, so that every step has a value.
    """
    origin = targets - ahead
    before = np.maximum(origin, 0)
    last = np.where(origin >= 0, level[:, before], np.nan)
    if season.lag == 0:
        return last
    seasons_back = -(-ahead // season.lag)
    source = targets - seasons_back * season.lag
    # within the first season there is no drift yet at the origin: the first one known stands in
    drift = season.drift[:, np.maximum(origin, season.lag)] * seasons_back
    expected = np.where(source >= 0, counts[:, np.maximum(source, 0)], np.nan) + np.nan_to_num(drift)
    return np.where(np.isfinite(expected), expected, last) if targets[0] >= counts.shape[1] else expected


def _errors(
    counts: NDArray[np.float64],
    level: NDArray[np.float64],
    season: _Season,
    ahead: int,
    targets: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return what was measured less what had been foretold, in units of its scatter; shape ``(services, targets)``."""
    expected = _expected(counts, level, season, targets, np.full_like(targets, ahead))
    return (counts[:, targets] - expected) / scatter(expected)


def _choose(
    counts: NDArray[np.float64],
    level: NDArray[np.float64],
    seasons: Sequence[_Season],
    at: NDArray[np.int64],
    targets: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Pick by service the season with the smallest mean absolute error where all can be judged; else the level."""
    if len(seasons) == 1:
        return np.zeros(counts.shape[0], dtype=np.int64)
    cost, judged = np.zeros((len(seasons), counts.shape[0])), np.zeros(counts.shape[0])
    for h in at:
        missed = np.stack([np.abs(_errors(counts, level, season, int(h), targets)) for season in seasons])
        common = np.isfinite(missed).all(axis=0)
        cost += np.where(common, missed, 0.0).sum(axis=2) / np.maximum(common.sum(axis=1), 1)
        judged += common.sum(axis=1)
    best: NDArray[np.int64] = np.where(judged >= LEAST_ERRORS, np.argmin(cost, axis=0), len(seasons) - 1)
    return best


def _pick(chosen: NDArray[np.int64], options: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return for each service (row) the option chosen for it."""
    return options[0] if len(options) == 1 else np.stack(options)[chosen, np.arange(len(chosen))]


def _explain(seasons: Sequence[_Season], chosen: NDArray[np.int64], history: Load) -> str:
    days = history.counts.shape[1] * history.step_s / DAY_S
    if len(seasons) == 1:
        return f"level: a history of {days:.2f} days is too short to judge a daily cycle"
    number = {season.name: int((chosen == i).sum()) for i, season in enumerate(seasons)}
    parts = [f"{number[season.name]} by {season.name}" for season in seasons[:-1]]
    why = "whose recent error was no smaller with a season"
    level = f"{number['level']} by level" + (f", {why}" if number["level"] else "")
    return f"seasonal naive with drift: {', '.join([*parts, level])}"
