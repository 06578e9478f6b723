"""Sharing in time in plain Python: what the compiled kernel must do, request by request.

Written from docs/disciplines.md; it shares nothing with the kernel but the protocol `partita.ports.Discipline` and the
draw of how long a batch takes. Every instance keeps a clock; slices that nobody uses pass one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from oracles.lanes_twin import Batch, Hall, Hand, most, plans_ns, played, takes_ns

from partita.model.load import Arrivals
from partita.ports import Pool, Served


@dataclass
class Slice:
    """A slice: whose it is, when it ends, whether a batch ran in it, until when; `tired` once nothing fits any more."""

    service: int | None
    end_ns: int
    used: bool = False
    tired: bool = False
    ran_until_ns: int = 0


@dataclass
class TwinState:
    """Who waits, the slice of each instance (by number), and when the last advance ended."""

    hall: Hall
    slices: dict[int, Slice] = field(default_factory=dict)
    at_ns: int = 0


@dataclass
class Server:
    """One instance during an advance: its place in the pool, who waits there, and when it can act again."""

    g: int
    pool: Pool
    slice: Slice
    lanes: dict[int, list[Hand]]
    lengths: dict[int, int]
    now: int
    free_ns: int
    batches: list[Batch]

    def waiting(self, s: int) -> list[Hand]:
        """Return the service's unsettled requests here."""
        return [hand for hand in self.lanes[s] if hand.request.finish_ns == 0]

    def there(self, s: int) -> list[Hand]:
        """Return those that are there now."""
        return [hand for hand in self.waiting(s) if hand.there_ns <= self.now]

    def after(self, s: int | None) -> list[int]:
        """Return the services served here in turn after `s`, which comes last."""
        served = list(self.lengths)
        return [x for x in served if s is None or x > s] + [x for x in served if s is not None and x <= s]

    def ride(self, s: int) -> bool:
        """Let the service of the slice run a batch now, if there is one."""
        pool, plan = self.pool, plans_ns(self.pool, self.g, s)
        deadline = int(pool.slo_ns[s]) - pool.response_ns
        if self.slice.used and self.now + plan(1) > self.slice.end_ns:
            return False
        largest, half = most(pool, self.g, s), deadline / 2
        by_half = [b for b in range(1, largest + 1) if plan(b) <= half]
        window = pool.parameters_of(s).get("drop", "window") == "window"
        target = max(by_half, default=1) if window else 1
        present = [hand.request for hand in self.there(s)]
        sizes = [b for b in range(1, largest + 1) if b == 1 or self.now + plan(b) <= self.slice.end_ns]
        while present:
            held_against = max(b for b in sizes if b <= min(target, len(present)))
            if present[0].ns + deadline >= self.now + plan(held_against):
                break
            present.pop(0).finish_ns = -1
        if not present:
            return False
        fits = [b for b in sizes if b <= len(present) and self.now + plan(b) <= present[0].ns + deadline]
        riders = present[: max(fits)]
        finish = self.now + takes_ns(pool, self.g, s, riders)
        for request in riders:
            request.start_ns, request.finish_ns = self.now, finish
        self.batches.append(Batch(self.now, int(pool.number[self.g]), s, len(riders), self.now, finish))
        self.slice.used, self.slice.ran_until_ns, self.now, self.free_ns = True, finish, finish, finish
        return True

    def passing_on(self, until_ns: int) -> None:
        """Serve until `until_ns`; a slice ends as soon as its service has nothing to run."""
        while True:
            if self.now < self.slice.end_ns and self.slice.service is not None:
                if self.now >= until_ns:
                    return
                if not self.ride(self.slice.service):
                    self.slice.end_ns = self.now
                continue
            coming = [self.waiting(s)[0].there_ns for s in self.lengths if self.waiting(s)]
            at = max(self.now, min(coming)) if coming else until_ns
            if at >= until_ns:
                return
            self.now = at
            s = next(s for s in self.after(self.slice.service) if self.there(s))
            self.slice = Slice(s, self.now + self.lengths[s])

    def keeping(self, until_ns: int) -> None:
        """Serve until `until_ns`; slices last their time, and one whose time is up by then has ended."""
        rotation = sum(self.lengths.values())
        while True:
            coming = [self.waiting(s)[0].there_ns for s in self.lengths if self.waiting(s)]
            self.now = max(self.now, min([until_ns, *coming]))
            if self.now >= self.slice.end_ns:
                begin = max(self.slice.end_ns, self.free_ns)
                if begin > until_ns:
                    return
                begin += (min(self.now, until_ns) - begin) // rotation * rotation
                s = self.after(self.slice.service)[0]
                self.slice = Slice(s, begin + self.lengths[s])
                continue
            if self.now >= until_ns:
                return
            s = self.slice.service
            assert s is not None
            waiting = [] if self.slice.tired else self.waiting(s)
            at = max(self.now, waiting[0].there_ns) if waiting else self.slice.end_ns
            if at >= self.slice.end_ns:
                if self.slice.end_ns > until_ns:
                    return
                self.now = self.slice.end_ns
                continue
            if at >= until_ns:
                return
            self.now = at
            if not self.ride(s) and self.there(s):
                self.slice.tired = True


@dataclass(frozen=True)
class TemporalTwin:
    """Discipline with the rules of `temporal`."""

    name: str = "temporal"

    def initial_state(self, services: int) -> TwinState:
        """Return empty queues."""
        return TwinState(Hall.of(services))

    def advance(self, state: TwinState, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[TwinState, Served]:
        """Serve until `until_ns`."""
        hall, since = state.hall, state.at_ns
        present = hall.join(arrivals)
        hall.lose(pool)
        active = [int(s) for s in pool.active]
        for s in active:
            turns = {int(n): 1_000_000 if most(pool, g, s) else 0 for g, n in enumerate(pool.number)}
            hall.counters[s].hand_out(pool, turns, since, pool.control_ns + pool.data_ns)
        batches: list[Batch] = []
        slices = {}
        for g, number in enumerate(map(int, pool.number)):
            free = int(pool.free_at_ns[g])
            mine = slices[number] = state.slices.get(number, Slice(None, free))
            lengths = {s: _length_ns(pool, s) for s in active if most(pool, g, s)}
            if not lengths:
                continue
            if mine.service not in lengths:
                mine = slices[number] = Slice(mine.service, min(mine.end_ns, max(since, free)))
            now = max(since, free, mine.ran_until_ns)
            lanes = {s: hall.counters[s].lane(number) for s in lengths}
            server = Server(g, pool, mine, lanes, lengths, now, free, batches)
            keep = pool.parameters_of(active[0]).get("idle") == "keep"
            server.keeping(until_ns) if keep else server.passing_on(until_ns)
            slices[number] = server.slice
            pool.free_at_ns[g] = server.free_ns
        hall.leave()
        return TwinState(hall, slices, until_ns), played(present, batches)


def _length_ns(pool: Pool, s: int) -> int:
    """Return how long a service's slices are."""
    own = pool.parameters_of(s)
    if "slice_ms" in own:
        return max(1, round(float(own["slice_ms"]) * 1e6))
    return max(1, round(float(own.get("slice_share", 0.5)) * float(pool.slo_ns[s]) / len(pool.active)))
