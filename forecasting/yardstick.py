"""What every model is measured against: the last value, or that of a season ago, with the quantiles of its own errors.

It assumes nothing, so a model that is worse has no business being in charge, and it can always be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.errors import ForecastError
from partita.forecasting.past import DAY_S
from partita.forecasting.quantiles import LEVELS, error_quantiles, horizons, sound_forecast, spread
from partita.model.load import Forecast, Load

MOST_ERRORS = 2_000
"""Latest errors that quantiles are read from, at each horizon."""


@dataclass(frozen=True, slots=True)
class Naive:
    """The value of `lag_s` before, where that long a history is held; else the last value (lag 0: always).

    A step whose season was not measured takes the last measured value. With `arrivals` it is never narrower than
    Poisson arrivals at its own rate: what is not a count of requests may scatter less.
    """

    name: str
    lag_s: float = 0.0
    arrivals: bool = False

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Forecast `steps` steps after the history; ForecastError if a service was never measured."""
        counts = np.where(np.isfinite(history.counts), history.counts, np.nan)
        known = np.isfinite(counts)
        if not known.any(axis=1).all():
            service = history.services[int(np.argmin(known.any(axis=1)))]
            raise ForecastError(f"service {service} was never measured: there is no last value")
        lag = self._lag(history)
        last = _last(counts)
        point = np.repeat(last[:, -1:], steps, axis=1)
        if lag:
            season = counts[:, -lag + np.arange(steps) % lag]
            point = np.where(np.isfinite(season), season, point)
        offsets = self._errors(counts, last, lag, steps, tuple(levels))
        expected = point[:, None, :] + offsets
        if self.arrivals:
            return sound_forecast(
                history, point, expected, levels=tuple(levels), model=self.name, used_steps=counts.shape[1]
            )
        rps = np.sort(np.maximum(expected, 0.0), axis=1) / history.step_s
        used_s = history.step_s * counts.shape[1]
        return Forecast(history.services, history.end_s, history.step_s, tuple(levels), rps, self.name, used_s)

    def _lag(self, history: Load) -> int:
        lag = round(self.lag_s / history.step_s)
        return lag if lag and lag < history.counts.shape[1] else 0

    def _errors(
        self, counts: NDArray[np.float64], last: NDArray[np.float64], lag: int, steps: int, levels: tuple[float, ...]
    ) -> NDArray[np.float64]:
        """Return the quantiles of what it would have been wrong by, ``(services, levels, steps)``."""
        at = np.array([1]) if lag else horizons(steps, counts.shape[1])
        found = []
        for h in at.tolist():
            back = lag or h
            wrong = counts[:, back:] - (counts if lag else last)[:, :-back]
            found.append(np.nan_to_num(error_quantiles(wrong[:, -MOST_ERRORS:], levels)) if wrong.size else None)
        shape = (len(counts), len(levels))
        quantiles = [q if q is not None else np.zeros(shape) for q in found]
        return np.repeat(quantiles[0][:, :, None], steps, axis=2) if lag else spread(at, quantiles, steps)


def _last(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the last measured value up to each step; NaN before the first."""
    place = np.maximum.accumulate(np.where(np.isfinite(counts), np.arange(counts.shape[1]), 0), axis=1)
    carried: NDArray[np.float64] = np.take_along_axis(counts, place, axis=1)
    return carried


LAST_VALUE = Naive("last-value")
LAST_ARRIVALS = Naive("last-value", arrivals=True)
"""What the loop holds models against, and falls back on."""
DAILY_NAIVE = Naive("daily-naive", DAY_S)
"""What ratios are set against."""
WEEKLY_NAIVE = Naive("weekly-naive", 7 * DAY_S)
YARDSTICKS: tuple[Naive, ...] = (LAST_VALUE, DAILY_NAIVE, WEEKLY_NAIVE)
