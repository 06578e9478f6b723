"""The simulated world: a clock that moves when slept on, requests that arrive, a cluster that serves them.

It is the replay side of the loop's three ports: `World` holds the state, the adapters below show it as clock, request
log and executor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from partita.errors import Failed
from partita.kernels.splice import splice
from partita.kernels.tally import DROPPED_COUNT, GOOD, LATE, OFFERED, add_per_second
from partita.model.cluster import ClusterState
from partita.model.load import Arrivals, Load, Outcome
from partita.model.plan import Command
from partita.model.service import Service
from partita.model.staggered import Overheads
from partita.ports import Capabilities, Discipline, LogView
from partita.replay.cluster import SimulatedCluster
from partita.replay.pools import PoolMaker
from partita.replay.score import Holding, Score, Tally
from partita.replay.serving import Server
from partita.traces.arrivals import ArrivalSource

SECOND_NS = 1_000_000_000


class Timeline:
    """What happened in each interval of the run, for figures."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, float, float, float]] = []

    def add(self, at_s: float, span_s: float, offered: int, good: int, gpus: int) -> None:
        """Note one interval that ends at `at_s`."""
        self._rows.append((at_s, offered / span_s, good / span_s, float(gpus)))

    def columns(self) -> dict[str, NDArray[np.float64]]:
        """Return t_s, offered_rps, good_rps and gpus_held as parallel arrays."""
        table = np.array(self._rows, np.float64).reshape(-1, 4)
        names = ("t_s", "offered_rps", "good_rps", "gpus_held")
        return {name: table[:, n].copy() for n, name in enumerate(names)}


class World:
    """Everything that is simulated, at one instant."""

    def __init__(
        self,
        services: Sequence[Service],
        source: ArrivalSource,
        cluster: SimulatedCluster,
        disciplines: Mapping[str, Discipline],
        overheads: Overheads,
        *,
        counted_s: tuple[float, float],
        log_delay_s: float,
        remember_s: float = 0.0,
    ) -> None:
        names = tuple(s.name for s in services)
        self.services = tuple(services)
        self.cluster = cluster
        self.now_ns = 0
        self.timeline = Timeline()
        self.log_delay_ns = round(log_delay_s * 1e9)
        self._source = source
        self._overheads = overheads
        self._from_ns, self._to_ns = (round(s * 1e9) for s in counted_s)
        self._tally = Tally(services, self._from_ns, self._to_ns)
        self._server = Server(names, PoolMaker(services, overheads, disciplines), disciplines)
        self._remember_ns = round(remember_s * 1e9)
        self._log = Arrivals.empty(len(services))
        self._settled = np.zeros((len(services), 4), np.int64)
        self._unread: list[tuple[int, NDArray[np.int64]]] = []

    def advance(self, until_ns: int) -> None:
        """Let time pass."""
        if until_ns <= self.now_ns:
            return
        offered = good = 0
        stops = {self._watermark_ns(until_ns), until_ns} if self._remember_ns else {until_ns}
        for stop_ns in sorted(stop for stop in stops if stop > self.now_ns):
            arrived, answered = self._pass(stop_ns)
            offered, good = offered + arrived, good + answered
        span_s = (until_ns - self.now_ns) / 1e9
        self.timeline.add(until_ns / 1e9, span_s, offered, good, self.cluster.held())
        self.now_ns = until_ns

    def _pass(self, until_ns: int) -> tuple[int, int]:
        """Take what arrives until then and serve it; return how many arrived and how many were good."""
        arrivals = self._source.until(min(until_ns, self._to_ns))
        if self._remember_ns:
            log = self._log
            self._log = Arrivals(*splice(log.ns, log.offsets, log.size, arrivals.ns, arrivals.offsets, arrivals.size))
        good = self._serve(arrivals, until_ns)
        if self._remember_ns:
            self._unread.append((until_ns, self._settled.copy()))
        self._settled[:] = 0
        return len(arrivals), good

    def _watermark_ns(self, now_ns: int) -> int:
        """Return up to when the log is complete at an instant, in whole seconds."""
        return max(0, now_ns - self.log_delay_ns) // SECOND_NS * SECOND_NS

    def finish(self) -> Score:
        """Run queued requests for two more SLOs, book the rest as dropped, and close the account."""
        longest = max(s.slo_s for s in self.services)
        self._serve(Arrivals.empty(len(self.services)), self._to_ns + round(2 * longest * 1e9))
        left = self._server.waiting()
        self._tally.drop(left.ns, left.offsets)
        return self._tally.score(self._holding(), self._overheads)

    def read_log(self, since_s: float, window_s: float) -> LogView:
        """Show the log as far as it is complete by now; see `partita.ports.RequestLog`."""
        watermark = self._watermark_ns(self.now_ns)
        since = round(since_s * 1e9)
        seconds = max(0, (watermark - since) // SECOND_NS)
        log = self._log
        counts = np.zeros((len(self.services), seconds), np.int64)
        add_per_second(log.ns, log.offsets, since, since + seconds * SECOND_NS, counts)
        begin = max(0, watermark - round(window_s * 1e9))
        logged = sum((settled for at, settled in self._unread if at <= watermark), np.zeros_like(self._settled))
        self._unread = [(at, settled) for at, settled in self._unread if at > watermark]
        outcomes = {
            s.name: Outcome(int(row[OFFERED]), int(row[GOOD]), int(row[LATE]), int(row[DROPPED_COUNT]))
            for s, row in zip(self.services, logged, strict=True)
        }
        names = tuple(s.name for s in self.services)
        load = Load(names, since_s, 1.0, counts.astype(np.float64))
        recent = _between(log, begin, watermark)
        self._log = _between(log, max(0, watermark - self._remember_ns), self.now_ns)
        return LogView(watermark / 1e9, load, outcomes, recent, (begin / 1e9, watermark / 1e9))

    def _serve(self, arrivals: Arrivals, until_ns: int) -> int:
        """Advance every group and count what was settled; return the good ones."""
        cluster = self.cluster
        slots = {
            group.name: [cluster.slots[i.id] for i in group.instances if i.id in cluster.slots]
            for group in cluster.sub_clusters
        }
        instances = {}
        for group in cluster.sub_clusters:
            ready = sorted(
                (s for s in slots[group.name] if set(group.services) <= set(s.services)), key=lambda s: s.number
            )
            slots[group.name] = ready
            instances[group.name] = (
                np.array([s.number for s in ready], np.int64),
                np.array([max(s.free_ns, s.created_ns) for s in ready], np.int64),
            )
        accounts, lost = self._server.advance(cluster.sub_clusters, cluster.routes, instances, arrivals, until_ns)
        good = 0
        for group, served in accounts:
            settled = self._tally.add(served)
            self._settled += settled
            good += int(settled[:, GOOD].sum())
            for slot, free_at in zip(slots[group.name], instances[group.name][1], strict=True):
                if free_at > slot.free_ns:
                    slot.free_ns = slot.busy_ns = int(free_at)
        if len(lost):
            self._tally.drop(lost.ns, lost.offsets)
            self._tally.unplaced += len(lost)
            missed = np.diff(lost.offsets)
            self._settled[:, OFFERED] += missed
            self._settled[:, DROPPED_COUNT] += missed
        return good

    def _holding(self) -> Holding:
        cluster = self.cluster
        instances = list(cluster.slots.values())
        profiles = sorted(s.instance.profile for s in instances)
        gpus = {s.instance.gpu for s in instances}
        return Holding(
            gpu_seconds=cluster.gpu_seconds(self._from_ns, self._to_ns),
            peak=cluster.peak(self._from_ns, self._to_ns),
            changes=cluster.changes,
            away_gpu_seconds=cluster.away_gpu_seconds(self._from_ns, self._to_ns),
            profile=max(profiles, key=profiles.count) if profiles else "whole",
            instances_per_gpu=len(instances) / len(gpus) if gpus else 1.0,
        )


def _between(log: Arrivals, since_ns: int, until_ns: int) -> Arrivals:
    """Keep the requests in ``[since_ns, until_ns)``."""
    bounds = zip(log.offsets[:-1], log.offsets[1:], strict=True)
    rows = [slice(*(a + np.searchsorted(log.ns[a:b], (since_ns, until_ns)))) for a, b in bounds]
    offsets = np.concatenate(([0], np.cumsum([r.stop - r.start for r in rows])))
    return Arrivals(np.concatenate([log.ns[r] for r in rows]), offsets, np.concatenate([log.size[r] for r in rows]))


class ReplayClock:
    """The simulated clock: sleeping is what lets the world go on."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now_s(self) -> float:
        """Return the simulated time."""
        return self._world.now_ns / 1e9

    async def sleep_until(self, at_s: float) -> None:
        """Advance the world to `at_s`."""
        self._world.advance(round(at_s * 1e9))


class ReplayLog:
    """The simulated request log, complete up to its delay."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def read(self, since_s: float, window_s: float) -> LogView:
        """Show the log as it is complete by now."""
        return self._world.read_log(since_s, window_s)


class ReplayExecutor:
    """The simulated cluster as an executor."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._term = 0

    @property
    def capabilities(self) -> Capabilities:
        """Say what the simulated cluster can do: everything."""
        return Capabilities()

    async def apply(self, commands: Sequence[Command], *, term: int = 0) -> None:
        """Start commands at the present instant."""
        if commands and term < self._term:
            raise Failed(f"term {term} is over: term {self._term} has acted", command=commands[0])
        self._term = term
        self._world.cluster.apply(commands, self._world.now_ns)

    async def observe(self) -> ClusterState:
        """Describe the simulated cluster."""
        return self._world.cluster.observe(self._world.now_ns)
