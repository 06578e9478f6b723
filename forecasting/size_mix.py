"""How the sizes of inputs will be spread: shares of the requests by size bucket in the next window.

A share is a weighted mean of shares of several stretches of the past: all time, exponentially forgotten ones, and the
same time of former days. The weights are those that would have come closest in the windows that are known. Shares are
Dirichlet-smoothed: what was known before stands beside what is recent like a few requests, so no bucket is impossible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from partita.forecasting.past import DAY_S
from partita.forecasting.stacking import HALF_LIVES, guesses, lately, stacked_weights
from partita.model.size_counts import SizeCounts, gathered

KNOWN_BEFORE = 20.0
"""Requests that the all-time shares count as beside recent ones."""

FEW = 20.0
"""Requests of a window from which it counts by half as one to learn weights from: of few, shares are chance."""

LEAST_WINDOWS = 4
"""Windows with requests, below which all-time shares are all there is."""

SEASONAL_AT = 1 + len(HALF_LIVES)
"""Place of the guess that looks at former days, where there is one."""

LEAST_SURE, MOST_SURE = 2.0, 1e6
"""Bounds of the effective number of requests behind a forecast."""

PRIOR_WINDOWS = 4.0
"""Windows of all services together that stand beside a service's own when it is told how sure a forecast is."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SizeMix:
    """Shares expected in the next window: `shares` has shape ``(services, buckets)``; NaN without a single size.

    `sure`, ``(services,)``, is the effective number of requests behind them: the true shares scatter about as a
    Dirichlet law with ``sure × shares`` does. `basis` says what they rest on.
    """

    services: tuple[str, ...]
    edges: tuple[float, ...]
    shares: Array
    sure: Array
    basis: tuple[str, ...]

    def of_buckets(self, edges: tuple[float, ...]) -> Array:
        """Return the shares between fewer edges, ``(services, edges + 1)``."""
        return gathered(self.shares, self.edges, edges)

    def band(self, shares: Array, level: float) -> Array:
        """Return the quantile of some buckets' shares, ``(services, buckets)``."""
        one, other = shares * self.sure[:, None], (1 - shares) * self.sure[:, None]
        with np.errstate(all="ignore"):
            found = special.betaincinv(np.maximum(one, 1e-9), np.maximum(other, 1e-9), level)
        return np.asarray(found, np.float64)


def forecast_mix(past: SizeCounts) -> SizeMix:
    """Forecast the shares in the next window, of all services at once."""
    totals = past.counts.sum(axis=2)
    seen = np.isfinite(totals) & (totals > 0)
    windows = seen.sum(axis=1)
    if not past.counts.shape[1]:
        return _nothing(past)
    day = round(DAY_S / past.step_s)
    buckets = past.counts.shape[2]
    made = guesses(past.counts, totals, day, np.full(buckets, 1 / buckets), kept=KNOWN_BEFORE)
    came = past.counts[:, 1:] / np.where(seen, totals, np.nan)[:, 1:, None]
    counted = seen[:, 1:] & (seen.cumsum(axis=1)[:, :-1] > 0)
    requests = np.where(counted, totals[:, 1:], 0.0)
    errors = made[:, :, :-1].cumsum(axis=3) - came.cumsum(axis=2)
    weights = stacked_weights(errors, requests / (requests + FEW) * lately(requests.shape[1], day))
    cold = windows < LEAST_WINDOWS
    weights[:, cold] = np.eye(len(made))[0][:, None]
    shares = np.einsum("ms,msk->sk", weights, made[:, :, -1])
    then = np.einsum("ms,mstk->stk", weights, made[:, :, :-1])
    sure = _sureness(then, came, requests)
    shares = np.where((windows > 0)[:, None], shares, np.nan)
    basis = tuple(_basis(n, w) for n, w in zip(windows.tolist(), weights.T, strict=True))
    return SizeMix(past.services, past.edges, shares, sure, basis)


def naive_mix(past: SizeCounts) -> SizeMix:
    """Return the shares of the last window with requests: what a forecast is held against.

    One request spread evenly over the buckets stands beside them, so that none is impossible.
    """
    if not past.counts.shape[1]:
        return _nothing(past)
    totals = past.counts.sum(axis=2)
    seen = np.isfinite(totals) & (totals > 0)
    last = np.maximum.accumulate(np.where(seen, np.arange(totals.shape[1]), -1), axis=1)[:, -1]
    counts = np.take_along_axis(past.counts, np.maximum(last, 0)[:, None, None], axis=1)[:, 0]
    buckets = counts.shape[1]
    shares = (counts + 1 / buckets) / (counts.sum(axis=1) + 1)[:, None]
    shares = np.where((last >= 0)[:, None], shares, np.nan)
    return SizeMix(
        past.services, past.edges, shares, counts.sum(axis=1), tuple("the last window" for _ in past.services)
    )


def ranked_probability(made: SizeMix, counts: Array) -> Array:
    """Return the ranked probability score of the shares that came, by service; NaN where no request did.

    The mean over the edges of the squared difference of the two shares of sizes up to it. What chance alone makes of so
    few requests is the same for every forecast, and is not in it.
    """
    total = counts.sum(axis=1)
    came = counts / np.where(total > 0, total, np.nan)[:, None]
    apart = (made.shares.cumsum(axis=1) - came.cumsum(axis=1))[:, :-1]
    score: Array = (apart**2).mean(axis=1)
    return score


def log_loss(made: SizeMix, counts: Array) -> Array:
    """Return the mean of minus the logarithm of the share that was foretold for each request's bucket, by service."""
    total = counts.sum(axis=1)
    told = -(counts * np.log(np.maximum(made.shares, 1e-12))).sum(axis=1)
    loss: Array = told / np.where(total > 0, total, np.nan)
    return loss


def _sureness(foretold: Array, came: Array, requests: Array) -> Array:
    """Return the effective number of requests behind forecasts, from how far off they have been.

    Shares of n requests scatter around the foretold q by q (1 - q) (1/n + 1/sure): what is more than 1/n is 1/sure. Few
    windows of a service are taken together with those of all.
    """
    weight = (requests / (requests + FEW))[..., None]
    chance = foretold * (1 - foretold)
    apart = np.where(weight > 0, (foretold - np.nan_to_num(came)) ** 2, 0.0)
    more = (weight * (apart - chance / np.maximum(requests, 1.0)[..., None])).sum(axis=(1, 2))
    room = (weight * chance).sum(axis=(1, 2))
    number = weight.sum(axis=(1, 2))
    pooled = more.sum() / room.sum() if room.sum() > 0 else 1 / KNOWN_BEFORE
    own = np.where(room > 0, more / np.where(room > 0, room, 1.0), pooled)
    part = (number * own + PRIOR_WINDOWS * pooled) / (number + PRIOR_WINDOWS)
    return np.asarray(1 / np.clip(part, 1 / MOST_SURE, 1 / LEAST_SURE))


def _nothing(past: SizeCounts) -> SizeMix:
    blank = np.full((len(past.services), past.counts.shape[2]), np.nan)
    none = np.zeros(len(past.services))
    return SizeMix(past.services, past.edges, blank, none, tuple(_basis(0, none) for _ in past.services))


def _basis(windows: int, weights: Array) -> str:
    if windows == 0:
        return "no request with a size yet"
    if windows < LEAST_WINDOWS:
        return f"all-time shares: only {windows} window{'' if windows == 1 else 's'} with requests yet"
    former = f", {weights[-1]:.0%} of it from the same time of former days" if len(weights) > SEASONAL_AT else ""
    return f"{windows} windows{former}"
