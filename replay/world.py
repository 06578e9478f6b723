"""The simulated world: a clock that moves when slept on, requests that arrive, a cluster that serves them.

It is the replay side of the loop's three ports: `World` holds the state, the adapters below show it as clock, request
log and executor.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from partita.errors import Failed
from partita.kernels.tally import DROPPED_COUNT, GOOD, LATE, OFFERED
from partita.model.cluster import ClusterState
from partita.model.load import Arrivals, Load, Outcome
from partita.model.plan import Command
from partita.model.service import WHOLE_GPU, Service
from partita.model.staggered import Overheads
from partita.ports import Capabilities, Discipline, LogView
from partita.replay.cluster import SimulatedCluster, Slot
from partita.replay.failures import Failure
from partita.replay.lanes import Lanes
from partita.replay.losses import Losses
from partita.replay.pools import AS_MEASURED, PoolMaker, Variation
from partita.replay.recent import SECOND_NS, RecentLog
from partita.replay.score import Histograms, Holding, Score, Tally
from partita.replay.serving import Ready, Server
from partita.replay.timeline import OccupancyRecorder, Timeline
from partita.traces.arrivals import ArrivalSource


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
        recorder: OccupancyRecorder | None = None,
        variation: Variation = AS_MEASURED,
        failures: Sequence[Failure] = (),
    ) -> None:
        self.services = tuple(services)
        self.cluster = cluster
        self.now_ns = 0
        self.timeline = Timeline()
        self._recorder = recorder
        self.log_delay_ns = round(log_delay_s * 1e9)
        self._source = source
        self._overheads = overheads
        self._from_ns, self._to_ns = (round(s * 1e9) for s in counted_s)
        self._tally = Tally(services, self._from_ns, self._to_ns)
        self._lanes = Lanes(services)
        self._server = Server(
            self._lanes, PoolMaker(self._lanes.services, overheads, disciplines, variation), disciplines
        )
        self._remember_ns = round(remember_s * 1e9)
        self._log = RecentLog(len(services))
        self._settled = np.zeros((len(services), 4), np.int64)
        self._unread: list[tuple[int, NDArray[np.int64]]] = []
        self._failures = sorted(failures, reverse=True)
        self._turns = sorted({edge for f in failures for edge in (f.at_ns, f.back_ns)})
        self._losses = Losses(failures, cluster.places(), (self._from_ns, self._to_ns))
        self._offered_by_bucket = np.zeros(len(self._lanes.buckets), np.int64)

    @property
    def lost(self) -> int:
        """How many requests of the counted span have lost their answer to a failure."""
        return self._losses.requests

    def advance(self, until_ns: int) -> None:
        """Let time pass."""
        if until_ns <= self.now_ns:
            return
        offered = good = 0
        self._suffer(self.now_ns)
        stops = {self._watermark_ns(until_ns), until_ns} if self._remember_ns else {until_ns}
        stops.update(self._turns[: bisect_left(self._turns, until_ns)])
        for stop_ns in sorted(stop for stop in stops if stop > self.now_ns):
            arrived, answered = self._pass(stop_ns)
            offered, good = offered + arrived, good + answered
            self._suffer(stop_ns)
        span_s = (until_ns - self.now_ns) / 1e9
        self.timeline.add(until_ns / 1e9, span_s, offered, good, self.cluster.held())
        self.now_ns = until_ns

    def _suffer(self, now_ns: int) -> None:
        """Let fail what fails by now, and come back what does."""
        if not self._turns or self._turns[0] > now_ns:
            return
        self._turns = self._turns[bisect_right(self._turns, now_ns) :]
        self.cluster.restore(now_ns)
        while self._failures and self._failures[-1].at_ns <= now_ns:
            failure = self._failures.pop()
            struck = self.cluster.fail(failure)
            if self._recorder is not None:
                self._recorder.note_failure(struck, failure.at_ns, failure.back_ns)

    def _pass(self, until_ns: int) -> tuple[int, int]:
        """Take what arrives until then and serve it; return how many arrived and how many were good."""
        arrivals = self._source.until(min(until_ns, self._to_ns))
        by_lane, too_large = self._lanes.split(arrivals)
        if self._lanes.apart:
            counted = (by_lane.ns >= self._from_ns) & (by_lane.ns < self._to_ns)
            self._offered_by_bucket += self._lanes.by_bucket(by_lane, counted)
        if self._remember_ns:
            self._log.add(arrivals, until_ns)
        good = self._serve(by_lane, too_large, until_ns)
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
        end_ns = self._to_ns + round(2 * longest * 1e9)
        self._suffer(self.now_ns)
        nothing = self._lanes.split(Arrivals.empty(len(self.services)))
        for stop_ns in (*self._turns[: bisect_left(self._turns, end_ns)], end_ns):
            self._serve(*nothing, stop_ns)
            self._suffer(stop_ns)
        left = self._server.waiting()
        self._tally.drop(left.ns, left.offsets)
        buckets = (self._lanes.buckets, self._offered_by_bucket) if self._lanes.apart else None
        return self._tally.score(self._holding(), self._overheads, lost=self.lost, by_bucket=buckets)

    def histograms(self) -> Histograms:
        """Return how long requests took, and how large batches were."""
        return self._tally.histograms()

    def read_log(self, since_s: float, window_s: float) -> LogView:
        """Show the log as far as it is complete by now; see `partita.ports.RequestLog`."""
        watermark = self._watermark_ns(self.now_ns)
        since = round(since_s * 1e9)
        seconds = max(0, (watermark - since) // SECOND_NS)
        counts = self._log.per_second(since, seconds)
        begin = max(0, watermark - round(window_s * 1e9))
        logged = sum((settled for at, settled in self._unread if at <= watermark), np.zeros_like(self._settled))
        self._unread = [(at, settled) for at, settled in self._unread if at > watermark]
        outcomes = {
            s.name: Outcome(int(row[OFFERED]), int(row[GOOD]), int(row[LATE]), int(row[DROPPED_COUNT]))
            for s, row in zip(self.services, logged, strict=True)
        }
        names = tuple(s.name for s in self.services)
        load = Load(names, since_s, 1.0, counts.astype(np.float64))
        recent = self._log.between(begin, watermark)
        self._log.forget(watermark - self._remember_ns)
        return LogView(watermark / 1e9, load, outcomes, recent, (begin / 1e9, watermark / 1e9))

    def _serve(self, by_lane: Arrivals, too_large: Arrivals, until_ns: int) -> int:
        """Advance every group and count what was settled; return the good ones. Nobody serves what is too large."""
        cluster = self.cluster
        slots: dict[str, list[Slot]] = {}
        instances: dict[str, Ready] = {}
        for group in cluster.sub_clusters:
            there = (cluster.slots[i.id] for i in group.instances if i.id in cluster.slots)
            ready = sorted((s for s in there if s.holds(group.services)), key=lambda s: s.number)
            slots[group.name] = ready
            instances[group.name] = Ready(
                [s.instance for s in ready],
                np.array([s.number for s in ready], np.int64),
                np.array([max(s.free_ns, s.created_ns) for s in ready], np.int64),
            )
        made, lost = self._server.advance(cluster.sub_clusters, cluster.routes, instances, by_lane, until_ns)
        lost = lost.followed_by(too_large)
        accounts = [(group, self._losses.taken_from(served, instances[group.name], until_ns)) for group, served in made]
        if self._recorder is not None:
            ran = [(instances[group.name].number, served) for group, served in accounts]
            self._recorder.note(ran, len(by_lane) + len(too_large), until_ns)
        good = 0
        for group, served in accounts:
            settled = self._tally.add(served)
            self._settled += settled
            good += int(settled[:, GOOD].sum())
            for slot, free_at in zip(slots[group.name], instances[group.name].free_at_ns, strict=True):
                if free_at != max(slot.free_ns, slot.created_ns):  # sooner, too, where a batch was cut short
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
        kinds = sorted((s.instance.profile, s.instance.gpu_percent) for s in instances)
        profile, percent = max(kinds, key=kinds.count) if kinds else (WHOLE_GPU, 100.0)
        gpus = {s.instance.gpu for s in instances}
        return Holding(
            gpu_seconds=cluster.gpu_seconds(self._from_ns, self._to_ns),
            peak=cluster.peak(self._from_ns, self._to_ns),
            changes=cluster.changes,
            away_gpu_seconds=cluster.away_gpu_seconds(self._from_ns, self._to_ns),
            profile=profile,
            instances_per_gpu=len(instances) / len(gpus) if gpus else 1.0,
            gpu_percent=percent,
        )


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
