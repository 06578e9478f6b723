"""Adaptive batching: the rules of deferral and eagerness tried on what has just happened, and the best one followed.

Time is cut into steps. At the end of a step in which requests were lost, the rule that was in charge and a few of its
rivals serve the step's requests once more, each from the queues and instances as they were at its beginning; a rival
that would have lost clearly less, over several such trials, is in charge from then on. Where nothing is lost, nothing
is tried. docs/disciplines.md has the rules and the argument.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import NEVER, lean
from partita.kernels.batches import DROPPED, FINISH, Batches
from partita.kernels.candidates import BACKLOG_DROP, FRONTRUN, IMMEDIATE, NEED_DROP, WINDOW_DROP
from partita.kernels.columns import DUE, END, HEAD, SLO, TAIL, Rules, Work
from partita.kernels.deferred import serve
from partita.kernels.instances import Instances
from partita.kernels.metering import meter_to
from partita.kernels.pressure import instances_alike, judge, measure

WINDOWS = (FRONTRUN, FRONTRUN, FRONTRUN, IMMEDIATE, IMMEDIATE)
DROPS = (WINDOW_DROP, NEED_DROP, BACKLOG_DROP, BACKLOG_DROP, WINDOW_DROP)
"""The rules that compete, by when batches start and what is dropped; the first is in charge until another is better."""
RIVALS = 2
"""How many rules are tried beside the one in charge, in turns."""

STEP_NS = 500_000_000
"""Steps are whole multiples of this, and at least two of the longest SLO."""
CALM = 0.001
"""Share of the requests lost in a step up to which nothing is tried."""
WEIGHT = 0.3
"""Weight of the newest trial in what is known of a rule."""
CLEARLY, AT_LEAST = 0.15, 0.0005
"""A rival takes over if it loses so much less: as a share of what the rule in charge loses, and of all requests."""

CONFIRMED, LONGEST = 4, 8
"""After so many trials that changed nothing, the next ones are twice as many steps apart, up to so many."""
SURPRISE = 0.01
"""Where more is lost than twice what was known, and this share, trials come at every step again."""

LEADER, NEXT, FORKED, LOST, UNCHANGED, PAUSE = range(6)
"""Whole numbers that are remembered: the rule in charge; the rival tried next; when the step began whose beginning is
kept (-1: none is); requests dropped since; trials since the last change; steps until the next one."""
NOTES = PAUSE + 1
OWN = len(WINDOWS)
"""What the rule in charge lost in trials, as a share; before it stand by how much more each rule lost."""


class Memory(NamedTuple):
    """What is known of the rules, and how all stood when the present step began; all changed in place.

    `notes` ``(NOTES,)`` and `shares` ``(OWN + 1,)`` are described above; `state` is `Work.state`, and `free_at` when
    each instance was free.
    """

    notes: NDArray[np.int64]
    shares: NDArray[np.float64]
    state: NDArray[np.int64]
    free_at: NDArray[np.int64]


def new_memory(state: NDArray[np.int64], instances: int) -> Memory:
    """Return the memory in which nothing is known, for services with this state and so many instances."""
    notes = np.zeros(NOTES, np.int64)
    notes[NEXT], notes[FORKED] = 1, -1
    return Memory(notes, np.zeros(OWN + 1), state.copy(), np.zeros(instances, np.int64))


def forget_the_step(m: Memory, instances: int) -> Memory:
    """Return the memory for a pool of so many instances that was not there when the step began."""
    m.notes[FORKED] = -1
    return m._replace(free_at=np.zeros(instances, np.int64))


@lean
def _ruled(rule: int, r: Rules) -> Rules:
    return Rules(
        WINDOWS[rule], DROPS[rule], r.match, r.order, r.choice,
        r.control_ns, r.data_ns, r.response_ns, r.jitter_ns, r.wait_share,
    )  # fmt: skip


@lean
def _step(active: NDArray[np.int64], w: Work) -> int:
    longest = 0
    for k in range(active.shape[0]):
        longest = max(longest, w.state[active[k], SLO])
    return STEP_NS * max(1, (2 * longest + STEP_NS - 1) // STEP_NS)


@lean
def _next_event(active: NDArray[np.int64], w: Work) -> int:
    """Return when something happens next, at the earliest."""
    at = NEVER
    for k in range(active.shape[0]):
        s = active[k]
        at = min(at, w.state[s, DUE])
        if w.state[s, TAIL] < w.state[s, END]:
            at = min(at, w.ns[w.state[s, TAIL]])
    return at


@lean
def _begin(
    now: int, active: NDArray[np.int64], instances: float, free_at: NDArray[np.int64], w: Work, r: Rules, m: Memory
) -> None:
    """Measure the load, and keep how all stands."""
    measure(now, active, w)
    judge(active, instances, w, r)
    for s in range(w.state.shape[0]):
        for column in range(w.state.shape[1]):
            m.state[s, column] = w.state[s, column]
    for g in range(free_at.shape[0]):
        m.free_at[g] = free_at[g]
    m.notes[FORKED], m.notes[LOST] = now, 0


@lean
def _lost(active: NDArray[np.int64], heads: NDArray[np.int64], w: Work) -> int:
    """Count the requests dropped since the heads of the queues stood at these rows."""
    lost = 0
    for k in range(active.shape[0]):
        for row in range(heads[k], w.state[active[k], HEAD]):
            lost += w.account[row, FINISH] == DROPPED
    return lost


@lean
def _share_lost(active: NDArray[np.int64], until: int, w: Work, m: Memory) -> float:
    """Return the share of bad requests among those whose time ran out before `until`."""
    bad = total = 0
    for k in range(active.shape[0]):
        s = active[k]
        slo, row, head = w.state[s, SLO], m.state[s, HEAD], w.state[s, HEAD]
        while row < w.state[s, END] and w.ns[row] < until - slo:
            bad += row >= head or w.account[row, FINISH] == DROPPED or w.account[row, FINISH] >= w.ns[row] + slo
            row += 1
        total += row - m.state[s, HEAD]
    return bad / float(total) if total > 0 else -1.0


@njit(cache=True)
def _try(
    rule: int,
    active: NDArray[np.int64],
    p: Instances,
    r: Rules,
    until: int,
    w: Work,
    log: Batches,
    logged: int,
    m: Memory,
) -> float:
    """Serve the step once more by a rule; return the share of bad requests, below 0 if there were none to judge by."""
    for s in range(w.state.shape[0]):
        for column in range(w.state.shape[1]):
            w.state[s, column] = m.state[s, column]
    serve(w, active, p, m.free_at.copy(), _ruled(rule, r), m.notes[FORKED], until, log, logged)
    return _share_lost(active, until, w, m)


@lean
def _follow(rule: int, m: Memory) -> None:
    """Put a rule in charge."""
    ahead = m.shares[rule]
    for other in range(OWN):
        m.shares[other] -= ahead
    m.shares[OWN] += ahead
    m.notes[LEADER], m.notes[UNCHANGED] = rule, 0


@lean
def _choose(m: Memory) -> None:
    """Put a rule in charge that is clearly better, or the first one where it would do as well and little is lost."""
    best = m.notes[LEADER]
    for rule in range(OWN):
        if m.shares[rule] < m.shares[best]:
            best = rule
    if m.shares[best] < -max(CLEARLY * m.shares[OWN], AT_LEAST):
        _follow(best, m)
    elif m.shares[OWN] <= CALM and m.shares[0] <= AT_LEAST:
        _follow(0, m)


@lean
def _is_tried(active: NDArray[np.int64], w: Work, m: Memory) -> bool:
    """Say whether the step that ends should be tried by other rules; where nothing is lost, what is known fades."""
    arrived = 0
    for k in range(active.shape[0]):
        arrived += w.state[active[k], TAIL] - m.state[active[k], TAIL]
    if m.notes[LEADER] == 0 and m.notes[LOST] <= CALM * arrived:
        for k in range(OWN + 1):
            m.shares[k] *= 1.0 - WEIGHT
        m.notes[UNCHANGED] = m.notes[PAUSE] = 0
        return False
    if m.notes[LOST] > (2.0 * m.shares[OWN] + SURPRISE) * arrived:
        m.notes[UNCHANGED] = m.notes[PAUSE] = 0
    m.notes[PAUSE] -= 1
    return m.notes[PAUSE] < 0


@njit(cache=True)
def _compare(
    active: NDArray[np.int64], p: Instances, r: Rules, until: int, w: Work, log: Batches, logged: int, m: Memory
) -> None:
    """Try the rule in charge and its next rivals on the step that ends, and learn from it."""
    own = _try(m.notes[LEADER], active, p, r, until, w, log, logged, m)
    if own < 0.0:
        return
    for _ in range(RIVALS):
        rule = m.notes[NEXT]
        if rule == m.notes[LEADER]:
            rule = (rule + 1) % OWN
        lost = _try(rule, active, p, r, until, w, log, logged, m)
        m.shares[rule] += (lost - own - m.shares[rule]) * WEIGHT
        m.notes[NEXT] = (rule + 1) % OWN
    m.shares[OWN] += (own - m.shares[OWN]) * WEIGHT
    m.notes[UNCHANGED] += 1
    _choose(m)
    m.notes[PAUSE] = min(LONGEST, 1 << min(m.notes[UNCHANGED] // CONFIRMED, 30)) - 1


@njit(cache=True)
def advance_adaptive(
    w: Work,
    active: NDArray[np.int64],
    p: Instances,
    free_at: NDArray[np.int64],
    r: Rules,
    since: int,
    until: int,
    log: Batches,
    m: Memory,
) -> int:
    """Serve the pool from `since`, where the last advance ended, until `until`; return the number of batches logged.

    As `advance_deferred`, but that `log` must have room for twice the requests, and that rows from `m.state[:, HEAD]`
    on must be there while a step is kept. Window and drop rule of `r` do not count.
    """
    instances, step = instances_alike(active, p, w), _step(active, w)
    as_known = Instances(p.kind, p.max_batch, p.planned, p.run, 0.0, p.seed, p.places)
    again = Work(w.ns, np.empty((0, 2), np.int64), w.latency, m.state.copy(), w.places)
    heads = np.empty(active.shape[0], np.int64)
    judge(active, instances, w, r)
    logged, now = 0, since
    while now < until:
        if now % step == 0:
            now = max(now, min(_next_event(active, w), until - 1) // step * step)
            _begin(now, active, instances, free_at, w, r, m)
        end = min(until, (now // step + 1) * step)
        for k in range(active.shape[0]):
            heads[k] = w.state[active[k], HEAD]
        logged = serve(w, active, p, free_at, _ruled(m.notes[LEADER], r), now, end, log, logged)
        m.notes[LOST] += _lost(active, heads, w)
        if end % step == 0:
            if m.notes[FORKED] >= 0 and _is_tried(active, w, m):
                if again.account.shape[0] == 0:
                    again = Work(w.ns, np.empty_like(w.account), w.latency, again.state, w.places)
                _compare(active, as_known, r, end, again, log, logged, m)
            m.notes[FORKED] = -1
        now = end
    for k in range(active.shape[0]):
        meter_to(active[k], 0, w)  # the rows have other numbers in the next advance
    return logged
