"""Bands for coverage: wide enough where bins go together, and no wider."""

from __future__ import annotations

import numpy as np

from partita.forecasting.coverage import design_effect, outside

SERIES = 400


def test_independent_bins_have_binomial_bands() -> None:
    rng = np.random.default_rng(1)
    counted = np.full((20, SERIES), 15.0)
    covered = rng.binomial(15, 0.95, (20, SERIES)).astype(float)
    assert np.allclose(design_effect(counted, covered), 1.0, atol=0.3)
    # at most a twentieth outside, and four standard deviations of such a count
    assert outside(counted, covered, 0.95, 1).sum() <= 0.05 * SERIES + 4 * np.sqrt(0.05 * 0.95 * SERIES)
    covered[:, :10] = np.minimum(covered[:, :10], 12)  # a fifth missed
    assert outside(counted, covered, 0.95, 1)[:10].all()


def test_bins_that_miss_together_count_as_one() -> None:
    rng = np.random.default_rng(2)
    counted = np.full((40, SERIES), 15.0)
    covered = 15.0 * rng.binomial(1, 0.95, (40, SERIES))  # all of a forecast, or none
    assert np.allclose(design_effect(counted, covered), 15.0, rtol=0.02)
    assert outside(counted, covered, 0.95, 1).sum() <= 0.05 * SERIES + 4 * np.sqrt(0.05 * 0.95 * SERIES)


def test_forecasts_that_overlap_count_as_one() -> None:
    rng = np.random.default_rng(3)
    counted = np.full((40, SERIES), 15.0)
    covered = np.repeat(15.0 * rng.binomial(1, 0.95, (10, SERIES)), 4, axis=0)
    apart, together = (outside(counted, covered, 0.95, block).sum() for block in (1, 4))
    assert together <= 0.05 * SERIES + 4 * np.sqrt(0.05 * 0.95 * SERIES)
    assert apart > 2 * together


def test_nothing_counted_is_not_outside() -> None:
    assert not outside(np.zeros((3, 2)), np.zeros((3, 2)), 0.95, 1).any()
    assert not outside(np.ones((1, 1)), np.ones((1, 1)), 0.95, 5).any()
