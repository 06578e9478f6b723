"""Clockwork's scheduler in plain Python: what the compiled kernel must do, request by request.

Written from the rules (docs/disciplines.md) with a list for each line of requests and a search through all of them for
every batch; it shares nothing with the kernel but the protocol `partita.ports.Discipline` and the draw of how long a
batch takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from oracles.deferred_twin import Request, account
from oracles.sizes_twin import really_ns

from partita.model.load import Arrivals
from partita.ports import Kinds, Pool, Served

Line = tuple[int, int, int]
"""Kind, service, size."""


@dataclass(eq=False)
class Booking:
    """A batch sent to an instance; `late` if the instance will find it too late to begin."""

    ready_ns: int
    planned_ns: int
    begin_ns: int
    done_ns: int


@dataclass
class Gpu:
    """One instance: when it is free, when its work should end, and what is not known to be done."""

    free_ns: int
    booked_ns: int
    bookings: list[Booking] = field(default_factory=list)
    stuck: bool = False


@dataclass
class TwinState:
    """Unsettled requests and those not taken in by service, lines, and instances by number."""

    waiting: list[list[Request]]
    coming: list[list[Request]]
    lines: dict[Line, list[Request]] = field(default_factory=dict)
    made_for: Any = None
    gpus: dict[int, Gpu] = field(default_factory=dict)
    at_ns: int = 0


@dataclass(frozen=True)
class ClockworkTwin:
    """Discipline with the rules of `clockwork`."""

    name: str = "clockwork"

    def initial_state(self, services: int) -> TwinState:
        """Return empty queues."""
        return TwinState([[] for _ in range(services)], [[] for _ in range(services)])

    def advance(self, state: TwinState, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[TwinState, Served]:
        """Serve until `until_ns`."""
        for s, coming in enumerate(state.coming):
            rows = range(arrivals.offsets[s], arrivals.offsets[s + 1])
            coming += [Request(int(arrivals.ns[row]), float(arrivals.size[row])) for row in rows]
        present = [waiting + coming for waiting, coming in zip(state.waiting, state.coming, strict=True)]
        run = _Run(state, pool)
        run.until(until_ns)
        pool.free_at_ns[:] = [state.gpus[int(n)].free_ns for n in pool.number]
        state.at_ns = until_ns
        return state, account(present, run.batches)


class _Run:
    """One advance over one pool."""

    def __init__(self, state: TwinState, pool: Pool) -> None:
        self.state, self.pool, own = state, pool, pool.parameters
        k: Kinds = pool.by_kind()
        self.kinds = k
        self.place = {int(n): place for place, n in enumerate(pool.number)}
        self.kind = {n: int(k.of[place]) for n, place in self.place.items()}
        largest: Any = own.get("largest_batch", 8)
        self.sizes = [2**n for n in range(11) if 2**n <= largest]
        self.ahead_ns, self.tolerance_ns, self.buffer_ns = (
            round(float(value) * 1e6)  # type: ignore[arg-type]
            for value in (own.get("look_ahead_ms", 10), own.get("tolerance_ms", 10), own.get("buffer_ms", 0))
        )
        self.lowest_number = own.get("gpu_choice", "min-id") == "min-id"
        self.batches: list[tuple[int, int, int, int, int]] = []
        self.now = state.at_ns
        self.meet_again()

    def meet_again(self) -> None:
        """Find instances again, unless somebody else has booked them; keep lines, unless kinds or sizes changed."""
        old, self.state.gpus = self.state.gpus, {}
        for n, free in zip(self.pool.number, self.pool.free_at_ns, strict=True):
            gpu = old.get(int(n))
            known = gpu is not None and gpu.free_ns == free
            self.state.gpus[int(n)] = gpu if gpu is not None and known else Gpu(int(free), int(free))
        there = sorted(set(self.kind.values()))
        made_for = (self.sizes, there, self.kinds.max_batch.tolist(), self.kinds.planned_ns.tolist())
        if made_for != self.state.made_for:
            self.state.made_for = made_for
            self.state.lines = {
                (k, s, size): list(self.state.waiting[s])
                for k in there
                for s in range(len(self.state.waiting))
                for size in self.sizes
                if size <= self.kinds.max_batch[k, s]
            }

    def until(self, until: int) -> None:
        """Handle one event after the other; at one instant news come first, then arrivals, then bookings."""
        active = [int(s) for s in self.pool.active]
        while True:
            events = [(at, 0, n) for n, gpu in self.state.gpus.items() if (at := self.news_at(gpu)) is not None]
            events += [(self.state.coming[s][0].ns, 1, s) for s in active if self.state.coming[s]]
            for n, gpu in self.state.gpus.items():
                if not gpu.stuck and self.strategies(self.kind[n]):
                    events.append((gpu.booked_ns - self.ahead_ns, 2, n))
            events = [(max(self.now, at), what, who) for at, what, who in events]
            if not events or min(events)[0] >= until:
                return
            self.now, what, who = min(events)
            if what == 0:
                self.hear(self.state.gpus[who])
            elif what == 1:
                self.arrival(who)
            else:
                self.give_work(self.taker())

    def news_at(self, gpu: Gpu) -> int | None:
        """Return when the next thing will be known of an instance."""
        if not gpu.bookings:
            return None
        first = gpu.bookings[0]
        lags = first.begin_ns + first.planned_ns + self.tolerance_ns + 1
        return first.done_ns if gpu.stuck else min(first.done_ns, lags)

    def hear(self, gpu: Gpu) -> None:
        """Learn that a booking is done, or that an instance lags."""
        if gpu.bookings[0].done_ns > self.now:
            gpu.stuck = True
            return
        gpu.stuck, gpu.booked_ns = False, gpu.bookings.pop(0).done_ns
        for booking in gpu.bookings:
            gpu.booked_ns = max(gpu.booked_ns, booking.ready_ns) + booking.planned_ns

    def arrival(self, s: int) -> None:
        """Take a request into all lines of its service."""
        request = self.state.coming[s].pop(0)
        self.state.waiting[s].append(request)
        for line, requests in self.state.lines.items():
            if line[1] == s:
                requests.append(request)

    def strategies(self, kind: int) -> list[tuple[int, int, int]]:
        """Return when each service must begin a batch on an instance of a kind, with the service and the size."""
        return [
            (self.deadline(s, requests[0]) - int(self.kinds.planned_ns[k, s, size]), s, size)
            for (k, s, size), requests in self.state.lines.items()
            if k == kind and s in self.pool.active and len(requests) >= size
        ]

    def taker(self) -> int:
        """Return which of the instances that may be given work gets it."""
        able = [
            n
            for n, gpu in self.state.gpus.items()
            if not gpu.stuck and gpu.booked_ns - self.ahead_ns <= self.now and self.strategies(self.kind[n])
        ]
        idle = [n for n in able if self.state.gpus[n].booked_ns <= self.now]
        if self.lowest_number and idle:
            return min(idle)
        return min(able, key=lambda n: (self.state.gpus[n].booked_ns, n))

    def give_work(self, n: int) -> None:
        """Try the most urgent strategy on an instance."""
        k = self.kind[n]
        _, s, wanted = min(self.strategies(k))
        lines = {size: self.state.lines[k, s, size] for size in self.sizes if (k, s, size) in self.state.lines}
        for size, requests in lines.items():
            done = self.start(n, size) + int(self.kinds.planned_ns[k, s, size])
            while requests and self.deadline(s, requests[0]) < done:
                requests.pop(0)
        enough = [size for size, requests in lines.items() if len(requests) >= size]
        if enough and max(enough) >= wanted:
            self.book(s, n, lines[max(enough)][: max(enough)])
        self.drop_forgotten(s)

    def start(self, n: int, size: int) -> int:
        """Return when a batch booked now should begin."""
        return max(self.state.gpus[n].booked_ns, self.now + self.pool.control_ns + self.pool.data_ns * size)

    def book(self, s: int, n: int, batch: list[Request]) -> None:
        """Send a batch to an instance, which drops it if it comes to it too late."""
        gpu, size = self.state.gpus[n], len(batch)
        ready = self.now + self.pool.control_ns + self.pool.data_ns * size
        planned_start, planned = self.start(n, size), int(self.kinds.planned_ns[self.kind[n], s, size])
        start = done = max(gpu.free_ns, ready)
        if start > planned_start + self.tolerance_ns:
            for request in batch:
                request.finish_ns = -1
        else:
            sizes = [request.size for request in batch]
            done = start + really_ns(self.pool, self.place[n], s, size, batch[0].ns, sizes)
            for request in batch:
                request.start_ns, request.finish_ns = start, done
            gpu.free_ns = done
            self.batches.append((n, s, size, start, done))
        gpu.booked_ns = planned_start + planned
        gpu.bookings.append(Booking(ready, planned, start, done))
        newest = self.state.waiting[s].index(batch[-1])
        gone = {id(request) for request in self.state.waiting[s][: newest + 1]}
        for line, requests in self.state.lines.items():
            if line[1] == s:
                requests[:] = [request for request in requests if id(request) not in gone]

    def drop_forgotten(self, s: int) -> None:
        """Settle what stands in no line of its service any more."""
        standing = {id(r) for line, requests in self.state.lines.items() if line[1] == s for r in requests}
        for request in self.state.waiting[s]:
            if id(request) not in standing and request.finish_ns == 0:
                request.finish_ns = -1
        self.state.waiting[s] = [request for request in self.state.waiting[s] if request.finish_ns == 0]

    def deadline(self, s: int, request: Request) -> int:
        """Return when the answer must be ready."""
        return request.ns + int(self.pool.slo_ns[s]) - self.pool.response_ns - self.buffer_ns
