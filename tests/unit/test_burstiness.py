"""The index of dispersion by window, and what is expected of it."""

from __future__ import annotations

import numpy as np
import pytest

from partita.errors import ForecastError
from partita.forecasting.burstiness import (
    Dispersion,
    dispersion_by_window,
    dispersion_loss,
    forecast_dispersion,
    naive_dispersion,
)
from partita.model.load import Load

NAN = np.nan
DAYS, STEP_S, HOUR_S = 4, 10.0, 3600.0
STEPS = DAYS * 8640


def cycle() -> np.ndarray:
    return 300 + 250 * np.sin(np.arange(STEPS) / 8640 * 2 * np.pi)


def clumped(rng: np.random.Generator, rate: np.ndarray, index: float) -> np.ndarray:
    """Draw counts whose variance is `index` times their mean: negative binomial, r = mean / (index - 1)."""
    return rng.negative_binomial(rate / (index - 1), 1 / index).astype(float)


def load(*series: np.ndarray, start_s: float = 0.0) -> Load:
    return Load(tuple(f"s{n}" for n in range(len(series))), start_s, STEP_S, np.stack(series))


def test_poisson_is_one_and_bursts_are_what_they_are_whatever_the_cycle() -> None:
    rng = np.random.default_rng(3)
    found = dispersion_by_window(load(rng.poisson(cycle()).astype(float), clumped(rng, cycle(), 6.0)), HOUR_S)
    assert found.index.shape == (2, DAYS * 24)
    # 96 windows of 357 degrees of freedom: the standard error of the mean is sqrt(2/357/96) = 0.8 %.
    np.testing.assert_allclose(found.index.mean(axis=1), [1.0, 6.0], rtol=0.05)


def test_bursts_that_last_some_steps_stay_in() -> None:
    # Within every five minutes the rate is 20 for 40 s and 5 for the rest: mean 7, variance between 29.
    rate = np.tile(np.repeat([20.0, 5.0], [4, 26]), 12)
    found = dispersion_by_window(load(np.tile(rate, 3)), HOUR_S)
    between = ((rate - 7) ** 2).mean() * 360 / 357
    np.testing.assert_allclose(found.index[0], between / 7, rtol=0.02)


def test_a_trend_is_no_burst() -> None:
    steps = np.arange(360.0)
    found = dispersion_by_window(load(100 + steps + steps**2 / 100), HOUR_S)
    assert found.index[0, 0] == pytest.approx(0.0, abs=1e-9)


def test_odd_windows() -> None:
    rng = np.random.default_rng(5)
    whole = rng.poisson(50.0, 720).astype(float)
    gappy, silent, few, gone = whole.copy(), np.zeros(720), np.zeros(720), np.full(720, NAN)
    gappy[::3] = NAN
    few[5] = 3.0
    found = dispersion_by_window(load(whole, gappy, silent, few, gone), HOUR_S).index
    assert np.isfinite(found[:2]).all()
    np.testing.assert_allclose(found[1], 1.0, atol=0.35)
    assert np.isnan(found[2:]).all()
    skewed = dispersion_by_window(load(whole, start_s=1800.0), HOUR_S)
    assert (skewed.start_s, skewed.index.shape) == (3600.0, (1, 1))
    assert dispersion_by_window(load(whole[:5]), HOUR_S).index.shape == (1, 0)
    for wrong in (60.0, 3605.0):
        with pytest.raises(ForecastError, match="must be 8 or more whole steps"):
            dispersion_by_window(load(whole), wrong)


def indices(*rows: np.ndarray, window_s: float = HOUR_S) -> Dispersion:
    return Dispersion(tuple(f"s{n}" for n in range(len(rows))), 0.0, window_s, STEP_S, np.stack(rows))


def test_nights_that_are_bursty_are_foretold_better_than_by_the_last_hour() -> None:
    rng = np.random.default_rng(9)
    hours = np.arange(10 * 24)
    swing = np.where(hours % 6 < 3, 8.0, 1.5) * np.exp(rng.normal(0, 0.1, len(hours)))
    still = np.exp(rng.normal(0.5, 0.3, len(hours)))
    made, naive = losses(indices(swing, still))
    assert made[0] < 0.6 * naive[0]
    assert made[1] < 0.9 * naive[1]  # the mean of many noisy ones beats the last


def losses(measured: Dispersion) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for origin in range(200, measured.index.shape[1]):
        past, came = measured.until(origin), measured.index[:, origin]
        found.append([dispersion_loss(how(past), came) for how in (forecast_dispersion, naive_dispersion)])
    return tuple(np.mean(found, axis=0))


def test_quantiles_cover_what_they_say() -> None:
    rng = np.random.default_rng(2)
    measured = indices(*(np.exp(rng.normal(1.0, 0.4, 300)) for _ in range(20)))
    covered = [
        measured.index[:, origin] <= forecast_dispersion(measured.until(origin), levels=(0.5, 0.95)).index.T
        for origin in range(200, 300, 5)
    ]
    half, most = np.mean(covered, axis=(0, 2))  # 400 forecasts: standard errors of 2.5 % and 1.1 %
    assert half == pytest.approx(0.5, abs=0.08)
    assert most == pytest.approx(0.95, abs=0.04)


def test_cold_starts_say_so() -> None:
    gone = np.full(3, NAN)
    one = np.array([NAN, 2.0, NAN])
    even = np.zeros(3)
    found = forecast_dispersion(indices(gone, one, even), levels=(0.05, 0.5, 0.95))
    assert np.isnan(found.index[0]).all()
    assert found.index[1, 1] == pytest.approx(2.0)
    assert found.index[1, 0] < 2.0 < found.index[1, 2]
    assert (found.index[2] > 0).all()
    assert found.basis[:2] == ("no window with enough requests yet", "1 window only: no error is known yet")
    nothing = forecast_dispersion(Dispersion(("a",), 0.0, HOUR_S, STEP_S, np.zeros((1, 0))))
    assert np.isnan(nothing.index).all()
    assert np.isnan(naive_dispersion(indices(gone)).index).all()
