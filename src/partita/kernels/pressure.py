"""How pressed a pool is for instances, and how large batches must be for them to suffice.

What requests need by themselves leaves so much room for the overheads of batches, and therefore asks for batches so far
apart. docs/disciplines.md has the argument.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partita.kernels import NEVER, lean
from partita.kernels.columns import (
    CAP,
    GAP,
    MILLION,
    PEAK,
    RATE,
    ROOM,
    SLO,
    SLOPE,
    Rules,
    Work,
)
from partita.kernels.instances import Instances
from partita.kernels.metering import meter_to, rate_per_ns


@lean
def _slope(s: int, w: Work) -> float:
    cap = w.state[s, CAP]
    return (w.latency[s, cap] - w.latency[s, 1]) / (cap - 1.0) if cap > 1 else float(w.latency[s, 1])


@lean
def _overhead(s: int, w: Work) -> float:
    return max(0.0, w.latency[s, 1] - _slope(s, w))


@lean
def _rate(s: int, w: Work) -> float:
    """Return the requests a ns last measured."""
    return w.state[s, RATE] / float(MILLION) * 1e-9


@lean
def _gap(active: NDArray[np.int64], w: Work, room: float) -> float:
    """Return the time between two batches of each service that fills `room` instances with their overheads.

    A service whose requests come less often than that runs each alone.
    """
    gap = 0.0
    for _ in range(active.shape[0] + 1):
        alone = together = 0.0
        for k in range(active.shape[0]):
            rate, overhead = _rate(active[k], w), _overhead(active[k], w)
            if rate * gap < 1.0 and gap > 0.0:
                alone += rate * overhead
            elif rate > 0.0:
                together += overhead
        following = together / (room - alone) if room > alone else float(NEVER)
        if following == gap or together == 0.0:
            break
        gap = following
    return min(gap, float(NEVER))


@lean
def instances_alike(active: NDArray[np.int64], p: Instances, w: Work) -> float:
    """Count the instances, each as so many of the slowest as it does their work."""
    total = 0.0
    for k in range(p.max_batch.shape[0]):
        speeds, services = 0.0, 0
        for j in range(active.shape[0]):
            s = active[j]
            if p.max_batch[k, s] > 0:
                b = min(w.state[s, CAP], p.max_batch[k, s])
                speeds += w.latency[s, b] / float(p.planned[k, s, b])
                services += 1
        if services > 0:
            members = 0
            for g in range(p.kind.shape[0]):
                members += p.kind[g] == k
            total += members * speeds / services
    return total


@lean
def measure(now: int, active: NDArray[np.int64], w: Work) -> None:
    """Measure the load of all services by `now`."""
    for k in range(active.shape[0]):
        s = active[k]
        meter_to(s, now, w)
        w.state[s, RATE] = round(max(0.0, rate_per_ns(s, w)) * 1e9 * MILLION)


@lean
def _peak(s: int, w: Work, r: Rules) -> float:
    """Return the batch that deferral reaches: b = 1 + rate·(budget − L(b + 1) − data·(b + 1)).

    So long does the oldest request wait until one more would not fit.
    """
    rate, each = _rate(s, w), _slope(s, w) + r.data_ns
    budget = float(w.state[s, SLO] - r.control_ns - r.response_ns)
    peak = (1.0 + rate * (budget - _overhead(s, w) - each)) / (1.0 + rate * each)
    return min(max(1.0, peak), float(w.state[s, CAP]))


@lean
def judge(active: NDArray[np.int64], instances: float, w: Work, r: Rules) -> None:
    """Set what the load last measured asks of each service's batches."""
    work = 0.0
    for k in range(active.shape[0]):
        work += _rate(active[k], w) * _slope(active[k], w)
    room = instances - work
    gap = round(_gap(active, w, room)) if room > 0.0 else NEVER
    for k in range(active.shape[0]):
        s = active[k]
        w.state[s, PEAK], w.state[s, SLOPE] = int(np.ceil(_peak(s, w, r))), round(_slope(s, w))
        w.state[s, GAP], w.state[s, ROOM] = gap, round(room * MILLION)
