"""Deferred batching and its relatives: one pool of instances, many services, few events a batch.

The rules are those of Symphony's public scheduler (github.com/abcdabcd987/nexuslb, `rankmt`), restated in
docs/disciplines.md:

- A service's candidate (`candidates`) is formed anew at every arrival, when it runs out, and when an instance is
  granted.
- At its send time the service takes an instance that is free by the wanted start; if there is none it is *pending*, and
  the next instance to come free takes the most urgent of the pending services.

Order of events, which decides ties: by time; at one time services before instances; services by number; for one
service its arrival before its timer. A batch is sent no later than the last instant at which it is feasible, and its
invalidation fires one ns after that, so that no timer ever fires twice at one instant.

Arrivals at a service that is not pending touch nothing but its own queue. They are therefore taken in one go up to its
send time, and only sends, arrivals at pending services and freed instances pass through the event queue.

Requests that arrived before an advance began, because the pool did not serve their service then, are taken in at once
when it begins, and metered at their own instants; a timer that fell due before fires then.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from partita.kernels import NEVER, entrance, inlined, lean
from partita.kernels.batches import Batches, answer, note
from partita.kernels.candidates import (
    CREDITED,
    NO_DROP,
    form,
    gather,
    lead,
    settle,
    settle_apart,
    target_now,
    wanted_start,
)
from partita.kernels.columns import (
    AIM,
    BATCH,
    CAP,
    CREDIT,
    DUE,
    END,
    EXEC_AT,
    EXPIRED,
    HEAD,
    INVALID_AFTER,
    LAST_START,
    PENDING,
    SLO,
    SPLIT,
    STATUS,
    TAIL,
    WAITING,
    WIDE,
    Rules,
    Work,
    sized,
    takes,
)
from partita.kernels.instances import (
    Instances,
    earliest,
    first_free_at,
    free_of,
    lowest_within,
    occupy,
    run_ns,
)
from partita.kernels.metering import count_arrivals
from partita.kernels.sizes import largest_place
from partita.kernels.tournament import empty_trees, put, smallest

BOTH, SERVICE_ONLY, INSTANCE_ONLY = 0, 1, 2
"""Who looks for the other: services at their send time and instances that come free; or only one of them."""

BY_LAST_START, BY_DEADLINE, BY_EFFICIENCY = 0, 1, 2
"""Which pending service an instance takes: the smallest last feasible start, deadline; or the best use of its time."""

EARLIEST, MIN_ID = 0, 1
"""Instance taken at a send: the one free longest, or the lowest-numbered one that is free in time."""


class Queue(NamedTuple):
    """Who waits for what: the forest over the pool's instances, and trees over services, ``(1 + 2·kinds, nodes)``.

    The first tree (`EVENTS`) says when each service next needs attention. One a kind ranks the pending services that it
    may serve by urgency; one more a kind, by the longest lead.
    """

    forest: NDArray[np.int64]
    trees: NDArray[np.int64]


EVENTS, URGENT = 0, 1
"""The tree of events, and the first of those of urgency; those of leads follow."""


@inlined
def _urgency(s: int, now: int, w: Work, r: Rules) -> int:
    """Return the key by which an instance picks among pending services; the smallest wins."""
    if r.order == BY_LAST_START:
        return w.state[s, INVALID_AFTER]
    if r.order == BY_DEADLINE:
        return w.ns[w.state[s, HEAD]] + w.state[s, SLO] - r.response_ns
    if w.state[s, AIM] == 0:
        w.state[s, AIM] = target_now(s, now, w, r)
    # The candidate may be older than the pool, and larger than the pool allows now.
    cap = w.state[s, WIDE] if sized(s, w) else w.state[s, CAP]
    b, best = min(w.state[s, BATCH], cap), min(w.state[s, AIM], w.state[s, CAP])
    runs = takes(s, b, w.latency, largest_place(w.places, w.state[s, HEAD], b), w)
    worth = (b / float(runs)) / (best / float(w.latency[s, best]))
    return -int(worth * 1e9)


@inlined
def _rank(s: int, now: int, w: Work, q: Queue, p: Instances, r: Rules) -> None:
    """Enter a service among the pending if it is, or take it out."""
    kinds = q.forest.shape[0]
    waits = w.state[s, STATUS] == PENDING
    key = _urgency(s, now, w, r) if waits else NEVER
    longest = -lead(s, w, r) if waits else NEVER
    for k in range(kinds):
        if p.max_batch[k, s] > 0:
            put(q.trees[URGENT + k], s, key)
            if r.data_ns > 0:
                put(q.trees[URGENT + kinds + k], s, longest)


@inlined
def _look_at(k: int, now: int, q: Queue, r: Rules) -> int:
    """Return when the earliest free instance of a kind should look for a pending service."""
    free = q.forest[k, 1]
    if q.trees[URGENT + k, 1] >= NEVER or free >= NEVER:
        return NEVER
    longest = -q.trees[URGENT + q.forest.shape[0] + k, 1] if r.data_ns > 0 else r.control_ns
    return max(now, free - longest)


@inlined
def _first_to_look(now: int, q: Queue, r: Rules) -> tuple[int, int]:
    """Return the kind whose earliest free instance looks for a pending service first, and when it does."""
    kind, first = 0, _look_at(0, now, q, r)
    for k in range(1, q.forest.shape[0]):
        at = _look_at(k, now, q, r)
        if at < first:
            kind, first = k, at
    return kind, first


@inlined
def _grant(s: int, g: int, now: int, w: Work, q: Queue, p: Instances, r: Rules, log: Batches, logged: int) -> int:
    """Start the service's best batch on an instance, if any can make it; return the number of batches logged."""
    k, free_at = p.kind[g], free_of(q.forest, p, g)
    cap = p.max_batch[k, s]
    planned = p.planned[k]
    b = gather(s, now, free_at, planned, cap, w, r)
    if b == 0:
        return logged
    head = w.state[s, HEAD]
    place, earliest_start = largest_place(w.places, head, b), max(now + r.control_ns + r.data_ns * b, free_at)
    start = wanted_start(s, b, now, earliest_start, planned, place, cap, w, r)
    finish = start + run_ns(p, g, s, b, w.ns[head], place)
    answer(w.account, head, b, start, finish)
    w.state[s, HEAD] = head + b
    w.state[s, SPLIT] = max(w.state[s, SPLIT], head + b)
    w.state[s, LAST_START] = start
    if r.window == CREDITED:
        target = target_now(s, now, w, r)
        saved = b * takes(s, target, planned, place, w) // target - takes(s, b, planned, place, w)
        w.state[s, CREDIT] = min(max(w.state[s, CREDIT] + saved, -w.state[s, SLO]), w.state[s, SLO])
    occupy(q.forest, p, g, finish)
    return note(log, logged, g, s, b, start, finish)


@inlined
def _await(s: int, now: int, w: Work, r: Rules) -> None:
    """Make a service pending, or keep it so with its new candidate."""
    w.state[s, STATUS] = PENDING
    w.state[s, DUE] = NEVER if r.drop == NO_DROP else max(now, w.state[s, INVALID_AFTER] - lead(s, w, r)) + 1
    w.state[s, AIM] = 0


@inlined
def _attend(s: int, due: int, now: int, w: Work, q: Queue, p: Instances, r: Rules) -> tuple[int, int]:
    """Deal with what is due at a service: return the instance that it takes, and when to form its candidate anew.

    Either is -1 where it does not apply.
    """
    if w.state[s, STATUS] == PENDING:
        tail = w.state[s, TAIL]
        if tail < w.state[s, END] and w.ns[tail] <= due:
            w.state[s, TAIL] = tail + 1
            return -1, w.ns[tail]
        return -1, now
    if w.state[s, STATUS] != WAITING:
        return -1, now
    if r.drop != NO_DROP and now + lead(s, w, r) > w.state[s, INVALID_AFTER]:
        w.state[s, STATUS] = EXPIRED
        w.state[s, DUE] = now + 1
        return -1, -1
    if r.match == INSTANCE_ONLY or first_free_at(q.forest, p, s) > w.state[s, EXEC_AT]:
        _await(s, now, w, r)
        return -1, -1
    if r.choice == MIN_ID:
        return lowest_within(q.forest, p, s, w.state[s, EXEC_AT]), -1
    return earliest(q.forest, p, s), -1


@lean
def _most_urgent(k: int, now: int, horizon: int, w: Work, q: Queue, p: Instances, r: Rules) -> int:
    """Take the pending service that a kind's earliest free instance should serve; -1 if all come too late."""
    while q.trees[URGENT + k, 1] < NEVER:
        s = smallest(q.trees[URGENT + k])
        w.state[s, STATUS] = EXPIRED  # or it is formed anew after the grant
        _rank(s, now, w, q, p, r)
        if w.state[s, INVALID_AFTER] >= q.forest[k, 1] or r.drop == NO_DROP:
            return s
        put(q.trees[EVENTS], s, settle_apart(s, horizon, w, r))
    return -1


@lean
def _plant(q: Queue, free_at: NDArray[np.int64], p: Instances) -> None:
    """Enter when each instance is free into the forest, and clear the trees over services."""
    kinds, nodes = q.forest.shape
    for k in range(kinds):
        for g in range(free_at.shape[0]):
            q.forest[k, nodes // 2 + g] = free_at[g] if p.kind[g] == k else NEVER
        for node in range(nodes // 2 - 1, 0, -1):
            q.forest[k, node] = min(q.forest[k, 2 * node], q.forest[k, 2 * node + 1])
    for tree in range(q.trees.shape[0]):
        for node in range(q.trees.shape[1]):
            q.trees[tree, node] = NEVER


@entrance
def serve(
    w: Work,
    active: NDArray[np.int64],
    q: Queue,
    p: Instances,
    free_at: NDArray[np.int64],
    r: Rules,
    since: int,
    until: int,
    log: Batches,
    logged: int,
) -> int:
    """Serve the pool from `since`, where it was left, until `until`; return the number of batches logged.

    `active` lists the services of the pool; `free_at` has one entry an instance and is moved forward in place; the log
    holds `logged` batches already. What arrives from `until` on is not touched.
    """
    now = since
    _plant(q, free_at, p)
    for k in range(active.shape[0]):
        s = active[k]
        tail = w.state[s, TAIL]
        while tail < w.state[s, END] and w.ns[tail] < since:  # arrived while the pool did not serve the service
            tail += 1
        if tail > w.state[s, TAIL]:
            w.state[s, TAIL] = tail
            form(s, since, w, r)
        if w.state[s, STATUS] == PENDING and r.match != SERVICE_ONLY:
            _rank(s, since, w, q, p, r)
        put(q.trees[EVENTS], s, settle_apart(s, until, w, r))
    while True:
        kind, look_at = _first_to_look(now, q, r)
        due = q.trees[EVENTS, 1]
        first = min(due, look_at)
        if first >= until:
            break
        now = max(now, first)
        pending = False
        if due <= look_at:
            s = smallest(q.trees[EVENTS])
            pending = w.state[s, STATUS] == PENDING
            g, at = _attend(s, due, now, w, q, p, r)
        else:
            s, at = _most_urgent(kind, now, until, w, q, p, r), now
            if s < 0:
                continue
            g = smallest(q.forest[kind])
        if g >= 0:
            logged, at = _grant(s, g, now, w, q, p, r, log, logged), now
        if at >= 0:
            form(s, at, w, r)
        if r.match != SERVICE_ONLY:
            if pending and w.state[s, STATUS] == WAITING and w.state[s, DUE] <= now:
                _await(s, now, w, r)
            if pending or w.state[s, STATUS] == PENDING:
                _rank(s, now, w, q, p, r)
        put(q.trees[EVENTS], s, settle(s, until, w, r))
    for k in range(active.shape[0]):
        count_arrivals(active[k], w)  # the rows have other numbers in the next advance
    for g in range(free_at.shape[0]):
        free_at[g] = free_of(q.forest, p, g)
    return logged


def room_for(services: int, p: Instances) -> Queue:
    """Make the trees in which so many services and these instances meet."""
    kinds = p.max_batch.shape[0]
    return Queue(empty_trees(kinds, p.kind.shape[0]), empty_trees(1 + 2 * kinds, services))
