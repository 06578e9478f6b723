"""How pressed a pool is for instances, and what adaptive batching makes of it.

Deferral waits for full batches and trusts that an instance is free when one must start. That holds while instances to
spare outnumber the chance swings of those in use; below that, services meet at the same instance and it pays to start
early. How early, and for how small a batch older requests should be given up, follows from the load and the instances
there are. docs/disciplines.md gives the argument.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partita.kernels import NEVER, lean
from partita.kernels.columns import (
    CAP,
    DISPERSION,
    GAP,
    MILLION,
    PEAK,
    RATE,
    ROOM,
    SLO,
    SLOPE,
    THRESHOLD,
    Rules,
    Work,
)
from partita.kernels.instances import Instances
from partita.kernels.metering import dispersion, meter_to, rate_per_ns

REFRESH_NS = 500_000_000
"""Time between two looks at the load; the meter's rate is a mean over five seconds."""
AMPLE, SHORT = 0.7, 0.4
"""Spare instances over the swings of those in use: above the one batches are deferred, below the other they are not."""
CROWD = 2.5
"""Instances that a service keeps busy: from here on its own batches free instances for each other, and it defers."""
EAGERNESS = 0.6
"""Requests that a batch may start with early, over those that arrive during one overhead."""
BURSTING = 0.6
"""From here on arrivals are bursts that fill batches by themselves, and waiting only loses time."""
NEGLIGIBLE = 0.03
"""Share of a batch's time below which its overhead is no reason to wait."""


@lean
def _slope(s: int, w: Work) -> float:
    cap = w.state[s, CAP]
    return (w.latency[s, cap] - w.latency[s, 1]) / (cap - 1.0) if cap > 1 else float(w.latency[s, 1])


@lean
def _overhead(s: int, w: Work) -> float:
    return max(0.0, w.latency[s, 1] - _slope(s, w))


@lean
def _between(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))


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
        w.state[s, DISPERSION] = round(dispersion(s, w) * MILLION)


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
def _used(s: int, w: Work, r: Rules) -> float:
    """Return how many instances a service keeps busy when it is deferred."""
    return _rate(s, w) * (_slope(s, w) + _overhead(s, w) / _peak(s, w, r))


@lean
def judge(active: NDArray[np.int64], instances: float, w: Work, r: Rules) -> None:
    """Set from which batch on each service may start at once, at the load last measured."""
    work = busy = squares = swings = alone = 0.0
    for k in range(active.shape[0]):
        s = active[k]
        used = _used(s, w, r)
        work += _rate(s, w) * _slope(s, w)
        busy += used
        squares += used * used
        swings += used * w.state[s, DISPERSION] / MILLION
        alone += used * max(0.0, 1.0 - 2.0 * _overhead(s, w) / float(w.state[s, SLO] - r.response_ns))
    early, waits = 0.0, float(NEVER)
    if busy > 0.0:
        early = 1.0 - _between((instances - busy) / np.sqrt(swings), SHORT, AMPLE)
        crowd = squares / busy
        if swings / busy / max(1.0, crowd) * (alone / busy) * (alone / busy) >= BURSTING:
            waits = 0.0
        elif crowd < CROWD:
            waits = EAGERNESS
    room = instances - work
    gap = round(_gap(active, w, room)) if room > 0.0 else NEVER
    for k in range(active.shape[0]):
        s = active[k]
        negligible = _overhead(s, w) < NEGLIGIBLE * _slope(s, w) * _peak(s, w, r)
        gathered = 0.0 if negligible or w.state[s, RATE] == 0 else waits * _rate(s, w) * _overhead(s, w)
        w.state[s, THRESHOLD] = round(gathered / early) if gathered < early * NEVER else NEVER
        w.state[s, PEAK], w.state[s, SLOPE] = int(np.ceil(_peak(s, w, r))), round(_slope(s, w))
        w.state[s, GAP], w.state[s, ROOM] = gap, round(room * MILLION)
