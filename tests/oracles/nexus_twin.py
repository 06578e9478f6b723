"""Serving by a plan in plain Python: what the compiled kernel must do, request by request.

Written from docs/disciplines.md; it shares nothing with the kernel but the protocol `partita.ports.Discipline` and the
draw of how long a batch takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from oracles.lanes_twin import Batch, Hall, Hand, most, plans_ns, played, quanta_of, takes_ns
from oracles.squishy_twin import SECOND, Host, Planner, Site

from partita.model.load import Arrivals
from partita.ports import Pool, Served


@dataclass
class Round:
    """Where an instance is on its round: when it looks next, at the services from which on, and when it set out."""

    look_ns: int
    turn: int
    begun_ns: int


@dataclass
class TwinState:
    """Who waits, the round of each instance (by number), and when the last advance ended."""

    hall: Hall
    rounds: dict[int, Round] = field(default_factory=dict)
    at_ns: int = 0
    planner: Planner = field(default_factory=Planner)


@dataclass
class Server:
    """One instance during an advance: its place in the pool, its plan, and who waits there."""

    g: int
    pool: Pool
    round: Round
    plan: dict[int, int]
    lanes: dict[int, list[Hand]]
    idle_ns: int
    batches: list[Batch]

    def waiting(self, s: int) -> list[Hand]:
        """Return the service's unsettled requests here."""
        return [hand for hand in self.lanes[s] if hand.request.finish_ns == 0]

    def serve(self, since_ns: int, until_ns: int) -> None:
        """Go rounds until `until_ns`."""
        r = self.round
        while True:
            if r.turn == 0:
                coming = [self.waiting(s)[0].there_ns for s in self.plan if self.waiting(s)]
                if not coming:
                    return
                late = max(since_ns, min(coming)) - r.look_ns
                at = r.look_ns + max(0, -(-late // self.idle_ns)) * self.idle_ns
                if at >= until_ns:
                    return
                r.look_ns = r.begun_ns = at
            if r.look_ns >= until_ns:
                return
            found = [s for s in self.plan if s >= r.turn and self.waiting(s)]
            found = [s for s in found if self.waiting(s)[0].there_ns <= r.look_ns]
            if found:
                self.run(found[0])
                r.turn = found[0] + 1
            else:
                r.look_ns, r.turn = max(r.look_ns, r.begun_ns + self.idle_ns), 0

    def run(self, s: int) -> None:
        """Drop who has no chance, and run who is left."""
        now, plan = self.round.look_ns, plans_ns(self.pool, self.g, s)
        deadline = int(self.pool.slo_ns[s]) - self.pool.response_ns
        present = [hand.request for hand in self.waiting(s) if hand.there_ns <= now]
        while present and present[0].ns + deadline < now + plan(min(self.plan[s], len(present))):
            present.pop(0).finish_ns = -1
        riders = present[: self.plan[s]]
        if not riders:
            return
        finish = now + takes_ns(self.pool, self.g, s, riders)
        for request in riders:
            request.start_ns, request.finish_ns = now, finish
        self.batches.append(Batch(now, int(self.pool.number[self.g]), s, len(riders), now, finish))
        self.round.look_ns = finish
        self.pool.free_at_ns[self.g] = finish


@dataclass(frozen=True)
class NexusTwin:
    """Discipline with the rules of `nexus`."""

    name: str = "nexus"

    def initial_state(self, services: int) -> TwinState:
        """Return empty queues."""
        return TwinState(Hall.of(services))

    def advance(self, state: TwinState, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[TwinState, Served]:
        """Serve until `until_ns`."""
        hall, active = state.hall, [int(s) for s in pool.active]
        present = hall.join(arrivals)
        hall.lose(pool)
        rounds = {}
        for g, n in enumerate(map(int, pool.number)):
            free = int(pool.free_at_ns[g])
            rounds[n] = state.rounds.get(n, Round(free, 0, free))
            rounds[n].look_ns = max(rounds[n].look_ns, free)
        state.rounds = rounds
        batches: list[Batch] = []
        if pool.parameters_of(active[0]).get("schedule", "epoch") == "static":
            hosts = _given(pool, active)
            self.stretch(state, pool, hosts, state.at_ns, until_ns, batches)
        else:
            self.epochs(state, arrivals, pool, until_ns, batches)
        hall.leave()
        return TwinState(hall, rounds, until_ns, state.planner), played(present, batches)

    def epochs(self, state: TwinState, arrivals: Arrivals, pool: Pool, until_ns: int, batches: list[Batch]) -> None:
        """Serve from beacon to beacon."""
        planner, site, at = state.planner, Site(pool), state.at_ns
        raised = 1.0 + float(pool.parameters_of(site.services[0]).get("headroom", 0.0))
        planner.meet(site, raised, at)
        if planner.began_ns is None and len(arrivals.ns):
            planner.began_ns = int(min(arrivals.ns)) // SECOND * SECOND
        of_service = [arrivals.ns[a:b] for a, b in zip(arrivals.offsets, arrivals.offsets[1:], strict=False)]
        counted_to = at
        while True:
            beacon = planner.next_beacon_ns()
            end = until_ns if beacon is None else min(until_ns, beacon)
            for s in site.services:
                came = sum(1 for ns in of_service[s] if counted_to <= ns < end)
                planner.counted[s] = planner.counted.get(s, 0) + came
            counted_to = max(counted_to, end)
            if end > at:
                self.stretch(state, pool, planner.hosts, at, end, batches)
                at = end
            if beacon is None or beacon > until_ns:
                return
            planner.beacon(site, len(of_service), raised, beacon)

    def stretch(
        self, state: TwinState, pool: Pool, hosts: dict[int, Host], since: int, until: int, batches: list[Batch]
    ) -> None:
        """Serve by one plan."""
        numbers = [int(n) for n in pool.number]
        for s in map(int, pool.active):
            throughput = {n: Fraction(hosts[n].batch.get(s, 0)) / Fraction(hosts[n].duty) for n in numbers}
            state.hall.counters[s].hand_out(pool, quanta_of(throughput), since, pool.control_ns + pool.data_ns, until)
        idle = round(float(pool.parameters_of(int(pool.active[0])).get("cycle_us", 50.0)) * 1e3)
        for g, n in enumerate(numbers):
            plan = {s: hosts[n].batch[s] for s in map(int, pool.active) if s in hosts[n].batch}
            lanes = {s: state.hall.counters[s].lane(n) for s in plan}
            Server(g, pool, state.rounds[n], plan, lanes, idle, batches).serve(since, until)


def _given(pool: Pool, active: list[int]) -> dict[int, Host]:
    """Return the plan that stands from the beginning."""
    hosts = {}
    for g, n in enumerate(map(int, pool.number)):
        batch = _planned(pool, g, active)
        duty = sum(plans_ns(pool, g, s)(b) for s, b in batch.items())
        hosts[n] = Host({}, batch, float(max(1, duty)))
    return hosts


def _planned(pool: Pool, g: int, active: list[int]) -> dict[int, int]:
    """Return the batch planned for each service on the instance in place `g`."""
    planned = {}
    for s in active:
        largest = most(pool, g, s)
        if not largest:
            continue
        net = float(pool.parameters_of(active[0]).get("net_ms", 2.0)) * 1e6
        half = [b for b in range(1, largest + 1) if plans_ns(pool, g, s)(b) <= (int(pool.slo_ns[s]) - net) / 2]
        planned[s] = min(largest, int(pool.parameters_of(s).get("batch", max(half, default=1))))
    return planned
