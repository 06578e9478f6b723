"""Quantiles mean what they say: on simulated Poisson load each covers its share of what comes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from partita.forecasting import FAR, LEVELS, NEAR, score
from partita.model.load import Load
from partita.ports import Forecaster

DAY_S = 86_400.0
SERVICES = 400


def covered(
    forecaster: Forecaster, *, rate: float, length: int, step_s: float, ahead: int, swing: float = 0.5
) -> NDArray[np.float64]:
    """Return the share of services whose last step forecast came at or below each quantile.

    One step of each of many independent services, so that coverage is a binomial count.
    """
    rng = np.random.default_rng(20_240_501)
    time = (np.arange(length + ahead)[None, :] + rng.integers(0, 10_000, (SERVICES, 1))) * step_s
    mean = rate * rng.uniform(0.5, 2.0, (SERVICES, 1)) * (1 + swing * np.sin(2 * np.pi * time / DAY_S))
    counts = rng.poisson(mean * step_s).astype(np.float64)
    names = tuple(f"s{i}" for i in range(SERVICES))
    forecast = forecaster.forecast(Load(names, 0.0, step_s, counts[:, :length]), steps=ahead, levels=LEVELS)
    last = Load(names, (length + ahead - 1) * step_s, step_s, counts[:, -1:])
    return score(forecast, last).coverage.mean(axis=0)


@pytest.mark.parametrize(
    ("forecaster", "case"),
    [
        (NEAR, {"rate": 10.0, "length": 180, "step_s": 10.0, "ahead": 1}),
        (NEAR, {"rate": 10.0, "length": 180, "step_s": 10.0, "ahead": 6}),
        (NEAR, {"rate": 300.0, "length": 60, "step_s": 10.0, "ahead": 6}),
        (FAR, {"rate": 1.0, "length": 3 * 144, "step_s": 600.0, "ahead": 36}),
        (FAR, {"rate": 0.2, "length": 15 * 144, "step_s": 600.0, "ahead": 36}),
        (FAR, {"rate": 1.0, "length": 144, "step_s": 600.0, "ahead": 12, "swing": 0.0}),
    ],
)
def test_each_quantile_covers_its_share(forecaster: Forecaster, case: dict[str, float]) -> None:
    found = covered(forecaster, **case)  # type: ignore[arg-type]
    for level, share in zip(LEVELS, found, strict=True):
        # four standard deviations of a binomial share, and two points for what a model may miss
        band = 4 * np.sqrt(level * (1 - level) / SERVICES) + 0.02
        assert abs(share - level) <= band, (level, share)


@pytest.mark.parametrize(("forecaster", "step_s"), [(NEAR, 10.0), (FAR, 600.0)], ids=["near", "far"])
def test_rare_requests_are_covered_at_least(forecaster: Forecaster, step_s: float) -> None:
    # half a request a step: most steps are empty, so lower quantiles cover more than their share and the upper theirs
    found = covered(forecaster, rate=0.5 / step_s, length=200, step_s=step_s, ahead=3, swing=0.0)
    for level, share in zip(LEVELS, found, strict=True):
        assert share >= level - (4 * np.sqrt(level * (1 - level) / SERVICES) + 0.02), (level, share)


@pytest.mark.parametrize("forecaster", [NEAR, FAR], ids=["near", "far"])
def test_a_random_walk_is_covered_and_its_band_widens_as_a_walk_does(forecaster: Forecaster) -> None:
    # steps of 300 on a level of 20 000: twice Poisson's scatter of 141, so the floor alone would not do
    walk = 20_000 + np.random.default_rng(7).normal(0, 300, (SERVICES, 306)).cumsum(axis=1)
    names = tuple(f"s{i}" for i in range(SERVICES))
    forecast = forecaster.forecast(Load(names, 0.0, 600.0, walk[:, :300]), steps=6, levels=LEVELS)
    for ahead in (1, 6):
        truth = Load(names, (299 + ahead) * 600.0, 600.0, walk[:, 299 + ahead : 300 + ahead])
        for level, share in zip(LEVELS, score(forecast, truth).coverage.mean(axis=0), strict=True):
            band = 4 * np.sqrt(level * (1 - level) / SERVICES) + 0.02
            assert abs(share - level) <= band, (ahead, level, share)
    width = np.median(forecast.quantile(0.95) - forecast.quantile(0.05), axis=0) * 600
    if forecaster is NEAR:
        # it takes the last value here: 2 x 1.645 standard deviations of the steps ahead, and up to a fifth more for
        # errors six steps ahead, of which 200 are worth some twenty independent ones
        ideal = 2 * 1.645 * 300 * np.sqrt(np.arange(1, 7))
        assert (width >= 0.9 * ideal).all()
        assert (width <= [1.1, 1.1, 1.2, 1.2, 1.2, 1.2] * ideal).all()


def test_beyond_a_day_the_seasonal_beats_the_level_at_half_a_day() -> None:
    time = np.arange(4 * 144)
    mean = 600 * (1 + 0.8 * np.sin(2 * np.pi * time / 144))
    counts = np.random.default_rng(1).poisson(mean, (20, len(time))).astype(np.float64)
    names = tuple(f"s{i}" for i in range(20))
    long = FAR.forecast(Load(names, 0.0, 600.0, counts[:, : 3 * 144]), steps=72, levels=LEVELS)
    short = FAR.forecast(Load(names, 2.5 * DAY_S, 600.0, counts[:, 360 : 3 * 144]), steps=72, levels=LEVELS)
    truth = Load(names, 3 * DAY_S, 600.0, counts[:, 3 * 144 :])
    assert score(long, truth).wape.mean() < 0.2 * score(short, truth).wape.mean()
