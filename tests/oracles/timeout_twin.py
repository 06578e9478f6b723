"""Timeout batching in plain Python: what the compiled kernel must do, request by request.

Written from the rule of Triton's dynamic batcher (docs/disciplines.md); it shares nothing with the kernel but the
protocol `partita.ports.Discipline` and the draw of how long a batch takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oracles.deferred_twin import Request
from oracles.lanes_twin import Batch, Hall, most, played, takes_ns

from partita.model.load import Arrivals
from partita.ports import Pool, Served


@dataclass
class TwinState:
    """Who waits, at which instance if they have queues, and when the last advance ended."""

    hall: Hall
    at_ns: int = 0


@dataclass
class Servers:
    """Instances (places in the pool) that take from the same queues, those of `lanes`, by service."""

    pool: Pool
    places: Sequence[int]
    lanes: dict[int, list[Request]]
    batches: list[Batch]
    free_at: dict[int, int]

    def serve(self, since_ns: int, until_ns: int) -> None:
        """Serve until `until_ns`."""
        now = since_ns
        while True:
            self.lanes = {s: [r for r in queue if r.finish_ns == 0] for s, queue in self.lanes.items()}
            turns = [
                (max(now, self.free_at[g], self.ready_at(s, g)), self.lanes[s][0].ns, s)
                for s in self.lanes
                for g in self.places
                if self.lanes[s] and most(self.pool, g, s)
            ]
            if not turns or min(turns)[0] >= until_ns:
                return
            now, _, s = min(turns)
            limit = _limit_ns(self.pool, s)
            hopeless = [r for r in self.lanes[s] if limit is not None and r.ns + limit <= now]
            for request in hopeless:
                request.finish_ns = -1
            if not hopeless:
                self.send(s, now)

    def ready_at(self, s: int, g: int) -> int:
        """Return when a service may have an instance: a size is reached, or the oldest has waited long enough."""
        queue, least = self.lanes[s], min(_sizes(self.pool, s, g) or [most(self.pool, g, s)])
        patient = queue[0].ns + _delay_ns(self.pool, s)
        return patient if len(queue) < least else min(patient, queue[least - 1].ns)

    def send(self, s: int, now: int) -> None:
        """Send a batch to a free instance."""
        pool = self.pool
        idle = [g for g in self.places if most(pool, g, s) and max(self.free_at[g], self.ready_at(s, g)) <= now]
        lowest_number = pool.parameters_of(s).get("gpu_choice", "min-id") == "min-id"
        g = idle[0] if lowest_number else min(idle, key=lambda g: (self.free_at[g], g))
        there = [request for request in self.lanes[s] if request.ns <= now][: most(pool, g, s)]
        delay = _delay_ns(pool, s)
        early = [b for b in _sizes(pool, s, g) if b <= len(there)]
        riders = there[: max(early)] if early and (delay == 0 or now - there[0].ns < delay) else there
        lead = pool.control_ns + pool.data_ns * len(riders)
        finish = now + lead + takes_ns(pool, g, s, riders)
        for request in riders:
            request.start_ns, request.finish_ns = now + lead, finish
        self.free_at[g] = finish
        self.batches.append(Batch(now, int(pool.number[g]), s, len(riders), now + lead, finish))


@dataclass(frozen=True)
class TimeoutTwin:
    """Discipline with the rules of `timeout`."""

    name: str = "timeout"

    def initial_state(self, services: int) -> TwinState:
        """Return empty queues."""
        return TwinState(Hall.of(services))

    def advance(self, state: TwinState, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[TwinState, Served]:
        """Serve until `until_ns`."""
        hall, batches, active = state.hall, list[Batch](), [int(s) for s in pool.active]
        present = hall.join(arrivals)
        hall.lose(pool)
        free_at = {g: int(ns) for g, ns in enumerate(pool.free_at_ns)}
        if pool.parameters_of(active[0]).get("queue") == "per-instance":
            for s in active:
                turns = {int(n): 1_000_000 if most(pool, g, s) else 0 for g, n in enumerate(pool.number)}
                hall.counters[s].hand_out(pool, turns, state.at_ns, 0)
            for g, number in enumerate(map(int, pool.number)):
                lanes = {s: [hand.request for hand in hall.counters[s].lane(number)] for s in active}
                Servers(pool, [g], lanes, batches, free_at).serve(state.at_ns, until_ns)
            served = played(present, batches)
        else:
            Servers(pool, range(len(free_at)), {s: present[s] for s in active}, batches, free_at).serve(
                state.at_ns, until_ns
            )
            served = played(present, batches, by_number=False)
            hall.forget()
        pool.free_at_ns[:] = list(free_at.values())
        hall.leave()
        return TwinState(hall, until_ns), served


def _sizes(pool: Pool, s: int, g: int) -> list[int]:
    """Return the sizes that an instance may run before their time."""
    given = pool.parameters_of(s).get("preferred")
    sizes = [] if given is None else [int(word) for word in str(given).split(",")]
    return [size for size in sizes if size <= most(pool, g, s)]


def _delay_ns(pool: Pool, s: int) -> int:
    return round(float(pool.parameters_of(s).get("timeout_ms", 0.0)) * 1e6)


def _limit_ns(pool: Pool, s: int) -> int | None:
    """Return after how long a service's requests are rejected; None if they are not."""
    own: Mapping[str, Any] = pool.parameters_of(s)
    if own.get("queue_policy") != "reject":
        return None
    return round(own["queue_timeout_ms"] * 1e6) if "queue_timeout_ms" in own else int(pool.slo_ns[s])
