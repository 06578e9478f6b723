"""Bands for coverage: wide enough where bins go together, and no wider."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partita.forecasting.coverage import Bins, correlation, outside

SERIES = 400
BY_CHANCE = 0.05 * SERIES + 4 * np.sqrt(0.05 * 0.95 * SERIES)
"""A twentieth, and four standard deviations of such a count."""


def number_outside(counted: NDArray[np.float64], covered: NDArray[np.float64], block: int = 1) -> int:
    return int(outside([Bins(counted, covered, block)], 0.95)[0].sum())


def test_independent_bins_have_binomial_bands() -> None:
    rng = np.random.default_rng(1)
    counted = np.full((20, SERIES), 15.0)
    covered = rng.binomial(15, 0.95, (20, SERIES)).astype(float)
    assert correlation([(counted, covered)]) < 0.02
    assert number_outside(counted, covered) <= BY_CHANCE
    covered[:, :10] = np.minimum(covered[:, :10], 12)  # a fifth missed
    assert outside([Bins(counted, covered)], 0.95)[0][:10].all()


def test_bins_that_miss_together_count_as_one() -> None:
    rng = np.random.default_rng(2)
    counted = np.full((40, SERIES), 15.0)
    covered = 15.0 * rng.binomial(1, 0.95, (40, SERIES))  # all of a forecast, or none
    assert correlation([(counted, covered)]) > 0.98
    assert number_outside(counted, covered) <= BY_CHANCE


def test_forecasts_that_overlap_count_as_one() -> None:
    rng = np.random.default_rng(3)
    counted = np.full((40, SERIES), 15.0)
    covered = np.repeat(15.0 * rng.binomial(1, 0.95, (10, SERIES)), 4, axis=0)
    together, apart = number_outside(counted, covered, 4), number_outside(counted, covered)
    assert together <= BY_CHANCE
    assert apart > 2 * together


def test_what_goes_together_is_learned_over_all_groups() -> None:
    rng = np.random.default_rng(4)
    counted = np.full((10, SERIES), 15.0)
    covered = 15.0 * rng.binomial(1, 0.95, (10, SERIES))
    groups = [Bins(counted[:, n : n + 1], covered[:, n : n + 1]) for n in range(SERIES)]
    whole = outside([Bins(counted, covered)], 0.95)[0]
    assert [bool(found[0]) for found in outside(groups, 0.95)] == whole.tolist()


def test_nothing_counted_is_not_outside() -> None:
    assert number_outside(np.zeros((3, 2)), np.zeros((3, 2))) == 0
    assert number_outside(np.ones((1, 1)), np.ones((1, 1)), 5) == 0
    assert outside([], 0.95) == []
