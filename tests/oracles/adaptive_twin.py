"""Adaptive batching in plain Python: what the compiled kernel must do, request by request.

Written from the rules (docs/disciplines.md) on top of the twin of deferred batching: a trial is a copy of all queues as
they stood, served once more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from math import ceil

import numpy as np
from oracles.deferred_twin import Queue, Request, Run, account, join

from partita.model.load import Arrivals
from partita.ports import Pool, Served

HALF_NS = 500_000_000
MILLION = 1_000_000
RULES = (
    ("frontrun", "window"),
    ("frontrun", "load"),
    ("frontrun", "backlog"),
    ("eager", "backlog"),
    ("eager", "window"),
)


@dataclass
class Step:
    """The step that goes on: since when, how all stood then, and how many requests have been dropped since."""

    since_ns: int
    queues: list[Queue]
    free_at: list[int]
    load: list[int]
    lost: int = 0


@dataclass
class AdaptiveTwinState:
    """Queues by service, millionths of a request a second, and what is known of the rules."""

    queues: list[Queue]
    load: list[int]
    leader: int = 0
    next_rival: int = 1
    worse: list[float] = field(default_factory=lambda: [0.0] * len(RULES))
    own: float = 0.0
    unchanged: int = 0
    pause: int = 0
    step: Step | None = None
    pool: Pool | None = None
    at_ns: int = 0


@dataclass(frozen=True)
class AdaptiveTwin:
    """Discipline with the rules of `adaptive`."""

    name: str = "adaptive"

    def initial_state(self, services: int) -> AdaptiveTwinState:
        """Return empty queues."""
        return AdaptiveTwinState([Queue() for _ in range(services)], [0] * services)

    def advance(
        self, state: AdaptiveTwinState, arrivals: Arrivals, pool: Pool, until_ns: int
    ) -> tuple[AdaptiveTwinState, Served]:
        """Serve until `until_ns`."""
        join(state.queues, arrivals)
        if state.pool is None or not _same(state.pool, pool):
            state.step = None
        elif state.step is not None:
            join(state.step.queues, arrivals)
        state.pool = replace(pool, free_at_ns=pool.free_at_ns.copy())
        present = [queue.waiting() for queue in state.queues]
        batches: list[tuple[int, int, int, int, int]] = []
        free_at = [int(ns) for ns in pool.free_at_ns]
        length = HALF_NS * max(1, ceil(2 * max((int(pool.slo_ns[s]) for s in pool.active), default=0) / HALF_NS))
        while state.at_ns < until_ns:
            if state.at_ns % length == 0:
                last = (min(until_ns - 1, _next(state, pool)) // length) * length
                state.at_ns = max(state.at_ns, last)
                _measure(state, pool)
                queues = [queue.copy() for queue in state.queues]
                state.step = Step(state.at_ns, queues, list(free_at), list(state.load))
            end = min(until_ns, (state.at_ns // length + 1) * length)
            lost = _lost(present, pool)
            run = _run(state.leader, state.queues, pool, free_at, state.at_ns, state.load)
            run.until(end)
            free_at, batches, state.at_ns = run.free_at, batches + run.batches, end
            if state.step is not None:
                state.step.lost += _lost(present, pool) - lost
                if end % length == 0:
                    _end(state, state.step, pool)
                    state.step = None
        pool.free_at_ns[:] = free_at
        return state, account(present, batches)


def _same(one: Pool, other: Pool) -> bool:
    blank = np.zeros(0, np.int64)
    try:
        np.testing.assert_equal(*(asdict(replace(pool, free_at_ns=blank)) for pool in (one, other)))
    except AssertionError:
        return False
    return True


def _next(state: AdaptiveTwinState, pool: Pool) -> int:
    """Return when something happens next."""
    queues = [state.queues[s] for s in pool.active]
    timers = [queue.candidate.timer_ns for queue in queues if queue.candidate is not None]
    return min([2**62, *timers, *(queue.coming[0].ns for queue in queues if queue.coming)])


def _measure(state: AdaptiveTwinState, pool: Pool) -> None:
    for s in pool.active:
        rate = state.queues[s].meter.rate_per_ns(state.at_ns) or 0.0
        state.load[s] = round(rate * 1e9 * MILLION)


def _lost(present: list[list[Request]], pool: Pool) -> int:
    """Count the requests that were dropped, or whose answer is too late."""
    settled = (
        (r, int(slo)) for requests, slo in zip(present, pool.slo_ns, strict=True) for r in requests if r.finish_ns
    )
    return sum(request.finish_ns < 0 or request.finish_ns >= request.ns + slo for request, slo in settled)


def _run(rule: int, queues: list[Queue], pool: Pool, free_at: list[int], since: int, load: list[int]) -> Run:
    """Make ready to serve the pool by a rule."""
    window, drop = RULES[rule]
    pressure = Pressure(pool, load)

    def asked(s: int, waiting: int) -> int:
        return pressure.asked(s, waiting, at_least_the_load=drop == "load")

    pool = replace(pool, free_at_ns=np.array(free_at, np.int64))
    return Run(window, drop, queues, pool, since, None if drop == "window" else asked)


def _end(state: AdaptiveTwinState, step: Step, pool: Pool) -> None:
    """Learn from a step that has ended."""
    arrived = sum(len(step.queues[s].coming) - len(state.queues[s].coming) for s in pool.active)
    if arrived == 0:
        return
    if state.leader == 0 and step.lost <= 0.002 * arrived:
        state.worse = [share * 0.7 for share in state.worse]
        state.own *= 0.7
        state.unchanged = state.pause = 0
        return
    if step.lost > (2 * state.own + 0.01) * arrived:
        state.unchanged = state.pause = 0
    state.pause -= 1
    if state.pause >= 0:
        return
    own = _try(state.leader, step, pool, state.at_ns)
    if own is None:
        return
    for _ in range(2):
        rival = state.next_rival if state.next_rival != state.leader else (state.next_rival + 1) % len(RULES)
        lost = _try(rival, step, pool, state.at_ns)
        assert lost is not None
        state.worse[rival] += (lost - own - state.worse[rival]) * 0.3
        state.next_rival = (rival + 1) % len(RULES)
    state.own += (own - state.own) * 0.3
    state.unchanged += 1
    least = min(state.worse)
    best = state.leader if state.worse[state.leader] == least else state.worse.index(least)
    if state.worse[best] < -max(0.15 * state.own, 0.002):
        _follow(state, best)
    elif state.own <= 0.002 and state.worse[0] <= 0.002:
        _follow(state, 0)
    state.pause = min(8, 2 ** (state.unchanged // 4)) - 1


def _follow(state: AdaptiveTwinState, rule: int) -> None:
    ahead = state.worse[rule]
    state.worse = [share - ahead for share in state.worse]
    state.own += ahead
    state.leader, state.unchanged = rule, 0


def _try(rule: int, step: Step, pool: Pool, until: int) -> float | None:
    """Serve the step once more; return the share of bad requests among those whose time has run out."""
    queues = [queue.copy() for queue in step.queues]
    due = [
        (request, int(pool.slo_ns[s]))
        for s in pool.active
        for request in queues[s].waiting()
        if request.ns < until - pool.slo_ns[s]
    ]
    if not due:
        return None
    as_known = replace(pool, kinds=replace(pool.by_kind(), spread=0.0))
    _run(rule, queues, as_known, step.free_at, step.since_ns, step.load).until(until)
    return sum(not 0 < request.finish_ns < request.ns + slo for request, slo in due) / len(due)


class Pressure:
    """What the load, in millionths of a request a second, asks of the batches of a pool's services."""

    def __init__(self, pool: Pool, load: list[int]) -> None:
        self.pool = pool
        self.rate = {int(s): load[s] / float(MILLION) * 1e-9 for s in pool.active}
        self.loaded = [int(s) for s in pool.active if load[s] > 0]
        instances = sum(self.worth(k) for k in pool.by_kind().of)
        room = instances - sum(self.rate[s] * self.slope(s) for s in self.rate)
        self.gap_ns = round(self.gap(room)) if room > 0 else 0
        self.room = round(room * MILLION) / float(MILLION)

    def asked(self, s: int, waiting: int, *, at_least_the_load: bool) -> int:
        """Return the batch that those who wait ask for, or the load if that is more."""
        rate = 1.5 * waiting / (int(self.pool.slo_ns[s]) - self.pool.response_ns)
        if at_least_the_load:
            rate = max(rate, self.rate[s])
        left, peak = self.room - (rate - self.rate[s]) * round(self.slope(s)), ceil(self.peak(s))
        if self.room <= 0 or left <= 0:
            return peak
        return max(1, min(peak, ceil(1.1 * rate * self.gap_ns * self.room / left)))

    def worth(self, k: int) -> float:
        """Return how many of the slowest instances do the work of one of a kind, on average over what it serves."""
        kinds, ratios = self.pool.by_kind(), []
        for s in self.rate:
            if kinds.max_batch[k, s] > 0:
                b = min(self.pool.max_batch[s], kinds.max_batch[k, s])
                ratios.append(self.pool.latency_ns[s, b] / kinds.planned_ns[k, s, b])
        return float(sum(ratios) / len(ratios)) if ratios else 0.0

    def slope(self, s: int) -> float:
        """Return what a request adds to a batch."""
        largest, one = int(self.pool.max_batch[s]), int(self.pool.latency_ns[s, 1])
        return (int(self.pool.latency_ns[s, largest]) - one) / (largest - 1) if largest > 1 else one

    def overhead(self, s: int) -> float:
        """Return what a batch takes beside its requests."""
        return max(0.0, int(self.pool.latency_ns[s, 1]) - self.slope(s))

    def peak(self, s: int) -> float:
        """Return the batch that deferral reaches."""
        pool, rate = self.pool, self.rate[s]
        budget, each = int(pool.slo_ns[s]) - pool.control_ns - pool.response_ns, self.slope(s) + pool.data_ns
        b = (1 + rate * (budget - self.overhead(s) - each)) / (1 + rate * each)
        return min(max(1.0, b), float(pool.max_batch[s]))

    def gap(self, room: float) -> float:
        """Return the time between two batches of a service whose overheads fill the room."""
        alone: set[int] = set()
        gap = 0.0
        while True:
            gathers = [s for s in self.loaded if s not in alone]
            if not any(self.overhead(s) for s in gathers):
                return gap
            gap = sum(self.overhead(s) for s in gathers) / (room - sum(self.rate[s] * self.overhead(s) for s in alone))
            more = {s for s in self.rate if self.rate[s] * gap < 1}
            if more == alone:
                return gap
            alone = more
