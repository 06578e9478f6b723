"""Serving by a plan: every instance goes round its services and runs batches of at most the planned size.

The rules are those of the execution engine of Nexus (SOSP 2019; github.com/uwsampl/nexus), restated: requests are
handed to instances as they arrive (`partita.kernels.lanes`). An instance looks at its services in the order of their
numbers. One that has requests there runs a batch at once: of the planned size, or of what is there if that is less;
requests that would miss their deadline in a batch of that size are dropped first, oldest first, and the fewer are
left, the smaller is the batch they are held against. Rounds that find nothing to do are a fixed time apart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import NEVER, lean
from partita.kernels.batches import DROPPED, FINISH, Batches, answer, note
from partita.kernels.instances import Instances, run_ns
from partita.kernels.lanes import Lanes, due_at
from partita.kernels.sizes import largest_place
from partita.kernels.tournament import grow, next_within, put

LOOK, TURN, BEGUN = 0, 1, 2
"""Columns of an instance's state: when it looks next, at the services from which on, when its present round began."""
COLUMNS = 3


class Plan(NamedTuple):
    """What is planned: `batch` is ``(instances, services)``, 0 where a service is not run; `deadline` (after arrival)
    has one entry a service; `idle` lies between the beginnings of two rounds at least. In ns."""

    batch: NDArray[np.int64]
    deadline: NDArray[np.int64]
    idle: int


@lean
def _gather(lanes: Lanes, p: Instances, plan: Plan, g: int, s: int, now: int) -> int:
    """Drop what would miss its deadline, and return the size of the batch that is left."""
    services, kind = plan.deadline.shape[0], p.kind[g]
    lane = g * services + s
    head, end = lanes.head[lane], lanes.offsets[lane + 1]
    b = 0
    while True:
        while b < plan.batch[g, s] and head + b < end and lanes.there[head + b] <= now:
            b += 1
        if b == 0 or lanes.ns[head] + plan.deadline[s] >= now + p.planned[kind, s, b]:
            break
        lanes.account[head, FINISH] = DROPPED
        head += 1
        b -= 1
    lanes.head[lane] = head
    return b


@lean
def _serve(
    lanes: Lanes,
    p: Instances,
    plan: Plan,
    g: int,
    due: NDArray[np.int64],
    state: NDArray[np.int64],
    free_at: NDArray[np.int64],
    since: int,
    until: int,
    log: Batches,
    logged: int,
) -> int:
    """Let one instance go its rounds until `until`; return the number of batches logged so far.

    `due` is a tree over when the oldest request of each service is there.
    """
    services = plan.deadline.shape[0]
    look, turn, begun = max(state[g, LOOK], free_at[g]), state[g, TURN], state[g, BEGUN]
    while True:
        if turn == 0:
            first = due[1]
            if first >= NEVER:
                break
            at = look
            if at < max(since, first):
                at += (max(since, first) - at + plan.idle - 1) // plan.idle * plan.idle
            if at >= until:
                break
            look, begun = at, at
        if look >= until:
            break
        s = next_within(due, turn, look)
        if s < 0:
            look, turn = max(look, begun + plan.idle), 0
            continue
        turn = s + 1
        b = _gather(lanes, p, plan, g, s, look)
        lane = g * services + s
        head = lanes.head[lane]
        if b > 0:
            finish = look + run_ns(p, g, s, b, lanes.ns[head], largest_place(p.places, head, b))
            answer(lanes.account, head, b, look, finish)
            lanes.head[lane] = head + b
            logged = note(log, logged, g, s, b, look, finish)
            look = finish
            free_at[g] = finish
        put(due, s, due_at(lanes, lane))
    state[g, LOOK], state[g, TURN], state[g, BEGUN] = look, turn, begun
    return logged


@njit(cache=True)
def advance_nexus(
    lanes: Lanes,
    p: Instances,
    plan: Plan,
    active: NDArray[np.int64],
    state: NDArray[np.int64],
    free_at: NDArray[np.int64],
    since: int,
    until: int,
    log: Batches,
    logged: int,
) -> int:
    """Serve the lanes from `since` until `until`; return the number of batches logged so far, instance by instance.

    `lanes`, `state` (``(instances, COLUMNS)``), `free_at` and `log` are changed in place.
    """
    services = plan.deadline.shape[0]
    due = grow(np.full(services, NEVER, np.int64))
    for g in range(free_at.shape[0]):
        for k in range(active.shape[0]):
            s = active[k]
            put(due, s, due_at(lanes, g * services + s) if plan.batch[g, s] > 0 else NEVER)
        logged = _serve(lanes, p, plan, g, due, state, free_at, since, until, log, logged)
    return logged
