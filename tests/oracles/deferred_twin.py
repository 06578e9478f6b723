"""Deferred and eager batching in plain Python: what the compiled kernel must do, request by request.

Written from the rules (docs/disciplines.md) with lists, objects and a search for the next event; it is slow and shares
nothing with the kernel but the protocol `partita.ports.Discipline`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from partita.model.load import Arrivals
from partita.ports import Pool, Served

BIN_NS = 50_000_000
BINS = 100


@dataclass(eq=False)
class Request:
    """One request and what became of it: `finish_ns` as in `Served`."""

    ns: int
    size: float
    start_ns: int = 0
    finish_ns: int = 0


class Phase(Enum):
    """What a candidate is doing."""

    WAITING = "its send timer runs"
    PENDING = "it waits for an instance"
    LOST = "too late for any instance; it will be formed anew"


@dataclass
class Candidate:
    """The batch that a service would run next."""

    batch: int
    start_ns: int
    last_start_ns: int
    timer_ns: int
    phase: Phase = Phase.WAITING


@dataclass
class Meter:
    """Arrivals in bins of 50 ms; the rate is the mean over the last hundred that are complete."""

    counts: dict[int, int] = field(default_factory=dict)
    first: int | None = None
    present: int = 0

    def turn_to(self, now: int) -> None:
        """Move on to the bin of `now`; the meter never turns back."""
        if self.first is None:
            self.first = now // BIN_NS
        self.present = max(self.present, now // BIN_NS)

    def count(self, now: int) -> None:
        """Count an arrival."""
        self.turn_to(now)
        self.counts[self.present] = self.counts.get(self.present, 0) + 1

    def rate_per_ns(self) -> float | None:
        """Return the rate, None before the first bin is complete."""
        assert self.first is not None
        bins = range(max(self.first, self.present - BINS), self.present)
        if len(bins) == 0:
            return None
        return sum(self.counts.get(b, 0) for b in bins) / (len(bins) * float(BIN_NS))


@dataclass
class Queue:
    """One service: requests not yet taken in, those taken in, and the candidate."""

    coming: list[Request] = field(default_factory=list)
    prefix: list[Request] = field(default_factory=list)
    suffix: list[Request] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)
    candidate: Candidate | None = None

    def waiting(self) -> list[Request]:
        """Return all unsettled requests, oldest first."""
        return self.prefix + self.suffix + self.coming


@dataclass
class TwinState:
    """Queues by service, and when the last advance ended."""

    queues: list[Queue]
    at_ns: int = 0


@dataclass(frozen=True)
class DeferredTwin:
    """Discipline with the rules of `deferred`, or of `eager`."""

    name: str = "deferred"
    eager: bool = False

    def initial_state(self, services: int) -> TwinState:
        """Return empty queues."""
        return TwinState([Queue() for _ in range(services)])

    def advance(self, state: TwinState, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[TwinState, Served]:
        """Serve until `until_ns`."""
        present = []
        for s, queue in enumerate(state.queues):
            rows = range(arrivals.offsets[s], arrivals.offsets[s + 1])
            queue.coming += [Request(int(arrivals.ns[row]), float(arrivals.size[row])) for row in rows]
            present.append(queue.waiting())
        run = _Run(self.eager, state.queues, pool, state.at_ns)
        run.until(until_ns)
        pool.free_at_ns[:] = run.free_at
        return TwinState(state.queues, until_ns), account(present, run.batches)


class _Run:
    """One advance over one pool."""

    def __init__(self, eager: bool, queues: list[Queue], pool: Pool, since: int) -> None:
        self.eager, self.queues, self.pool, self.now = eager, queues, pool, since
        self.since = since
        self.free_at = [int(ns) for ns in pool.free_at_ns]
        self.window_drop = pool.parameters.get("drop", "window") == "window"
        self.lowest_number = pool.parameters.get("gpu_choice", "min-id") == "min-id"
        self.batches: list[tuple[int, int, int, int, int]] = []

    def until(self, until: int) -> None:
        """Handle one event after the other; at one instant services come first, by number, arrivals before timers."""
        while True:
            events: list[tuple[int, int, int, int, Callable[[int], None]]] = []
            for s in (int(s) for s in self.pool.active):
                queue = self.queues[s]
                if queue.coming:
                    events.append((queue.coming[0].ns, 0, s, 0, self.arrival))
                if queue.candidate is not None:
                    events.append((queue.candidate.timer_ns, 0, s, 1, self.timer))
            if self.pending() and self.free_at:
                lead = max(self.lead(s) for s in self.pending())
                events.append((max(self.now, min(self.free_at) - lead), 1, 0, 0, self.instance_looks))
            if not events:
                return
            at, _, s, _, happens = min(events, key=lambda event: event[:4])
            if at >= until:
                return
            self.now = max(self.since, at)
            happens(s)

    def pending(self) -> list[int]:
        """Return the services that wait for an instance."""
        candidates = ((int(s), self.queues[s].candidate) for s in self.pool.active)
        return [s for s, c in candidates if c is not None and c.phase is Phase.PENDING]

    def arrival(self, s: int) -> None:
        """Take the next request in."""
        queue = self.queues[s]
        request = queue.coming.pop(0)
        queue.meter.count(request.ns)
        queue.suffix.append(request)
        self.form(s, request.ns)

    def timer(self, s: int) -> None:
        """Send a candidate whose time has come, or form one anew that has lost its chance."""
        candidate = self.queues[s].candidate
        assert candidate is not None
        if candidate.phase is not Phase.WAITING:
            self.form(s, self.now)
        elif self.now + self.lead(s) > candidate.last_start_ns:
            candidate.phase, candidate.timer_ns = Phase.LOST, self.now + 1
        else:
            fitting = [g for g, free in enumerate(self.free_at) if free <= candidate.start_ns]
            if not fitting:
                candidate.phase = Phase.PENDING
                candidate.timer_ns = candidate.last_start_ns - self.lead(s) + 1
            elif self.lowest_number:
                self.grant(s, fitting[0])
            else:
                self.grant(s, min(fitting, key=lambda g: (self.free_at[g], g)))

    def instance_looks(self, _: int) -> None:
        """Let the instance that is free first take the pending service that must start first."""
        g = min(range(len(self.free_at)), key=lambda g: (self.free_at[g], g))
        in_time = []
        for s in self.pending():
            candidate = self.queues[s].candidate
            assert candidate is not None
            if candidate.last_start_ns < self.free_at[g]:
                candidate.phase = Phase.LOST
            else:
                in_time.append((candidate.last_start_ns, s))
        if in_time:
            self.grant(min(in_time)[1], g)

    def grant(self, s: int, g: int) -> None:
        """Run the service's best batch on an instance; the next candidate is formed at once."""
        queue = self.queues[s]
        b = self.gather(s, self.now, self.free_at[g])
        if b > 0:
            earliest = max(self.now + self.pool.control_ns + self.pool.data_ns * b, self.free_at[g])
            oldest = (queue.prefix + queue.suffix)[0]
            start = max(earliest, self.wanted(s, b, self.deadline(s, oldest), earliest))
            finish = start + self.latency(s, b)
            for _ in range(b):
                request = (queue.prefix or queue.suffix).pop(0)
                request.start_ns, request.finish_ns = start, finish
            self.free_at[g] = finish
            self.batches.append((int(self.pool.number[g]), s, b, start, finish))
        self.form(s, self.now)

    def form(self, s: int, now: int) -> None:
        """Form the service's candidate for an instance that is free whenever it is wanted."""
        queue = self.queues[s]
        b = self.gather(s, now, None)
        queue.candidate = None
        if b > 0:
            deadline = self.deadline(s, (queue.prefix + queue.suffix)[0])
            lead = self.pool.control_ns + self.pool.data_ns * b
            start = max(now + lead, self.wanted(s, b, deadline, now + lead))
            queue.candidate = Candidate(b, start, deadline - self.latency(s, b), max(now, start - lead))

    def gather(self, s: int, now: int, free_at: int | None) -> int:
        """Choose the size of the best batch now; give up requests that can no longer ride."""
        queue, cap = self.queues[s], int(self.pool.max_batch[s])
        queue.meter.turn_to(now)

        def finish(b: int) -> int:
            ready = now + self.pool.control_ns + self.pool.data_ns * b
            return (ready if free_at is None else max(ready, free_at)) + self.latency(s, b)

        suffix = queue.suffix
        while suffix and (len(suffix) > cap or self.deadline(s, suffix[0]) < finish(len(suffix))):
            queue.prefix.append(suffix.pop(0))
        if not suffix:
            return 0
        b = min(self.target(s) if self.window_drop else 1, len(suffix))
        while queue.prefix and self.deadline(s, queue.prefix[0]) < finish(b):
            queue.prefix.pop(0).finish_ns = -1
        riders = queue.prefix + suffix
        while b < min(cap, len(riders)) and self.deadline(s, riders[0]) >= finish(b + 1):
            b += 1
        return b

    def wanted(self, s: int, b: int, deadline: int, earliest: int) -> int:
        """Return the instant from which one more request would no longer fit."""
        if self.eager or b == self.pool.max_batch[s]:
            return earliest
        return deadline - self.pool.jitter_ns - self.latency(s, b + 1) - self.pool.data_ns

    def target(self, s: int) -> int:
        """Return the batch that instances in staggered turns aim at."""
        pool, cap = self.pool, int(self.pool.max_batch[s])
        slo, rate = int(pool.slo_ns[s]), self.queues[s].meter.rate_per_ns()
        if rate is None:
            return max([1, *(b for b in range(1, cap + 1) if self.latency(s, b) <= slo / 2 - pool.response_ns)])
        budget = float(slo - pool.control_ns - pool.response_ns)
        gpus, last = 0.0, cap
        for b in range(1, cap + 1):
            run = self.latency(s, b)
            gpus = rate * run / b
            if run * (1.0 + 1.0 / max(1.0, gpus)) > budget - pool.data_ns * b:
                last = max(1, b - 1)
                break
        if gpus > 1.0:
            return last
        if rate == 0.0:
            return 1
        alone = (b for b in range(1, cap + 1) if self.latency(s, b) + b / rate + pool.data_ns * b <= budget)
        return max([1, *alone])

    def lead(self, s: int) -> int:
        """Return how long before its start a candidate must be sent."""
        candidate = self.queues[s].candidate
        assert candidate is not None
        return self.pool.control_ns + self.pool.data_ns * candidate.batch

    def deadline(self, s: int, request: Request) -> int:
        """Return when the answer must be ready."""
        return request.ns + int(self.pool.slo_ns[s]) - self.pool.response_ns

    def latency(self, s: int, b: int) -> int:
        """Return how long a batch runs."""
        return int(self.pool.latency_ns[s, b])


def account(present: list[list[Request]], batches: list[tuple[int, int, int, int, int]]) -> Served:
    """Return the account of these requests, by service, and of these batches."""
    everyone = [request for requests in present for request in requests]
    offsets = np.concatenate(([0], np.cumsum([len(requests) for requests in present]))).astype(np.int64)
    columns = np.array(batches, np.int64).reshape(-1, 5)
    return Served(
        Arrivals(
            np.array([r.ns for r in everyone], np.int64), offsets, np.array([r.size for r in everyone], np.float32)
        ),
        np.array([r.start_ns for r in everyone], np.int64),
        np.array([r.finish_ns for r in everyone], np.int64),
        *(columns[:, k].copy() for k in range(5)),
    )
