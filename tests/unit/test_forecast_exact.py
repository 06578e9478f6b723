"""Forecasts of series whose future is certain, and of histories that say too little."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from partita.errors import ForecastError
from partita.forecasting import FORECASTERS, LEVELS, SeasonalNaive, Smoothing
from partita.forecasting.quantiles import error_quantiles, horizons, make_forecast, poisson_quantiles, spread
from partita.model.load import Forecast, Load
from partita.ports import Forecaster

SMOOTHING, SEASONAL = Smoothing(), SeasonalNaive()
DAY = 144  # steps of ten minutes


def load(*rows: NDArray[np.float64] | list[float], step_s: float = 10.0) -> Load:
    counts = np.array(rows, dtype=np.float64)
    return Load(tuple(f"s{i}" for i in range(len(rows))), 1000.0, step_s, counts)


def median(forecaster: Forecaster, history: Load, steps: int) -> NDArray[np.float64]:
    """Return the median in requests a step."""
    forecast = forecaster.forecast(history, steps=steps, levels=LEVELS)
    return median_of(forecast)


def median_of(forecast: Forecast) -> NDArray[np.float64]:
    return forecast.rps[:, LEVELS.index(0.5)] * forecast.step_s


@pytest.mark.parametrize("forecaster", FORECASTERS, ids=lambda f: f.name)
@pytest.mark.parametrize("steps", [2, 5, 40])
def test_a_constant_stays_and_its_scatter_is_poissons(forecaster: Forecaster, steps: int) -> None:
    history = load([25.0] * steps, [0.0] * steps)
    forecast = forecaster.forecast(history, steps=6, levels=LEVELS)
    assert forecast.rps[0, LEVELS.index(0.5)] * 10 == pytest.approx([25.0] * 6)
    # nothing was ever wrong, so only the floor is left: Poisson quantiles, to within one request
    exact = stats.poisson.ppf(LEVELS, 25.0)
    for i in np.flatnonzero(np.array(LEVELS) != 0.5):
        assert forecast.rps[0, i] * 10 == pytest.approx([exact[i]] * 6, abs=1.0)
    assert not forecast.rps[1].any()


def test_smoothing_follows_a_line() -> None:
    line = 100 + 3.0 * np.arange(60)
    found = median(SMOOTHING, load(line, line[::-1]), 6)
    assert found[0] == pytest.approx(100 + 3.0 * np.arange(60, 66))
    assert found[1] == pytest.approx(100 - 3.0 * np.arange(1, 7))


def test_smoothing_follows_a_line_through_missing_steps() -> None:
    line = 100 + 3.0 * np.arange(60)
    line[[0, 7, 8, 20, 45, 59]] = np.nan
    assert median(SMOOTHING, load(line), 3)[0] == pytest.approx(100 + 3.0 * np.arange(60, 63))


def test_missing_is_not_zero() -> None:
    for forecaster in FORECASTERS:
        holes = np.full(40, 50.0)
        holes[[3, 17, 18, 19, 38, 39]] = np.nan
        assert median(forecaster, load(holes), 3)[0] == pytest.approx([50.0] * 3)


def test_smoothing_takes_to_a_new_level_within_its_window() -> None:
    jump = np.concatenate([np.full(200, 10.0), np.full(40, 1000.0)])
    assert median(SMOOTHING, load(jump), 6)[0] == pytest.approx([1000.0] * 6, rel=0.01)


def test_smoothing_learns_a_trend_that_began_late() -> None:
    bend = np.concatenate([np.full(60, 100.0), 100 + 5.0 * np.arange(1, 121)])
    # without a trend the sixth step would be 30 short
    assert median(SMOOTHING, load(bend), 6)[0] == pytest.approx(700 + 5.0 * np.arange(1, 7), abs=2.0)


def test_the_past_before_the_window_is_forgotten() -> None:
    rng = np.random.default_rng(5)
    late = rng.poisson(20.0, 360).astype(float)
    early = [rng.poisson(mean, 100).astype(float) for mean in (3.0, 900.0)]
    one, other = (SMOOTHING.forecast(load(np.concatenate([e, late])), steps=3, levels=LEVELS) for e in early)
    assert np.array_equal(one.rps, other.rps)


def test_seasonal_repeats_a_day_with_its_drift() -> None:
    time = np.arange(3 * DAY)
    wave = 500 + 300 * np.sin(2 * np.pi * time / DAY) + 0.5 * time
    ahead = np.arange(3 * DAY, 5 * DAY)
    future = 500 + 300 * np.sin(2 * np.pi * ahead / DAY) + 0.5 * ahead
    # two days ahead: the drift of 72 a day is carried twice on the second
    assert median(SEASONAL, load(wave, step_s=600.0), 2 * DAY)[0] == pytest.approx(future)


def test_seasonal_finds_the_week_where_days_differ() -> None:
    time = np.arange(15 * DAY)
    weekend = np.where((time // DAY) % 7 >= 5, 0.2, 1.0)
    wave = (500 + 300 * np.sin(2 * np.pi * time / DAY)) * weekend
    history, truth = wave[: 14 * DAY], wave[14 * DAY :]
    forecast = SEASONAL.forecast(load(history, step_s=600.0), steps=DAY, levels=LEVELS)
    assert median_of(forecast)[0] == pytest.approx(truth)
    assert forecast.model == "seasonal naive with drift: 0 by day, 1 by week, 0 by level"


def test_no_cycle_is_found_where_there_is_none() -> None:
    walk = 1000 + np.random.default_rng(3).normal(0, 10, (20, 3 * DAY)).cumsum(axis=1)
    forecast = SEASONAL.forecast(load(*walk, step_s=600.0), steps=6, levels=LEVELS)
    assert forecast.model.startswith("seasonal naive with drift: 0 by day, 20 by level, whose recent error")
    assert median_of(forecast) == pytest.approx(np.repeat(walk[:, -3:].mean(axis=1)[:, None], 6, axis=1), abs=60)


def test_a_day_is_not_judged_before_it_is_over() -> None:
    wave = 500 + 300 * np.sin(2 * np.pi * np.arange(2 * DAY) / DAY)
    early = SEASONAL.forecast(load(wave[: DAY + 7], step_s=600.0), steps=6, levels=LEVELS)
    assert early.model == "level: a history of 1.05 days is too short to judge a daily cycle"
    later = SEASONAL.forecast(load(wave[: DAY + 8], step_s=600.0), steps=6, levels=LEVELS)
    assert later.model == "seasonal naive with drift: 1 by day, 0 by level"


def test_a_season_with_holes_falls_back_on_the_level_there() -> None:
    wave = 500 + 300 * np.sin(2 * np.pi * np.arange(3 * DAY) / DAY)
    holed = wave.copy()
    holed[2 * DAY + 5] = np.nan
    found = median(SEASONAL, load(holed, step_s=600.0), 10)[0]
    assert np.delete(found, 5) == pytest.approx(np.delete(wave[:10], 5))
    assert found[5] == pytest.approx(wave[-3:].mean())


def test_a_step_that_does_not_divide_the_day_has_no_season() -> None:
    history = load(np.full(30_000, 5.0), step_s=7.0)
    assert SEASONAL.forecast(history, steps=2, levels=LEVELS).model.startswith("level")


@pytest.mark.parametrize("forecaster", FORECASTERS, ids=lambda f: f.name)
@pytest.mark.parametrize("row", [[], [5.0], [np.nan, 5.0, np.nan]])
def test_too_short_a_history_is_refused_by_name(forecaster: Forecaster, row: list[float]) -> None:
    measured = int(np.isfinite(row).sum())
    counts = np.array([[1.0] * len(row), row])
    if len(row) < 2:
        counts = np.array([row, row])
    with pytest.raises(ForecastError, match=f"has {measured} measured steps of 10 s, a forecast needs 2"):
        forecaster.forecast(Load(("a", "b"), 0.0, 10.0, counts), steps=3, levels=LEVELS)


@pytest.mark.parametrize("forecaster", FORECASTERS, ids=lambda f: f.name)
def test_a_forecast_says_what_it_is(forecaster: Forecaster) -> None:
    history = load([1.0, 2.0, 4.0], [3.0, 3.0, 3.0])
    forecast = forecaster.forecast(history, steps=4, levels=(0.5, 0.9))
    assert (forecast.services, forecast.made_at_s, forecast.step_s) == (("s0", "s1"), 1030.0, 10.0)
    assert (forecast.levels, forecast.rps.shape, forecast.history_s) == ((0.5, 0.9), (2, 2, 4), 30.0)
    assert forecast.model


def test_error_quantiles_stand_at_their_share_of_one_more_error() -> None:
    # of 99 errors 1..99 the i-th stands for i/100
    errors = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))[None, :]
    assert error_quantiles(errors, (0.05, 0.5, 0.99))[0] == pytest.approx([5, 50, 99])
    # beyond the largest there is no telling: it stays the largest
    assert error_quantiles(errors[:, :49], (0.999,))[0] == pytest.approx(errors[:, :49].max(axis=1))


def test_few_errors_are_made_symmetric_and_missing_ones_left_out() -> None:
    errors = np.array([[3.0, np.nan, 1.0, np.nan], [np.nan] * 4])
    found = error_quantiles(errors, (0.2, 0.5, 0.8))
    # -3, -1, 1, 3 stand for 0.2, 0.4, 0.6, 0.8
    assert found[0] == pytest.approx([-3, 0, 3])
    assert np.isnan(found[1]).all()


def test_quantiles_that_cross_are_put_in_order() -> None:
    # a model that always fell 100 short of a mean of 25: its median lies above Poisson's upper quantiles, its P5 too
    offsets = np.full((1, len(LEVELS), 1), 100 / np.sqrt(26.0))
    median = LEVELS.index(0.5)
    forecast = make_forecast(
        load([25.0]), np.array([[25.0]]), offsets, levels=LEVELS, model="short of it", used_steps=1
    )
    counts = forecast.rps[0, :, 0] * 10
    assert (np.diff(counts) >= 0).all()
    assert counts[median:] == pytest.approx([125.0] * (len(LEVELS) - median))
    falling = np.linspace(20, -20, len(LEVELS))[None, :, None]
    backwards = make_forecast(load([25.0]), np.array([[25.0]]), falling, levels=LEVELS, model="", used_steps=1)
    assert (np.diff(backwards.rps, axis=1) >= 0).all()


def test_spread_is_linear_between_horizons_and_grows_with_the_root_beyond() -> None:
    quantiles = [np.array([[1.0]]), np.array([[3.0]])]
    found = spread(np.array([1, 5]), quantiles, 20)[0, 0]
    assert found[[0, 2, 4, 19]] == pytest.approx([1.0, 2.0, 3.0, 3.0 * 2.0])
    # a horizon without errors takes those of the one before
    assert spread(np.array([1, 5]), [quantiles[0], np.array([[np.nan]])], 5)[0, 0] == pytest.approx([1.0] * 5)


def test_horizons_leave_errors_to_learn_from() -> None:
    assert horizons(6, 180).tolist() == [1, 2, 4, 6]
    assert horizons(100, 20).tolist()[-1] == 12  # eight errors at a horizon of twelve steps
    assert horizons(6, 2).tolist() == [1]


def test_poisson_quantiles_are_those_of_scipy() -> None:
    means = np.array([0.0, 0.01, 0.5, 3.0, 40.0, 199.0, 201.0, 5000.0])
    for found, level in zip(poisson_quantiles(means, LEVELS), LEVELS, strict=True):
        assert found == pytest.approx(stats.poisson.ppf(level, means), abs=1.0)
