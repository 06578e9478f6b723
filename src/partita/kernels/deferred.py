"""Deferred and eager batching: one pool of equal instances, many services, events a batch.

The rules are those of Symphony's public scheduler (github.com/abcdabcd987/nexuslb, `rankmt`), restated:

- Each service keeps its requests in deadline order as a *prefix* (older) and a *suffix* (the longest tail that could
  still run as one batch), and at most one *candidate* (batch size, start, last feasible start).
- A candidate is formed anew at every arrival, when it runs out, and when an instance is granted.
- At its send time the service takes an instance that is free by the wanted start; if there is none it is *pending*, and
  the next instance to come free takes the pending service whose last feasible start is earliest.

Order of events, which decides ties: by time; at one time services before instances; services by number; for one
service its arrival before its timer. A batch is sent no later than the last instant at which it is feasible, and its
invalidation fires one ns after that, so that no timer ever fires twice at one instant.

Arrivals at a service that is not pending touch nothing but its own queue. They are therefore taken in one go up to its
send time, and only sends, arrivals at pending services and freed instances pass through the event queue. The finish
time of a batch rises with its size, so the largest that meets a deadline is found from the last one in a step or two.

What fell due before an advance began, because the pool did not serve the service then, is made up for when it begins,
in the order in which it fell due; requests that arrived meanwhile are metered at their own instants.

All state of a service is one row of int64, so that a step touches one or two cache lines.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import NEVER, lean
from partita.kernels.batches import DROPPED, FINISH, START, Batches
from partita.kernels.tournament import first_within, grow, put, smallest

BIN_NS = 50_000_000
"""Width of one counter of the rate meter."""
BINS = 100
"""Counters of the rate meter: the rate is their mean over five seconds. One more slot holds the present bin."""

IDLE, WAITING, PENDING, EXPIRED = 0, 1, 2, 3
"""Candidate status: none; its send timer runs; waits for an instance; lost its chance, will be formed anew."""

FRONTRUN, IMMEDIATE = 0, 1
"""Wanted start: when one more request would no longer fit (deferred), or at once (eager)."""

WINDOW_DROP, TIMEOUT_DROP = 0, 1
"""Give up a request that cannot ride in a batch of the target's size, or only when it would miss alone."""

EARLIEST, MIN_ID = 0, 1
"""Instance taken at a send: the one free longest, or the lowest-numbered one that is free in time."""

HEAD, SPLIT, TAIL, END = 0, 1, 2, 3
"""Columns of the state, as rows of this advance's requests: first unsettled, start of the suffix, next arrival, end."""
STATUS, BATCH, EXEC_AT, INVALID_AFTER, DUE = 4, 5, 6, 7, 8
"""Columns: the candidate's status, size, start and last feasible start; when its timer is due."""
SLO, CAP = 9, 10
"""Columns: the service's SLO and largest batch, set anew at each advance."""
TARGET, BIN, FIRST_BIN, BIN_END, TOTAL = 11, 12, 13, 14, 15
"""Columns: target batch (0: stale); the meter's present bin, its first (-1: none), the present bin's end, the sum."""
METER = 16
"""First column of the meter's counters."""
COLUMNS = METER + BINS + 1


class Work(NamedTuple):
    """The arrays of one advance, all changed in place but `ns` and `latency`.

    `ns` and `account` (``(requests, 2)``: start and finish) are the requests by service; `latency` is
    ``(services, batches)`` in ns; `state` is ``(services, COLUMNS)``.
    """

    ns: NDArray[np.int64]
    account: NDArray[np.int64]
    latency: NDArray[np.int64]
    state: NDArray[np.int64]


class Queue(NamedTuple):
    """The event queue: trees over instances (`free`) and services (`events`), and who is pending.

    `active` lists the services of the pool, `place` is its inverse; the first `pendings` of `pending` are waiting.
    """

    free: NDArray[np.int64]
    events: NDArray[np.int64]
    active: NDArray[np.int64]
    place: NDArray[np.int64]
    pending: NDArray[np.int64]
    pendings: int


class Rules(NamedTuple):
    """Settings of the discipline and times outside the instances, in ns."""

    window: int
    drop: int
    choice: int
    control_ns: int
    data_ns: int
    response_ns: int
    jitter_ns: int


def new_state(services: int) -> NDArray[np.int64]:
    """Return the state, ``(services, COLUMNS)``, of this many services with nothing queued and nothing metered."""
    state = np.zeros((services, COLUMNS), np.int64)
    state[:, FIRST_BIN] = -1
    state[:, DUE] = NEVER
    return state


@lean
def _meter_to(s: int, now: int, w: Work) -> None:
    """Complete the meter's bins that lie before `now`; the target is stale then, since their sum may have changed."""
    present = now // BIN_NS
    slots = BINS + 1
    if w.state[s, FIRST_BIN] < 0:
        w.state[s, FIRST_BIN] = present
    elif present - w.state[s, BIN] >= slots:
        for k in range(slots):
            w.state[s, METER + k] = 0
        w.state[s, TOTAL] = 0
    else:
        # Completing a bin adds its count; the slot after it holds the count that falls out.
        for b in range(w.state[s, BIN], present):
            following = (b + 1) % slots
            w.state[s, TOTAL] += w.state[s, METER + b % slots] - w.state[s, METER + following]
            w.state[s, METER + following] = 0
    w.state[s, BIN] = present
    w.state[s, BIN_END] = (present + 1) * BIN_NS
    w.state[s, TARGET] = 0


@lean
def target_batch(latency: NDArray[np.int64], s: int, cap: int, slo: int, rate_per_ns: float, r: Rules) -> int:
    """Return the batch that staggered execution aims at for a rate (below zero: not known yet).

    With several instances busy, the last b with L(b)·(1 + 1/n) within the budget, n = rate·L(b)/b; with at most one
    busy, the largest b that gathers and runs within it.
    """
    if rate_per_ns < 0.0:
        best = 1
        while best < cap and latency[s, best + 1] <= slo / 2 - r.response_ns:
            best += 1
        return best
    budget = float(slo - r.control_ns - r.response_ns)
    gpus, best = 0.0, cap
    for b in range(1, cap + 1):
        run = float(latency[s, b])
        gpus = rate_per_ns * run / b
        if run * (1.0 + 1.0 / max(1.0, gpus)) > budget - r.data_ns * b:
            best = max(1, b - 1)
            break
    if gpus > 1.0:
        return best
    best = 1
    while best < cap:
        b = best + 1
        if latency[s, b] + b / max(rate_per_ns, 1e-300) + r.data_ns * b > budget:
            break
        best = b
    return best


@lean
def _target(s: int, w: Work, r: Rules) -> int:
    """Return the target batch at the meter's present rate."""
    completed = min(BINS, w.state[s, BIN] - w.state[s, FIRST_BIN])
    rate = w.state[s, TOTAL] / (completed * float(BIN_NS)) if completed > 0 else -1.0
    return target_batch(w.latency, s, w.state[s, CAP], w.state[s, SLO], rate, r)


@lean
def _gather(
    s: int,
    now: int,
    free_at: int,
    w: Work,
    r: Rules,
) -> int:
    """Form the best batch for an instance free at `free_at`; drop what can no longer ride; return its size."""
    if now >= w.state[s, BIN_END]:
        _meter_to(s, now, w)
    deadline = w.state[s, SLO] - r.response_ns
    ready = now + r.control_ns
    data = r.data_ns
    cap = w.state[s, CAP]
    head, split, tail = w.state[s, HEAD], w.state[s, SPLIT], w.state[s, TAIL]
    split = max(split, tail - cap)
    while split < tail:
        size = tail - split
        if w.ns[split] + deadline >= max(ready + data * size, free_at) + w.latency[s, size]:
            break
        split += 1
    b = 0
    if split < tail:
        target = 1
        if r.drop == WINDOW_DROP:
            if w.state[s, TARGET] == 0:
                w.state[s, TARGET] = _target(s, w, r)
            target = w.state[s, TARGET]
        least = min(target, tail - split)
        done = max(ready + data * least, free_at) + w.latency[s, least]
        while head < split and w.ns[head] + deadline < done:
            w.account[head, FINISH] = DROPPED
            head += 1
        first = w.ns[head] + deadline
        most = min(tail - head, cap)
        b = min(max(w.state[s, BATCH], least), most)
        while b > least and first < max(ready + data * b, free_at) + w.latency[s, b]:
            b -= 1
        while b < most and first >= max(ready + data * (b + 1), free_at) + w.latency[s, b + 1]:
            b += 1
    w.state[s, HEAD], w.state[s, SPLIT] = head, split
    return b


@lean
def _wanted(s: int, b: int, deadline: int, earliest: int, w: Work, r: Rules) -> int:
    """Return when a batch should start; past the largest batch nothing more can join."""
    if r.window == IMMEDIATE or b == w.state[s, CAP]:
        return earliest
    return max(earliest, deadline - r.jitter_ns - w.latency[s, b + 1] - r.data_ns)


@lean
def _form(
    s: int,
    now: int,
    w: Work,
    r: Rules,
) -> None:
    """Form the service's candidate anew and set its send timer."""
    b = _gather(s, now, -NEVER, w, r)
    w.state[s, BATCH] = b
    if b == 0:
        w.state[s, STATUS], w.state[s, DUE] = IDLE, NEVER
        return
    deadline = w.ns[w.state[s, HEAD]] + w.state[s, SLO] - r.response_ns
    lead = r.control_ns + r.data_ns * b
    exec_at = _wanted(s, b, deadline, now + lead, w, r)
    w.state[s, STATUS] = WAITING
    w.state[s, EXEC_AT] = exec_at
    w.state[s, INVALID_AFTER] = deadline - w.latency[s, b]
    w.state[s, DUE] = max(now, exec_at - lead)


@lean
def _arrive(
    s: int,
    w: Work,
    r: Rules,
) -> None:
    """Take the service's next arrival and form its candidate anew."""
    now = w.ns[w.state[s, TAIL]]
    if now >= w.state[s, BIN_END]:
        _meter_to(s, now, w)
    w.state[s, METER + w.state[s, BIN] % (BINS + 1)] += 1
    w.state[s, TAIL] += 1
    _form(s, now, w, r)


@lean
def _settle(
    s: int,
    w: Work,
    r: Rules,
) -> int:
    """Take arrivals that concern nobody else, and return when the service next needs the event queue."""
    if w.state[s, STATUS] == PENDING:
        if w.state[s, TAIL] < w.state[s, END]:
            return min(w.state[s, DUE], w.ns[w.state[s, TAIL]])
        return w.state[s, DUE]
    while w.state[s, TAIL] < w.state[s, END] and w.ns[w.state[s, TAIL]] <= w.state[s, DUE]:
        _arrive(s, w, r)
    return w.state[s, DUE]


@lean
def _take(
    s: int,
    now: int,
    free_at: int,
    w: Work,
    r: Rules,
) -> int:
    """Start the service's best batch on an instance free at `free_at`; return its size, 0 if none can make it."""
    b = _gather(s, now, free_at, w, r)
    head = w.state[s, HEAD]
    earliest = max(now + r.control_ns + r.data_ns * b, free_at)
    start = _wanted(s, b, w.ns[head] + w.state[s, SLO] - r.response_ns, earliest, w, r) if b > 0 else 0
    for row in range(head, head + b):
        w.account[row, START] = start
        w.account[row, FINISH] = start + w.latency[s, b]
    w.state[s, HEAD] = head + b
    w.state[s, SPLIT] = max(w.state[s, SPLIT], head + b)
    return b


@lean
def _lead(s: int, w: Work, r: Rules) -> int:
    return r.control_ns + r.data_ns * w.state[s, BATCH]


@lean
def _look_at(now: int, free: NDArray[np.int64], pending: NDArray[np.int64], count: int, w: Work, r: Rules) -> int:
    """Return when the earliest free instance should look for a pending service."""
    if count == 0 or free[1] >= NEVER:
        return NEVER
    lead = 0
    for k in range(count):
        lead = max(lead, _lead(pending[k], w, r))
    return max(now, free[1] - lead)


@lean
def _before(s: int, other: int, w: Work) -> bool:
    """Say whether a pending service must start before another: earlier last feasible start, then lower number."""
    if w.state[s, INVALID_AFTER] != w.state[other, INVALID_AFTER]:
        return bool(w.state[s, INVALID_AFTER] < w.state[other, INVALID_AFTER])
    return s < other


@lean
def _forget(s: int, pending: NDArray[np.int64], count: int) -> int:
    """Take a service out of the pending set; return how many are left."""
    for k in range(count):
        if pending[k] == s:
            pending[k] = pending[count - 1]
            return count - 1
    return count


@lean
def _serve(w: Work, queue: Queue, r: Rules, since: int, until: int, log: Batches) -> int:
    """Run the event loop; return the number of batches logged."""
    free, events, active, place, pending, count = queue
    leaves = free.shape[0] // 2
    logged = 0
    look_at = _look_at(since, free, pending, count, w, r)
    while min(events[1], look_at) < until:
        waiting_before = count
        chosen, g = -1, -1
        if events[1] <= look_at:
            due = events[1]
            now = max(since, due)
            s = active[smallest(events)]
            if w.state[s, STATUS] == PENDING:
                count = _forget(s, pending, count)
                if w.state[s, TAIL] < w.state[s, END] and w.ns[w.state[s, TAIL]] <= due:
                    _arrive(s, w, r)
                else:
                    _form(s, now, w, r)
            elif w.state[s, STATUS] != WAITING:
                _form(s, now, w, r)
            elif now + _lead(s, w, r) > w.state[s, INVALID_AFTER]:
                w.state[s, STATUS] = EXPIRED
                w.state[s, DUE] = now + 1
            elif free[1] > w.state[s, EXEC_AT]:
                w.state[s, STATUS] = PENDING
                w.state[s, DUE] = w.state[s, INVALID_AFTER] - _lead(s, w, r) + 1
                pending[count] = s
                count += 1
            else:
                chosen = s
                g = first_within(free, w.state[s, EXEC_AT]) if r.choice == MIN_ID else smallest(free)
            if chosen < 0:
                put(events, place[s], _settle(s, w, r))
        else:
            now = look_at
            k = 0
            while k < count:
                s = pending[k]
                if w.state[s, INVALID_AFTER] < free[1]:
                    w.state[s, STATUS] = EXPIRED
                    count = _forget(s, pending, count)
                    put(events, place[s], _settle(s, w, r))
                    continue
                if chosen < 0 or _before(s, chosen, w):
                    chosen = s
                k += 1
            if chosen >= 0:
                count = _forget(chosen, pending, count)
                g = smallest(free)
        if chosen >= 0:
            b = _take(chosen, now, free[leaves + g], w, r)
            if b > 0:
                done = w.account[w.state[chosen, HEAD] - 1, FINISH]
                put(free, g, done)
                log.instance[logged] = g
                log.service[logged] = chosen
                log.size[logged] = b
                log.start[logged] = done - w.latency[chosen, b]
                log.finish[logged] = done
                logged += 1
            _form(chosen, now, w, r)
            put(events, place[chosen], _settle(chosen, w, r))
        if count > 0 or waiting_before > 0:
            look_at = _look_at(now, free, pending, count, w, r)
    return logged


@lean
def _settle_all(
    w: Work, active: NDArray[np.int64], due: NDArray[np.int64], pending: NDArray[np.int64], r: Rules
) -> int:
    """Bring every service up to the event queue; fill `due` and `pending`, return how many are pending."""
    count = 0
    for k in range(active.shape[0]):
        s = active[k]
        if w.state[s, STATUS] == PENDING:
            pending[count] = s
            count += 1
        due[k] = _settle(s, w, r)
    return count


@njit(cache=True)
def advance_deferred(
    w: Work,
    active: NDArray[np.int64],
    free_at: NDArray[np.int64],
    r: Rules,
    since: int,
    until: int,
    log: Batches,
) -> int:
    """Serve the pool from `since`, where the last advance ended, until `until`; return the number of batches logged.

    `active` lists the services of the pool; `free_at` has one entry an instance and is moved forward in place.
    """
    due = np.full(active.shape[0], NEVER, np.int64)
    pending = np.empty(active.shape[0], np.int64)
    place = np.full(w.state.shape[0], -1, np.int64)
    for k in range(active.shape[0]):
        place[active[k]] = k
    count = _settle_all(w, active, due, pending, r)
    free = grow(free_at)
    logged = _serve(w, Queue(free, grow(due), active, place, pending, count), r, since, until, log)
    leaves = free.shape[0] // 2
    free_at[:] = free[leaves : leaves + free_at.shape[0]]
    return logged
