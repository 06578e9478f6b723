"""Dynamic batching on shared devices in plain Python: what the compiled kernel must do, request by request.

Written from docs/disciplines.md; it shares nothing with the kernel but the protocol `partita.ports.Discipline`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from oracles.deferred_twin import Request, account
from oracles.lanes_twin import most, takes_ns

from partita.model.load import Arrivals
from partita.ports import Pool, Served


@dataclass
class Device:
    """One device: when it is free, and when the model instances of each service on it are."""

    line_ns: int
    taken_until_ns: dict[int, list[int]] = field(default_factory=dict)


@dataclass
class TwinState:
    """Unsettled requests by service, devices by number, and when the last advance ended."""

    queues: list[list[Request]]
    devices: dict[int, Device] = field(default_factory=dict)
    at_ns: int = 0


@dataclass(frozen=True)
class Batcher:
    """One service's settings; times in ns."""

    largest: int
    delay: int
    limit: int | None
    instances: int

    @classmethod
    def of(cls, pool: Pool, s: int) -> Batcher:
        """Read the settings of service `s`."""
        own: Mapping[str, Any] = pool.parameters_of(s)
        limit = round(own["queue_timeout_ms"] * 1e6) if "queue_timeout_ms" in own else int(pool.slo_ns[s])
        return cls(
            largest=int(pool.by_kind().max_batch[:, s].max()),
            delay=round(own.get("timeout_ms", 0.0) * 1e6),
            limit=limit if own.get("queue_policy") == "reject" else None,
            instances=int(own.get("instances", 1)),
        )


@dataclass(frozen=True)
class TritonTwin:
    """Discipline with the rules of `triton`."""

    name: str = "triton"

    def initial_state(self, services: int) -> TwinState:
        """Return empty queues."""
        return TwinState([[] for _ in range(services)])

    def advance(self, state: TwinState, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[TwinState, Served]:
        """Serve until `until_ns`."""
        for s, queue in enumerate(state.queues):
            rows = range(arrivals.offsets[s], arrivals.offsets[s + 1])
            queue += [Request(int(arrivals.ns[row]), float(arrivals.size[row])) for row in rows]
        present = [list(queue) for queue in state.queues]
        batchers = {int(s): Batcher.of(pool, int(s)) for s in pool.active}
        devices = {int(n): int(free) for n, free in zip(pool.number, pool.free_at_ns, strict=True)}
        able = {int(n): {s: b for s, b in batchers.items() if most(pool, g, s)} for g, n in enumerate(pool.number)}
        state.devices = {n: _device(state.devices.get(n), free, able[n]) for n, free in devices.items()}
        batches: list[tuple[int, int, int, int, int]] = []
        while taking := [
            (max(state.at_ns, _ready_at(state.queues[s], batcher), _free_at(state, s)), s)
            for s, batcher in batchers.items()
            if state.queues[s] and any(s in device.taken_until_ns for device in state.devices.values())
        ]:
            now, s = min(taking)
            if now >= until_ns:
                break
            queue, batcher = state.queues[s], batchers[s]
            hopeless = [r for r in queue if batcher.limit is not None and r.ns + batcher.limit <= now]
            for request in hopeless:
                request.finish_ns = -1
            del queue[: len(hopeless)]
            if not hopeless:
                batches.append(_take(state, pool, s, batcher, now))
        pool.free_at_ns[:] = [device.line_ns for device in state.devices.values()]
        return TwinState(state.queues, state.devices, until_ns), account(present, batches)


def _device(device: Device | None, free_at: int, batchers: Mapping[int, Batcher]) -> Device:
    """Return a device as an advance begins; if something else kept it busy, its model instances wait for that."""
    known = device.taken_until_ns if device is not None else {}
    held = 0 if device is not None and device.line_ns == free_at else free_at
    taken = {}
    for s, batcher in batchers.items():
        instances = sorted(known.get(s, []))[: batcher.instances]
        instances += [0] * (batcher.instances - len(instances))
        taken[s] = [max(until, held) for until in instances]
    return Device(free_at, taken)


def _ready_at(queue: list[Request], batcher: Batcher) -> int:
    """Return when the next batch may go: the oldest request has waited long enough, or a largest batch is there."""
    patient = queue[0].ns + batcher.delay
    return patient if len(queue) < batcher.largest else min(patient, queue[batcher.largest - 1].ns)


def _free_at(state: TwinState, s: int) -> int:
    """Return when the first model instance of a service is free."""
    return min(until for device in state.devices.values() for until in device.taken_until_ns.get(s, []))


def _take(state: TwinState, pool: Pool, s: int, batcher: Batcher, now: int) -> tuple[int, int, int, int, int]:
    """Let a model instance take a batch; it runs when all batches taken before on this device have run."""
    free = [(n, until, i) for n, d in state.devices.items() for i, until in enumerate(d.taken_until_ns.get(s, []))]
    free = [(n, until, i) for n, until, i in free if until <= now]
    lowest_number = pool.parameters_of(s).get("gpu_choice", "min-id") == "min-id"
    number, _, instance = min(free, key=lambda f: (f[0], f[2]) if lowest_number else (f[1], f[0]))
    device = state.devices[number]
    g = list(state.devices).index(number)
    riders = [request for request in state.queues[s] if request.ns <= now][: most(pool, g, s)]
    start = max(now + pool.control_ns + pool.data_ns * len(riders), device.line_ns)
    finish = start + takes_ns(pool, g, s, riders)
    for request in riders:
        request.start_ns, request.finish_ns = start, finish
    del state.queues[s][: len(riders)]
    device.line_ns = finish
    turnaround: Any = pool.parameters_of(s).get("turnaround_ms", 0.0)
    device.taken_until_ns[s][instance] = finish + round(turnaround * 1e6)
    return number, s, len(riders), start, finish
