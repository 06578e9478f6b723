"""The runtime: requests in, batches by the disciplines of replay, answers out, and commands in between.

Queues are looked at every millisecond or so while requests wait, every 50 ms while no instance serves those that do,
and not at all while none does. Where batches must start on time, the pools' overheads should cover what this costs
(`control_s`: a turn and the way to the worker).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from math import isnan, nan

import numpy as np
import structlog
from numpy.typing import NDArray

from partita.errors import Failed
from partita.executors.local.dispatcher import Astray, Dispatcher, Group, preempts
from partita.executors.local.fleet import Fleet
from partita.executors.local.machine import Machine
from partita.executors.local.meters import Meters
from partita.executors.local.requests import Answer, Ending, Grant, Request
from partita.executors.local.settings import MakePool, Settings
from partita.executors.local.sinks import Finished, Outbox, Sink
from partita.model.cluster import Batching, ClusterState, Instance, SubCluster
from partita.model.load import Arrivals
from partita.model.plan import Command, SetRoutes
from partita.ports import Capabilities, Discipline

STRANDED_TURN_S = 0.05
"""How often queues that no instance serves are looked at."""

_log = structlog.get_logger()


class Runtime:
    """Everything behind the front door; it lives on one event loop."""

    def __init__(
        self, settings: Settings, disciplines: Mapping[str, Discipline], make_pool: MakePool, sink: Sink | None = None
    ) -> None:
        self._settings = settings
        self._names = [s.name for s in settings.services]
        self._index = {name: n for n, name in enumerate(self._names)}
        self._slo_ns = [round(s.slo_s * 1e9) for s in settings.services]
        self._disciplines, self._make_pool = disciplines, make_pool
        self._dispatcher = Dispatcher(self._names, disciplines, make_pool)
        self._fleet = Fleet(
            settings,
            Capabilities(tuple(disciplines), partition=True, shares=False, kinds=False),
            ran=self._ran,
            broken=self._broken,
            regroup=self._regroup,
            changed=self._changed,
        )
        self._outbox = Outbox(sink)
        self.meters = Meters(self._names, self._dispatcher.waiting_for, lambda: len(self._fleet.machines()))
        self._outcomes = [{e: self.meters.requests.labels(name, e) for e in Ending} for name in self._names]
        self._batches = [self.meters.batch.labels(name) for name in self._names]
        self._latencies = [self.meters.latency.labels(name) for name in self._names]
        self._serving: dict[str, tuple[dict[int, Machine], NDArray[np.int64]]] = {}
        self._next_turn: asyncio.TimerHandle | None = None
        self._turned_s = 0.0
        self._open = 0
        self.term = 0
        self.ready = self.stopping = False

    # Life

    async def start(self) -> None:
        """Compile the disciplines' code, so that no request waits for that; ready afterwards."""
        await self._outbox.open()
        await asyncio.to_thread(self._warm_up)
        self.ready = True

    async def stop(self) -> None:
        """Take no more requests, answer those that wait or run as long as a drain may last, and end the workers."""
        self.stopping, self.ready = True, False
        until_s = time.monotonic() + self._settings.drain_s
        while self._open and time.monotonic() < until_s:
            await asyncio.sleep(self._settings.turn_s)
        for request in self._dispatcher.empty():
            self._refuse(request, Ending.DROPPED, "the runtime was stopped")
        await self._fleet.close()
        await self._outbox.close()

    def _warm_up(self) -> None:
        """Let every discipline serve one made-up request on one made-up instance."""
        service, gpu = self._settings.services[0], self._settings.inventory[0]
        profile = service.curves[0].profile if service.curves else "whole"
        instance = Instance("warm-up", gpu.id, gpu.memory_gib, profile)
        count = len(self._names)
        at_ns = time.monotonic_ns()
        one = Arrivals(np.array([at_ns], np.int64), np.array([0] + [1] * count), np.ones(1, np.float32))
        for name, discipline in self._disciplines.items():
            if preempts(discipline):
                continue
            group = SubCluster("warm-up", (instance,), (service.name,), (Batching(name),))
            try:
                pool = self._make_pool(group, np.zeros(1, np.int64), np.zeros(1, np.int64))
                state, _ = discipline.advance(discipline.initial_state(count), Arrivals.empty(count), pool, at_ns)
                discipline.advance(state, one, pool, at_ns + 3_600_000_000_000)
            except Exception as problem:  # it may need options; a sub-cluster that uses it is checked when it comes
                _log.warning("a discipline could not be tried", discipline=name, problem=str(problem))

    # Requests

    def knows(self, service: str) -> bool:
        """Say whether there is a service of this name."""
        return service in self._index

    async def serve(self, service: str, size: float = nan) -> Answer:
        """Queue a request and return how it ended."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        request = Request(self._index[service], size, time.monotonic_ns(), answer)
        self._open += 1
        if self.stopping:
            self._refuse(request, Ending.DROPPED, "the runtime is being stopped")
        elif not self._dispatcher.admit(request):
            self._refuse(request, Ending.DROPPED, f"no replica serves {service}")
        else:
            self._look_soon()
        return await answer

    def _finish(self, request: Request, answer: Answer) -> None:
        """Answer a request, count it and log it."""
        self._open -= 1
        unix_ns = time.time_ns() - time.monotonic_ns()  # asked each time: the clock of the day may be set
        if not request.answer.done():
            request.answer.set_result(answer)
        self._outcomes[request.service][answer.ending].inc()
        served = answer.batch > 0
        self._outbox.put(
            Finished(
                self._names[request.service],
                (request.at_ns + unix_ns) / 1e9,
                answer.latency_ms / 1e3 if served else None,
                None if isnan(request.size) else request.size,
                answer.queue_ms / 1e3,
                answer.batch if served else None,
                answer.ending if served else Ending.DROPPED,
                answer.instance if served else None,
            )
        )

    def _refuse(self, request: Request, ending: Ending, reason: str) -> None:
        waited_ms = (time.monotonic_ns() - request.at_ns) / 1e6
        self._finish(request, Answer(ending, queue_ms=waited_ms, latency_ms=waited_ms, reason=reason))

    # Turns

    def _changed(self) -> None:
        self._serving.clear()
        self._look_soon()

    def _look_soon(self, pause_s: float | None = None) -> None:
        """See to it that queues are looked at: at once, or a turn (or another pause) after the last time."""
        loop = asyncio.get_running_loop()
        at_s = max(loop.time(), self._turned_s + (self._settings.turn_s if pause_s is None else pause_s))
        if self._next_turn is not None:
            if self._next_turn.when() <= at_s:
                return
            self._next_turn.cancel()
        self._next_turn = loop.call_at(at_s, self._look)

    def _look(self) -> None:
        """Let every group with requests that wait decide about them."""
        self._next_turn = None
        self._turned_s = asyncio.get_running_loop().time()
        waiting = [group for group in self._dispatcher.groups if group.waiting()]
        stranded = [group for group in waiting if not self._machines(group)[0]]
        for group in stranded:
            self._give_up(group)
        for group in waiting:
            if group.waiting():
                self._turn(group)
        if any(group.waiting() for group in waiting if group not in stranded):
            self._look_soon()
        elif any(group.waiting() for group in stranded):
            self._look_soon(STRANDED_TURN_S)

    def _give_up(self, group: Group) -> None:
        """Answer those whose client is gone, or who have waited in vain for long enough."""
        now_ns, stranded_ns = time.monotonic_ns(), round(self._settings.stranded_s * 1e9)

        def hopeless(request: Request) -> bool:
            return request.answer.done() or now_ns - request.at_ns > max(stranded_ns, self._slo_ns[request.service])

        for request in self._dispatcher.take_out(group, hopeless, now_ns):
            self._refuse(request, Ending.DROPPED, f"no instance serves {self._names[request.service]}")

    def _turn(self, group: Group) -> None:
        machines, number = self._machines(group)
        now_ns = time.monotonic_ns()
        free_at_ns = np.array([m.free_at_ns(now_ns) for m in machines.values()], np.int64)
        try:
            turned = self._dispatcher.turn(group, number, free_at_ns, now_ns)
        except Astray as fault:
            _log.error("a discipline failed; its queue was emptied", group=group.plan.name, problem=str(fault))
            for request in fault.requests:
                self._refuse(request, Ending.FAILED, str(fault))
            return
        for grant in turned.grants:
            self._run(machines[grant.number], grant)
        for request in turned.dropped:
            self._refuse(request, Ending.DROPPED, f"dropped by the {group.discipline.name} discipline")

    def _run(self, machine: Machine, grant: Grant) -> None:
        """Send a batch to its worker, without those whose client is gone."""
        for request in [r for r in grant.requests if r.answer.done()]:
            grant.requests.remove(request)
            self._refuse(request, Ending.DROPPED, "its client is gone")
        if grant.requests:
            machine.run(grant)
            self._batches[grant.service].observe(len(grant.requests))

    def _machines(self, group: Group) -> tuple[dict[int, Machine], NDArray[np.int64]]:
        """Return the machines that serve a group now, by number and as an array of numbers."""
        known = self._serving.get(group.plan.name)
        if known is None:
            machines = {m.number: m for m in self._fleet.serving(group.plan)}
            known = machines, np.array(list(machines), np.int64)
            self._serving[group.plan.name] = known
        return known

    def _ran(self, machine: Machine, grant: Grant, began_ns: int, ended_ns: int) -> None:
        size = len(grant.requests)
        slo_ns, latencies = self._slo_ns[grant.service], self._latencies[grant.service]
        self.meters.lateness.observe(max(0, began_ns - grant.start_ns) / 1e9)
        for request in grant.requests:
            latency_ns = ended_ns - request.at_ns
            latencies.observe(latency_ns / 1e9)
            ending = Ending.GOOD if latency_ns < slo_ns else Ending.LATE
            queue_ms = (began_ns - request.at_ns) / 1e6
            self._finish(request, Answer(ending, size, queue_ms, latency_ns / 1e6, machine.instance.id))
        self._look_soon()

    def _broken(self, machine: Machine, grants: Sequence[Grant], problem: str) -> None:
        _log.warning("a worker failed", instance=machine.instance.id, batches=len(grants), problem=problem)
        if machine.gone:
            self._fleet.forget(machine)
        for grant in grants:
            for request in grant.requests:
                self._refuse(request, Ending.FAILED, problem)

    # Commands

    async def carry_out(self, command: Command, term: int) -> None:
        """Carry out a command and return when it is done; Failed for one of an older term."""
        if term < self.term:
            raise Failed(f"the command is of term {term}, term {self.term} has begun", command=command)
        self.term = term
        await self._fleet.carry_out(command)

    def state(self) -> ClusterState:
        """Describe the cluster as it is now."""
        return self._fleet.state()

    def count_lost(self) -> None:
        """Bring the count of requests that no log kept up to date."""
        self.meters.lost.set(self._outbox.lost)

    def workers(self) -> dict[str, int]:
        """Return the number of each instance's worker process."""
        return {m.instance.id: m.pid for m in self._fleet.machines() if m.pid is not None}

    def _regroup(self, command: SetRoutes) -> None:
        if problem := self._dispatcher.problem(command.sub_clusters):
            raise Failed(problem, command=command)
        for request in self._dispatcher.regroup(command.sub_clusters, command.routes, time.monotonic_ns()):
            self._refuse(request, Ending.DROPPED, f"no replica serves {self._names[request.service]} any more")
