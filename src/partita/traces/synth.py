"""Made-up traces of many services: cycles of a day and a week, bursts, noise, and a skewed popularity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.ports import Counts, Rows
from partita.traces.arrivals import TraceArrivals
from partita.traces.services import ServiceMap

DAY_S, WEEK_S = 86_400.0, 604_800.0
BINS_AT_ONCE = 240


@dataclass(frozen=True, slots=True)
class SynthSpec:
    """What a made-up trace is like.

    `rate_rps` is the expected mean of all services together; service k (from 1) has the share k**-skew. `day` and
    `week` (0..1) are how deep the nights and weekends are. `burstiness` 0 means Poisson arrivals without bursts; above,
    bursts start `burstiness` times a day a service, lift its rate by about `burst_size` times its mean and halve every
    `burst_half_s`, and gaps inside a bin are gamma of shape 1/(1 + burstiness). `noise` is the standard deviation of
    the logarithm of each bin's rate.
    """

    services: int = 8
    days: float = 1.0
    rate_rps: float = 100.0
    skew: float = 1.0
    burstiness: float = 1.0
    day: float = 0.6
    week: float = 0.3
    noise: float = 0.1
    burst_size: float = 3.0
    burst_half_s: float = 300.0
    bin_s: float = 60.0
    start_ns: int = 1_704_067_200_000_000_000  # Monday, 2024-01-01 00:00 UTC

    def __post_init__(self) -> None:
        for key in ("services", "days", "rate_rps", "burst_half_s", "bin_s"):
            if not 0 < getattr(self, key) < np.inf:
                raise ConfigError("must be above 0", key=key, value=getattr(self, key))
        for key in ("skew", "burstiness", "noise", "burst_size"):
            if not 0 <= getattr(self, key) < np.inf:
                raise ConfigError("must not be negative", key=key, value=getattr(self, key))
        for key in ("day", "week"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError("must be from 0 to 1", key=key, value=getattr(self, key))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the services, the most popular first."""
        width = len(str(self.services - 1))
        return tuple(f"service-{k:0{width}d}" for k in range(self.services))

    @property
    def bins(self) -> int:
        """Number of bins."""
        return max(1, round(self.days * DAY_S / self.bin_s))


def synthesise_counts(spec: SynthSpec, seed: int) -> Iterator[Counts]:
    """Yield the trace as counts a bin; the same seed gives the same trace."""
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    share = np.arange(1, spec.services + 1, dtype=np.float64) ** -spec.skew
    mean = spec.rate_rps * spec.bin_s * share / share.sum()
    phase_s = rng.normal(0.0, 3600.0, spec.services)
    keep = 0.5 ** (spec.bin_s / spec.burst_half_s)
    burst = np.zeros(spec.services)
    for first in range(0, spec.bins, BINS_AT_ONCE):
        bins = np.arange(first, min(first + BINS_AT_ONCE, spec.bins))
        lift = np.empty((bins.size, spec.services))
        starts = rng.poisson(spec.burstiness * spec.bin_s / DAY_S, lift.shape)
        sizes = starts * rng.exponential(spec.burst_size, lift.shape)
        for at in range(bins.size):
            burst = burst * keep + sizes[at]
            lift[at] = 1.0 + burst
        noise = np.exp(rng.normal(-(spec.noise**2) / 2, spec.noise, lift.shape))
        expected = _cycles(spec, bins, phase_s) * lift * noise * mean / _mean_lift(spec, keep)
        yield _block(spec, bins, rng.poisson(expected))


def synthesise(spec: SynthSpec, seed: int) -> Iterator[Rows]:
    """Yield the trace as single requests, with sizes like prompts and answers in tokens."""
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    medians = rng.uniform(100.0, 1500.0, spec.services)
    width_ns = round(spec.bin_s * 1e9)
    names = np.array(spec.names, object)
    arrivals = TraceArrivals(
        synthesise_counts(spec, seed),
        ServiceMap(services=spec.names),
        begin_ns=spec.start_ns,
        end_ns=spec.start_ns + spec.bins * width_ns,
        bin_s=spec.bin_s,
        seed=seed,
    )
    for at in range(1, spec.bins + 1):
        drawn = arrivals.until(at * width_ns)
        service = np.repeat(np.arange(spec.services), np.diff(drawn.offsets))
        order = np.argsort(drawn.ns, kind="stable")
        service = service[order]
        size = np.ceil(medians[service] * np.exp(rng.normal(0.0, 0.8, order.size)))
        output = np.ceil(rng.exponential(150.0, order.size))
        yield Rows(spec.start_ns + drawn.ns[order], names[service], size.astype(np.float32), output.astype(np.float32))


def _cycles(spec: SynthSpec, bins: NDArray[np.int64], phase_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean 1 over a whole week, lowest at about 3 in the morning; shape ``(bins, services)``."""
    at_s = bins[:, None] * spec.bin_s + phase_s
    day = 1.0 - spec.day * np.cos(2 * np.pi * (at_s - 3 * 3600.0) / DAY_S)
    weekend = (at_s % WEEK_S) >= 5 * DAY_S
    cycles: NDArray[np.float64] = day * np.where(weekend, 1.0 - spec.week, 1.0 + spec.week * 2 / 5)
    return cycles


def _mean_lift(spec: SynthSpec, keep: float) -> float:
    return 1.0 + spec.burstiness * spec.bin_s / DAY_S * spec.burst_size / (1.0 - keep)


def _block(spec: SynthSpec, bins: NDArray[np.int64], counts: NDArray[np.int64]) -> Counts:
    size = counts.size
    law, shape = ("gamma", 1.0 / (1.0 + spec.burstiness)) if spec.burstiness > 0 else ("poisson", 1.0)
    return Counts(
        np.repeat(spec.start_ns + bins * round(spec.bin_s * 1e9), spec.services),
        np.tile(np.array(spec.names, object), bins.size),
        counts.ravel(),
        np.full(size, law, object),
        np.full(size, shape),
    )
