"""Models fitted to each service by itself: what they find, what they say of themselves, and what they never do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from partita.controller.models import choose_models, known_models
from partita.errors import ConfigError, ForecastError
from partita.forecasting import LEVELS, STATISTICAL, PerService
from partita.forecasting.each import Fit, Row, forecast_each
from partita.forecasting.statistical import ORDERS, Ets, Mstl, Sarimax, fit_ets, fit_sarimax
from partita.forecasting.statsforecast_models import ALL, installed
from partita.model.load import Forecast, Load
from partita.ports import Forecaster

HOUR_S, DAY = 3600.0, 24
nan = float("nan")
OWN = (Ets(), Sarimax(), Mstl())
EACH = pytest.mark.parametrize("forecaster", OWN, ids=lambda f: f.name)


def load(*rows: Sequence[float] | NDArray[np.float64], step_s: float = HOUR_S) -> Load:
    return Load(tuple(f"s{i}" for i in range(len(rows))), 0.0, step_s, np.array(rows, dtype=np.float64))


def median(forecast: Forecast) -> NDArray[np.float64]:
    return forecast.rps[:, LEVELS.index(0.5)] * forecast.step_s


def wave(days: int) -> NDArray[np.float64]:
    return 500 * (1 + 0.5 * np.sin(2 * np.pi * np.arange(days * DAY) / DAY))


@EACH
def test_a_daily_cycle_is_found(forecaster: Forecaster) -> None:
    truth = wave(9)
    history = truth[: 8 * DAY] + np.random.default_rng(1).normal(0, 20, 8 * DAY)
    history[[30, 31, 32, 100]] = nan
    found = forecaster.forecast(load(history), steps=DAY, levels=LEVELS)
    missed = np.abs(median(found)[0] - truth[8 * DAY :]).mean()
    assert missed < 0.1 * np.abs(history[-1] - truth[8 * DAY :]).mean()
    assert found.model.endswith(("a daily season", "waves", "with day, week", "with day"))


@pytest.mark.parametrize("forecaster", [Ets(), Mstl()], ids=lambda f: f.name)
def test_a_trend_is_followed(forecaster: Forecaster) -> None:
    line = 100 + 5.0 * np.arange(100) + np.random.default_rng(2).normal(0, 2, 100)
    found = median(forecaster.forecast(load(line, step_s=7.0), steps=5, levels=LEVELS))[0]
    # damped, it falls a little short of 600, 605, …; the last value would be 15 away in the mean
    assert np.abs(found - (600 + 5.0 * np.arange(5))).mean() < 6


@EACH
def test_a_walk_has_no_cycle(forecaster: Forecaster) -> None:
    walk = 1000 + np.random.default_rng(3).normal(0, 10, 8 * DAY).cumsum()
    found = median(forecaster.forecast(load(walk), steps=6, levels=LEVELS))[0]
    assert found == pytest.approx([walk[-1]] * 6, abs=20)  # two steps of the walk


@EACH
def test_quantiles_cover_what_they_say(forecaster: Forecaster) -> None:
    """AR(1) noise about a mean: 20 services, three steps ahead, 60 outcomes a level."""
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 20, (20, 160))
    for step in range(1, 160):
        noise[:, step] += 0.7 * noise[:, step - 1]
    counts = 500 + noise
    forecast = forecaster.forecast(load(*counts[:, :157], step_s=7.0), steps=3, levels=(0.05, 0.5, 0.95))
    below = (counts[:, None, 157:] <= forecast.rps * 7.0).mean(axis=(0, 2))
    assert below[0] < 0.2
    assert 0.3 < below[1] < 0.7
    assert 0.85 < below[2] <= 1.0
    # and not by being wide: what an AR(1) with 28 of deviation wanders, plus Poisson's floor of 22
    width = (forecast.rps[:, 2] - forecast.rps[:, 0]) * 7.0
    assert np.median(width) < 2 * 1.645 * 28 * 1.5


ODD = {
    "constant": [7.0] * 80,
    "silent": [0.0] * 80,
    "two": [nan] * 50 + [3.0] + [nan] * 28 + [9.0],
    "one burst": [0.0] * 60 + [1e12] + [0.0] * 19,
    "exploding": [1.3**n for n in range(80)],
    "holes": [nan, nan, 5.0, 6.0, nan] * 16,
    "jump": [10.0] * 40 + [1000.0] * 40,
    "far and flat": [1e12 + n % 2 for n in range(80)],
}


@EACH
def test_odd_series_give_sound_quantiles(forecaster: Forecaster) -> None:
    history = load(*ODD.values(), step_s=HOUR_S * 6)
    before = history.counts.copy()
    forecast = forecaster.forecast(history, steps=9, levels=LEVELS)
    assert forecast.rps.shape == (len(ODD), len(LEVELS), 9)
    assert np.isfinite(forecast.rps).all()
    assert (forecast.rps >= 0).all()
    assert (np.diff(forecast.rps, axis=1) >= 0).all()
    assert median(forecast)[:2] == pytest.approx(np.array([[7.0] * 9, [0.0] * 9]))
    assert "3 by the last value" in forecast.model or "4 by the last value" in forecast.model
    assert "1: fewer than 24 measured steps" in forecast.model
    assert np.array_equal(history.counts, before, equal_nan=True)


@EACH
def test_too_little_is_refused_by_name(forecaster: Forecaster) -> None:
    with pytest.raises(ForecastError, match="service s1 has 1 measured steps"):
        forecaster.forecast(load([1.0, 2.0, 3.0], [nan, 5.0, nan]), steps=2, levels=LEVELS)


def test_a_fit_that_fails_costs_only_its_own_service_the_model() -> None:
    def fitting(row: Row, steps: int) -> Fit:
        if row.counts[0] == 2.0:
            raise np.linalg.LinAlgError("singular")
        return fit_ets(row, steps)

    rng = np.random.default_rng(5)
    rows = [np.concatenate(([first], rng.poisson(50, 40))) for first in (1.0, 2.0, 1.0)]
    forecast = forecast_each(load(*rows, step_s=7.0), fitting, name="try", steps=2, levels=LEVELS)
    assert forecast.model == "try: 2 without a season, 1 by the last value (1: the fit raised LinAlgError)"
    assert median(forecast)[1] == pytest.approx([rows[1][-1]] * 2, abs=15)


def test_forecasts_from_the_past_are_those_of_the_library() -> None:
    """The path from the newest step is what the fitted library model itself forecasts."""
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    counts = np.random.default_rng(6).normal(0, 10, 80).cumsum() + 500
    fit = fit_sarimax(Row(counts, 0), 5)
    mean, unit = counts.mean(), counts.std()
    orders = {f"ARIMA{order}".replace(" ", ""): order for order in ORDERS}
    order = orders[fit.kind]
    model = SARIMAX((counts - mean) / unit, order=order, trend="n" if order[1] else "c", concentrate_scale=True)
    fitted = model.fit(disp=False, maxiter=50, cov_type="none")
    assert fit.now(5) == pytest.approx(mean + unit * fitted.forecast(5))
    # and from an origin in the past, that of the same parameters on what was known there
    early = model.clone(((counts - mean) / unit)[:60]).filter(fitted.params)
    assert fit.past(np.array([59]), 5)[0] == pytest.approx(mean + unit * early.forecast(5))


# One for each service -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Says:
    """Forecasts the last count of each service and its own number on top."""

    name: str
    number: float

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        rps = np.full((len(history.services), len(levels), steps), self.number)
        rps += history.counts[:, -1][:, None, None]
        return Forecast(
            history.services, history.end_s, history.step_s, tuple(levels), rps, f"{self.name} model", self.number
        )


def test_each_service_is_forecast_by_its_own() -> None:
    mixed = PerService(Says("a", 100.0), {"s1": Says("b", 200.0), "s3": Says("b", 200.0), "gone": Says("c", 1.0)})
    forecast = mixed.forecast(load([1.0], [2.0], [3.0], [4.0]), steps=2, levels=(0.5, 0.9))
    assert forecast.rps[:, 1, 1].tolist() == [101.0, 202.0, 103.0, 204.0]
    assert forecast.services == ("s0", "s1", "s2", "s3")
    assert forecast.model == "2 by a model; s1, s3 by b model"
    assert forecast.history_s == 200.0
    assert mixed.name == "a + b + c"


def test_one_for_all_is_that_one() -> None:
    alone = PerService(Says("a", 100.0)).forecast(load([1.0], [2.0]), steps=2, levels=(0.5,))
    assert (alone.model, alone.rps[:, 0, 0].tolist()) == ("a model", [101.0, 102.0])
    other = PerService(Says("a", 100.0), {"s0": Says("b", 0.0)}).forecast(load([1.0]), steps=1, levels=(0.5,))
    assert other.model == "s0 by b model"


# By name --------------------------------------------------------------------------------------------------------------


def test_they_can_be_named_and_say_what_they_are() -> None:
    known = known_models()
    assert {"ets", "sarimax", "mstl"} <= set(known)
    abouts = [known[model.name].about for model in STATISTICAL]
    assert all(abouts)
    assert len(set(abouts)) == len(abouts)


@pytest.mark.skipif(installed(), reason="statsforecast is installed")
@pytest.mark.parametrize("model", ALL, ids=lambda m: m.name)
def test_a_model_of_the_extra_names_it(model: Forecaster) -> None:
    assert model.name not in known_models()
    with pytest.raises(ConfigError, match=rf"{model.name} needs the extra: pip install 'partita\[statsforecast\]'"):
        choose_models([model.name], known_models())
    with pytest.raises(ConfigError, match="needs the extra"):
        model.forecast(load([1.0, 2.0]), steps=1, levels=LEVELS)


@pytest.mark.skipif(not installed(), reason="needs the extra [statsforecast]")
@pytest.mark.parametrize("model", ALL, ids=lambda m: m.name)
def test_models_of_the_extra_give_sound_quantiles(model: Forecaster) -> None:
    history = load(wave(6) + np.random.default_rng(7).normal(0, 20, 6 * DAY), np.zeros(6 * DAY))
    forecast = model.forecast(history, steps=12, levels=LEVELS)
    assert np.isfinite(forecast.rps).all()
    assert (np.diff(forecast.rps, axis=1) >= 0).all()
    assert "1 by the last value (1: constant)" in forecast.model
