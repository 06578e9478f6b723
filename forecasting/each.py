"""Models of one series: each service is fitted by itself, and its quantiles are those of its own past errors.

The parameters are found once, on all of what is looked at; the forecasts that are judged are made with them from
many origins in the past, from what was known there. A fit that fails costs only its own service the model: the last
value stands in, with the errors that the last value made.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.forecasting.history import measured_counts
from partita.forecasting.past import Past, Steps
from partita.forecasting.quantiles import LEAST_ERRORS, error_quantiles, horizons, make_forecast, scatter, spread
from partita.model.load import Forecast, Load

Array = NDArray[np.float64]

Paths = Callable[[Steps, int], Array]
"""Expected counts ``(origins, steps)`` of the steps after each origin, the number of the last step known."""

MOST_STEPS = 2_016
"""Newest steps that are looked at: two weeks of ten minutes, the least that shows a week twice. The cost of a fit grows
with them, and what a smoothing or an ARMA of some hours' memory makes of older ones is nothing."""

LEAST_FITTED = 24
"""Measured steps a fit needs: six for each of the up to four parameters found."""

MOST_ORIGINS = 1_008
"""Newest origins from which past forecasts are judged: a week of ten minutes, so that each weekday is among them."""

MUST_GAIN = 0.05
"""Share of its error by which a cycle must beat a model without: chance finds some in any walk."""

SMALLEST = 1e-9
"""Share of a series' largest value below which its scatter is rounding: it is constant."""


@dataclass(frozen=True, slots=True)
class Row:
    """One series: its `counts` (NaN where not measured), and the steps in a day (0: no whole number)."""

    counts: Array
    day: int

    @property
    def length(self) -> int:
        """Steps in the series."""
        return len(self.counts)

    def filled(self, season: int = 0) -> Array:
        """Return the counts with gaps closed: by the count a season before, by the last one where there is none."""
        counts = self.counts.copy()
        if season:
            for step in np.flatnonzero(~np.isfinite(counts)):
                if step >= season:
                    counts[step] = counts[step - season]
        filled: Array = Past.of(counts[None], 1.0).filled[0]
        return filled


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted model: its `kind` for people, its forecast from the newest step, and those that it is judged by.

    `origins` are those from which it may be judged: nothing that lies behind them has shaped what is said there but
    the few parameters.
    """

    kind: str
    now: Callable[[int], Array]
    past: Paths
    origins: Steps


Fitting = Callable[[Row, int], Fit]
"""Fit a model to one series, for forecasts of so many steps; any exception says that it cannot be."""


def forecast_each(
    history: Load,
    fitting: Fitting,
    *,
    name: str,
    steps: int,
    levels: Sequence[float],
    window: int = MOST_STEPS,
) -> Forecast:
    """Fit and forecast one service after the other; ForecastError if one has fewer than two measured steps."""
    counts = measured_counts(history, window)
    day = Past.of(counts, history.step_s).day
    points, offsets, kinds, reasons = [], [], Counter[str](), Counter[str]()
    for one in counts:
        row = Row(one, day)
        try:
            point, offset, kind = _forecast_row(row, fitting, steps, levels)
            kinds[kind] += 1
        except Exception as problem:  # what a library raises of an odd series is not to be foreseen
            reasons[_reason(problem)] += 1
            point, offset, _ = _forecast_row(row, last_value, steps, levels)
        points.append(point)
        offsets.append(offset)
    return make_forecast(
        history,
        np.reshape(points, (len(counts), steps)),
        np.concatenate([np.empty((0, len(levels), steps)), *offsets]),
        levels=levels,
        model=f"{name}: {_explain(kinds, reasons)}",
        used_steps=counts.shape[1],
    )


class Unfit(Exception):
    """A series to which no model is fitted; the message says why."""


def must_be_fit(row: Row) -> None:
    """Raise Unfit for a series that is too short or constant: there is nothing to find."""
    known = row.counts[np.isfinite(row.counts)]
    if len(known) < LEAST_FITTED:
        raise Unfit(f"fewer than {LEAST_FITTED} measured steps")
    if np.ptp(known) <= SMALLEST * np.abs(known).max():
        raise Unfit("constant")


def last_value(row: Row, _steps: int) -> Fit:
    """Repeat the last measured count: what stands in where no model could be fitted."""
    filled = row.filled()
    first = int(np.argmax(np.isfinite(row.counts)))
    return Fit(
        "last value",
        lambda ahead: np.full(ahead, filled[-1]),
        lambda origins, ahead: np.repeat(filled[origins][:, None], ahead, axis=1),
        newest_origins(row, first),
    )


def newest_origins(row: Row, first: int) -> Steps:
    """Return the newest origins from `first` on that have a step after them."""
    return np.arange(max(first, row.length - 1 - MOST_ORIGINS), row.length - 1)


def least_wrong(row: Row, fits: Sequence[Fit], steps: int) -> Fit:
    """Return the fit with the smallest mean error over horizons, from origins that all may be judged by.

    The first one is the plain one: it stays unless another gains, and where nothing can be said.
    """
    first = max(fit.origins[0] if len(fit.origins) else row.length for fit in fits)
    origins = newest_origins(row, int(first))
    if len(fits) == 1 or len(origins) < LEAST_ERRORS:
        return fits[0]
    at = _horizons(row, origins, steps)
    costs: list[float] = []
    for fit in fits:
        expected, came = judged(row, fit, origins, at)
        missed = np.abs(came - expected)
        number = np.isfinite(missed).sum(axis=0)
        # in units of the mean error of the last value, so that far horizons do not outweigh the near ones
        still = np.abs(came - row.filled()[origins][:, None])
        unit = np.nansum(still, axis=0) / np.maximum(number, 1) + SMALLEST
        cost = float((np.nansum(missed, axis=0) / np.maximum(number, 1) / unit).sum())
        costs.append(cost * (1 + MUST_GAIN) if costs else cost)
    return fits[int(np.argmin(costs))]


def judged(row: Row, fit: Fit, origins: Steps, at: Steps) -> tuple[Array, Array]:
    """Return what was expected at horizons `at` and what came, ``(origins, horizons)``; NaN where nothing is known."""
    expected = fit.past(origins, int(at[-1]))[:, at - 1]
    targets = origins[:, None] + at
    came = np.where(targets < row.length, row.counts[np.minimum(targets, row.length - 1)], np.nan)
    return expected, came


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries from warning within the block: a poor fit shows in its errors, which its quantiles follow."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _horizons(row: Row, origins: Steps, steps: int) -> Steps:
    """Choose the horizons at which LEAST_ERRORS origins at least have something to be judged by."""
    farthest = row.length - 1 - int(origins[min(LEAST_ERRORS, len(origins)) - 1])
    return horizons(steps, farthest + LEAST_ERRORS)


def _forecast_row(row: Row, fitting: Fitting, steps: int, levels: Sequence[float]) -> tuple[Array, Array, str]:
    """Return the expected counts ``(steps,)``, the error quantiles ``(1, levels, steps)``, and what made them."""
    fit = fitting(row, steps)
    point = fit.now(steps)
    origins = fit.origins
    if not len(origins):
        return _sure(point), np.zeros((1, len(levels), steps)), fit.kind
    at = _horizons(row, origins, steps)
    expected, came = judged(row, fit, origins, at)
    errors = (came - expected) / scatter(_sure(expected))
    quantiles = [error_quantiles(column[None], levels) for column in errors.T]
    return _sure(point), spread(at, quantiles, steps), fit.kind


def _sure(counts: Array) -> Array:
    if not np.isfinite(counts).all():
        raise Unfit("a forecast that is no number")
    return counts


def _reason(problem: Exception) -> str:
    return str(problem) if isinstance(problem, Unfit) else f"the fit raised {type(problem).__name__}"


def _explain(kinds: Counter[str], reasons: Counter[str]) -> str:
    made = [f"{number} {kind}" for kind, number in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))]
    why = "; ".join(f"{number}: {reason}" for reason, number in sorted(reasons.items()))
    last = [f"{reasons.total()} by the last value ({why})"] if reasons else []
    return ", ".join([*made, *last])
