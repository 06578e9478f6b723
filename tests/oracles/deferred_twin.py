"""Deferred and eager batching in plain Python: what the compiled kernels must do, request by request.

Written from the rules (docs/disciplines.md) with lists, objects and a search for the next event; it is slow and shares
nothing with the kernels but the protocol `partita.ports.Discipline` and the hash that jitter is drawn from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from oracles.sizes_twin import counts, planned_ns, really_ns, takes

from partita.model.load import Arrivals
from partita.ports import Kinds, Pool, Served

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
    """The batch that a service would run next; `aim` is the target when it became pending, where somebody asks."""

    batch: int
    start_ns: int
    last_start_ns: int
    timer_ns: int
    phase: Phase = Phase.WAITING
    aim: int | None = None


@dataclass
class Meter:
    """Arrivals in bins of 50 ms."""

    counts: dict[int, int] = field(default_factory=dict)

    def count(self, at: int) -> None:
        """Count an arrival."""
        self.counts[at // BIN_NS] = self.counts.get(at // BIN_NS, 0) + 1

    def complete(self, now: int) -> list[int]:
        """Return the counts of the last hundred bins that are complete, none before the first arrival's."""
        present = now // BIN_NS
        first = min(self.counts, default=present)
        return [self.counts.get(b, 0) for b in range(max(first, present - BINS), present)]

    def rate_per_ns(self, now: int) -> float | None:
        """Return the mean rate, None before the first bin is complete."""
        counts = self.complete(now)
        return sum(counts) / (len(counts) * float(BIN_NS)) if counts else None


@dataclass
class Queue:
    """One service: requests not yet taken in, those taken in, the candidate, and what its windows remember."""

    coming: list[Request] = field(default_factory=list)
    prefix: list[Request] = field(default_factory=list)
    suffix: list[Request] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)
    candidate: Candidate | None = None
    last_start_ns: int | None = None
    credit_ns: int = 0

    def copy(self) -> Queue:
        """Return a queue of its own that stands as this one does."""
        lists = ([replace(request) for request in part] for part in (self.coming, self.prefix, self.suffix))
        candidate = None if self.candidate is None else replace(self.candidate)
        return Queue(*lists, Meter(dict(self.meter.counts)), candidate, self.last_start_ns, self.credit_ns)

    def riders(self) -> list[Request]:
        """Return those taken in, oldest first."""
        return self.prefix + self.suffix

    def waiting(self) -> list[Request]:
        """Return all unsettled requests, oldest first."""
        return self.riders() + self.coming


@dataclass
class TwinState:
    """Queues by service, and when the last advance ended."""

    queues: list[Queue]
    at_ns: int = 0


@dataclass(frozen=True)
class DeferredTwin:
    """Discipline with the rules of `deferred` or `eager`."""

    name: str = "deferred"

    def initial_state(self, services: int) -> TwinState:
        """Return empty queues."""
        return TwinState([Queue() for _ in range(services)])

    def advance(self, state: TwinState, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[TwinState, Served]:
        """Serve until `until_ns`."""
        join(state.queues, arrivals)
        present = [queue.waiting() for queue in state.queues]
        window = "eager" if self.name == "eager" else str(pool.parameters.get("window", "frontrun"))
        run = Run(window, str(pool.parameters.get("drop", "window")), state.queues, pool, state.at_ns)
        run.until(until_ns)
        pool.free_at_ns[:] = run.free_at
        return TwinState(state.queues, until_ns), account(present, run.batches)


def join(queues: list[Queue], arrivals: Arrivals) -> None:
    """Let new requests stand behind those of their service that have not been taken in."""
    for s, queue in enumerate(queues):
        rows = range(arrivals.offsets[s], arrivals.offsets[s + 1])
        queue.coming += [Request(int(arrivals.ns[row]), float(arrivals.size[row])) for row in rows]


class Run:
    """Some time over one pool, by a window and a drop rule.

    `asked` says, if the drop rule is none that a user can choose, for which batch a service makes room while so many
    requests wait.
    """

    def __init__(
        self,
        window: str,
        drop: str,
        queues: list[Queue],
        pool: Pool,
        since: int,
        asked: Callable[[int, int], int] | None = None,
    ) -> None:
        self.queues, self.pool, self.now, self.since = queues, pool, since, since
        self.services = [int(s) for s in pool.active]
        self.free_at = [int(ns) for ns in pool.free_at_ns]
        self.kinds: Kinds = pool.by_kind()
        own = pool.parameters
        self.window, self.drop, self.asked = window, drop, asked
        self.match, self.order = str(own.get("match", "both")), str(own.get("order", "last-start"))
        self.lowest_number = own.get("gpu_choice", "min-id") == "min-id"
        self.batches: list[tuple[int, int, int, int, int]] = []

    def until(self, until: int) -> None:
        """Handle one event after the other.

        At one instant come services, by number, arrivals before timers; then instances, by kind.
        """
        for s in self.services:
            self.catch_up(s)
        while True:
            events: list[tuple[int, int, int, int, Callable[[int], None]]] = []
            for s in self.services:
                queue = self.queues[s]
                if queue.coming:
                    events.append((queue.coming[0].ns, 1, s, 0, self.arrival))
                if queue.candidate is not None:
                    events.append((queue.candidate.timer_ns, 1, s, 1, self.timer))
            for k in range(len(self.kinds.max_batch)):
                events += [(at, 2, k, 0, self.instance_looks) for at in self.looks(k)]
            if not events:
                return
            at, _, whose, _, happens = min(events, key=lambda event: event[:4])
            if at >= until:
                return
            self.now = max(self.now, at)
            happens(whose)

    def catch_up(self, s: int) -> None:
        """Take in at once what arrived while the pool did not serve the service."""
        queue = self.queues[s]
        late = [r for r in queue.coming if r.ns < self.since]
        for request in late:
            queue.meter.count(request.ns)
        if late:
            queue.suffix += late
            queue.coming = queue.coming[len(late) :]
            self.form(s)
        elif queue.candidate is not None and queue.candidate.phase is Phase.PENDING and queue.candidate.aim is None:
            self.take_aim(s)

    def may_serve(self, g: int, s: int) -> bool:
        """Say whether an instance serves a service."""
        return bool(self.kinds.max_batch[self.kinds.of[g], s] > 0)

    def of_kind(self, k: int) -> list[int]:
        """Return the instances of a kind."""
        return [g for g in range(len(self.free_at)) if self.kinds.of[g] == k]

    def free_first(self, instances: Iterable[int]) -> int:
        """Return the instance that is free first."""
        return min(instances, key=lambda g: (self.free_at[g], g))

    def pending(self, k: int) -> list[tuple[int, Candidate]]:
        """Return the services that wait for an instance of a kind, and their candidates."""
        if self.match == "service":
            return []
        candidates = ((s, self.queues[s].candidate) for s in self.services if self.kinds.max_batch[k, s] > 0)
        return [(s, c) for s, c in candidates if c is not None and c.phase is Phase.PENDING]

    def looks(self, k: int) -> list[int]:
        """Return when an instance of a kind looks for a pending service, if one does."""
        pending, instances = self.pending(k), self.of_kind(k)
        if not pending or not instances:
            return []
        longest = max(self.lead(c.batch) for _, c in pending)
        return [max(self.now, self.free_at[self.free_first(instances)] - longest)]

    def arrival(self, s: int) -> None:
        """Take the next request in."""
        queue = self.queues[s]
        request = queue.coming.pop(0)
        queue.meter.count(request.ns)
        queue.suffix.append(request)
        self.form_again(s)

    def timer(self, s: int) -> None:
        """Send a candidate whose time has come, or form one anew that has lost its chance."""
        candidate = self.queues[s].candidate
        assert candidate is not None
        lead = self.lead(candidate.batch)
        if candidate.phase is not Phase.WAITING:
            self.form_again(s)
        elif self.drop != "never" and self.now + lead > candidate.last_start_ns:
            candidate.phase, candidate.timer_ns = Phase.LOST, self.now + 1
        else:
            mine = [g for g in range(len(self.free_at)) if self.may_serve(g, s)]
            fitting = [g for g in mine if self.free_at[g] <= candidate.start_ns]
            if not fitting or self.match == "instance":
                self.wait_for_instance(s)
            else:
                self.grant(s, fitting[0] if self.lowest_number else self.free_first(fitting))

    def wait_for_instance(self, s: int) -> None:
        """Make a service pending until its candidate could not be started in time."""
        candidate = self.queues[s].candidate
        assert candidate is not None
        last_send = max(self.now, candidate.last_start_ns - self.lead(candidate.batch))
        candidate.phase, candidate.timer_ns = Phase.PENDING, NEVER if self.drop == "never" else last_send + 1
        self.take_aim(s)

    def take_aim(self, s: int) -> None:
        """Note the target that a pending service's batch is compared with."""
        candidate = self.queues[s].candidate
        assert candidate is not None
        candidate.aim = self.target(s) if self.order == "efficiency" and self.match != "service" else None

    def form_again(self, s: int) -> None:
        """Form the candidate; a pending service stays pending if the new one should have been sent by now."""
        before = self.queues[s].candidate
        self.form(s)
        after = self.queues[s].candidate
        was_pending = before is not None and before.phase is Phase.PENDING
        if was_pending and after is not None and after.timer_ns <= self.now and self.match != "service":
            self.wait_for_instance(s)

    def instance_looks(self, k: int) -> None:
        """Let the instance of a kind that is free first take the pending service that it ranks first."""
        g = self.free_first(self.of_kind(k))
        ranked = sorted(self.pending(k), key=lambda pair: (self.rank(*pair), pair[0]))
        for s, candidate in ranked:
            if self.drop == "never" or candidate.last_start_ns >= self.free_at[g]:
                self.grant(s, g)
                return
            candidate.phase = Phase.LOST

    def rank(self, s: int, candidate: Candidate) -> int:
        """Return a number that is smaller for services to be taken first."""
        if self.order == "last-start":
            return candidate.last_start_ns
        if self.order == "deadline":
            return self.deadline(s, self.queues[s].riders()[0])
        assert candidate.aim is not None
        batch, aim = min(candidate.batch, self.largest(s)), min(candidate.aim, int(self.pool.max_batch[s]))
        runs = self.planned(s, None, batch, self.queues[s].riders()[:batch])
        worth = (batch / runs) / (aim / self.slowest(s, aim))
        return -int(worth * 1e9)

    def grant(self, s: int, g: int) -> None:
        """Run the service's best batch on an instance; the next candidate is formed at once."""
        queue, largest = self.queues[s], self.largest(s, g)
        b = self.gather(s, g, largest)
        if b > 0:
            riders = queue.riders()[:b]

            def own(b: int) -> int:
                return self.planned(s, g, b, riders)

            start = self.wanted(s, b, max(self.now + self.lead(b), self.free_at[g]), own, largest)
            finish = start + really_ns(self.pool, g, s, b, riders[0].ns, [rider.size for rider in riders])
            for _ in range(b):
                request = (queue.prefix or queue.suffix).pop(0)
                request.start_ns, request.finish_ns = start, finish
            queue.last_start_ns = start
            if self.window == "credit":
                slo = int(self.pool.slo_ns[s])
                queue.credit_ns = min(max(self.credit(s, b, own), -slo), slo)
            self.free_at[g] = finish
            self.batches.append((int(self.pool.number[g]), s, b, start, finish))
        self.form(s)

    def largest(self, s: int, g: int | None = None) -> int:
        """Return the largest batch of a service on an instance, or on the slowest: that of the smallest inputs."""
        sizes = self.pool.sizes
        if g is None:
            return int(self.pool.max_batch[s] if sizes is None else sizes.max_batch[s])
        k = self.kinds.of[g]
        return int(self.kinds.max_batch[k, s] if sizes is None else sizes.max_batch_of[k, s])

    def planned(self, s: int, g: int | None, b: int, riders: list[Request]) -> int:
        """Return what a batch of b with inputs as large as those of the riders is planned to take."""
        sizes = [rider.size for rider in riders]
        if g is not None:
            return planned_ns(self.pool, g, s, b, sizes)
        if self.pool.sizes is None or not counts(self.pool, s):
            return self.slowest(s, b)
        return takes(self.pool, self.pool.sizes.planned_ns[0], s, b, sizes)

    def form(self, s: int) -> None:
        """Form the service's candidate for the slowest instance, free whenever it is wanted."""
        queue, largest = self.queues[s], self.largest(s)
        b = self.gather(s, None, largest)
        queue.candidate = None
        if b > 0:
            lead, riders = self.lead(b), queue.riders()[:b]

            def slowest(b: int) -> int:
                return self.planned(s, None, b, riders)

            start = self.wanted(s, b, self.now + lead, slowest, largest)
            last = self.deadline(s, queue.riders()[0]) - slowest(b)
            queue.candidate = Candidate(b, start, last, max(self.now, start - lead))

    def gather(self, s: int, g: int | None, largest: int) -> int:
        """Choose the size of the best batch now; give up requests that can no longer ride."""
        queue = self.queues[s]
        waiting = len(queue.riders())

        def in_time(batch: list[Request]) -> bool:
            ready = self.now + self.lead(len(batch))
            start = ready if g is None else max(ready, self.free_at[g])
            return self.deadline(s, batch[0]) >= start + self.planned(s, g, len(batch), batch)

        together = (
            self.suffix_by_size(s, in_time, largest) if counts(self.pool, s) else self.suffix(s, in_time, largest)
        )
        if not together:
            return 0
        b = min(self.room_for(s, waiting), together)
        while self.drop != "never" and queue.prefix and not in_time(queue.riders()[:b]):
            queue.prefix.pop(0).finish_ns = -1
        riders = queue.riders()
        while b < min(largest, len(riders)) and in_time(riders[: b + 1]):
            b += 1
        return b

    def suffix(self, s: int, in_time: Callable[[list[Request]], bool], largest: int) -> int:
        """Move to the prefix, for good, who cannot run as one batch with all who came later; return who is left."""
        queue = self.queues[s]
        while queue.suffix and (len(queue.suffix) > largest or not in_time(queue.suffix)):
            queue.prefix.append(queue.suffix.pop(0))
        return len(queue.suffix)

    def suffix_by_size(self, s: int, in_time: Callable[[list[Request]], bool], largest: int) -> int:
        """Choose the suffix anew where sizes count: the newest that are too late even alone are none of it."""
        queue = self.queues[s]
        riders = queue.riders()
        end = max((n for n, rider in enumerate(riders, 1) if in_time([rider])), default=0)
        together = max((n for n in range(1, min(largest, end) + 1) if in_time(riders[end - n : end])), default=0)
        queue.prefix, queue.suffix = riders[: end - together], riders[end - together :]
        return together

    def room_for(self, s: int, waiting: int) -> int:
        """Return the batch that older requests must make room for."""
        if self.drop == "timeout":
            return 1
        if self.asked is not None:
            return self.asked(s, waiting)
        return self.target(s)

    def wanted(self, s: int, b: int, earliest: int, latency: Callable[[int], int], largest: int) -> int:
        """Return when a batch should start."""
        if b >= largest or self.starts_at_once(s, b, latency):
            return earliest
        queue, pool = self.queues[s], self.pool
        oldest, slo = queue.riders()[0], int(pool.slo_ns[s])
        deadline = self.deadline(s, oldest) - pool.jitter_ns
        latest = deadline - latency(b)
        if self.window == "latest":
            return max(earliest, latest)
        if self.window == "slo-share":
            share = float(pool.parameters.get("wait_share", 0.1))
            return max(earliest, min(latest, oldest.ns + int(share * slo)))
        if self.window == "queueing-delay":
            rate = queue.meter.rate_per_ns(self.now)
            wait = self.target(s) / rate if rate else slo / 2
            if queue.last_start_ns is None:
                return earliest
            return max(earliest, min(latest, queue.last_start_ns + int(wait)))
        return max(earliest, deadline - latency(b + 1) - pool.data_ns)

    def starts_at_once(self, s: int, b: int, latency: Callable[[int], int]) -> bool:
        """Say whether the window lets a batch below the largest go as soon as it can."""
        match self.window:
            case "eager":
                return True
            case "target-batch":
                return b >= self.target(s)
            case "credit":
                return self.credit(s, b, latency) >= 0
            case "beta-lambda":
                target = self.target(s)
                other = target if target != b else b + 1
                slope = (latency(other) - latency(b)) / (other - b)
                return b >= (latency(b) - slope * b) * (self.queues[s].meter.rate_per_ns(self.now) or 0.0)
            case _:
                return False

    def credit(self, s: int, b: int, latency: Callable[[int], int]) -> int:
        """Return the service's account after a batch."""
        target = self.target(s)
        return self.queues[s].credit_ns + b * latency(target) // target - latency(b)

    def target(self, s: int) -> int:
        """Return the batch that instances in staggered turns aim at."""
        pool, largest = self.pool, int(self.pool.max_batch[s])
        slo, rate = int(pool.slo_ns[s]), self.queues[s].meter.rate_per_ns(self.now)
        if rate is None:
            return _last(largest, lambda b: self.slowest(s, b) <= slo / 2 - pool.response_ns)
        budget = float(slo - pool.control_ns - pool.response_ns)
        busy = 0.0
        staggered = largest
        for b in range(1, largest + 1):
            run = self.slowest(s, b)
            busy = rate * run / b
            if run * (1.0 + 1.0 / max(1.0, busy)) > budget - pool.data_ns * b:
                staggered = max(1, b - 1)
                break
        if busy > 1.0:
            return staggered
        if rate == 0.0:
            return 1
        return _last(largest, lambda b: self.slowest(s, b) + b / rate + pool.data_ns * b <= budget)

    def lead(self, b: int) -> int:
        """Return how long before its start a batch must be sent."""
        return self.pool.control_ns + self.pool.data_ns * b

    def deadline(self, s: int, request: Request) -> int:
        """Return when the answer must be ready."""
        return request.ns + int(self.pool.slo_ns[s]) - self.pool.response_ns

    def slowest(self, s: int, b: int) -> int:
        """Return how long a batch runs on the slowest instance that may serve the service."""
        return int(self.pool.latency_ns[s, b])


NEVER = 2**62


def _last(largest: int, fits: Callable[[int], bool]) -> int:
    """Return the largest batch that fits, 1 if none does."""
    return max([1, *(b for b in range(1, largest + 1) if fits(b))])


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
