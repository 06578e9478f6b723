"""Adaptive batching: how large batches may be is learned from how long they took.

The rules are those of Clipper (NSDI 2017; github.com/ucbrise/clipper). One queue a service feeds all instances;
whenever an instance is free, the service whose request is most urgent takes it, as `timeout` does it. What is learned
is learned for each service on each instance apart, by one of two rules:

- AIMD, as the paper describes it: the largest batch grows by one after a full batch that ran within the budget, and
  shrinks by a tenth after one that did not.
- v2, as the public code stands: while the budget is larger than any latency that was seen, ever larger batches are
  tried out, filled up with copies; otherwise the largest batch that a fitted line, with three standard deviations on
  top, puts within the budget.

Chance is drawn by hash from the seed, the instance's number, the service and how often its limit has risen, so that it
is the same however a run is cut into advances. What a batch taught is used when its instance is free again, not before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import NEVER, lean
from partita.kernels.agenda import Agenda, empty_agenda, enter, most_urgent, next_at, taker
from partita.kernels.batches import DROPPED, FINISH, Batches, answer, note
from partita.kernels.chance import normal
from partita.kernels.instances import Instances, cut_down, grow_forest, occupy, run_ns
from partita.kernels.sizes import largest_place
from partita.kernels.timeout import Lead, Queues, ready_at

AIMD, V2 = 0, 1
"""How the largest batch is learned."""

NONE, EXPIRED, ALONE, WINDOW = 0, 1, 2, 3
"""Who is given up when a batch is formed: nobody; who is past the deadline; who would miss it even alone; or who
would miss it in a batch as large as is allowed and waits."""

GROWTH, DECAY = 1.0, 0.9
"""AIMD: what is added after a full batch in time, and what is left after a late one."""

SAFETY, DEVIATIONS, RIDGE = 0.92, 3.0, 0.1
"""v2: share of the time left that counts; standard deviations above the line; weight that holds its slope down."""

SAMPLES, BY_ONE, MEAN_STEP, STEP_SPREAD = 5.0, 10.0, 0.1, 0.05
"""v2: batches at each size before a larger one is tried; steps of one below this size, then steps drawn from a normal
law with this mean and spread, if positive."""

LIMIT, LONGEST, AT_LIMIT, STEPS = 0, 1, 2, 3
"""Columns of what is learned: the largest batch; v2: the longest latency, batches at this limit, how often it rose."""
COUNT, SUM_X, SUM_XX, SUM_Y, SUM_XY, WITHIN, GROUPS = 4, 5, 6, 7, 8, 9, 10
"""Columns, v2: samples, sums over sizes x and latencies y (ns), squares within sizes, and how many sizes were seen."""
COLUMNS = 11


class Rules(NamedTuple):
    """Settings; by service, in ns: `budget` for a batch (AIMD), longest wait for one, deadline after arrival."""

    learning: int
    drop: int
    budget: NDArray[np.float64]
    delay: NDArray[np.int64]
    deadline: NDArray[np.int64]
    seed: int


class Memory(NamedTuple):
    """What was learned, changed in place: `learned` is ``(instances, services, COLUMNS)``.

    `seen` and `mean` (``(instances, services, sizes)``, v2) are samples of each size and their mean. `full` (services)
    is how many the last batch of a service was allowed; `number` are the instances' numbers.
    """

    learned: NDArray[np.float64]
    seen: NDArray[np.float64]
    mean: NDArray[np.float64]
    full: NDArray[np.int64]
    number: NDArray[np.int64]


@lean
def step_factor(seed: int, number: int, s: int, steps: int) -> float:
    """Return by which factor a large limit rises; drawn by hash."""
    return 1.0 + max(0.0, MEAN_STEP + STEP_SPREAD * normal(seed * 1_000_003 + number * 1_009 + s, steps + 1))


@lean
def _raised(m: Memory, r: Rules, g: int, s: int, cap: int) -> float:
    """Return the limit to try out now."""
    limit = m.learned[g, s, LIMIT]
    if m.learned[g, s, AT_LIMIT] >= SAMPLES and limit < cap:
        rise = step_factor(r.seed, m.number[g], s, int(m.learned[g, s, STEPS]))
        limit = limit + 1.0 if limit < BY_ONE else limit * rise
    return min(limit, float(cap))


@lean
def _estimate(m: Memory, g: int, s: int, cap: int, budget: float) -> int:
    """Return the largest batch whose latency the line, with deviations on top, puts within the budget; at least 1."""
    row = m.learned[g, s]
    n = row[COUNT]
    if n == 0.0:
        return 1
    slope = (row[SUM_XY] - row[SUM_X] * row[SUM_Y] / n) / (row[SUM_XX] - row[SUM_X] * row[SUM_X] / n + RIDGE)
    at_zero = (row[SUM_Y] - slope * row[SUM_X]) / n
    degrees = n - row[GROUPS]
    above = DEVIATIONS * np.sqrt(row[WITHIN] / degrees) if degrees > 0.0 else 0.0
    b = cap
    if slope > 0.0:
        b = int(max(1.0, min(float(cap), (budget - above - at_zero) / slope + 2.0)))
    while b > 1 and at_zero + slope * b + above > budget:
        b -= 1
    return b


@lean
def _allowed(m: Memory, r: Rules, g: int, s: int, cap: int, left: int) -> tuple[int, bool]:
    """Return how large the next batch may be, `left` before its deadline, and whether that is being tried out."""
    if r.learning == AIMD:
        return max(1, min(cap, int(m.learned[g, s, LIMIT]))), False
    budget = SAFETY * left
    if budget <= m.learned[g, s, LONGEST]:
        return _estimate(m, g, s, cap, budget), False
    limit = int(_raised(m, r, g, s, cap))
    tried_out = limit == cap and m.learned[g, s, AT_LIMIT] >= SAMPLES
    return limit, not tried_out


@lean
def _learn(m: Memory, r: Rules, g: int, s: int, cap: int, size: int, full: bool, tried: bool, took: int) -> None:
    """Learn from a batch of `size` (copies count) that took so long."""
    row = m.learned[g, s]
    if r.learning == AIMD:
        if took > r.budget[s]:
            row[LIMIT] = max(1.0, row[LIMIT] * DECAY)
        elif full:
            row[LIMIT] = min(float(cap), row[LIMIT] + GROWTH)
        return
    if tried:
        limit = _raised(m, r, g, s, cap)
        if limit > row[LIMIT]:
            row[STEPS] += 1.0
        if limit != row[LIMIT]:
            row[LIMIT], row[AT_LIMIT] = limit, 0.0
    if size == int(row[LIMIT]):
        row[AT_LIMIT] += 1.0
    x, y = float(size), float(took)
    row[LONGEST] = max(row[LONGEST], y)
    row[COUNT] += 1.0
    row[SUM_X] += x
    row[SUM_XX] += x * x
    row[SUM_Y] += y
    row[SUM_XY] += x * y
    if m.seen[g, s, size] == 0.0:
        row[GROUPS] += 1.0
    m.seen[g, s, size] += 1.0
    off = y - m.mean[g, s, size]
    m.mean[g, s, size] += off / m.seen[g, s, size]
    row[WITHIN] += off * (y - m.mean[g, s, size])


@lean
def _enter(a: Agenda, q: Queues, p: Instances, r: Rules, m: Memory, leaf: int, s: int, now: int) -> None:
    """Note when a service is ready for each kind of instance."""
    head, at = q.head[s], ready_at(q, s, m.full[s], r.delay[s])
    a.urgency[leaf] = NEVER
    if at < NEVER:
        a.urgency[leaf] = q.ns[head] + (r.deadline[s] if r.learning == V2 else 0)
    for kind in range(p.max_batch.shape[0]):
        enter(a, kind, leaf, at if p.max_batch[kind, s] > 0 else NEVER, now)


@lean
def _hopeless(q: Queues, p: Instances, r: Rules, lead: Lead, g: int, s: int, b: int, runs: int, now: int) -> bool:
    """Say whether a service's oldest request is given up; it would be one of b in a batch that runs as `runs`."""
    deadline = q.ns[q.head[s]] + r.deadline[s]
    kind = p.kind[g]
    if r.drop == EXPIRED:
        return deadline < now
    if r.drop == ALONE:
        return deadline < now + lead.control + lead.data + p.planned[kind, s, 1]
    if r.drop == WINDOW:
        return deadline < now + lead.control + lead.data * b + p.planned[kind, s, runs]
    return False


@njit(cache=True)
def advance_clipper(
    q: Queues,
    active: NDArray[np.int64],
    p: Instances,
    r: Rules,
    m: Memory,
    lead: Lead,
    min_id: bool,
    free_at: NDArray[np.int64],
    since: int,
    until: int,
    log: Batches,
) -> int:
    """Serve the pool from `since` until `until`; return the number of batches logged.

    `q`, `m`, `free_at` and `log` are changed in place.
    """
    if active.shape[0] == 0 or free_at.shape[0] == 0:
        return 0
    a, forest = empty_agenda(p.max_batch.shape[0], active.shape[0]), grow_forest(free_at, p)
    logged = _serve(q, active, p, r, m, lead, min_id, a, forest, since, until, log)
    cut_down(forest, p, free_at)
    return logged


@lean
def _serve(
    q: Queues,
    active: NDArray[np.int64],
    p: Instances,
    r: Rules,
    m: Memory,
    lead: Lead,
    min_id: bool,
    a: Agenda,
    forest: NDArray[np.int64],
    since: int,
    until: int,
    log: Batches,
) -> int:
    """Run the event loop; return the number of batches logged."""
    for leaf in range(active.shape[0]):
        _enter(a, q, p, r, m, leaf, active[leaf], since - 1)
    now, logged = since, 0
    while True:
        now = max(now, next_at(a, forest))
        if now >= until:
            break
        leaf = most_urgent(a, forest, now)
        s, g = active[leaf], taker(a, forest, leaf, now, min_id)
        cap, end = p.max_batch[p.kind[g], s], q.offsets[s + 1]
        b, runs, allowed, tried = 0, 0, 0, False
        while q.head[s] < end and q.ns[q.head[s]] <= now:
            head = q.head[s]
            allowed, tried = _allowed(m, r, g, s, cap, q.ns[head] + r.deadline[s] - now)
            while b < allowed and head + b < end and q.ns[head + b] <= now:
                b += 1
            b = min(b, allowed)
            runs = allowed if tried else b
            if not _hopeless(q, p, r, lead, g, s, b, runs, now):
                break
            q.account[head, FINISH] = DROPPED
            q.head[s] = head + 1
            b = max(0, b - 1)
        if b > 0:
            head = q.head[s]
            start = now + lead.control + lead.data * b
            took = run_ns(p, g, s, runs, q.ns[head], largest_place(p.places, head, b))
            finish = start + took
            answer(q.account, head, b, start, finish)
            q.head[s] = head + b
            occupy(forest, p, g, finish)
            m.full[s] = allowed
            _learn(m, r, g, s, cap, runs, b == allowed, tried, took)
            logged = note(log, logged, g, s, b, start, finish)
        _enter(a, q, p, r, m, leaf, s, now)
    return logged
