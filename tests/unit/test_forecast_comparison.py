"""Whether one model is better than another."""

from __future__ import annotations

import numpy as np
import pytest

from partita.forecasting.comparison import Pair, compare


def pair(first: np.ndarray, other: np.ndarray, added: float = 0.0) -> Pair:
    return Pair(first, other, np.ones_like(first), np.full(first.shape[1], added))


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_the_ratio_by_hand() -> None:
    # Mean losses of the first series 2 against 4 and of the second 3 against 3; with 1 added: 3/5 and 4/4.
    first, other = np.array([[1.0, 3.0], [3.0, 3.0]]), np.array([[4.0, 2.0], [4.0, 4.0]])
    assert compare([pair(first, other)], rng()).mean == pytest.approx(np.sqrt(2 / 4))
    assert compare([pair(first, other, 1.0)], rng()).mean == pytest.approx(np.sqrt(3 / 5))
    both = compare([pair(first[:, :1], other[:, :1]), pair(first[:, 1:], other[:, 1:])], rng())
    assert (both.mean, both.series) == (pytest.approx(np.sqrt(2 / 4)), 2)


def test_the_same_model_is_neither_better_nor_worse() -> None:
    losses = np.random.default_rng(3).exponential(1.0, (12, 20))
    found = compare([pair(losses, losses)], rng())
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)
    assert not found.is_better
    assert not found.is_worse


def test_a_clear_difference_is_found_and_noise_is_not() -> None:
    draw = np.random.default_rng(5)
    losses = draw.exponential(1.0, (12, 30))
    assert compare([pair(0.8 * losses, losses)], rng()).is_better
    assert compare([pair(1.3 * losses, losses)], rng()).is_worse
    found = compare([pair(draw.exponential(1.0, (12, 30)), draw.exponential(1.0, (12, 30)))], rng())
    assert found.low < 1.0 < found.high


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held, runs = 0, 100
    for seed in range(runs):
        draw = np.random.default_rng([9, seed])
        common = draw.exponential(1.0, (10, 25))
        found = compare([pair(common * draw.lognormal(0, 0.5, (10, 25)), common)], draw, draws=300)
        truth = np.exp(0.5**2 / 2)
        held += found.low <= truth <= found.high
    assert held >= 85  # the mean of ten is not quite the truth's ratio, so a little less than 95


def test_what_was_not_scored_does_not_count() -> None:
    first, other = np.array([[1.0, 7.0]]), np.array([[2.0, 1.0]])
    found = compare([Pair(first, other, np.array([[1.0, 0.0]]), np.zeros(2))], rng())
    assert (found.mean, found.series) == (pytest.approx(0.5), 1)
    assert np.isnan(compare([], rng()).mean)
