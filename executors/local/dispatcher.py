"""Queues and disciplines of the runtime: the code that replay advances in virtual time, turned in real time.

Nothing here knows a clock or a process: every call says what time it is. A discipline accounts for requests by their
place in its queue, so each group keeps its requests in that order and walks them with every account.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.executors.local.requests import Grant, Request
from partita.executors.local.settings import MakePool
from partita.model.cluster import Route, SubCluster
from partita.model.load import Arrivals
from partita.ports import Discipline, Served

REPLAY_ONLY = "the discipline {} may cut running batches short, which can be replayed but not done live"


def preempts(discipline: Discipline) -> bool:
    """Say whether a discipline tells of a batch only when it is done: too late for an instance that is to run it."""
    return bool(getattr(discipline, "preempts", False))


class Astray(Exception):
    """A discipline raised or gave an account that does not add up; `requests` are those it held."""

    def __init__(self, message: str, requests: list[Request]) -> None:
        self.requests = requests
        super().__init__(message)


@dataclass(slots=True, eq=False)
class Group:
    """A sub-cluster in force: its discipline's state, and by service the requests in that state and those to come."""

    plan: SubCluster
    discipline: Discipline
    state: Any
    until_ns: int
    queues: list[deque[Request]]
    incoming: list[list[Request]]

    def waiting(self) -> int:
        """Count the requests that have no batch yet."""
        return sum(map(len, self.queues)) + sum(map(len, self.incoming))

    def waiting_for(self, service: int) -> int:
        """Count the requests of one service that have no batch yet."""
        return len(self.queues[service]) + len(self.incoming[service])

    def empty(self) -> list[Request]:
        """Take out all requests that wait, in order of their arrival."""
        taken = [r for queue in (*self.queues, *self.incoming) for r in queue]
        for queue in (*self.queues, *self.incoming):
            queue.clear()
        return sorted(taken, key=lambda r: r.at_ns)


@dataclass(slots=True)
class _Target:
    """Where some of a service's requests go: up to which size, with which weight, and what it is owed so far."""

    group: Group
    up_to_size: float
    weight: float
    credit: float = 0.0


@dataclass(slots=True, eq=False)
class Turned:
    """What one turn of a group did."""

    grants: list[Grant] = field(default_factory=list)
    dropped: list[Request] = field(default_factory=list)


class Dispatcher:
    """All groups in force, and which requests go to which.

    A group keeps its discipline's state as long as discipline and services stay the same; when they change, requests
    that still wait move to the group that serves their service now.
    """

    def __init__(self, services: Sequence[str], disciplines: Mapping[str, Discipline], make_pool: MakePool) -> None:
        self._services = tuple(services)
        self._index = {name: n for n, name in enumerate(services)}
        self._disciplines = disciplines
        self._make_pool = make_pool
        self._targets: list[list[_Target]] = [[] for _ in services]
        self.groups: list[Group] = []

    def problem(self, sub_clusters: Sequence[SubCluster]) -> str | None:
        """Say why sub-clusters cannot be served, or None."""
        names = [plan.name for plan in sub_clusters]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            return f"two sub-clusters are called {twice[0]}"
        for plan in sub_clusters:
            if unknown := sorted(set(plan.services) - self._index.keys()):
                return f"sub-cluster {plan.name} names an unknown service {unknown[0]}"
            if not plan.services:
                return f"sub-cluster {plan.name} serves nothing"
            if strange := sorted({b.discipline for b in plan.batching} - self._disciplines.keys()):
                return f"there is no discipline {strange[0]}"
            if late := sorted(b.discipline for b in plan.batching if preempts(self._disciplines[b.discipline])):
                return f"sub-cluster {plan.name}: {REPLAY_ONLY.format(late[0])}"
            try:
                self._fresh(plan, 1)
            except Exception as refusal:  # third parties bring disciplines, and what they do not like they raise
                return f"sub-cluster {plan.name}: {refusal}"
        return None

    def regroup(self, sub_clusters: Sequence[SubCluster], routes: Sequence[Route], now_ns: int) -> list[Request]:
        """Put sub-clusters and routes into force; return the waiting requests that nobody serves any more."""
        left, self.groups = list(self.groups), []
        for plan in sub_clusters:
            old = min(
                (g for g in left if _key(g.plan) == _key(plan)), key=lambda g: g.plan.name != plan.name, default=None
            )
            if old is None:
                self.groups.append(self._fresh(plan, now_ns))
            else:
                left.remove(old)
                old.plan = plan
                self.groups.append(old)
        self._targets = self._aim(routes)
        homeless = sorted((r for group in left for r in group.empty()), key=lambda r: r.at_ns)
        return self._rehome(homeless)

    def admit(self, request: Request) -> bool:
        """Queue a request at its group; False if nobody serves it."""
        group = self._choose(request)
        if group is None:
            return False
        request.at_ns = max(request.at_ns, group.until_ns)
        group.incoming[request.service].append(request)
        return True

    def turn(self, group: Group, number: NDArray[np.int64], free_at_ns: NDArray[np.int64], now_ns: int) -> Turned:
        """Let a group's discipline decide up to now about what waits; Astray if it fails at that.

        `number` (rising) and `free_at_ns` are those of the instances that serve the group.
        """
        arrivals = _columns(group.incoming)
        until_ns = max(now_ns, group.until_ns + 1, int(arrivals.ns.max(initial=0)) + 1)
        for queue, newcomers in zip(group.queues, group.incoming, strict=True):
            queue.extend(newcomers)
            newcomers.clear()
        try:
            pool = self._make_pool(group.plan, number, free_at_ns)
            group.state, served = group.discipline.advance(group.state, arrivals, pool, until_ns)
            group.until_ns = until_ns
            return _settle(group.queues, served, number)
        except Exception as fault:  # any discipline may be foreign; what it held is handed on, to be answered
            held = group.empty()
            group.state = self._fresh(group.plan, until_ns).state
            raise Astray(f"discipline {group.discipline.name}: {type(fault).__name__}: {fault}", held) from fault

    def take_out(self, group: Group, hopeless: Callable[[Request], bool], now_ns: int) -> list[Request]:
        """Take requests out of a group's queues; where its discipline knows of them it starts anew with the others."""
        if not any(map(hopeless, (r for queue in (*group.queues, *group.incoming) for r in queue))):
            return []
        waiting = group.empty()
        group.until_ns = max(now_ns, group.until_ns)
        group.state = self._fresh(group.plan, group.until_ns).state
        for request in waiting:
            if not hopeless(request):
                group.incoming[request.service].append(request)
        return [r for r in waiting if hopeless(r)]

    def waiting(self) -> int:
        """Count all requests that have no batch yet."""
        return sum(group.waiting() for group in self.groups)

    def waiting_for(self, service: int) -> int:
        """Count the requests of one service that have no batch yet."""
        return sum(group.waiting_for(service) for group in self.groups)

    def empty(self) -> list[Request]:
        """Take out all requests that wait."""
        return [r for group in self.groups for r in group.empty()]

    def _fresh(self, plan: SubCluster, now_ns: int) -> Group:
        """Make a group with empty queues whose discipline has come to the present."""
        discipline = self._disciplines[plan.batching[0].discipline]
        count, nobody = len(self._services), np.empty(0, np.int64)
        pool = self._make_pool(plan, nobody, nobody)
        state, _ = discipline.advance(discipline.initial_state(count), Arrivals.empty(count), pool, now_ns)
        return Group(plan, discipline, state, now_ns, [deque() for _ in range(count)], [[] for _ in range(count)])

    def _aim(self, routes: Sequence[Route]) -> list[list[_Target]]:
        """Return where the requests of each service go, by rising size."""
        by_name = {group.plan.name: group for group in self.groups}
        aims: list[list[_Target]] = [[] for _ in self._services]
        for route in routes:
            group = by_name.get(route.sub_cluster)
            if group is not None and route.service in group.plan.services and route.weight > 0:
                aims[self._index[route.service]].append(_Target(group, route.up_to_size, route.weight))
        return [sorted(targets, key=lambda t: t.up_to_size) for targets in aims]

    def _choose(self, request: Request) -> Group | None:
        """Return the group of a request: of those for its size, the one that is owed most by its weight."""
        targets = self._targets[request.service]
        if len(targets) <= 1:
            return targets[0].group if targets and not request.size > targets[0].up_to_size else None
        size = request.size if request.size == request.size else targets[-1].up_to_size
        bound = next((t.up_to_size for t in targets if size <= t.up_to_size), None)
        fitting = [t for t in targets if t.up_to_size == bound]
        if not fitting:
            return None
        for target in fitting:
            target.credit += target.weight
        chosen = max(fitting, key=lambda t: t.credit)
        chosen.credit -= sum(t.weight for t in fitting)
        return chosen.group

    def _rehome(self, requests: Iterable[Request]) -> list[Request]:
        """Put waiting requests, in order of arrival, before what has just come; return those that nobody serves."""
        lost, moved = [], set[int]()
        for request in requests:
            group = self._choose(request)
            if group is None:
                lost.append(request)
            else:
                group.incoming[request.service].append(request)
                moved.add(request.service)
        for group in self.groups:
            for service in moved:
                group.incoming[service].sort(key=lambda r: r.at_ns)
        return lost


def _key(plan: SubCluster) -> tuple[str, tuple[str, ...]]:
    return plan.batching[0].discipline, tuple(sorted(plan.services))


def _columns(incoming: Sequence[Sequence[Request]]) -> Arrivals:
    """Write requests as columns."""
    counts = [len(requests) for requests in incoming]
    if not any(counts):
        return Arrivals.empty(len(counts))
    return Arrivals(
        np.array([r.at_ns for requests in incoming for r in requests], np.int64),
        np.concatenate(([0], np.cumsum(counts))),
        np.array([r.size for requests in incoming for r in requests], np.float32),
    )


def _settle(queues: Sequence[deque[Request]], served: Served, number: NDArray[np.int64]) -> Turned:
    """Take what was settled out of the queues: it was dropped, or rides in the next batch granted to its service."""
    turned = Turned()
    if not served.finish_ns.any() and not len(served.batch_size):
        return turned
    _check(queues, served, number)
    riders: list[deque[Request]] = [deque() for _ in queues]
    for service, queue in enumerate(queues):
        verdicts = served.finish_ns[served.arrivals.offsets[service] : served.arrivals.offsets[service + 1]]
        settled = np.flatnonzero(verdicts)
        if not len(settled):
            continue
        older = [queue.popleft() for _ in range(int(settled[-1]) + 1)]
        kept = []
        for request, finish in zip(older, verdicts.tolist(), strict=False):
            if finish == 0:
                kept.append(request)
            elif finish < 0:
                turned.dropped.append(request)
            else:
                riders[service].append(request)
        queue.extendleft(reversed(kept))
    batches = (served.batch_instance, served.batch_service, served.batch_size)
    spans = (served.batch_start_ns, served.batch_finish_ns)
    for place, service, size, start, finish in zip(*(c.tolist() for c in (*batches, *spans)), strict=True):
        turned.grants.append(Grant(place, service, [riders[service].popleft() for _ in range(size)], start, finish))
    return turned


def _check(queues: Sequence[deque[Request]], served: Served, number: NDArray[np.int64]) -> None:
    """Raise ValueError if an account is not of these queues, or its batches do not hold those who were served.

    Checked before anybody leaves a queue, so that no request is forgotten when a discipline is wrong.
    """
    offsets = served.arrivals.offsets
    if np.diff(offsets).tolist() != [len(queue) for queue in queues] or len(served.finish_ns) != offsets[-1]:
        raise ValueError("the account is not of the requests that are queued")
    answered = np.concatenate(([0], np.cumsum(served.finish_ns > 0)))
    in_batches = np.bincount(served.batch_service, served.batch_size, len(queues))
    if np.diff(answered[offsets]).tolist() != in_batches.tolist():
        raise ValueError("the batches do not hold the requests that were served")
    if not np.isin(served.batch_instance, number).all():
        raise ValueError("a batch is on an instance that does not serve the group")
