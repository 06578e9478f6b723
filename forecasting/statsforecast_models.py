"""Automatic models of the library statsforecast, where the extra of that name is installed; for a few services.

Each fit takes some tenths of a second to many seconds. The parameters are found once a forecast; from origins in the
past the fitted model is carried forward over what was known there, which needs no search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from partita.errors import ConfigError
from partita.forecasting.each import Array, Fit, Fitting, Row, forecast_each, must_be_fit, quiet
from partita.forecasting.past import Steps
from partita.forecasting.quantiles import LEVELS
from partita.model.load import Forecast, Load

LONGEST_SEASON = 300
"""Longest season, in steps, that is given to a model: a day of five minutes."""

ORIGINS = 48
"""Origins from which a fitted model is carried forward: so many decompositions still take seconds."""


@dataclass(frozen=True, slots=True)
class AutoEts:
    """AutoETS of statsforecast, no season: error and trend chosen for each service; extra [statsforecast]."""

    name: str = "sf-auto-ets"

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Forecast `steps` steps after the history; ForecastError if a service has fewer than two measured steps."""
        return _forecast(self.name, history, steps, levels, seasonal=False)


@dataclass(frozen=True, slots=True)
class AutoArima:
    """AutoARIMA of statsforecast, no season: the order sought step by step; extra [statsforecast]."""

    name: str = "sf-auto-arima"

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Forecast `steps` steps after the history; ForecastError if a service has fewer than two measured steps."""
        return _forecast(self.name, history, steps, levels, seasonal=False)


@dataclass(frozen=True, slots=True)
class AutoTheta:
    """Dynamic optimised Theta of statsforecast, with a daily season; extra [statsforecast]."""

    name: str = "sf-auto-theta"

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Forecast `steps` steps after the history; ForecastError if a service has fewer than two measured steps."""
        return _forecast(self.name, history, steps, levels, seasonal=True)


@dataclass(frozen=True, slots=True)
class MstlEts:
    """MSTL of statsforecast: the day taken apart, the rest by AutoETS; extra [statsforecast]."""

    name: str = "sf-mstl"

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Forecast `steps` steps after the history; ForecastError if a service has fewer than two measured steps."""
        return _forecast(self.name, history, steps, levels, seasonal=True)


ALL = (AutoEts(), AutoArima(), AutoTheta(), MstlEts())
"""The models of the extra, installed or not."""


def installed() -> bool:
    """Say whether the extra is there, without the seconds that it takes to import."""
    return find_spec("statsforecast") is not None


def must_be_installed(name: str, *, key: str | None = None, file: str | None = None) -> None:
    """Raise ConfigError for a model of the extra where that is not installed."""
    if not installed() and any(model.name == name for model in ALL):
        raise ConfigError(
            f"{name} needs the extra: pip install 'partita[statsforecast]'", file=file, key=key, value=name
        )


def _forecast(name: str, history: Load, steps: int, levels: Sequence[float], *, seasonal: bool) -> Forecast:
    must_be_installed(name)
    return forecast_each(history, _fitting(name, seasonal), name=name, steps=steps, levels=levels)


def _fitting(name: str, seasonal: bool) -> Fitting:
    def fit(row: Row, _steps: int) -> Fit:
        must_be_fit(row)
        season = row.day if seasonal and 2 <= row.day <= LONGEST_SEASON and row.length >= 4 * row.day else 1
        values = row.filled(season if season > 1 else 0)
        # carried forward, a model needs two seasons at least, and half of a history to have been fitted to something
        first = max(row.length // 2, 2 * season + 1)
        kind = ("with a daily season" if season > 1 else "without a season") if seasonal else "fitted"
        return _fit(kind, _made(name, season), values, first)

    return fit


def _fit(kind: str, model: Any, values: Array, first: int) -> Fit:
    unit = float(values.std())
    scaled = values / unit
    with quiet():
        fitted = model.fit(scaled)

    def now(ahead: int) -> Array:
        with quiet():
            return unit * np.asarray(fitted.predict(ahead)["mean"], np.float64)

    def past(origins: Steps, ahead: int) -> Array:
        with quiet():
            each = [fitted.forward(y=scaled[: origin + 1], h=ahead)["mean"] for origin in origins]
        return unit * np.asarray(each, np.float64)

    stride = max(1, (len(values) - 1 - first) // ORIGINS)
    return Fit(kind, now, past, np.arange(len(values) - 2, first - 1, -stride)[:ORIGINS][::-1])


def _made(name: str, season: int) -> Any:
    from statsforecast import models

    match name:
        case "sf-auto-ets":
            return models.AutoETS(model="ZZN")
        case "sf-auto-arima":
            return models.AutoARIMA()
        case "sf-auto-theta":
            return models.AutoTheta(season_length=season, model="DOTM")
        case _ if season > 1:
            return models.MSTL(season_length=season, trend_forecaster=models.AutoETS(model="ZZN"))
        case _:
            return models.AutoETS(model="ZZN")
