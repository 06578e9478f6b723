"""Candidates of deferred batching: which requests would ride together, and when their batch should start.

Each service keeps its requests in deadline order as a *prefix* (older) and a *suffix* (the longest tail that could
still run as one batch), and at most one *candidate*: batch size, start, last feasible start.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partita.kernels import NEVER, inlined, lean
from partita.kernels.batches import DROPPED, FINISH
from partita.kernels.columns import (
    BATCH,
    BIN_END,
    CAP,
    CREDIT,
    DUE,
    END,
    EXEC_AT,
    GAP,
    HEAD,
    IDLE,
    INVALID_AFTER,
    LAST_START,
    MILLION,
    PEAK,
    PENDING,
    RATE,
    ROOM,
    SLO,
    SLOPE,
    SPLIT,
    STATUS,
    TAIL,
    TARGET,
    WAITING,
    WIDE,
    Rules,
    Work,
    sized,
    takes,
)
from partita.kernels.metering import meter_to, rate_per_ns
from partita.kernels.sizes import ANY, at_place, largest_place

FRONTRUN, IMMEDIATE, LATEST, TARGET_BATCH, QUEUEING_DELAY, BETA_LAMBDA, SLO_SHARE, CREDITED = range(8)
"""Wanted start: see docs/disciplines.md."""

WINDOW_DROP, TIMEOUT_DROP, NO_DROP, NEED_DROP, BACKLOG_DROP = range(5)
"""Give up what cannot ride in a batch of the target's size; what would miss alone; nothing; what cannot ride in a batch
of the size that the load asks for, or of the size that those who wait ask for."""

SPARE = 1.1
"""How much larger than what is asked for is the batch that room is made for."""
BACKLOG = 1.5
"""What waits counts as so many times its number of arrivals within one SLO."""


@lean
def target_batch(latency: NDArray[np.int64], s: int, cap: int, slo: int, rate: float, r: Rules) -> int:
    """Return the batch that staggered execution aims at for a rate (a ns; below zero: not known yet).

    With several instances busy, the last b with L(b)·(1 + 1/n) within the budget, n = rate·L(b)/b; with at most one
    busy, the largest b that gathers and runs within it.
    """
    if rate < 0.0:
        best = 1
        while best < cap and latency[s, best + 1] <= slo / 2 - r.response_ns:
            best += 1
        return best
    budget = float(slo - r.control_ns - r.response_ns)
    busy, best = 0.0, cap
    for b in range(1, cap + 1):
        run = float(latency[s, b])
        busy = rate * run / b
        if run * (1.0 + 1.0 / max(1.0, busy)) > budget - r.data_ns * b:
            best = max(1, b - 1)
            break
    if busy > 1.0:
        return best
    best = 1
    while best < cap:
        b = best + 1
        if latency[s, b] + b / max(rate, 1e-300) + r.data_ns * b > budget:
            break
        best = b
    return best


@lean
def target_now(s: int, now: int, w: Work, r: Rules) -> int:
    """Return the target batch at the meter's rate now."""
    if w.state[s, TARGET] == 0 or now >= w.state[s, BIN_END]:
        meter_to(s, now, w)
        w.state[s, TARGET] = target_batch(w.latency, s, w.state[s, CAP], w.state[s, SLO], rate_per_ns(s, w), r)
    return w.state[s, TARGET]


@lean
def _needed(s: int, w: Work, r: Rules) -> int:
    """Return the batch that those who wait ask for, or the load where that is more and counts."""
    rate, room = w.state[s, RATE] / float(MILLION) * 1e-9, w.state[s, ROOM] / float(MILLION)
    waiting = w.state[s, TAIL] - w.state[s, HEAD]
    asked = BACKLOG * waiting / float(w.state[s, SLO] - r.response_ns)
    if r.drop == NEED_DROP:
        asked = max(rate, asked)
    left, peak = room - (asked - rate) * w.state[s, SLOPE], max(1, w.state[s, PEAK])
    if left <= 0.0 or room <= 0.0:
        return peak
    return max(1, int(min(np.ceil(SPARE * asked * w.state[s, GAP] * room / left), float(peak))))


@inlined
def _least(s: int, suffix: int, older: bool, now: int, w: Work, r: Rules) -> int:
    """Return the batch that older requests must make room for: of the suffix, or of so many of it as are asked for."""
    if r.drop == TIMEOUT_DROP:
        return 1
    if r.drop in (NEED_DROP, BACKLOG_DROP):
        return min(suffix, _needed(s, w, r))
    return min(suffix, target_now(s, now, w, r)) if older or r.drop == NO_DROP else suffix


@lean
def _gather_sized(s: int, now: int, free_at: int, latency: NDArray[np.int64], cap: int, w: Work, r: Rules) -> int:
    """Form the best batch as `gather` does, where it takes as long as its largest input.

    The newest requests that could not be met even alone stay out of the suffix: they may be much larger than those
    before them.
    """
    deadline = w.state[s, SLO] - r.response_ns
    ready = now + r.control_ns
    data, place, services = r.data_ns, w.places, w.state.shape[0]
    head, tail = w.state[s, HEAD], w.state[s, TAIL]
    end = tail
    while end > head:
        row = end - 1
        if w.ns[row] + deadline >= max(ready + data, free_at) + at_place(latency, services, s, 1, place[row]):
            break
        end = row
    split, widest = end, ANY
    while split > head and end - split < cap:
        size, wider = end - split + 1, max(widest, place[split - 1])
        done = max(ready + data * size, free_at) + at_place(latency, services, s, size, wider)
        if w.ns[split - 1] + deadline < done:
            break
        split, widest = split - 1, wider
    b = 0
    if split < end:
        b = _least(s, end - split, head < split, now, w, r)
        widest = largest_place(w.places, head, b)
        if r.drop != NO_DROP:
            while head < split:
                done = max(ready + data * b, free_at) + at_place(latency, services, s, b, widest)
                if w.ns[head] + deadline >= done:
                    break
                w.account[head, FINISH] = DROPPED
                head += 1
                widest = largest_place(w.places, head, b)
        first, most = w.ns[head] + deadline, min(tail - head, cap)
        while b < most:
            widest = max(widest, place[head + b])
            if first < max(ready + data * (b + 1), free_at) + at_place(latency, services, s, b + 1, widest):
                break
            b += 1
    w.state[s, HEAD], w.state[s, SPLIT] = head, split
    return b


@inlined
def gather(s: int, now: int, free_at: int, latency: NDArray[np.int64], cap: int, w: Work, r: Rules) -> int:
    """Form the best batch for an instance free at `free_at`; drop what can no longer ride; return its size.

    `latency`, ``(services, batches)``, and `cap` are those of the instance.
    """
    if sized(s, w):
        return _gather_sized(s, now, free_at, latency, cap, w, r)
    deadline = w.state[s, SLO] - r.response_ns
    ready = now + r.control_ns
    data = r.data_ns
    head, split, tail = w.state[s, HEAD], w.state[s, SPLIT], w.state[s, TAIL]
    split = max(split, tail - cap)
    while split < tail:
        size = tail - split
        if w.ns[split] + deadline >= max(ready + data * size, free_at) + latency[s, size]:
            break
        split += 1
    b = 0
    if split < tail:
        least = _least(s, tail - split, head < split, now, w, r)
        done = max(ready + data * least, free_at) + latency[s, least]
        if r.drop != NO_DROP:
            while head < split and w.ns[head] + deadline < done:
                w.account[head, FINISH] = DROPPED
                head += 1
        first = w.ns[head] + deadline
        most = min(tail - head, cap)
        # The finish of a batch rises with its size, so the largest that meets a deadline is near the last one found.
        b = min(max(w.state[s, BATCH], least), most)
        while b > least and first < max(ready + data * b, free_at) + latency[s, b]:
            b -= 1
        while b < most and first >= max(ready + data * (b + 1), free_at) + latency[s, b + 1]:
            b += 1
    w.state[s, HEAD], w.state[s, SPLIT] = head, split
    return b


@lean
def _wanted_by_rate(
    s: int, b: int, now: int, earliest: int, latency: NDArray[np.int64], place: float, w: Work, r: Rules
) -> int:
    """Return when a batch should start under one of the windows that look at the target or the rate."""
    deadline = w.ns[w.state[s, HEAD]] + w.state[s, SLO] - r.response_ns
    frontrun = max(earliest, deadline - r.jitter_ns - takes(s, b + 1, latency, place, w) - r.data_ns)
    target, runs = target_now(s, now, w, r), takes(s, b, latency, place, w)
    if r.window == TARGET_BATCH:
        return earliest if b >= target else frontrun
    if r.window == CREDITED:
        saved = w.state[s, CREDIT] + b * takes(s, target, latency, place, w) // target - runs
        return earliest if saved >= 0 else frontrun
    rate = rate_per_ns(s, w)
    if r.window == QUEUEING_DELAY:
        wait = target / rate if rate > 0.0 else w.state[s, SLO] / 2.0
        return max(earliest, min(deadline - r.jitter_ns - runs, w.state[s, LAST_START] + int(wait)))
    other = target if target != b else b + 1
    slope = (takes(s, other, latency, place, w) - runs) / float(other - b)
    overhead = runs - slope * b
    return earliest if b >= overhead * max(rate, 0.0) else frontrun


@inlined
def wanted_start(
    s: int,
    b: int,
    now: int,
    earliest: int,
    latency: NDArray[np.int64],
    place: float,
    cap: int,
    w: Work,
    r: Rules,
) -> int:
    """Return when a batch whose largest input has this place should start; past the largest batch nobody can join."""
    if r.window == IMMEDIATE or b >= cap:
        return earliest
    oldest = w.ns[w.state[s, HEAD]]
    deadline = oldest + w.state[s, SLO] - r.response_ns
    if r.window == FRONTRUN:
        return max(earliest, deadline - r.jitter_ns - takes(s, b + 1, latency, place, w) - r.data_ns)
    latest = deadline - r.jitter_ns - takes(s, b, latency, place, w)
    if r.window == LATEST:
        return max(earliest, latest)
    if r.window == SLO_SHARE:
        return max(earliest, min(latest, oldest + int(r.wait_share * w.state[s, SLO])))
    return _wanted_by_rate(s, b, now, earliest, latency, place, w, r)


@lean
def form(s: int, now: int, w: Work, r: Rules) -> None:
    """Form the service's candidate anew and set its send timer."""
    cap = w.state[s, WIDE] if sized(s, w) else w.state[s, CAP]
    b = gather(s, now, -NEVER, w.latency, cap, w, r)
    w.state[s, BATCH] = b
    if b == 0:
        w.state[s, STATUS], w.state[s, DUE] = IDLE, NEVER
        return
    lead, place = r.control_ns + r.data_ns * b, largest_place(w.places, w.state[s, HEAD], b)
    exec_at = wanted_start(s, b, now, now + lead, w.latency, place, cap, w, r)
    w.state[s, STATUS] = WAITING
    w.state[s, EXEC_AT] = exec_at
    deadline = w.ns[w.state[s, HEAD]] + w.state[s, SLO] - r.response_ns
    w.state[s, INVALID_AFTER] = deadline - takes(s, b, w.latency, place, w)
    w.state[s, DUE] = max(now, exec_at - lead)


@inlined
def _fill(s: int, horizon: int, w: Work, r: Rules) -> None:
    """Take in arrivals before `horizon` and the send time, as long as all that wait fit into one batch.

    Those are nearly all in a pool that is not overloaded, hence everything in local variables.
    """
    ns, head, end, cap = w.ns, w.state[s, HEAD], w.state[s, END], w.state[s, CAP]
    if w.state[s, SPLIT] > head:
        return
    control, data, apart = r.control_ns, r.data_ns, r.jitter_ns + r.data_ns
    waits = r.window != IMMEDIATE
    due, tail = w.state[s, DUE], w.state[s, TAIL]
    size = tail - head
    exec_at = last = deadline = 0
    if size > 0:
        deadline = ns[head] + w.state[s, SLO] - r.response_ns
    first = tail
    while tail < end and size < cap:
        now = ns[tail]
        if now > due or now >= horizon:
            break
        if size == 0:
            deadline = now + w.state[s, SLO] - r.response_ns
        ready = now + control + data * (size + 1)
        if ready > deadline - w.latency[s, size + 1]:
            break
        tail += 1
        size += 1
        last = deadline - w.latency[s, size]
        exec_at = ready
        if waits and size < cap:
            exec_at = max(ready, deadline - apart - w.latency[s, size + 1])
        due = exec_at - control - data * size
    if tail > first:
        w.state[s, TAIL], w.state[s, BATCH], w.state[s, STATUS] = tail, size, WAITING
        w.state[s, EXEC_AT], w.state[s, INVALID_AFTER], w.state[s, DUE] = exec_at, last, due


@inlined
def settle(s: int, horizon: int, w: Work, r: Rules) -> int:
    """Take arrivals before `horizon` that concern nobody else; return when the service next needs the event queue."""
    if w.state[s, STATUS] == PENDING:
        if w.state[s, TAIL] < w.state[s, END]:
            return min(w.state[s, DUE], w.ns[w.state[s, TAIL]])
        return w.state[s, DUE]
    simple = r.window in (FRONTRUN, IMMEDIATE) and not sized(s, w)
    while True:
        if simple:
            _fill(s, horizon, w, r)
        tail, due = w.state[s, TAIL], w.state[s, DUE]
        if tail >= w.state[s, END] or w.ns[tail] > due:
            return due
        if w.ns[tail] >= horizon:
            return w.ns[tail]
        w.state[s, TAIL] = tail + 1
        form(s, w.ns[tail], w, r)


@lean
def settle_apart(s: int, horizon: int, w: Work, r: Rules) -> int:
    """Settle a service where that is not done often."""
    return settle(s, horizon, w, r)


@inlined
def lead(s: int, w: Work, r: Rules) -> int:
    """Return what lies between sending the candidate and its earliest start."""
    return r.control_ns + r.data_ns * w.state[s, BATCH]
