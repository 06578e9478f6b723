"""What a number of GPUs can carry at best: the staggered rule of deferred batching, and the fluid bound.

Source: the batch-size estimator of the public Symphony scheduler (github.com/abcdabcd987/nexuslb): n GPUs serve a
model in staggered turns, so that a request waits at most one turn, L(b)/n, and then runs for L(b).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partita.model.service import WHOLE_GPU, Service


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


@dataclass(frozen=True, slots=True)
class Need:
    """What one service asks of a cluster at a rate: its batch, and the GPUs that this rate keeps busy."""

    batch: int
    gpus: float


def need(service: Service, rate_rps: float, *, profile: str = WHOLE_GPU, overheads: Overheads = NO_OVERHEADS) -> Need:
    """Return batch and GPU need of a service at a rate under the staggered rule.

    While the rate needs more than one GPU, the largest b with L(b)·(1 + 1/n) within the budget, n = rate·L(b)/b; with
    less than one GPU, the largest b that fills and runs within the budget: L(b) + b/rate.
    """
    curve = service.curve(profile)
    if curve is None or rate_rps <= 0:
        return Need(1, 0.0)
    budget = service.slo_s - overheads.control_s - overheads.response_s
    best = 1
    for b in range(1, service.largest_batch(profile) + 1):
        run = curve.latency_s(b)
        gpus = rate_rps * run / b
        wait = run / gpus if gpus > 1 else b / rate_rps
        if run + wait > budget - overheads.data_s * b:
            break
        best = b
    return Need(best, rate_rps * curve.latency_s(best) / best)


def gpus_needed(
    services: Sequence[Service],
    rates_rps: Sequence[float],
    *,
    profile: str = WHOLE_GPU,
    overheads: Overheads = NO_OVERHEADS,
) -> float:
    """Add up the GPU need of all services at these rates (the staggered bound, inverted)."""
    return sum(
        need(s, float(r), profile=profile, overheads=overheads).gpus for s, r in zip(services, rates_rps, strict=True)
    )


def staggered_rps(
    services: Sequence[Service],
    shares: Sequence[float],
    gpus: float,
    *,
    profile: str = WHOLE_GPU,
    overheads: Overheads = NO_OVERHEADS,
) -> float:
    """Return the highest total rate, split by `shares`, whose staggered need fits into `gpus`."""
    high = fluid_rps(services, shares, gpus, profile=profile)
    low = 0.0
    for _ in range(50):
        middle = (low + high) / 2
        fits = gpus_needed(services, [middle * s for s in shares], profile=profile, overheads=overheads) <= gpus
        low, high = (middle, high) if fits else (low, middle)
    return low


def fluid_rps(services: Sequence[Service], shares: Sequence[float], gpus: float, *, profile: str = WHOLE_GPU) -> float:
    """Return GPUs over the mean time a request takes in the largest batch that runs within its SLO."""
    total = float(np.sum(shares))
    busy = 0.0
    for service, share in zip(services, shares, strict=True):
        batch = service.largest_batch(profile)
        if share <= 0:
            continue
        if batch == 0:
            return 0.0
        curve = service.curve(profile)
        assert curve is not None
        busy += share / total * curve.latency_s(batch) / batch
    return gpus / busy if busy > 0 else 0.0
