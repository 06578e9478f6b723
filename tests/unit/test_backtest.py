"""The backtest: origins, errors at a horizon, and every score, worked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import pytest

from partita.errors import ForecastError
from partita.forecasting.backtest import (
    Backtest,
    Settings,
    backtest,
    choose_origins,
    geometric_mean,
    is_covered,
    scores,
    seasonal_scale,
)
from partita.forecasting.yardstick import DAILY_NAIVE, LAST_VALUE, Naive
from partita.model.load import Forecast, Load

NAN = np.nan
LEVELS = (0.5, 0.95)


def load(*rows: Sequence[float], step_s: float = 1.0) -> Load:
    return Load(tuple("abcdef"[: len(rows)]), 0.0, step_s, np.array(rows, np.float64))


@dataclass(frozen=True)
class Says:
    """Forecasts the same rates, whatever came."""

    rps: tuple[float, ...]
    name: str = "says"

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        row = np.array(self.rps)[None, :, None]
        return Forecast(
            history.services, history.end_s, history.step_s, tuple(levels),
            np.broadcast_to(row, (len(history.services), len(levels), steps)).copy(), self.name, 1.0,
        )  # fmt: skip


@dataclass(frozen=True)
class Learns:
    """Forecasts the mean of what it was trained on."""

    name: str = "learns"

    def fitted(self, history: Load) -> Says:
        mean = float(np.nanmean(history.counts))
        return Says((mean, mean), self.name)

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        raise AssertionError("it was never trained")


def run(series: Load, *models: object, horizons: tuple[float, ...] = (1.0,), **how: object) -> Backtest:
    return backtest(series, models, Settings(horizons, levels=LEVELS, **how))  # type: ignore[arg-type]


# Origins ------------------------------------------------------------------------------------------------------------


def test_origins_lie_in_the_last_fifth() -> None:
    series = load(np.ones(100))
    assert choose_origins(series, Settings((1.0, 5.0), origins=5)) == [80, 85, 90, 94, 99]
    assert choose_origins(series, Settings((1.0,), origins=1000)) == list(range(80, 100))


def test_origins_lie_in_the_last_week_of_a_long_series() -> None:
    series = load(np.ones(24 * 60), step_s=3600.0)  # 60 days by the hour: the last fifth is 12 days
    found = choose_origins(series, Settings((3600.0, 86_400.0), origins=8))
    assert found[0] == 24 * 53
    assert found[-1] == 24 * 60 - 1


def test_a_long_horizon_begins_earlier() -> None:
    assert choose_origins(load(np.ones(100)), Settings((1.0, 50.0), origins=2)) == [50, 99]


def test_every_origin_can_be_asked_to_have_room_after_it() -> None:
    series = load(np.ones(100))
    assert choose_origins(series, Settings((1.0, 10.0), origins=3, least_after=10)) == [80, 85, 90]
    assert choose_origins(series, Settings((1.0, 30.0), origins=3, least_after=30)) == [70]


@pytest.mark.parametrize(
    ("horizons", "message"),
    [
        ((1.0, 99.0), "the series holds 100 steps of 1 s, too few for a horizon of 99 s"),
        ((1.5,), "a horizon of 1.5 s is not a whole number of steps of 1 s"),
        ((0.5,), "a horizon of 0.5 s is not a whole number of steps"),
    ],
)
def test_a_horizon_that_cannot_be_scored_is_named(horizons: tuple[float, ...], message: str) -> None:
    with pytest.raises(ForecastError, match=message):
        choose_origins(load(np.ones(100)), Settings(horizons))


# Scores by hand -----------------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    # Ten steps, the last fifth is steps 8 and 9, which are 3 and 6; the forecast is a median of 4 and a P95 of 5.
    series = load([2, 4, 2, 4, 2, 4, 2, 4, 3, 6])
    found = run(series, Says((4.0, 5.0)))
    assert found.origins == (8, 9)
    got = scores(found, "says", 0)
    assert got.n[0] == 2
    assert got.wape[0] == pytest.approx((1 + 2) / 9)
    assert got.mase[0] == pytest.approx(1.5 / 2.0)  # one step earlier was wrong by 2 in every step before
    # Median: half of 1 and half of 2. P95: 3 lies 2 below, 0.05 x 2; 6 lies 1 above, 0.95 x 1.
    assert got.pinball[0] == pytest.approx([(0.5 + 1.0) / 2, (0.1 + 0.95) / 2])
    assert got.coverage[0] == pytest.approx([0.5, 0.5])
    # The naive one has no day of history: it takes the last value, 4 and 3, and is wrong by 1 and 3.
    assert got.wape_ratio[0] == pytest.approx((1.5 + 0.033) / (2.0 + 0.033))


def test_the_error_at_a_horizon_is_that_of_its_last_fifth() -> None:
    # One origin with ten steps after it: the last two of them count, the first eight do not.
    series = load([1.0] * 40 + [99.0] * 8 + [1.0, 3.0])
    found = backtest(series, [Says((1.0, 2.0))], Settings((10.0,), origins=1, levels=LEVELS))
    got = scores(found, "says", 0)
    assert (got.n[0], got.wape[0]) == (2, pytest.approx(2 / 4))


def test_only_origins_that_a_horizon_fits_after_count_for_it() -> None:
    found = run(load(np.ones(100)), Says((1.0, 1.0)), horizons=(1.0, 10.0), origins=20)
    steps = found.errors["says"].steps[:, :, 0]
    assert steps[0].tolist() == [1.0] * 20
    assert steps[1].tolist() == [2.0] * 11 + [0.0] * 9  # from step 91 on there are not ten left


def test_what_was_not_measured_does_not_count() -> None:
    found = run(load([2, 2, 2, 2, 2, 2, 2, 2, NAN, 6]), Says((4.0, 5.0)))
    got = scores(found, "says", 0)
    assert (got.n[0], got.wape[0]) == (1, pytest.approx(2 / 6))
    nothing = scores(run(load([2, 2, 2, 2, 2, 2, 2, 2, NAN, NAN]), Says((4.0, 5.0))), "says", 0)
    assert nothing.n[0] == 0
    assert np.isnan(nothing.wape[0])
    assert np.isnan(nothing.pinball).all()


def test_the_season_is_a_day_where_two_days_are_there() -> None:
    hours = np.tile(np.arange(24.0), 3)
    assert seasonal_scale(load(hours, step_s=3600.0))[0] == 0.0
    assert seasonal_scale(load(hours[:47], step_s=3600.0))[0] == pytest.approx((45 + 23) / 46 / 3600)


def test_a_ratio_to_itself_is_one() -> None:
    rng = np.random.default_rng(1)
    series = load(rng.poisson(20, 24 * 20), rng.poisson(3, 24 * 20), step_s=3600.0)
    found = run(series, DAILY_NAIVE, horizons=(3600.0, 86_400.0))
    for horizon in (0, 1):
        got = scores(found, "daily-naive", horizon)
        assert got.wape_ratio == pytest.approx(1.0)
        assert got.pinball_ratio == pytest.approx(1.0)


def test_geometric_mean_leaves_out_what_says_nothing() -> None:
    assert geometric_mean(np.array([0.5, 2.0, NAN])) == pytest.approx(1.0)
    assert geometric_mean(np.array([[0.25, NAN], [1.0, NAN]]))[0] == pytest.approx(0.5)
    assert np.isnan(geometric_mean(np.array([NAN])))


# Coverage -----------------------------------------------------------------------------------------------------------


def test_bins_where_nothing_is_expected_and_nothing_comes_do_not_count() -> None:
    series = load([0, 1, 0, 1, 0, 1, 0, 1, 0, 0])
    got = scores(run(series, Says((0.0, 1.0))), "says", 0)
    assert got.counted[0].tolist() == [0, 2]
    assert np.isnan(got.coverage[0, 0])
    assert got.coverage[0, 1] == 1.0


def test_a_tie_stands_for_a_level_between_its_neighbours() -> None:
    came = np.array([[2.0]])
    expected = np.array([[[1.0], [2.0], [2.0], [3.0]]])
    levels = (0.2, 0.5, 0.8, 0.9)
    # 2 stands for a level between 0.2 and 0.9; a draw of 0 is the lowest, of 1 the highest.
    assert is_covered(came, expected, levels, np.array([[0.0]]))[0, :, 0].tolist() == [True, True, True, True]
    assert is_covered(came, expected, levels, np.array([[0.5]]))[0, :, 0].tolist() == [False, False, True, True]
    assert is_covered(came, expected, levels, np.array([[0.99]]))[0, :, 0].tolist() == [False, False, False, True]


def test_true_quantiles_of_few_requests_are_covered_as_they_say() -> None:
    from scipy import stats

    rng = np.random.default_rng(4)
    levels = tuple(np.linspace(0.02, 0.98, 49).tolist())
    came = rng.poisson(2.0, (1, 20_000)).astype(float)
    expected = np.broadcast_to(stats.poisson.ppf(levels, 2.0)[None, :, None], (1, len(levels), came.shape[1]))
    covered = is_covered(came, expected, levels, rng.random(came.shape))[0].mean(axis=1)
    assert np.abs(covered - levels).max() < 0.03
    plainly = (came[:, None] <= expected)[0].mean(axis=1)
    assert np.abs(plainly - levels).max() > 0.2  # what the draw is there for


def test_the_same_seed_draws_the_same() -> None:
    series = load(np.random.default_rng(2).poisson(1.0, 200))
    says = Says((1.0, 2.0))
    first, again, other = (scores(run(series, says, seed=s), "says", 0).coverage for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


# Models -------------------------------------------------------------------------------------------------------------


def test_a_model_is_trained_once_before_the_first_origin() -> None:
    found = run(load([1.0] * 80 + [5.0] * 20), Learns())
    assert scores(found, "learns", 0).wape[0] == pytest.approx(4 / 5)  # trained on ones only


def test_times_are_those_of_the_clock_given() -> None:
    ticks = count()
    settings = Settings((1.0,), origins=4, levels=LEVELS)
    models = [Says((1.0, 1.0)), Learns()]
    found = backtest(load(np.ones(100)), models, settings, clock=lambda: float(next(ticks)))
    assert found.fit_s == {"says": 0.0, "learns": 1.0}
    assert found.predict_s == {"says": 1.0, "learns": 1.0}


def test_a_model_that_gives_up_is_left_out_with_its_reason() -> None:
    class Refuses(Says):
        def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
            raise ForecastError("too little for me")

    class Breaks(Says):
        def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
            raise ZeroDivisionError("by nothing")

    models = (Refuses((1.0, 1.0), "refuses"), Breaks((1.0, 1.0), "breaks"), Says((1.0, 1.0)))
    found = run(load(np.ones(100)), *models)
    assert found.failed == {"refuses": "too little for me", "breaks": "it raised ZeroDivisionError: by nothing"}
    assert list(found.errors) == ["says"]


@pytest.mark.parametrize(
    ("rps", "message"),
    [((2.0, 1.0), "quantiles that cross"), ((NAN, 1.0), "no number"), ((-1.0, 1.0), "below zero")],
)
def test_a_forecast_that_cannot_be_is_a_failure(rps: tuple[float, ...], message: str) -> None:
    assert message in run(load(np.ones(100)), Says(rps)).failed["says"]


def test_progress_and_forecasts_are_told() -> None:
    told: list[tuple[int, int]] = []
    seen: list[tuple[str, int]] = []
    backtest(
        load(np.ones(100)), [Says((1.0, 1.0))], Settings((1.0,), origins=2, levels=LEVELS),
        seen=lambda name, origin, made: seen.append((name, origin)), told=lambda done, all_: told.append((done, all_)),
    )  # fmt: skip
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert seen == [("says", 80), ("says", 99)]


# The yardstick ------------------------------------------------------------------------------------------------------


def test_the_naive_one_takes_the_value_of_a_season_ago() -> None:
    history = load([1, 2, 3, 4, 5, NAN, 7, 8])
    made = Naive("n", lag_s=4.0).forecast(history, steps=6, levels=(0.5,))
    # Values a season earlier: 5, (missing: the last, 8), 7, 8, and round again; errors of 4, 4, 4 and 4.
    assert made.rps.shape == (1, 1, 6)
    spread_by_hand = made.rps[0, 0] - np.array([5.0, 8.0, 7.0, 8.0, 5.0, 8.0])
    assert np.ptp(spread_by_hand) == pytest.approx(0.0)
    assert Naive("n").forecast(load([1.0, 1.0, 4.0, NAN]), steps=2, levels=(0.5,)).rps[0, 0, 0] >= 0


def test_the_naive_one_needs_one_value() -> None:
    made = LAST_VALUE.forecast(load([NAN, 3.0]), steps=3, levels=(0.1, 0.5, 0.9))
    assert np.isfinite(made.rps).all()
    assert (made.rps[0, 1] == 3.0).all()
    with pytest.raises(ForecastError, match="b was never measured"):
        LAST_VALUE.forecast(load([1.0, 2.0], [NAN, NAN]), steps=1, levels=(0.5,))


@pytest.mark.parametrize(
    "row", [np.zeros(300), np.full(300, 7.0), np.r_[np.full(299, NAN), 1.0], np.geomspace(1, 1e12, 300), np.ones(1)]
)
@pytest.mark.parametrize("model", [LAST_VALUE, DAILY_NAIVE, Naive("n", 50.0)])
def test_the_naive_one_always_gives_ordered_finite_quantiles(row: np.ndarray, model: Naive) -> None:
    made = model.forecast(load(row), steps=60, levels=(0.01, 0.5, 0.99))
    assert np.isfinite(made.rps).all()
    assert (made.rps >= 0).all()
    assert (np.diff(made.rps, axis=1) >= 0).all()
