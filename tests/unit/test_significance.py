"""Statistics over seeds, against SciPy's own tests and against what they promise."""

from math import isnan

import numpy as np
import pytest
from scipy import stats

from partita.replay.significance import EQUAL, NOTHING, PAIRED, WELCH, difference, interval

ONES = {1: 10.2, 2: 9.7, 3: 10.9, 4: 10.1, 5: 9.9}
OTHERS = {1: 10.9, 2: 10.1, 3: 11.2, 4: 11.0, 5: 10.1}


def test_an_interval_is_students() -> None:
    found = interval(list(ONES.values()), 0.9)
    low, high = stats.t.interval(0.9, 4, loc=np.mean(list(ONES.values())), scale=stats.sem(list(ONES.values())))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.half_width == pytest.approx((high - low) / 2)
    assert (found.seeds, found.confidence) == (5, 0.9)


def test_one_run_has_no_interval() -> None:
    found = interval([3.0])
    assert found.mean == 3.0
    assert isnan(found.low)
    assert isnan(found.half_width)


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).normal(7.0, 2.0, (2000, 5))
    covered = sum(found.low <= 7.0 <= found.high for found in map(interval, draws.tolist()))
    # 2000 × 0.95 = 1900, standard deviation 9.7: four of them.
    assert abs(covered - 1900) < 39


def test_shared_seeds_are_paired() -> None:
    found = difference(ONES, OTHERS)
    expected = stats.ttest_rel(list(OTHERS.values()), list(ONES.values()))
    between = expected.confidence_interval(0.95)
    assert found.test == PAIRED
    assert found.seeds == 5
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((between.low, between.high))
    # The pairs differ alike (0.3 to 0.9), the sides scatter: unpaired, the same numbers would prove nothing.
    assert found.p_value < 0.05 < stats.ttest_ind(list(OTHERS.values()), list(ONES.values())).pvalue


def test_only_shared_seeds_count_when_paired() -> None:
    assert difference(ONES, {**OTHERS, 9: 1000.0}) == difference(ONES, OTHERS)


def test_other_seeds_are_told_apart_by_welch() -> None:
    others = {seed + 10: value for seed, value in list(OTHERS.items())[:3]}
    found = difference(ONES, others)
    expected = stats.ttest_ind(list(others.values()), list(ONES.values()), equal_var=False)
    between = expected.confidence_interval(0.95)
    assert found.test == WELCH
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((between.low, between.high))


@pytest.mark.parametrize(("first", "other"), [({1: 4.0}, {1: 5.0}), ({1: 4.0}, {2: 5.0}), (ONES, {3: 11.9})])
def test_one_seed_proves_nothing(first: dict[int, float], other: dict[int, float]) -> None:
    found = difference(first, other)
    assert found.test == NOTHING
    assert isnan(found.p_value)
    assert isnan(found.low)
    assert found.mean == pytest.approx(1.0)


def test_the_same_in_every_seed() -> None:
    found = difference(ONES, ONES)
    assert (found.mean, found.low, found.high, found.p_value, found.test) == (0.0, 0.0, 0.0, 1.0, EQUAL)
    shifted = difference({1: 1.0, 2: 2.0}, {1: 2.0, 2: 3.0})
    assert (shifted.mean, shifted.p_value, shifted.test) == (1.0, 0.0, PAIRED)
