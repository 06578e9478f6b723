"""Adaptive batching in plain Python: what the compiled kernel must do, request by request.

Written from docs/disciplines.md; it shares nothing with the kernel but the protocol `partita.ports.Discipline` and what
is drawn by hash: how long a batch takes, and by how much a limit rises.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import sqrt

from oracles.deferred_twin import Request
from oracles.lanes_twin import Batch, Hall, most, plans_ns, played, takes_ns

from partita.kernels import callable_from_python
from partita.kernels.clipper import step_factor as lean_step_factor
from partita.model.load import Arrivals
from partita.ports import Pool, Served

step_factor = callable_from_python(lean_step_factor)


@dataclass
class Experience:
    """What is known of one service on one instance: its limit, and the batches that ran, as (size, latency in ns)."""

    limit: float = 1.0
    at_limit: int = 0
    steps: int = 0
    ran: list[tuple[int, int]] = field(default_factory=list)
    means: dict[int, tuple[int, float]] = field(default_factory=dict)
    within: float = 0.0

    def note(self, size: int, took: int) -> None:
        """Remember a batch; squares within sizes are summed as they come (Welford)."""
        self.ran.append((size, took))
        count, mean = self.means.get(size, (0, 0.0))
        closer = mean + (took - mean) / (count + 1)
        self.within += (took - mean) * (took - closer)
        self.means[size] = (count + 1, closer)

    def largest_within(self, budget: float, cap: int) -> int:
        """Return the largest batch that the fitted line puts within the budget; one before the first batch."""
        if not self.ran:
            return 1
        n, sum_x, sum_y = (float(v) for v in (len(self.ran), sum(x for x, _ in self.ran), sum(y for _, y in self.ran)))
        sum_xx, sum_xy = float(sum(x * x for x, _ in self.ran)), float(sum(x * y for x, y in self.ran))
        slope = (sum_xy - sum_x * sum_y / n) / (sum_xx - sum_x * sum_x / n + 0.1)
        at_zero = (sum_y - slope * sum_x) / n
        free = len(self.ran) - len(self.means)
        above = 3.0 * sqrt(self.within / free) if free else 0.0
        return max((b for b in range(1, cap + 1) if at_zero + slope * b + above <= budget), default=1)

    def next_limit(self, cap: int, factor: float) -> float:
        """Return the limit to try out: a larger one after five batches."""
        limit = self.limit
        if self.at_limit >= 5 and limit < cap:
            limit = limit + 1 if limit < 10 else limit * factor
        return min(limit, float(cap))


@dataclass
class TwinState:
    """Who waits, what was learned by instance (number) and service, and what the last batches were allowed."""

    hall: Hall
    learned: dict[int, defaultdict[int, Experience]] = field(default_factory=dict)
    allowed: defaultdict[int, int] = field(default_factory=lambda: defaultdict(lambda: 1))
    at_ns: int = 0


@dataclass
class Server:
    """The pool during an advance."""

    pool: Pool
    state: TwinState
    free_at: list[int]
    queues: dict[int, list[Request]]
    batches: list[Batch] = field(default_factory=list)

    def option(self, s: int, key: str, default: object) -> object:
        """Return a service's parameter."""
        return self.pool.parameters_of(s).get(key, default)

    @property
    def v2(self) -> bool:
        """Say which variant this is."""
        return self.option(min(self.queues), "variant", "aimd") == "v2"

    def deadline(self, s: int, request: Request) -> int:
        """Return a request's deadline."""
        return request.ns + int(self.pool.slo_ns[s]) - self.pool.response_ns

    def ready_at(self, s: int) -> int:
        """Return when a service may have a batch."""
        queue, full = self.queues[s], self.state.allowed[s]
        patient = queue[0].ns + round(float(str(self.option(s, "timeout_ms", 0.0))) * 1e6)
        return patient if len(queue) < full else min(patient, queue[full - 1].ns)

    def serve(self, until_ns: int) -> None:
        """Serve until `until_ns`; whoever is most urgent comes first."""
        now = self.state.at_ns
        while True:
            turns = [
                (max(now, free, self.ready_at(s)), self.urgency(s), s)
                for s, queue in self.queues.items()
                for g, free in enumerate(self.free_at)
                if queue and most(self.pool, g, s)
            ]
            if not turns or min(turns)[0] >= until_ns:
                return
            now, _, s = min(turns)
            idle = [g for g, free in enumerate(self.free_at) if free <= now and most(self.pool, g, s)]
            lowest = self.option(s, "gpu_choice", "min-id") == "min-id"
            self.run(s, idle[0] if lowest else min(idle, key=lambda g: (self.free_at[g], g)), now)

    def urgency(self, s: int) -> int:
        """Say how urgent a service is: by arrival, or by deadline."""
        head = self.queues[s][0]
        return self.deadline(s, head) if self.v2 else head.ns

    def allow(self, s: int, g: int, now: int) -> tuple[int, bool]:
        """Return how large a batch may be, and whether that is being tried out."""
        known, cap = self.state.learned[int(self.pool.number[g])][s], most(self.pool, g, s)
        if not self.v2:
            return max(1, min(cap, int(known.limit))), False
        budget = 0.92 * (self.deadline(s, self.queues[s][0]) - now)
        if budget <= max((took for _, took in known.ran), default=0):
            return known.largest_within(budget, cap), False
        limit = int(known.next_limit(cap, self.factor(s, g, known)))
        return limit, not (limit == cap and known.at_limit >= 5)

    def factor(self, s: int, g: int, known: Experience) -> float:
        """Return by which factor a large limit rises next."""
        return step_factor(int(str(self.option(s, "seed", 0))), int(self.pool.number[g]), s, known.steps)

    def run(self, s: int, g: int, now: int) -> None:
        """Give up who has no chance, and run a batch of those that are left."""
        pool, queue, plan = self.pool, self.queues[s], plans_ns(self.pool, g, s)
        drop = self.option(s, "drop", "expired" if self.v2 else "none")
        while queue and queue[0].ns <= now:
            allowed, tried = self.allow(s, g, now)
            riders = [request for request in queue if request.ns <= now][:allowed]
            runs = allowed if tried else len(riders)
            alone = now + pool.control_ns + pool.data_ns + plan(1)
            together = now + pool.control_ns + pool.data_ns * len(riders) + plan(runs)
            last = {"none": 0, "expired": now, "timeout": alone, "window": together}[str(drop)]
            if drop == "none" or self.deadline(s, queue[0]) >= last:
                break
            queue.pop(0).finish_ns = -1
        else:
            return
        start = now + pool.control_ns + pool.data_ns * len(riders)
        took = takes_ns(pool, g, s, riders, runs)
        for request in riders:
            request.start_ns, request.finish_ns = start, start + took
        del queue[: len(riders)]
        self.free_at[g] = start + took
        self.state.allowed[s] = allowed
        self.batches.append(Batch(now, int(pool.number[g]), s, len(riders), start, start + took))
        self.learn(s, g, runs, len(riders) == allowed, tried, took)

    def learn(self, s: int, g: int, size: int, full: bool, tried: bool, took: int) -> None:
        """Learn from a batch."""
        known, cap = self.state.learned[int(self.pool.number[g])][s], most(self.pool, g, s)
        if not self.v2:
            if took > float(str(self.option(s, "budget", 1.0))) * float(self.pool.slo_ns[s]):
                known.limit = max(1.0, known.limit * 0.9)
            elif full:
                known.limit = min(float(cap), known.limit + 1)
            return
        if tried:
            limit = known.next_limit(cap, self.factor(s, g, known))
            known.steps += limit > known.limit
            if limit != known.limit:
                known.limit, known.at_limit = limit, 0
        known.at_limit += size == int(known.limit)
        known.note(size, took)


@dataclass(frozen=True)
class ClipperTwin:
    """Discipline with the rules of `clipper`."""

    name: str = "clipper"

    def initial_state(self, services: int) -> TwinState:
        """Return empty queues."""
        return TwinState(Hall.of(services))

    def advance(self, state: TwinState, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[TwinState, Served]:
        """Serve until `until_ns`."""
        present = state.hall.join(arrivals)
        state.learned = {int(n): state.learned.get(int(n), defaultdict(Experience)) for n in pool.number}
        free_at = [int(ns) for ns in pool.free_at_ns]
        server = Server(pool, state, free_at, {int(s): list(present[s]) for s in pool.active})
        server.serve(until_ns)
        pool.free_at_ns[:] = free_at
        state.hall.leave()
        state.at_ns = until_ns
        return state, played(present, server.batches, by_number=False)
