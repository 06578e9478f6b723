"""Whatever the history, a forecast is finite, never negative, never crossing, and depends on the history alone."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partita.errors import ForecastError
from partita.forecasting import FORECASTERS, LEVELS, SeasonalNaive, Smoothing, score
from partita.model.load import Load
from partita.ports import Forecaster

COUNTS = st.one_of(
    st.just(float("nan")),
    st.just(0.0),
    st.integers(0, 20).map(float),
    st.floats(0, 1e9, allow_subnormal=False),
    st.just(1e12),
)


EXAMPLES = int(os.environ.get("PARTITA_EXAMPLES", "30"))


@st.composite
def histories(draw: st.DrawFn) -> Load:
    services, length = draw(st.integers(1, 4)), draw(st.integers(2, 60))
    rows = draw(st.lists(st.lists(COUNTS, min_size=length, max_size=length), min_size=services, max_size=services))
    repeats = draw(st.sampled_from([1, 1, 5]))
    # an hour is a step, so that a history of sixty or three hundred steps holds days and weeks
    step_s = draw(st.sampled_from([1.0, 10.0, 3600.0, 21_600.0]))
    return Load(tuple(f"s{i}" for i in range(services)), 0.0, step_s, np.tile(np.array(rows), repeats))


@pytest.mark.parametrize("forecaster", FORECASTERS, ids=lambda f: f.name)
@settings(max_examples=EXAMPLES, deadline=None)
@given(history=histories(), steps=st.integers(1, 70), levels=st.sampled_from([LEVELS, (0.5,), (0.01, 0.999)]))
def test_any_history_gives_a_sound_forecast(
    forecaster: Forecaster, history: Load, steps: int, levels: Sequence[float]
) -> None:
    before = history.counts.copy()
    if (np.isfinite(history.counts).sum(axis=1) < 2).any():
        with pytest.raises(ForecastError):
            forecaster.forecast(history, steps=steps, levels=levels)
        return
    forecast = forecaster.forecast(history, steps=steps, levels=levels)
    assert forecast.rps.shape == (len(history.services), len(levels), steps)
    assert np.isfinite(forecast.rps).all()
    assert (forecast.rps >= 0).all()
    assert (np.diff(forecast.rps, axis=1) >= 0).all()
    assert forecast.made_at_s == history.end_s
    assert np.array_equal(history.counts, before, equal_nan=True)
    again = forecaster.forecast(history, steps=steps, levels=levels)
    assert np.array_equal(forecast.rps, again.rps)
    assert score(forecast, Load(history.services, history.end_s, history.step_s, np.zeros((len(before), steps))))


# the blends learn over all services at once
@pytest.mark.parametrize("forecaster", [Smoothing(), SeasonalNaive()], ids=lambda f: f.name)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), missing=st.sampled_from([0.0, 0.3]), length=st.integers(10, 200))
def test_services_do_not_disturb_each_other(forecaster: Forecaster, seed: int, missing: float, length: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.uniform(1, 500, (3, 1)), (3, length)).astype(np.float64)
    counts[:, 2:][rng.random((3, length - 2)) < missing] = np.nan
    together = forecaster.forecast(Load(("a", "b", "c"), 0.0, 3600.0, counts), steps=9, levels=LEVELS)
    for i, name in enumerate(together.services):
        alone = forecaster.forecast(Load((name,), 0.0, 3600.0, counts[i : i + 1]), steps=9, levels=LEVELS)
        # sums over one or over three columns may round apart in the last digit
        assert np.allclose(alone.rps[0], together.rps[i], rtol=1e-9, atol=0.0)
