"""Timeout batching in plain Python: what the compiled kernel must do, request by request.

Written from the rule of Triton's dynamic batcher without preferred sizes (docs/disciplines.md); it shares nothing with
the kernel but the protocol `partita.ports.Discipline`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oracles.deferred_twin import Request, account

from partita.model.load import Arrivals
from partita.ports import Pool, Served


@dataclass
class TwinState:
    """Unsettled requests by service, oldest first, and when the last advance ended."""

    queues: list[list[Request]]
    at_ns: int = 0


@dataclass(frozen=True)
class TimeoutTwin:
    """Discipline with the rules of `timeout`."""

    name: str = "timeout"

    def initial_state(self, services: int) -> TwinState:
        """Return empty queues."""
        return TwinState([[] for _ in range(services)])

    def advance(self, state: TwinState, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[TwinState, Served]:
        """Serve until `until_ns`."""
        for s, queue in enumerate(state.queues):
            rows = range(arrivals.offsets[s], arrivals.offsets[s + 1])
            queue += [Request(int(arrivals.ns[row]), float(arrivals.size[row])) for row in rows]
        present = [list(queue) for queue in state.queues]
        batches: list[tuple[int, int, int, int, int]] = []
        free_at = [int(ns) for ns in pool.free_at_ns]
        active = [int(s) for s in pool.active]
        delays = {s: round(float(pool.parameters_of(s).get("timeout_ms", 0.0)) * 1e6) for s in active}
        lowest_number = pool.parameters_of(active[0]).get("gpu_choice", "min-id") == "min-id"
        while free_at and any(state.queues[s] for s in active):
            ready = {
                s: _ready_at(state.queues[s], int(pool.max_batch[s]), delays[s]) for s in active if state.queues[s]
            }
            now = max(state.at_ns, min(free_at), min(ready.values()))
            if now >= until_ns:
                break
            s = min((s for s in ready if ready[s] <= now), key=lambda s: (state.queues[s][0].ns, s))
            queue = state.queues[s]
            limit = _limit_ns(pool, s)
            hopeless = [request for request in queue if limit is not None and request.ns + limit <= now]
            if hopeless:
                for request in hopeless:
                    request.finish_ns = -1
                del queue[: len(hopeless)]
                continue
            idle = [g for g, free in enumerate(free_at) if free <= now]
            g = idle[0] if lowest_number else min(idle, key=lambda g: (free_at[g], g))
            riders = [request for request in queue if request.ns <= now][: pool.max_batch[s]]
            start = now + pool.control_ns + pool.data_ns * len(riders)
            finish = start + int(pool.latency_ns[s, len(riders)])
            for request in riders:
                request.start_ns, request.finish_ns = start, finish
            del queue[: len(riders)]
            free_at[g] = finish
            batches.append((int(pool.number[g]), s, len(riders), start, finish))
        pool.free_at_ns[:] = free_at
        return TwinState(state.queues, until_ns), account(present, batches)


def _ready_at(queue: list[Request], largest: int, delay: int) -> int:
    """Return when the next batch may go: the oldest request has waited for `delay`, or a largest batch is there."""
    patient = queue[0].ns + delay
    return patient if len(queue) < largest else min(patient, queue[largest - 1].ns)


def _limit_ns(pool: Pool, s: int) -> int | None:
    """Return after how long a service's requests are rejected; None if they are not."""
    own: Mapping[str, Any] = pool.parameters_of(s)
    if own.get("queue_policy") != "reject":
        return None
    return round(own["queue_timeout_ms"] * 1e6) if "queue_timeout_ms" in own else int(pool.slo_ns[s])
