"""Timeout batching: a batch goes when it is full or its oldest request has waited long enough.

The rule is that of Triton's dynamic batcher (triton-inference-server/core, `dynamic_batch_scheduler.cc`), looked at
whenever an instance is free, for services that share a pool of instances: among the services that are ready, the one
whose oldest request has waited longest goes first (ties: the lower number). Delay 0 is eager first-in first-out.
Nothing is dropped unless requests have a limit, after which they are rejected when they reach the front.

With preferred sizes a batch goes as soon as one of them is reached, with exactly the largest one reached; once the
oldest request has waited long enough, everybody rides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import NEVER, lean
from partita.kernels.agenda import Agenda, empty_agenda, enter, most_urgent, next_at, taker
from partita.kernels.batches import DROPPED, FINISH, Batches, answer, note
from partita.kernels.instances import Instances, cut_down, grow_forest, occupy, run_ns
from partita.kernels.lanes import Lanes
from partita.kernels.sizes import largest_place


class Queues(NamedTuple):
    """Requests of one advance by service (rows ``offsets[s]:offsets[s + 1]``), and what became of them.

    Rows before `head[s]` are settled; `account` (``(requests, 2)``: start and finish) is filled in for them.
    """

    ns: NDArray[np.int64]
    offsets: NDArray[np.int64]
    head: NDArray[np.int64]
    account: NDArray[np.int64]


class Filling(NamedTuple):
    """How batches fill, by service: longest wait for one, longest time in the queue (NEVER: none), in ns.

    `least` (``(kinds, services)``) is the smallest batch that goes before its time, `preferred` (``(services,
    batches)``) the size that goes while so many wait: the largest preferred one among them, 0 if there is none.
    """

    delay: NDArray[np.int64]
    limit: NDArray[np.int64]
    least: NDArray[np.int64]
    preferred: NDArray[np.int64]


class Lead(NamedTuple):
    """What lies between a decision and the start of its batch, in ns: once, and for each request."""

    control: int
    data: int


@lean
def ready_at(q: Queues, s: int, cap: int, delay: int) -> int:
    """Return when the service's next batch may go: `cap` requests are there, or its oldest is `delay` old."""
    head, end = q.head[s], q.offsets[s + 1]
    if head == end:
        return NEVER
    patient = q.ns[head] + delay
    if head + cap <= end:
        return min(patient, q.ns[head + cap - 1])
    return patient


@lean
def _enter(a: Agenda, q: Queues, p: Instances, f: Filling, leaf: int, s: int, now: int) -> None:
    """Note when a service is ready for each kind of instance."""
    head = q.head[s]
    a.urgency[leaf] = q.ns[head] if head < q.offsets[s + 1] else NEVER
    for kind in range(p.max_batch.shape[0]):
        may = p.max_batch[kind, s] > 0
        enter(a, kind, leaf, ready_at(q, s, f.least[kind, s], f.delay[s]) if may else NEVER, now)


@lean
def _size(q: Queues, f: Filling, s: int, cap: int, now: int) -> int:
    """Return the size of the batch that goes now."""
    head, end = q.head[s], q.offsets[s + 1]
    b = 0
    while b < cap and head + b < end and q.ns[head + b] <= now:
        b += 1
    patient = f.delay[s] == 0 or now < q.ns[head] + f.delay[s]
    return f.preferred[s, b] if patient and f.preferred[s, b] > 0 else b


@lean
def _serve(
    q: Queues,
    active: NDArray[np.int64],
    p: Instances,
    f: Filling,
    lead: Lead,
    min_id: bool,
    a: Agenda,
    forest: NDArray[np.int64],
    first_instance: int,
    since: int,
    until: int,
    log: Batches,
    logged: int,
) -> int:
    """Run the event loop; return the number of batches logged so far."""
    for leaf in range(active.shape[0]):
        _enter(a, q, p, f, leaf, active[leaf], since - 1)
    now = since
    while True:
        now = max(now, next_at(a, forest))
        if now >= until:
            break
        leaf = most_urgent(a, forest, now)
        s = active[leaf]
        head, end = q.head[s], q.offsets[s + 1]
        while head < end and q.ns[head] + f.limit[s] <= now:
            q.account[head, FINISH] = DROPPED
            head += 1
        rejected = head > q.head[s]
        q.head[s] = head
        if not rejected:
            g = taker(a, forest, leaf, now, min_id)
            b = _size(q, f, s, p.max_batch[p.kind[g], s], now)
            start = now + lead.control + lead.data * b
            finish = start + run_ns(p, g, s, b, q.ns[head], largest_place(p.places, head, b))
            answer(q.account, head, b, start, finish)
            q.head[s] = head + b
            occupy(forest, p, g, finish)
            logged = note(log, logged, first_instance + g, s, b, start, finish)
        _enter(a, q, p, f, leaf, s, now)
    return logged


@njit(cache=True)
def advance_timeout(
    q: Queues,
    active: NDArray[np.int64],
    p: Instances,
    f: Filling,
    lead: Lead,
    min_id: bool,
    free_at: NDArray[np.int64],
    since: int,
    until: int,
    log: Batches,
) -> int:
    """Serve the pool from one queue a service, from `since` until `until`; return the number of batches logged.

    `q`, `free_at` and `log` are changed in place.
    """
    if active.shape[0] == 0 or free_at.shape[0] == 0:
        return 0
    a = empty_agenda(p.max_batch.shape[0], active.shape[0])
    forest = grow_forest(free_at, p)
    logged = _serve(q, active, p, f, lead, min_id, a, forest, 0, since, until, log, 0)
    cut_down(forest, p, free_at)
    return logged


@njit(cache=True)
def advance_apart(
    lanes: Lanes,
    active: NDArray[np.int64],
    p: Instances,
    f: Filling,
    lead: Lead,
    free_at: NDArray[np.int64],
    since: int,
    until: int,
    log: Batches,
) -> int:
    """Serve every instance from queues of its own, from `since` until `until`; return the number of batches logged.

    Batches are logged instance by instance. `lanes`, `free_at` and `log` are changed in place.
    """
    services, logged = p.max_batch.shape[1], 0
    if active.shape[0] == 0:
        return 0
    for g in range(free_at.shape[0]):
        kind = p.kind[g]
        alone = Instances(
            np.zeros(1, np.int64),
            p.max_batch[kind : kind + 1],
            p.planned[kind : kind + 1],
            p.run[kind : kind + 1],
            p.spread,
            p.seed,
            p.places,
        )
        own = Filling(f.delay, f.limit, f.least[kind : kind + 1], f.preferred)
        first = g * services
        q = Queues(
            lanes.ns, lanes.offsets[first : first + services + 1], lanes.head[first : first + services], lanes.account
        )
        forest = np.full((1, 2), free_at[g], np.int64)
        a = empty_agenda(1, active.shape[0])
        logged = _serve(q, active, alone, own, lead, True, a, forest, g, since, until, log, logged)
        free_at[g] = forest[0, 1]
    return logged
