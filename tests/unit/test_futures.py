"""Rates to rehearse: joint futures, ranked by the GPU time that they ask for."""

from __future__ import annotations

import numpy as np
import pytest
from miniature import service
from numpy.typing import NDArray

from partita.controller.futures import HIGHEST_LEVEL, LOWEST_LEVEL, REHEARSED_LEVEL, gpu_seconds, rehearsed_rates
from partita.forecasting import NEAR, level_errors, sample_paths
from partita.forecasting.yardstick import LAST_ARRIVALS
from partita.model.load import Forecast, Load
from partita.model.service import WHOLE_GPU
from partita.model.staggered import NO_OVERHEADS, need
from partita.ports import Forecaster

STEPS, MEAN = 5, 2000.0
WHOLE = {(WHOLE_GPU, 100.0): 1.0}


def walks(correlation: float, services: int = 20, length: int = 360) -> Load:
    """Levels that wander, the steps of which have one correlation between all services."""
    rng = np.random.default_rng(5)
    shared, own = rng.normal(size=(1, length)), rng.normal(size=(services, length))
    steps = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    wander = np.zeros((services, length))
    for t in range(1, length):
        wander[:, t] = 0.95 * wander[:, t - 1] + 60 * steps[:, t]
    return Load(tuple(f"s{n}" for n in range(services)), 0.0, 10.0, MEAN + wander)


def alike(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.ones(len(rates))


def rehearsed(history: Load, near: Forecast, paths: int = 1, *, least: float = 0.0) -> NDArray[np.float64]:
    at_least = np.full(len(history.services), least)
    return rehearsed_rates(near, history, at_least=at_least, gpu_s=alike, paths=paths, rng=np.random.default_rng(3))


def test_services_that_do_not_rise_together_are_rehearsed_at_less_than_all_their_own_upper_quantiles() -> None:
    alone, found = {}, {}
    for correlation in (0.0, 0.95):
        history = walks(correlation)
        near = NEAR.forecast(history, steps=STEPS)
        middle = near.quantile(0.5).mean(axis=1).sum()
        alone[correlation] = near.lasting(REHEARSED_LEVEL).sum() - middle
        found[correlation] = rehearsed(history, near)[0].sum() - middle
    # of 20 independent services the sum deviates by 1 / root 20 = 0.22 of what the deviations add up to
    assert 0.05 < found[0.0] / alone[0.0] < 0.5
    assert found[0.95] / alone[0.95] > 0.7


@pytest.mark.parametrize("forecaster", [NEAR, LAST_ARRIVALS], ids=["blend-near", "naive"])
def test_it_serves_whatever_made_the_forecast(forecaster: Forecaster) -> None:
    history = walks(0.5)
    near = forecaster.forecast(history, steps=STEPS)
    (rates,) = rehearsed(history, near)
    assert rates.sum() > near.quantile(0.5).mean(axis=1).sum()
    assert np.all(rates <= near.rps[:, -1].mean(axis=1) + 1e-9)


def test_the_one_is_at_its_level_of_the_work_of_all_and_several_lie_between_two() -> None:
    history = walks(0.3)
    near = NEAR.forecast(history, steps=STEPS)
    errors = level_errors(history, STEPS)
    number = errors.errors.shape[2]
    every = np.sort(sample_paths(near, errors, number, np.random.default_rng(3)).mean(axis=2).sum(axis=1))
    assert rehearsed(history, near)[0].sum() == pytest.approx(np.quantile(every, REHEARSED_LEVEL, method="nearest"))
    several = rehearsed(history, near, 4).sum(axis=1)
    wanted = np.quantile(every, np.linspace(LOWEST_LEVEL, HIGHEST_LEVEL, 4), method="nearest")
    assert several == pytest.approx(wanted)


def test_what_a_request_takes_decides_which_future_is_heavy() -> None:
    history = walks(0.0, services=2)
    near = NEAR.forecast(history, steps=STEPS)

    def first_only(rates: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([1.0, 0.0])

    (rates,) = rehearsed_rates(
        near, history, at_least=np.zeros(2), gpu_s=first_only, paths=1, rng=np.random.default_rng(3)
    )
    spread = near.quantile(0.95).mean(axis=1) - near.quantile(0.5).mean(axis=1)
    assert rates[0] > near.quantile(0.5).mean(axis=1)[0] + 0.4 * spread[0]


def test_no_rate_is_below_what_is_there_already() -> None:
    history = walks(0.3)
    near = NEAR.forecast(history, steps=STEPS)
    for paths in (0, 1, 3):
        assert np.all(rehearsed(history, near, paths, least=400.0) >= 400.0)


def test_without_paths_or_with_a_short_history_each_service_is_at_its_own_quantile() -> None:
    history = walks(0.3)
    near = NEAR.forecast(history, steps=STEPS)
    np.testing.assert_array_equal(rehearsed(history, near, 0), near.lasting(REHEARSED_LEVEL)[None, :])
    short = Load(history.services, 0.0, 10.0, history.counts[:, :20])
    near = NEAR.forecast(short, steps=STEPS)
    np.testing.assert_array_equal(rehearsed(short, near, 3), near.lasting(REHEARSED_LEVEL)[None, :])


def test_the_same_generator_gives_the_same_futures() -> None:
    history = walks(0.3)
    near = NEAR.forecast(history, steps=STEPS)
    np.testing.assert_array_equal(rehearsed(history, near, 3), rehearsed(history, near, 3))


def test_missing_steps_and_silent_services_are_no_obstacle() -> None:
    counts = walks(0.3, services=3).counts.copy()
    counts[0, 100:140] = np.nan
    counts[1] = 0.0
    history = Load(("a", "b", "c"), 0.0, 10.0, counts)
    found = rehearsed(history, NEAR.forecast(history, steps=STEPS), 5)
    assert np.isfinite(found).all()
    assert np.all(found >= 0)


def test_gpu_time_of_a_request_is_the_staggered_need_at_its_rate() -> None:
    a, b = service("a"), service("b")
    found = gpu_seconds((a, b, service("idle")), [100.0, 5.0, 0.0], WHOLE, NO_OVERHEADS)
    assert found.tolist() == pytest.approx([need(a, 100.0).gpus / 100, need(b, 5.0).gpus / 5, 0.0])
    assert gpu_seconds((a,), [100.0], {("1g.5gb", 100.0): 1.0}, NO_OVERHEADS).tolist() == [0.0]
