"""Arrival instants inside the bins of a count trace, each bin drawn alone from its own seed.

A bin with n requests is filled as a circle: n gaps from the law, rescaled to the bin's width, turned by a random angle.
So the count is kept, the gaps have the law's shape, and no instant of the bin is favoured. For the Poisson law this is
the same as n independent uniform instants, which is how they are drawn, many bins at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_GOLDEN, _MIX_1, _MIX_2 = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
LAWS = ("even", "poisson", "gamma", "weibull")


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Bins to fill, as parallel arrays: [start_ns, end_ns) in replay time, the count, and a key that seeds the bin."""

    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    count: NDArray[np.int64]
    key: NDArray[np.uint64]

    def at(self, rows: NDArray[np.int64]) -> Bins:
        """Return some of the bins."""
        return Bins(self.start_ns[rows], self.end_ns[rows], self.count[rows], self.key[rows])


def service_key(seed: int, service: str) -> np.uint64:
    """Return the key of one service of a trace under a seed."""
    digest = hashlib.blake2b(f"{seed}/{service}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def bin_keys(service: np.uint64 | NDArray[np.uint64], at_ns: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the keys of bins by the instants, in the trace, at which they start."""
    return _mix(service + at_ns.astype(np.uint64) * _GOLDEN)


def chances(keys: NDArray[np.uint64], number: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return for the so-manieth draw under each key a uniform number in [0, 1)."""
    words = _mix(keys + number.astype(np.uint64) * _GOLDEN)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw_even(bins: Bins) -> NDArray[np.int64]:
    """Fill bins with equal gaps, half a gap before the first; bin after bin."""
    return _place(bins, (_positions(bins.count) + 0.5) / np.repeat(bins.count, bins.count))


def draw_poisson(bins: Bins) -> NDArray[np.int64]:
    """Fill bins with independent uniform instants; bin after bin, in no order inside a bin."""
    return _place(bins, chances(np.repeat(bins.key, bins.count), _positions(bins.count)))


def draw_renewal(law: str, shape: float, bins: Bins, row: int) -> NDArray[np.int64]:
    """Fill one bin with gaps of a gamma or weibull law; rising."""
    rng, count = np.random.Generator(np.random.SFC64(int(bins.key[row]))), int(bins.count[row])
    gaps = rng.standard_gamma(shape, count) if law == "gamma" else rng.weibull(shape, count)
    with np.errstate(over="ignore"):
        at = np.cumsum(gaps, out=gaps)
    # Gaps of a tiny shape underflow or overflow: then all requests come at once, which is what the law tends to.
    at = at / at[-1] if 0.0 < at[-1] < np.inf else np.full(count, 0.5)
    at += rng.random()
    turned = int(np.searchsorted(at, 1.0))
    at[turned:] -= 1.0
    at = np.concatenate([at[turned:], at[:turned]])
    width = bins.end_ns[row] - bins.start_ns[row]
    found: NDArray[np.int64] = bins.start_ns[row] + np.minimum((at * width).astype(np.int64), width - 1)
    return found


def _positions(count: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = np.cumsum(count)
    return np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - count, count)


def _place(bins: Bins, at: NDArray[np.float64]) -> NDArray[np.int64]:
    width = np.repeat(bins.end_ns - bins.start_ns, bins.count)
    inside = np.minimum((at * width).astype(np.int64), width - 1)
    found: NDArray[np.int64] = np.repeat(bins.start_ns, bins.count) + inside
    return found


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter the bits of counters (the finaliser of SplitMix64: Steele, Lea, Flood, OOPSLA 2014)."""
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return words ^ (words >> np.uint64(31))
