"""Shares of the requests by size bucket, as expected in the next window."""

from __future__ import annotations

import numpy as np
import pytest

from partita.forecasting.size_mix import forecast_mix, log_loss, naive_mix, ranked_probability
from partita.model.size_counts import SizeCounts

NAN = np.nan
EDGES = (128.0, 512.0, 2048.0)
HOUR_S = 3600.0


def mix(*counts: np.ndarray) -> SizeCounts:
    stacked = np.stack(counts).astype(float)
    names = tuple(f"s{n}" for n in range(len(counts)))
    return SizeCounts(names, 0.0, HOUR_S, EDGES, stacked, np.zeros(stacked.shape[:2]))


def drawn(rng: np.random.Generator, shares: np.ndarray, requests: int) -> np.ndarray:
    return np.stack([rng.multinomial(requests, one / one.sum()) for one in shares])


def losses(counted: SizeCounts, since: int, score: object = ranked_probability) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for origin in range(since, counted.counts.shape[1]):
        past, came = counted.until(origin), counted.counts[:, origin]
        found.append([score(how(past), came) for how in (forecast_mix, naive_mix)])  # type: ignore[operator]
    return tuple(np.mean(found, axis=0))


def test_a_mix_that_swings_daily_is_foretold_better_and_one_without_a_cycle_is_no_worse() -> None:
    rng = np.random.default_rng(4)
    hours = np.arange(8 * 24)
    part = 0.5 + 0.4 * np.sin(hours / 24 * 2 * np.pi)
    swinging = np.stack([part, np.full(192, 0.2), 1 - part, np.full(192, 0.1)], axis=1)
    flat = np.tile([0.4, 0.3, 0.2, 0.1], (192, 1))
    counted = mix(drawn(rng, swinging, 2000), drawn(rng, flat, 200))
    for score in (ranked_probability, log_loss):
        made, naive = losses(counted, 150, score)
        assert made[0] < naive[0]
        assert made[1] < naive[1]  # the mean of many hours is surer than 200 requests
    made, naive = losses(counted, 150)
    assert made[0] < 0.5 * naive[0]
    assert made[1] < 0.7 * naive[1]
    assert "from the same time of former days" in forecast_mix(counted).basis[0]


def test_a_mix_that_wanders_is_followed() -> None:
    rng = np.random.default_rng(6)
    steps = np.cumsum(rng.normal(0, 0.25, (192, 4)), axis=0)
    wandering = np.exp(steps) / np.exp(steps).sum(axis=1, keepdims=True)
    made, naive = losses(mix(drawn(rng, wandering, 5000)), 120)
    assert made[0] < 1.1 * naive[0]


def test_the_effective_number_of_requests_is_that_of_the_scatter() -> None:
    rng = np.random.default_rng(8)
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    scattered = rng.dirichlet(50 * shares, 192)
    found = forecast_mix(mix(drawn(rng, scattered, 5000), drawn(rng, np.tile(shares, (192, 1)), 5000)))
    assert 25 < found.sure[0] < 100
    assert found.sure[1] > 3 * found.sure[0]
    np.testing.assert_allclose(found.shares[1], shares, atol=0.01)
    low, high = (found.band(found.shares, level) for level in (0.025, 0.975))
    assert (low < found.shares).all()
    assert (found.shares < high).all()
    inside = (scattered >= low[0]) & (scattered <= high[0])
    assert 0.88 < inside.mean() <= 1.0


def test_buckets_are_put_together() -> None:
    found = forecast_mix(mix(np.tile([40, 30, 20, 10], (10, 1))))
    np.testing.assert_allclose(found.of_buckets((512.0,))[0], [0.7, 0.3], atol=0.01)


def test_cold_starts_take_all_time_shares_and_say_so() -> None:
    none, one = np.zeros((3, 4)), np.array([[NAN] * 4, [0.0] * 4, [8.0, 0.0, 0.0, 0.0]])
    found = forecast_mix(mix(none, one))
    assert np.isnan(found.shares[0]).all()
    assert found.basis == (
        "no request with a size yet",
        "all-time shares: only 1 window with requests yet",
    )
    # Eight requests, and one spread evenly over four buckets: (8 + 1/4)/9 and (1/4)/9.
    np.testing.assert_allclose(found.shares[1], [8.25 / 9, 0.25 / 9, 0.25 / 9, 0.25 / 9])
    assert np.isnan(forecast_mix(mix(np.zeros((0, 4)))).shares).all()
    assert np.isnan(naive_mix(mix(none)).shares).all()


def test_scores_by_hand() -> None:
    found = naive_mix(mix(np.array([[1.0, 0, 0, 0]])))  # (1 + 1/4)/2, then (1/4)/2 each
    np.testing.assert_allclose(found.shares[0], [0.625, 0.125, 0.125, 0.125])
    came = np.array([[0.0, 2.0, 0.0, 0.0]])
    # Shares up to each edge: 0.625, 0.75, 0.875 against 0, 1, 1.
    assert ranked_probability(found, came)[0] == pytest.approx((0.625**2 + 0.25**2 + 0.125**2) / 3)
    assert log_loss(found, came)[0] == pytest.approx(-np.log(0.125))
    assert np.isnan(ranked_probability(found, np.zeros((1, 4)))[0])
