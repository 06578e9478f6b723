"""What a number of GPUs can carry at best: the staggered rule of deferred batching, and the fluid bound.

Source: the batch-size estimator of the public Symphony scheduler (github.com/abcdabcd987/nexuslb): n GPUs serve a
model in staggered turns, so that a request waits at most one turn, L(b)/n, and then runs for L(b).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from partita.model.service import WHOLE_GPU, LatencyCurve, Service


@dataclass(frozen=True, slots=True)
class Overheads:
    """Times outside the GPU, in seconds.

    `control_s` passes between plan and GPU once a batch, `data_s` once a request; `response_s` is taken off every
    deadline; `jitter_s` is a constant safety in the window formulas.
    """

    control_s: float = 0.0
    data_s: float = 0.0
    response_s: float = 0.0
    jitter_s: float = 0.0


NO_OVERHEADS = Overheads()

Kinds = Mapping[tuple[str, float], float]
"""How many instances there are of each profile and GPU%."""


def answers(service: Service, profile: str, gpu_percent: float = 100.0, *, overheads: Overheads = NO_OVERHEADS) -> bool:
    """Say whether a request of the largest size, alone, is answered within the SLO on such an instance."""
    curve = service.curve(profile, gpu_percent)
    around_s = overheads.control_s + overheads.data_s + overheads.response_s
    return curve is not None and curve.latency_s(1) + around_s <= service.slo_s


@dataclass(frozen=True, slots=True)
class Need:
    """What one service asks of a cluster at a rate: its batch, and the GPUs that this rate keeps busy."""

    batch: int
    gpus: float


def need(
    service: Service,
    rate_rps: float,
    *,
    profile: str = WHOLE_GPU,
    gpu_percent: float = 100.0,
    overheads: Overheads = NO_OVERHEADS,
) -> Need:
    """Return batch and GPU need of a service at a rate under the staggered rule.

    The batch is the largest b that gathers and then runs within the budget: b/rate + L(b). That is the published rule
    in both its cases: n = rate·L(b)/b GPUs in turns wait L(b)/n = b/rate, and one GPU waits for b arrivals. The need
    is infinite without a latency curve: an unmeasured profile serves nothing.
    """
    if rate_rps <= 0:
        return Need(1, 0.0)
    curve = service.curve(profile, gpu_percent)
    if curve is None:
        return Need(1, inf)
    budget = service.slo_s - overheads.control_s - overheads.response_s
    batch = _guess(curve, budget, 1 / rate_rps + overheads.data_s)
    while batch > 1 and curve.latency_s(batch) + batch / rate_rps + overheads.data_s * batch > budget:
        batch -= 1
    while curve.latency_s(batch + 1) + (batch + 1) / rate_rps + overheads.data_s * (batch + 1) <= budget:
        batch += 1
    return Need(batch, rate_rps * curve.latency_s(batch) / batch)


def _guess(curve: LatencyCurve, budget_s: float, gather_s: float) -> int:
    """Return the largest batch that gathers and runs within a budget, but for the rounding of floating point."""
    below, fast = curve.points[0]
    if fast + below * gather_s > budget_s:  # a batch below the first point takes as long as that
        return max(1, min(below, int((budget_s - fast) / gather_s)))
    for above, slow in curve.points[1:]:
        if slow + above * gather_s > budget_s:
            slope = (slow - fast) / (above - below)
            return min(above, below + max(0, int((budget_s - fast - below * gather_s) / (slope + gather_s))))
        below, fast = above, slow
    return below


def gpus_needed(
    services: Sequence[Service],
    rates_rps: Sequence[float],
    *,
    profile: str = WHOLE_GPU,
    gpu_percent: float = 100.0,
    overheads: Overheads = NO_OVERHEADS,
) -> float:
    """Add up the GPU need of all services at these rates (the staggered bound, inverted).

    Where sizes fall into buckets, those of a service's mix need theirs each: they never share a batch.
    """
    return sum(
        need(lane, rate, profile=profile, gpu_percent=gpu_percent, overheads=overheads).gpus
        for lane, rate in _by_lane(services, rates_rps)
    )


def sets_needed(
    services: Sequence[Service], rates_rps: Sequence[float], kinds: Kinds, overheads: Overheads = NO_OVERHEADS
) -> float:
    """Return how many such sets of instances these rates keep busy, each service on the kinds that can answer it.

    A service fills its kinds alike, so that one which is served by few of them may be given more than it would need if
    the others made room. Infinite if there is a service that no kind can answer.
    """
    needed = 0.0
    for lane, rate in _by_lane(services, rates_rps):
        if rate > 0:
            busy = sum(
                number / need(lane, rate, profile=profile, gpu_percent=percent, overheads=overheads).gpus
                for (profile, percent), number in kinds.items()
                if answers(lane, profile, percent, overheads=overheads)
            )
            needed += 1 / busy if busy else inf
    return needed


def _by_lane(services: Sequence[Service], rates: Sequence[float]) -> list[tuple[Service, float]]:
    """Return the lanes of all services, each with its part of its service's rate."""
    return [
        (lane, float(rate) * share)
        for service, rate in zip(services, rates, strict=True)
        for lane, share in service.weighed()
    ]


def staggered_rps(
    services: Sequence[Service],
    shares: Sequence[float],
    gpus: float,
    *,
    profile: str = WHOLE_GPU,
    gpu_percent: float = 100.0,
    overheads: Overheads = NO_OVERHEADS,
) -> float:
    """Return the highest total rate, split by `shares`, whose staggered need fits into `gpus`; 0 if nothing is served.

    The need grows with the rate and falls by a step wherever a service can fill the next larger batch, so the highest
    rate lies on the last such piece that begins within `gpus`, not where a bisection would happen to end.
    """
    total = float(np.sum(shares))
    pieces = []
    for service, share in _by_lane(services, shares):
        if share <= 0:
            continue
        curve = service.curve(profile, gpu_percent)
        if curve is None:
            return 0.0
        batches = np.arange(1, curve.max_batch + 1)
        run = np.interp(batches, [b for b, _ in curve.points], [s for _, s in curve.points])
        budget = service.slo_s - overheads.control_s - overheads.response_s
        gather = budget - run - overheads.data_s * batches
        usable = gather > 0
        if not usable[0]:
            return 0.0
        starts = batches[usable] / gather[usable] * total / share
        starts[0] = 0.0  # a single request never waits for another
        pieces.append((starts, share / total * run[usable] / batches[usable]))
    if not pieces:
        return 0.0
    rates = np.unique(np.concatenate([starts for starts, _ in pieces]))
    cost = np.zeros_like(rates)
    for starts, per_request in pieces:
        cost += per_request[np.searchsorted(starts, rates, side="right") - 1]
    last = int(np.flatnonzero(rates * cost <= gpus)[-1])
    return float(gpus / cost[last])


def fluid_rps(
    services: Sequence[Service],
    shares: Sequence[float],
    gpus: float,
    *,
    profile: str = WHOLE_GPU,
    gpu_percent: float = 100.0,
) -> float:
    """Return GPUs over the mean time a request takes in the largest batch that runs within its SLO."""
    total = float(np.sum(shares))
    busy = 0.0
    for service, share in zip(services, shares, strict=True):
        if share > 0:
            busy += share / total * service.gpu_time_s(profile, gpu_percent)
    return gpus / busy if busy > 0 else 0.0
