"""What is served: services, their input-size buckets and their measured latency curves."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

import numpy as np
from numpy.typing import NDArray

from partita.kernels import INFEASIBLE_NS

WHOLE_GPU = "whole"
"""Profile name of a GPU that is not partitioned."""

BATCH_CAP = 499
"""Largest batch considered unless a service says less (the cap of the public Symphony scheduler's linear profiles)."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A range of input sizes served alike: sizes above `over` and up to `up_to`."""

    over: float = 0.0
    up_to: float = inf

    def holds(self, size: float) -> bool:
        """Say whether an input of this size belongs to the bucket."""
        return self.over < size <= self.up_to


def label(profile: str, gpu_percent: float) -> str:
    """Write a profile, or a share of it: ``whole``, ``3g.40gb@50%``."""
    return profile if gpu_percent == 100.0 else f"{profile}@{gpu_percent:g}%"


@dataclass(frozen=True, slots=True)
class LatencyCurve:
    """Latency by batch size, for one profile (or a share of it, `gpu_percent`) and one bucket.

    `points` are measured (batch, seconds) pairs in rising batch order; between two of them latency is linear, and
    beyond the last it is infinite, since a failed or missing measurement is never scaled from another. A line
    (alpha·b + beta) is made with `linear`, which measures itself at 1 and at the largest batch.
    """

    profile: str
    points: tuple[tuple[int, float], ...]
    bucket: Bucket = Bucket()
    gpu_percent: float = 100.0

    def __post_init__(self) -> None:
        if not self.points or any(b < 1 or not 0 < s < inf for b, s in self.points):
            raise ValueError("a latency curve needs points with batch ≥ 1 and positive seconds")
        if any(b >= c or s > t for (b, s), (c, t) in pairwise(self.points)):
            raise ValueError("latency points must rise in batch and must not fall in time")

    @classmethod
    def linear(
        cls, alpha_ms: float, beta_ms: float, *, profile: str = WHOLE_GPU, up_to: int = BATCH_CAP
    ) -> LatencyCurve:
        """Make the curve alpha·b + beta for b = 1 … `up_to`."""
        first, last = (alpha_ms + beta_ms) / 1e3, (alpha_ms * up_to + beta_ms) / 1e3
        return cls(profile, ((1, first), (up_to, last)) if up_to > 1 else ((1, first),))

    @property
    def max_batch(self) -> int:
        """Largest measured batch."""
        return self.points[-1][0]

    def latency_s(self, batch: int) -> float:
        """Seconds that a batch takes; infinite outside the measured range, the first point below it."""
        after = bisect_right(self.points, (batch, inf))
        if after == 0:
            return self.points[0][1]
        below, fast = self.points[after - 1]
        if after == len(self.points):
            return fast if batch == below else inf
        above, slow = self.points[after]
        return (slow - fast) / (above - below) * (batch - below) + fast

    def largest_within(self, budget_s: float) -> int:
        """Return the largest batch that takes no longer than this; 0 if none does."""
        if self.latency_s(1) > budget_s:
            return 0
        low, high = 1, self.max_batch
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.latency_s(middle) <= budget_s else (low, middle - 1)
        return low

    def table_ns(self, max_batch: int) -> NDArray[np.int64]:
        """Latency in ns by batch, shape ``(max_batch + 2,)``; index 0 is 0, unmeasured batches are INFEASIBLE_NS."""
        batches = np.arange(max_batch + 2)
        known = np.interp(batches, [b for b, _ in self.points], [s for _, s in self.points])
        table = np.where(batches <= self.max_batch, np.rint(known * 1e9), INFEASIBLE_NS).astype(np.int64)
        table[0] = 0
        return table


@dataclass(frozen=True, slots=True)
class Service:
    """One model behind an SLO.

    `attainment` is the share of requests (0..1) that must be answered within `slo_s`. `memory_gib` is what one loaded
    copy takes. `curves` holds one curve for each profile the model was measured on: of the whole profile and, where
    sizes fall into buckets, of the bucket of the largest, so that what is planned with it holds for all. `finer` holds
    the others: those of shares of a profile, and of the other buckets. With `exact_sizes` requests of all buckets wait
    together, and a batch takes as long as its largest input; without, each is padded to its bucket's edge. `mix` says,
    where it is known, which share of the requests falls into each bucket, smallest first; where it is not, all count as
    of the largest.
    """

    name: str
    slo_s: float
    attainment: float
    memory_gib: float
    curves: tuple[LatencyCurve, ...]
    finer: tuple[LatencyCurve, ...] = ()
    exact_sizes: bool = False
    mix: tuple[float, ...] = ()

    @classmethod
    def measured(
        cls,
        name: str,
        slo_s: float,
        attainment: float,
        memory_gib: float,
        curves: Sequence[LatencyCurve],
        *,
        exact_sizes: bool = False,
    ) -> Service:
        """Make a service of curves of any profiles, shares and buckets, in any order."""
        largest = max((c.bucket for c in curves), key=lambda bucket: bucket.up_to, default=Bucket())
        coarse = tuple(c for c in curves if c.gpu_percent == 100.0 and c.bucket == largest)
        finer = tuple(c for c in curves if c.gpu_percent != 100.0 or c.bucket != largest)
        return cls(name, slo_s, attainment, memory_gib, coarse, finer, exact_sizes)

    def curve(self, profile: str, gpu_percent: float = 100.0) -> LatencyCurve | None:
        """Return the curve measured on this profile, or on a share of it: of the bucket of the largest sizes.

        None where it was not measured: that is infeasible, never scaled from another.
        """
        if gpu_percent == 100.0:
            return next((c for c in self.curves if c.profile == profile), None)
        shares = [c for c in self.finer if c.profile == profile and c.gpu_percent == gpu_percent]
        last = self.buckets()[-1]
        return next((c for c in shares if c.bucket == last), None)

    def buckets(self) -> tuple[Bucket, ...]:
        """List the ranges of sizes that are served apart, smallest first; one for all where sizes do not count."""
        found = {c.bucket for c in (*self.curves, *self.finer)} or {Bucket()}
        return tuple(sorted(found, key=lambda bucket: bucket.up_to))

    def lanes(self) -> tuple[Service, ...]:
        """Return the service as it is for each of its queues: one a bucket, or one for all where sizes are exact."""
        return (self,) if self.exact_sizes else self.by_bucket()

    def by_bucket(self) -> tuple[Service, ...]:
        """Return the service as it is for each of its buckets, smallest first: itself where sizes do not count."""
        if len(buckets := self.buckets()) == 1:
            return (self,)
        curves = (*self.finer, *self.curves)
        return tuple(
            Service.measured(
                self.name, self.slo_s, self.attainment, self.memory_gib, [c for c in curves if c.bucket == bucket]
            )
            for bucket in buckets
        )

    def weighed(self) -> tuple[tuple[Service, float], ...]:
        """Return the queues that requests fall into, each with its share of them; itself where no mix is known.

        Itself also with exact sizes, as any batch may hold an input of the largest.
        """
        if not self.mix or self.exact_sizes:
            return ((self, 1.0),)
        return tuple((bucket, share) for bucket, share in zip(self.by_bucket(), self.mix, strict=True) if share > 0)

    def gpu_time_s(self, profile: str, gpu_percent: float = 100.0) -> float:
        """Return the time a request of the mix takes in the largest batches that the SLO allows; infinite without."""
        return sum(share * lane._own_gpu_time_s(profile, gpu_percent) for lane, share in self.weighed())

    def _own_gpu_time_s(self, profile: str, gpu_percent: float) -> float:
        curve = self.curve(profile, gpu_percent)
        batch = 0 if curve is None else curve.largest_within(self.slo_s)
        return inf if curve is None or batch == 0 else curve.latency_s(batch) / batch

    def largest_batch(self, profile: str, budget_s: float | None = None) -> int:
        """Return the largest batch that runs within `budget_s` (default: the SLO) on this profile; 0 if none does."""
        curve, budget = self.curve(profile), self.slo_s if budget_s is None else budget_s
        return 0 if curve is None else curve.largest_within(budget)
