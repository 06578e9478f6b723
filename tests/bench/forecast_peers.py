"""Forecasters of others behind our port, for comparison; a peer that is not installed is left out.

They forecast each series on its own unless they are global. Histories are as long as each is usually given: a day or a
week for models without a season, two weeks and more for those with one.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from partita.errors import ForecastError
from partita.model.load import Forecast, Load
from partita.ports import Forecaster

DAY_S, WEEK_S = 86_400.0, 604_800.0
FAILURES_IN_A_ROW = 3
MOST_SEASON = 300
MOST_STEPS = 2_016
"""Latest steps that a model of one series is fitted on: a week of five minutes, two weeks of ten."""

Array = NDArray[np.float64]
One = Callable[[Array, int, Sequence[float], float], Array]
"""History of one series without gaps, steps, levels and season in steps -> ``(levels, steps)``."""


@contextmanager
def _silent() -> Any:
    """Keep libraries from talking: their warnings are about fits that are scored anyway."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@dataclass
class Fits:
    """How many fits were tried and failed, and why the last one did."""

    tried: int = 0
    failed: int = 0
    why: str = ""

    def count(self, problem: Exception | None) -> None:
        """Count one fit; ForecastError where the first ones have all failed: it is not the series then."""
        self.tried += 1
        if problem is not None:
            self.failed += 1
            self.why = f"{type(problem).__name__}: {problem}"[:160]
        if self.failed == self.tried >= FAILURES_IN_A_ROW:
            raise ForecastError(f"none of its first {self.tried} fits came off, {self.why}")


@dataclass(frozen=True)
class Each:
    """A model that is fitted to each series at each origin; where it fails it takes the last value."""

    name: str
    one: One
    seasonal: bool = False
    fits: Fits = field(default_factory=Fits)

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        """Forecast one series after the other."""
        season = DAY_S / history.step_s if self.seasonal else 1.0
        if season > MOST_SEASON:
            raise ForecastError(f"a season of {season:,.0f} steps takes it half a minute to two a series")
        rps = np.stack([self._row(row, steps, levels, season) for row in filled(history.counts)])
        rps = np.sort(np.maximum(rps, 0.0), axis=1) / history.step_s
        return Forecast(
            history.services, history.end_s, history.step_s, tuple(levels), rps, self.name, history.step_s * MOST_STEPS
        )

    def _row(self, row: Array, steps: int, levels: Sequence[float], season: float) -> Array:
        row = row[-max(MOST_STEPS, round(14 * season)) :] if self.seasonal else row[-MOST_STEPS:]
        found, problem = np.full((len(levels), steps), np.nan), None
        try:
            with _silent():
                found = np.asarray(self.one(row, steps, levels, season), np.float64)
        except Exception as raised:
            problem = raised
        self.fits.count(problem)
        return np.where(np.isfinite(found), found, row[-1])


def filled(counts: Array) -> Array:
    """Carry the last value over gaps: few peers can do without."""
    known = np.isfinite(counts)
    place = np.maximum.accumulate(np.where(known, np.arange(counts.shape[1]), -1), axis=1)
    first = np.argmax(known, axis=1)
    return np.take_along_axis(counts, np.where(place < 0, first[:, None], place), axis=1)


def _normal(mean: Array, deviation: Array, levels: Sequence[float]) -> Array:
    return mean[None] + special.ndtri(np.asarray(levels))[:, None] * deviation[None]


# statsmodels ----------------------------------------------------------------------------------------------------------


def _ets(row: Array, steps: int, levels: Sequence[float], season: float) -> Array:
    import pandas as pd
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    fitted = ETSModel(pd.Series(row), error="add", trend="add", damped_trend=True).fit(disp=False)
    made = fitted.get_prediction(start=len(row), end=len(row) + steps - 1)
    return _normal(np.asarray(made.predicted_mean), np.sqrt(np.asarray(made.forecast_variance)), levels)


def _stl_arima(row: Array, steps: int, levels: Sequence[float], season: float) -> Array:
    from statsmodels.tsa.arima.model import ARIMA
    from statsmodels.tsa.forecasting.stl import STLForecast

    made = STLForecast(row, ARIMA, model_kwargs={"order": (1, 1, 1)}, period=round(season)).fit().get_prediction(
        len(row), len(row) + steps - 1
    )  # fmt: skip
    return _normal(np.asarray(made.predicted_mean), np.asarray(made.se_mean), levels)


# statsforecast --------------------------------------------------------------------------------------------------------


def _statsforecast(make: Callable[[int], Any]) -> One:
    def one(row: Array, steps: int, levels: Sequence[float], season: float) -> Array:
        widths = sorted({round(abs(2 * level - 1) * 100, 6) for level in levels if level != 0.5})
        made = make(max(1, round(season))).forecast(y=row, h=steps, level=widths)
        bands = {0.5: made["mean"]}
        for level in levels:
            if level != 0.5:
                width = round(abs(2 * level - 1) * 100, 6)
                bands[level] = made[f"{'hi' if level > 0.5 else 'lo'}-{width}"]
        return np.stack([bands[level] for level in levels])

    return one


def _stats(kind: str, **how: Any) -> One:
    def make(season: int) -> Any:
        from statsforecast import models

        if kind == "MSTL":
            return models.MSTL(season_length=season, trend_forecaster=models.AutoETS(model="ZZN"))
        return getattr(models, kind)(season_length=season, **how)

    return _statsforecast(make)


# Prophet --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProphetPeer:
    """Prophet with a day and a week; its quantiles are those of its own samples."""

    name: str = "prophet"
    fits: Fits = field(default_factory=Fits)

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        """Fit and forecast each series."""
        import pandas as pd
        from prophet import Prophet

        begin = datetime.fromtimestamp(history.start_s, UTC).replace(tzinfo=None)
        length = min(history.counts.shape[1], max(MOST_STEPS, round(14 * DAY_S / history.step_s)))
        when = [begin + timedelta(seconds=history.step_s * n) for n in range(history.counts.shape[1] + steps)]
        rows = []
        for row in history.counts[:, -length:]:
            frame = pd.DataFrame({"ds": when[history.counts.shape[1] - length : history.counts.shape[1]], "y": row})
            problem = None
            try:
                with _silent():
                    model = Prophet(daily_seasonality=True, weekly_seasonality=True, uncertainty_samples=200)
                    model.fit(frame)
                    ahead = pd.DataFrame({"ds": when[-steps:]})
                    drawn = model.predictive_samples(ahead)["yhat"]
                rows.append(np.quantile(drawn, levels, axis=1))
            except Exception as raised:
                problem = raised
                rows.append(np.full((len(levels), steps), filled(row[None])[0, -1]))
            self.fits.count(problem)
        rps = np.sort(np.maximum(np.stack(rows), 0.0), axis=1) / history.step_s
        return Forecast(
            history.services, history.end_s, history.step_s, tuple(levels), rps, self.name, length * history.step_s
        )


# LightGBM -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LightGbmPeer:
    """One global gradient-boosted model for each quantile over all series, trained once before the first origin.

    It learns from `beside` too: series of other groups with the same step, up to their own first origins. It is direct:
    the number of steps ahead is a feature beside the last values, the same time of the last days, level and spread of
    the last hour and day, and the time of day. Targets and features are in units of the level.
    """

    name: str = "lightgbm"
    beside: tuple[Load, ...] = ()
    rows: int = 60_000
    seed: int = 1

    def fitted(self, history: Load) -> Forecaster:
        """Train on random origins of the history."""
        return _Untrained(self, history)

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        """Refuse: it is `fitted` that gives what can forecast."""
        raise ForecastError("lightgbm must be trained first")


@dataclass
class _Untrained:
    """Trains when it hears which steps and levels are asked for."""

    peer: LightGbmPeer
    history: Load
    models: dict[float, Any] | None = None

    @property
    def name(self) -> str:
        """Return the peer's name."""
        return self.peer.name

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        """Forecast all series at once."""
        if self.models is None:
            self.models = self._train(steps, levels)
        counts = filled(history.counts)
        number, length = counts.shape
        unit = _unit(counts, length)
        ahead = np.tile(np.arange(1, steps + 1), number)
        series = np.repeat(np.arange(number), steps)
        x = _features(counts, series, np.full(len(ahead), length), ahead, history)
        rows = [self.models[level].predict(x).reshape(number, steps) * unit[:, None] for level in levels]
        rps = np.sort(np.maximum(np.stack(rows, axis=1), 0.0), axis=1) / history.step_s
        return Forecast(
            history.services, history.end_s, history.step_s, tuple(levels), rps, self.name, history.step_s * length
        )

    def _train(self, steps: int, levels: Sequence[float]) -> dict[float, Any]:
        import lightgbm

        rng, histories = np.random.default_rng(self.peer.seed), (self.history, *self.peer.beside)
        series = sum(len(h.services) for h in histories)
        drawn = [self._rows(h, steps, self.peer.rows * len(h.services) // series, rng) for h in histories]
        x, y = np.concatenate([x for x, _ in drawn]), np.concatenate([y for _, y in drawn])
        found = {}
        for level in levels:
            with _silent():
                how = {
                    "objective": "quantile", "alpha": level, "num_leaves": 31, "learning_rate": 0.08,
                    "num_threads": 1, "verbose": -1, "seed": self.peer.seed,
                }  # fmt: skip
                found[level] = lightgbm.train(how, lightgbm.Dataset(x, y), num_boost_round=150)
        return found

    def _rows(self, history: Load, steps: int, number: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw features and targets from one history."""
        counts = filled(history.counts)
        length = counts.shape[1]
        first = min(round(DAY_S / history.step_s) + 1, length // 3)
        origin = rng.integers(first, length, number)
        ahead = np.rint(np.exp(rng.uniform(0, np.log(steps + 0.5), number))).astype(np.int64)
        series = rng.integers(0, len(counts), number)
        target_at = origin + ahead - 1
        kept = target_at < length
        kept[kept] &= np.isfinite(history.counts[series[kept], target_at[kept]])
        origin, ahead, series, target_at = origin[kept], ahead[kept], series[kept], target_at[kept]
        x = _features(counts, series, origin, ahead, history)
        return x, history.counts[series, target_at] / _units(counts, series, origin)


def _unit(counts: Array, length: int) -> Array:
    return _units(counts, np.arange(len(counts)), np.full(len(counts), length))


def _units(counts: Array, series: NDArray[np.int64], origin: NDArray[np.int64]) -> Array:
    """Return the mean of everything before each origin, the unit of what is learned."""
    total = np.concatenate((np.zeros((len(counts), 1)), np.cumsum(counts, axis=1)), axis=1)
    mean = total[series, origin] / np.maximum(origin, 1)
    return np.maximum(mean, 1e-9)


def _features(
    counts: Array, series: NDArray[np.int64], origin: NDArray[np.int64], ahead: NDArray[np.int64], load: Load
) -> Array:
    day = round(DAY_S / load.step_s)
    unit = _units(counts, series, origin)
    total = np.concatenate((np.zeros((len(counts), 1)), np.cumsum(counts, axis=1)), axis=1)

    def at(place: NDArray[np.int64]) -> Array:
        return np.where(place >= 0, counts[series, np.clip(place, 0, counts.shape[1] - 1)] / unit, np.nan)

    def mean(width: int) -> Array:
        low = np.maximum(origin - width, 0)
        return (total[series, origin] - total[series, low]) / np.maximum(origin - low, 1) / unit

    target = origin + ahead - 1
    seconds = load.start_s + target * load.step_s
    columns = [np.log1p(ahead), at(origin - 1), at(origin - 2), at(origin - 3)]
    columns += [mean(width) for width in sorted({3, 6, max(2, day // 24), max(3, day)})]
    for days in (1, 2, 7):
        back = target - days * day * np.maximum(1, -(-ahead // (days * day)))
        columns += [at(back), at(origin - 1 - days * day)]
    columns += [np.sin(seconds / DAY_S * 2 * np.pi), np.cos(seconds / DAY_S * 2 * np.pi), seconds // DAY_S % 7]
    return np.stack(columns, axis=1)


def _imports(package: str) -> bool:
    try:
        with _silent():
            import_module(package)
    except ImportError:
        return False
    return True


def peers(names: Sequence[str] = ()) -> tuple[list[Forecaster], list[str]]:
    """Return the peers that are installed, and the packages that are not; `names` picks some."""
    known: list[tuple[str, Forecaster]] = [
        ("statsmodels", Each("statsmodels-ets", _ets)),
        ("statsmodels", Each("statsmodels-stl-arima", _stl_arima, seasonal=True)),
        ("statsforecast", Each("statsforecast-ets", _stats("AutoETS", model="ZZN"))),
        ("statsforecast", Each("statsforecast-arima", _stats("AutoARIMA"))),
        ("statsforecast", Each("statsforecast-theta", _stats("DynamicOptimizedTheta"), seasonal=True)),
        ("statsforecast", Each("statsforecast-mstl", _stats("MSTL"), seasonal=True)),
        ("lightgbm", LightGbmPeer()),
        ("prophet", ProphetPeer()),
    ]
    missing = sorted({package for package, _ in known if not _imports(package)})
    found = [peer for package, peer in known if package not in missing]
    return [peer for peer in found if not names or peer.name in names], missing
