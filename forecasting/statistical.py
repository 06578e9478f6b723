"""Classical models by statsmodels, for few services: smoothing, ARIMA, a day and a week taken apart.

Each service costs a tenth of a second to some seconds a forecast, so none of these is meant for many. statsmodels is
imported where a fit is made: it takes a second to load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from partita.forecasting.each import (
    LEAST_FITTED,
    MOST_STEPS,
    Array,
    Fit,
    Fitting,
    Paths,
    Row,
    forecast_each,
    least_wrong,
    must_be_fit,
    newest_origins,
    quiet,
)
from partita.forecasting.past import Steps, seasons_back
from partita.forecasting.quantiles import LEVELS
from partita.model.load import Forecast, Load

MOST_SEASON = 300
"""Longest season, in steps, that is kept in a state or taken apart: a day of five minutes."""

MOST_ITERATIONS = 50
"""Of the search for parameters: likelihoods are flat by then."""

ORDERS = ((0, 1, 1), (1, 1, 1), (1, 0, 1))
"""Orders of ARIMA tried, simplest first: a smoothed level, the same with some memory, and a return to a mean."""

ORDERS_WITH_CYCLES = ((0, 1, 1), (1, 0, 1))
"""Orders tried around a daily and weekly curve."""

DAY_WAVES, WEEK_WAVES = 4, 2
"""Harmonics of the day (down to six hours) and of the week (which tell a weekend from the days before it)."""

MSTL_STEPS = 3_024
"""Newest steps of which cycles are taken apart: three weeks of ten minutes, two and a half of which must be there when
the week is judged by the days that follow."""

JUDGED_DAYS = 3
"""Days at the end of a history that a decomposition of what lies before them is judged by."""

COARSE = 10
"""Parts of a season between two points at which its smoothing is worked out; straight in between."""


@dataclass(frozen=True, slots=True)
class Ets:
    """Exponential smoothing fitted by statsmodels: additive, a damped trend, a daily season where that was better."""

    name: str = "ets"
    window: int = MOST_STEPS

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Forecast `steps` steps after the history; ForecastError if a service has fewer than two measured steps."""
        return forecast_each(history, fit_ets, name=self.name, steps=steps, levels=levels, window=self.window)


@dataclass(frozen=True, slots=True)
class Sarimax:
    """ARIMA fitted by statsmodels: a small order by AIC, around daily and weekly waves where they are worth it."""

    name: str = "sarimax"
    window: int = MOST_STEPS

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Forecast `steps` steps after the history; ForecastError if a service has fewer than two measured steps."""
        return forecast_each(history, fit_sarimax, name=self.name, steps=steps, levels=levels, window=self.window)


@dataclass(frozen=True, slots=True)
class Mstl:
    """Day and week taken apart by statsmodels (MSTL), the rest smoothed; no cycles where they were no better."""

    name: str = "mstl"
    window: int = MSTL_STEPS

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Forecast `steps` steps after the history; ForecastError if a service has fewer than two measured steps."""
        return forecast_each(history, fit_mstl, name=self.name, steps=steps, levels=levels, window=self.window)


# Exponential smoothing ------------------------------------------------------------------------------------------------


def fit_ets(row: Row, steps: int) -> Fit:
    """Fit with and without a daily season, and keep what was less wrong."""
    must_be_fit(row)
    seasons = [0, row.day] if 2 <= row.day <= MOST_SEASON and row.length >= 3 * row.day else [0]
    return least_wrong(row, _fitted(row, steps, [_ets(season) for season in seasons]), steps)


def _ets(season: int) -> Fitting:
    def fit(row: Row, _steps: int) -> Fit:
        paths = _ets_paths(row.filled(season), season)
        return _always(row, "with a daily season" if season else "without a season", paths, 2 * season)

    return fit


def _ets_paths(values: Array, season: int) -> Paths:
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    mean, unit = _scale(values)
    model = ETSModel(
        (values - mean) / unit,
        error="add",
        trend="add",
        damped_trend=True,
        seasonal="add" if season else None,
        seasonal_periods=season or None,
        initialization_method="heuristic",  # to estimate a hundred first states takes a minute
    )
    with quiet():
        fitted = model.fit(disp=False, maxiter=MOST_ITERATIONS)
    states = np.asarray(fitted.states, np.float64)
    damping = dict(zip(model.param_names, fitted.params, strict=True))["damping_trend"]

    def paths(origins: Steps, ahead: int) -> Array:
        reach = np.cumsum(damping ** np.arange(1, ahead + 1))
        found = states[origins, 0][:, None] + states[origins, 1][:, None] * reach
        if season:
            found = found + _same_time(states[:, 2], origins, ahead, season)
        scaled: Array = mean + unit * found
        return scaled

    return paths


def _same_time(values: Array, origins: Steps, ahead: int, season: int) -> Array:
    """Return the values of the same time of the last season known at each origin, ``(origins, ahead)``."""
    steps = np.arange(1, ahead + 1)
    found: Array = values[np.maximum(origins[:, None] + steps - seasons_back(steps, season) * season, 0)]
    return found


# ARIMA ----------------------------------------------------------------------------------------------------------------


def fit_sarimax(row: Row, steps: int) -> Fit:
    """Fit each order, with and without waves, and keep the one with the smallest criterion."""
    must_be_fit(row)
    waves = _waves(row, row.length + steps)
    tried = [(order, waves[:, :0]) for order in ORDERS]
    tried += [(order, waves) for order in ORDERS_WITH_CYCLES if waves.shape[1]]
    criteria: list[float] = []

    def fitting(order: tuple[int, int, int], around: Array) -> Fitting:
        def fit(row: Row, _steps: int) -> Fit:
            criterion, paths = _arima(row, order, around)
            criteria.append(criterion)
            kind = f"ARIMA{order}".replace(" ", "") + (" with waves" if around.shape[1] else "")
            return _always(row, kind, paths, 0)

        return fit

    fits = _fitted(row, steps, [fitting(*one) for one in tried])
    return fits[int(np.argmin(criteria))]


def _waves(row: Row, length: int) -> Array:
    """Return sines and cosines ``(length, waves)`` of the day and week, as far as the series is long enough."""
    time, day = 2 * np.pi * np.arange(length), row.day
    periods: list[float] = []
    if day > 2 and row.length >= 3 * day:
        periods += [day / k for k in range(1, DAY_WAVES + 1) if 2 * k < day]
    if day > 2 and row.length >= 14 * day:
        periods += [7 * day / k for k in range(1, WEEK_WAVES + 1)]
    columns = [wave(time / period) for period in periods for wave in (np.sin, np.cos)]
    return np.stack(columns, axis=1) if columns else np.zeros((length, 0))


def _arima(row: Row, order: tuple[int, int, int], waves: Array) -> tuple[float, Paths]:
    """Fit one order around waves (none: no columns), which go on after the series; return criterion and paths."""
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    mean, unit = _scale(row.counts[np.isfinite(row.counts)])
    model = SARIMAX(
        (row.counts - mean) / unit,
        exog=waves[: row.length] if waves.shape[1] else None,
        order=order,
        trend="n" if order[1] else "c",
        concentrate_scale=True,
    )
    with quiet():
        fitted = model.fit(disp=False, maxiter=MOST_ITERATIONS, cov_type="none")
    state = fitted.filter_results
    moves, seen, drift = state.transition[:, :, 0], state.design[0, :, 0], state.state_intercept[:, 0]
    height = waves @ fitted.params[model.k_trend : model.k_trend + waves.shape[1]]

    def paths(origins: Steps, ahead: int) -> Array:
        at, found = state.predicted_state[:, origins + 1], np.empty((len(origins), ahead))
        for step in range(ahead):
            found[:, step] = seen @ at
            at = moves @ at + drift[:, None]
        scaled: Array = mean + unit * (found + height[origins[:, None] + np.arange(1, ahead + 1)])
        return scaled

    return _criterion(row, state, len(fitted.params), waves.shape[1]), paths


def _criterion(row: Row, state: Any, parameters: int, waves: int) -> float:
    """Return the AIC of what came after the first LEAST_FITTED / 2 measured steps, waves weighed as BIC does.

    Likelihoods of orders that difference and of those that do not can be compared only on the same steps, after the
    unknown beginning has worn off. Eight waves, each at 2, would be found in many a walk.
    """
    known = np.flatnonzero(np.isfinite(row.counts))[LEAST_FITTED // 2 :]
    error, variance = state.forecasts_error[0, known], state.forecasts_error_cov[0, 0, known]
    unlikely = len(known) * np.log(np.mean(error**2 / variance)) + np.log(variance).sum()
    return float(unlikely + 2 * (parameters - waves) + np.log(len(known)) * waves)


# Day and week taken apart ---------------------------------------------------------------------------------------------


def fit_mstl(row: Row, steps: int) -> Fit:
    """Fit with cycles and without, and keep what was less wrong."""
    must_be_fit(row)
    cut = row.length - min(JUDGED_DAYS * row.day, row.length // 3)
    periods = [p for p in (row.day, 7 * row.day) if 2 <= row.day <= MOST_SEASON and 2 * p < cut]
    tried = [_ets(0), _mstl(cut, periods)] if periods else [_ets(0)]
    return least_wrong(row, _fitted(row, steps, tried), steps)


def _mstl(cut: int, periods: Sequence[int]) -> Fitting:
    def fit(row: Row, _steps: int) -> Fit:
        """Fit to all for the forecast; for those it is judged by, to what lies before `cut`, which knows no later."""
        filled = row.filled(row.day)
        now, past = _apart(filled, row.length, periods), _apart(filled, cut, periods)
        return Fit(
            f"with {' and '.join(('day', 'week')[: len(periods)])}",
            lambda ahead: now(np.array([row.length - 1]), ahead)[0],
            past,
            newest_origins(row, cut - 1),
        )

    return fit


def _apart(values: Array, known: int, periods: Sequence[int]) -> Paths:
    """Take the cycles of the first `known` values out of all, and smooth the rest; paths put them together again.

    What lies after `known` has no part in the cycles: they repeat, and the rest moves on.
    """
    from statsmodels.tsa.seasonal import MSTL

    coarse = max(1, min(periods) // COARSE)
    jumps = {"seasonal_jump": coarse, "trend_jump": coarse, "low_pass_jump": coarse}
    with quiet():
        found = MSTL(values[:known], periods=tuple(periods), stl_kwargs=jumps).fit()
    parts = np.asarray(found.seasonal, np.float64).reshape(known, len(periods)).T
    last, after = np.array([known - 1]), len(values) - known
    cycles = [
        (np.concatenate((part, _same_time(part, last, after, period)[0])), period)
        for part, period in zip(parts, periods, strict=True)
    ]
    rest = _ets_paths(values - sum(cycle for cycle, _ in cycles), 0)

    def paths(origins: Steps, ahead: int) -> Array:
        whole = rest(origins, ahead)
        for cycle, period in cycles:
            whole = whole + _same_time(cycle, origins, ahead, period)
        return whole

    return paths


# What they share ------------------------------------------------------------------------------------------------------


def _fitted(row: Row, steps: int, fittings: Sequence[Fitting]) -> list[Fit]:
    """Return the fits that come off; what the last one raised where none does."""
    found: list[Fit] = []
    for number, fitting in enumerate(fittings, start=1):
        try:
            found.append(fitting(row, steps))
        except Exception:  # a library may raise anything on an odd series, and another model may still do
            if number == len(fittings) and not found:
                raise
    return found


def _always(row: Row, kind: str, paths: Paths, first: int) -> Fit:
    """Return the fit of a model that forecasts from any origin after its first steps, the newest one like others."""
    begins = int(np.argmax(np.isfinite(row.counts))) + LEAST_FITTED // 2
    newest = np.array([row.length - 1])
    return Fit(kind, lambda ahead: paths(newest, ahead)[0], paths, newest_origins(row, max(first, begins)))


def _scale(values: Array) -> tuple[float, float]:
    """Return mean and standard deviation: searches for parameters want numbers about 1."""
    return float(values.mean()), float(values.std())
