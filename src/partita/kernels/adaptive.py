"""Adaptive batching: what becomes of a step's requests, under the rule in charge and under its rivals.

Each rule is one of deferred batching's (`deferred.serve`); here stands what the comparison counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partita.kernels import NEVER, entrance
from partita.kernels.batches import DROPPED, FINISH
from partita.kernels.columns import DUE, END, HEAD, SLO, TAIL, Rules, Work
from partita.kernels.instances import Instances
from partita.kernels.pressure import instances_alike, judge, measure


@entrance
def next_event(active: NDArray[np.int64], w: Work) -> int:
    """Return when something happens next, at the earliest."""
    at = NEVER
    for k in range(active.shape[0]):
        s = active[k]
        at = min(at, w.state[s, DUE])
        if w.state[s, TAIL] < w.state[s, END]:
            at = min(at, w.ns[w.state[s, TAIL]])
    return at


@entrance
def look(now: int, active: NDArray[np.int64], p: Instances, w: Work, r: Rules) -> None:
    """Find out what the load asks of each service's batches; measure it before, unless `now` is below 0."""
    if now >= 0:
        measure(now, active, w)
    judge(active, instances_alike(active, p, w), w, r)


@entrance
def lost_since(heads: NDArray[np.int64], active: NDArray[np.int64], w: Work) -> int:
    """Count the requests since the queues began at these rows that were dropped, or whose answer is too late."""
    lost = 0
    for k in range(active.shape[0]):
        s = active[k]
        slo = w.state[s, SLO]
        for row in range(heads[s], w.state[s, HEAD]):
            lost += w.account[row, FINISH] == DROPPED or w.account[row, FINISH] >= w.ns[row] + slo
    return lost


@entrance
def share_lost(heads: NDArray[np.int64], until: int, active: NDArray[np.int64], w: Work) -> float:
    """Return the share of bad requests among those whose time ran out before `until`; below 0 if there are none.

    It counts from where the queues began at these rows.
    """
    bad = total = 0
    for k in range(active.shape[0]):
        s = active[k]
        slo, row, head = w.state[s, SLO], heads[s], w.state[s, HEAD]
        while row < w.state[s, END] and w.ns[row] < until - slo:
            bad += row >= head or w.account[row, FINISH] == DROPPED or w.account[row, FINISH] >= w.ns[row] + slo
            row += 1
        total += row - heads[s]
    return bad / float(total) if total > 0 else -1.0
