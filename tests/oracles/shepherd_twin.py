"""Shepherd's online scheduler in plain Python: what the compiled kernel must do, request by request.

Written from the rules (docs/disciplines.md): every arrival looks at every instance, and every batch grows by one
request at a time. It shares nothing with the kernel but the protocol `partita.ports.Discipline` and the draw of how
long a batch takes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from oracles.deferred_twin import Request, account
from oracles.sizes_twin import really_ns

from partita.model.load import Arrivals
from partita.ports import Kinds, Pool, Served


@dataclass(eq=False)
class Batch:
    """A batch that runs; `settled` once it cannot be cut short any more."""

    service: int
    requests: list[tuple[int, Request]]
    start_ns: int
    planned_ns: int
    finish_ns: int
    clear_ns: int
    settled: bool = False

    def settle(self) -> None:
        """Enter it into the account."""
        self.settled = True
        for _, request in self.requests:
            request.start_ns, request.finish_ns = self.start_ns, self.finish_ns

    def row(self, number: int) -> tuple[int, int, int, int, int]:
        """Return its entry among the batches."""
        return number, self.service, len(self.requests), self.start_ns, self.finish_ns


@dataclass
class Gpu:
    """One instance: the batch that it runs, when it is free, whether it has looked since, and all it ever said."""

    free_ns: int
    said_ns: int
    batch: Batch | None = None
    idle: bool = False


@dataclass
class TwinState:
    """Unsettled requests by service, each with its place in the order of arrival, and the instances by number."""

    queues: list[list[tuple[int, Request]]]
    coming: list[list[tuple[int, Request]]]
    taken: list[int]
    gpus: dict[int, Gpu] = field(default_factory=dict)
    at_ns: int = 0


@dataclass(frozen=True)
class ShepherdTwin:
    """Discipline with the rules of `shepherd`."""

    name: str = "shepherd"

    def initial_state(self, services: int) -> TwinState:
        """Return empty queues."""
        return TwinState([[] for _ in range(services)], [[] for _ in range(services)], [0] * services)

    def advance(self, state: TwinState, arrivals: Arrivals, pool: Pool, until_ns: int) -> tuple[TwinState, Served]:
        """Serve until `until_ns`."""
        for s, coming in enumerate(state.coming):
            for row in range(arrivals.offsets[s], arrivals.offsets[s + 1]):
                coming.append((state.taken[s], Request(int(arrivals.ns[row]), float(arrivals.size[row]))))
                state.taken[s] += 1
        present = [_present(state, s) for s in range(len(state.queues))]
        run = _Run(state, pool)
        run.until(until_ns)
        pool.free_at_ns[:] = [state.gpus[int(n)].free_ns for n in pool.number]
        for gpu in state.gpus.values():
            gpu.said_ns = max(gpu.said_ns, gpu.free_ns)
        state.at_ns = until_ns
        return state, account(present, run.batches)


def _present(state: TwinState, s: int) -> list[Request]:
    """Return a service's unsettled requests in order of arrival."""
    running = [g.batch for g in state.gpus.values() if g.batch is not None and not g.batch.settled]
    riding = [pair for batch in running if batch.service == s for pair in batch.requests]
    return [request for _, request in sorted(riding + state.queues[s], key=lambda p: p[0]) + state.coming[s]]


class _Run:
    """One advance over one pool."""

    def __init__(self, state: TwinState, pool: Pool) -> None:
        self.state, self.pool = state, pool
        self.kinds: Kinds = pool.by_kind()
        self.kind = {int(n): int(self.kinds.of[place]) for place, n in enumerate(pool.number)}
        self.place = {int(n): place for place, n in enumerate(pool.number)}
        self.active = [int(s) for s in pool.active]
        threshold: Any = pool.parameters.get("threshold", 3.03)
        preemption: Any = pool.parameters.get("preemption_ms", 0.0)
        self.threshold, self.preemption_ns = float(threshold), round(float(preemption) * 1e6)
        self.sign = 1 if pool.parameters.get("ties", "higher") == "higher" else -1
        self.batches: list[tuple[int, int, int, int, int]] = []
        self.now = state.at_ns
        self.meet_again()

    def meet_again(self) -> None:
        """Find the instances again; what ran on one that is gone, or that somebody has booked, is answered."""
        old, self.state.gpus = self.state.gpus, {}
        for n, free in zip(self.pool.number, self.pool.free_at_ns, strict=True):
            gpu = old.get(int(n))
            if gpu is not None and free in (gpu.free_ns, gpu.said_ns):
                self.state.gpus[int(n)] = old.pop(int(n))
            else:
                self.state.gpus[int(n)] = Gpu(int(free), int(free))
        for n, gpu in old.items():
            if gpu.batch is not None and not gpu.batch.settled:
                gpu.batch.settle()
                self.batches.append(gpu.batch.row(n))
        for gpu in self.state.gpus.values():
            gpu.idle = False

    def until(self, until: int) -> None:
        """Handle one event after the other; at one instant instances come first, both by number."""
        since = self.state.at_ns
        while True:
            events = [(max(since, self.attention(gpu)), 0, n) for n, gpu in self.state.gpus.items() if not gpu.idle]
            events += [(max(since, self.state.coming[s][0][1].ns), 1, s) for s in self.active if self.state.coming[s]]
            if not events or min(events)[0] >= until:
                break
            self.now, what, who = min(events)
            self.drop_hopeless()
            if what == 0:
                self.look_after(who)
            else:
                self.state.queues[who].append(self.state.coming[who].pop(0))
                self.offer_all(who)
        self.now = until
        self.drop_hopeless()

    def attention(self, gpu: Gpu) -> int:
        """Return when an instance needs attention."""
        if gpu.batch is None or gpu.batch.settled:
            return gpu.free_ns
        return min(gpu.batch.planned_ns, gpu.batch.finish_ns)

    def look_after(self, n: int) -> None:
        """Settle a batch whose time has come; let the instance take another one when it is free."""
        gpu = self.state.gpus[n]
        if gpu.batch is not None and not gpu.batch.settled:
            gpu.batch.settle()
            self.batches.append(gpu.batch.row(n))
        if gpu.free_ns > self.now:
            return
        gpu.batch = None
        largest = max((len(self.batch(s, n, [])), self.sign * s) for s in self.active)
        if largest[0] > 0:
            s = self.sign * largest[1]
            self.start(s, n, self.batch(s, n, []))
        else:
            gpu.idle = True

    def offer_all(self, s: int) -> None:
        """Offer a service's requests, then those that were cut short for them, and so on."""
        line = deque([s])
        while line:
            offered = line.popleft()
            if offered not in self.active:
                continue
            for n in self.state.gpus:
                displaced = self.offer(offered, n)
                if displaced is not None and displaced != offered and displaced not in line:
                    line.append(displaced)

    def offer(self, s: int, n: int) -> int | None:
        """Offer a service's requests to an instance; return the service whose batch had to give way."""
        gpu = self.state.gpus[n]
        running = gpu.batch
        if gpu.idle:
            if best := self.batch(s, n, []):
                self.start(s, n, best)
            return None
        if running is None or running.settled:
            return None
        own = running.requests if running.service == s else []
        best = self.batch(s, n, own)
        if not best or len(best) < self.threshold * len(running.requests):
            return None
        if self.now >= running.start_ns:
            self.batches.append((n, running.service, 0, running.start_ns, self.now + self.preemption_ns))
        self.state.queues[running.service] = sorted(
            self.state.queues[running.service] + running.requests, key=lambda p: p[0]
        )
        self.start(s, n, best)
        return running.service

    def batch(self, s: int, n: int, own: list[tuple[int, Request]]) -> list[tuple[int, Request]]:
        """Return the batch that a service could run on an instance now, with what it runs there already."""
        largest = int(self.kinds.max_batch[self.kind[n], s])
        if largest == 0 or not self.state.queues[s]:
            return []
        if own and self.deadline(s, own[0][1]) < self.finish(s, n, 1):
            return []
        met = [pair for pair in self.state.queues[s] if self.deadline(s, pair[1]) >= self.finish(s, n, 1)]
        best: list[tuple[int, Request]] = []
        for pair in sorted(own + met, key=lambda p: p[0]):
            if len(best) == largest or self.deadline(s, (best or [pair])[0][1]) < self.finish(s, n, len(best) + 1):
                break
            best.append(pair)
        return best

    def start(self, s: int, n: int, batch: list[tuple[int, Request]]) -> None:
        """Run a batch, in place of what runs there."""
        gpu = self.state.gpus[n]
        planned = self.finish(s, n, len(batch))
        start = planned - int(self.kinds.planned_ns[self.kind[n], s, len(batch)])
        sizes = [request.size for _, request in batch]
        finish = start + really_ns(self.pool, self.place[n], s, len(batch), batch[0][1].ns, sizes)
        self.state.queues[s] = [pair for pair in self.state.queues[s] if pair not in batch]
        gpu.batch, gpu.free_ns, gpu.idle = Batch(s, batch, start, planned, finish, self.clear_at(n)), finish, False

    def finish(self, s: int, n: int, b: int) -> int:
        """Return when a batch of b should be finished if it is decided now."""
        ready = self.now + self.pool.control_ns + self.pool.data_ns * b
        return max(ready, self.clear_at(n)) + int(self.kinds.planned_ns[self.kind[n], s, b])

    def clear_at(self, n: int) -> int:
        """Return when an instance can be clear for another batch: what runs there takes time to be stopped."""
        running = self.state.gpus[n].batch
        if running is None:
            return self.now
        if self.now < running.start_ns:
            return max(self.now, running.clear_ns)
        return self.now + self.preemption_ns

    def drop_hopeless(self) -> None:
        """Drop what no instance could answer in time, if it were to run it alone and at once."""
        for s in self.active:
            queue = self.state.queues[s]
            alone = [int(self.kinds.planned_ns[k, s, 1]) for k in self.kind.values() if self.kinds.max_batch[k, s] > 0]
            if not alone:
                continue
            done = self.now + self.pool.control_ns + self.pool.data_ns + min(alone)
            while queue and self.deadline(s, queue[0][1]) < done:
                queue.pop(0)[1].finish_ns = -1

    def deadline(self, s: int, request: Request) -> int:
        """Return when the answer must be ready."""
        return request.ns + int(self.pool.slo_ns[s]) - self.pool.response_ns
