"""Sample paths: the forecast's quantiles at each step, and errors that go together as they did in the past."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from partita.errors import ForecastError
from partita.forecasting import BLEND_NEAR, LEVELS, Blend, past_errors, sample_paths
from partita.forecasting.paths import PastErrors
from partita.model.load import Forecast, Load

FINE = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


def correlated_load(correlation: float, services: int = 3, length: int = 360) -> Load:
    """Random walks whose steps have one correlation between all services."""
    rng = np.random.default_rng(11)
    shared, own = rng.normal(size=(1, length)), rng.normal(size=(services, length))
    steps = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    return Load(tuple(f"s{i}" for i in range(services)), 0.0, 10.0, 20_000 + 200 * steps.cumsum(axis=1))


def drawn(history: Load, blend: Blend, steps: int, paths: int) -> tuple[Forecast, NDArray[np.float64]]:
    forecast = blend.forecast(history, steps=steps, levels=FINE)
    return forecast, sample_paths(forecast, past_errors(blend, history, steps), paths, np.random.default_rng(1))


@pytest.mark.parametrize("paths", [100, 2000])
def test_marginals_are_those_of_the_forecast(paths: int) -> None:
    assert isinstance(BLEND_NEAR, Blend)
    forecast, found = drawn(correlated_load(0.6), BLEND_NEAR, 4, paths)
    assert found.shape == (paths, 3, 4)
    for i, level in enumerate(FINE):
        if 0.01 < level < 0.99:
            share = (found <= forecast.rps[:, i]).mean(axis=0)
            # origins are drawn evenly, so the error is below that of independent draws: four deviations of those
            assert share == pytest.approx(np.full((3, 4), level), abs=4 * np.sqrt(level * (1 - level) / 100) / 2)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_services_go_together_as_their_errors_did(correlation: float) -> None:
    assert isinstance(BLEND_NEAR, Blend)
    history = correlated_load(correlation)
    _, found = drawn(history, BLEND_NEAR, 4, 4000)
    errors = past_errors(BLEND_NEAR, history, 4).errors
    for h in range(4):
        wanted = stats.spearmanr(errors[:, h].T).statistic
        got = stats.spearmanr(found[:, :, h]).statistic
        assert got == pytest.approx(wanted, abs=0.05)
    # the errors themselves go together as the walks were made: 4 / root of about 90 origins, and then some overlap
    assert stats.spearmanr(found[:, 0, 0], found[:, 1, 0]).statistic == pytest.approx(correlation, abs=0.35)


def test_a_path_hangs_together_along_the_horizon() -> None:
    assert isinstance(BLEND_NEAR, Blend)
    _, found = drawn(correlated_load(0.0), BLEND_NEAR, 6, 4000)
    # of a walk, what has come by five steps shares five of the six steps of the next: root(5 / 6) = 0.91
    assert stats.spearmanr(found[:, 0, 4], found[:, 0, 5]).statistic > 0.7


def test_between_horizons_ranks_are_carried_and_stay_even() -> None:
    rng = np.random.default_rng(2)
    errors = PastErrors(("a",), np.array([1, 5]), rng.normal(size=(1, 2, 200)))
    rps = np.broadcast_to(np.asarray(LEVELS)[None, :, None], (1, len(LEVELS), 8))
    forecast = Forecast(("a",), 0.0, 10.0, LEVELS, rps, "ranks", 10.0)
    found = sample_paths(forecast, errors, 200, np.random.default_rng(3))
    for h in range(8):
        assert (found[:, 0, h] <= 0.5).mean() == pytest.approx(0.5, abs=0.01)
    assert np.array_equal(found[:, 0, 4].argsort(), found[:, 0, 7].argsort())


def test_the_same_generator_draws_the_same_paths() -> None:
    assert isinstance(BLEND_NEAR, Blend)
    history = correlated_load(0.3)
    assert np.array_equal(drawn(history, BLEND_NEAR, 3, 50)[1], drawn(history, BLEND_NEAR, 3, 50)[1])


def test_too_short_a_history_has_no_errors_to_draw_from() -> None:
    assert isinstance(BLEND_NEAR, Blend)
    with pytest.raises(ForecastError, match="sample paths of 4 steps need a longer history than 2 steps"):
        past_errors(BLEND_NEAR, Load(("a",), 0.0, 10.0, np.array([[1.0, 2.0]])), 4)
