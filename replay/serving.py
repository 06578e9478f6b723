"""Serving a sub-cluster plan: each group's discipline over its pool, and the queues that outlive a change of groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from partita.kernels.splice import select
from partita.model.cluster import Instance, Route, SubCluster
from partita.model.load import Arrivals
from partita.ports import Discipline, Pool, Served
from partita.replay.lanes import Lanes
from partita.replay.pools import PoolMaker


class Ready(NamedTuple):
    """The instances of a sub-cluster that can serve: their rising numbers, and when each is free, in ns."""

    instances: Sequence[Instance]
    number: NDArray[np.int64]
    free_at_ns: NDArray[np.int64]

    def same(self, other: Ready) -> bool:
        """Say whether these are the same instances, whenever they are free."""
        return self.instances == other.instances and np.array_equal(self.number, other.number)


class _Made(NamedTuple):
    """A pool, and what it was made of."""

    group: SubCluster
    ready: Ready
    beside: list[float]
    pool: Pool


Key = tuple[str, tuple[str, ...], int]
"""What a group's state goes by: its discipline, its services, and how many groups alike stand before it."""


class Server:
    """Advances the disciplines of all sub-clusters side by side.

    Disciplines, `pools` and what comes in know lanes (a queue for each bucket of a service); what is told is by
    service. A group keeps its discipline's state as long as discipline and services stay the same; when they change,
    requests that still wait move to the group that serves their service now.
    """

    def __init__(self, lanes: Lanes, pools: PoolMaker, disciplines: Mapping[str, Discipline]) -> None:
        self._lanes = lanes
        self._services = tuple(lane.name for lane in lanes.services)
        self._pools = pools
        self._disciplines = disciplines
        self._states: dict[Key, Any] = {}
        self._last: dict[Key, Served] = {}
        self._made: dict[str, _Made] = {}
        self._at_ns = 0

    def advance(
        self,
        groups: Sequence[SubCluster],
        routes: Sequence[Route],
        instances: Mapping[str, Ready],
        arrivals: Arrivals,
        until_ns: int,
    ) -> tuple[list[tuple[SubCluster, Served]], Arrivals]:
        """Serve until `until_ns`; return each group's account, and the requests of services that nobody serves.

        `arrivals` are by lane. `instances` gives what can serve by sub-cluster; the free instants are moved forward in
        place.
        """
        crowd = _crowd(instances) if self._pools.variation.colocation else {}
        holders = {group.name for group in groups}
        target = {route.service: route.sub_cluster for route in routes if route.sub_cluster in holders}
        routed = {g.name: [n for n, s in enumerate(self._services) if target.get(s) == g.name] for g in groups}
        keys = _keys(groups)
        arrivals = self._rehome({key: routed[group.name] for key, group in zip(keys, groups, strict=True)}, arrivals)
        accounts = []
        for key, group in zip(keys, groups, strict=True):
            ready = instances[group.name]
            pool = self._pool(
                group, ready, [crowd[_place(i)] - i.gpu_percent for i in ready.instances] if crowd else []
            )
            discipline = self._disciplines[group.batching[0].discipline]
            state = self._states[key] if key in self._states else self._begin(discipline, pool)
            own = _select(arrivals, routed[group.name])
            state, self._last[key] = discipline.advance(state, own, pool, until_ns)
            self._states[key] = state
            accounts.append((group, self._lanes.join(self._last[key])))
        placed = {n for n, s in enumerate(self._services) if s in target}
        lost = _select(arrivals, [n for n in range(len(self._services)) if n not in placed])
        self._at_ns = until_ns
        return accounts, self._lanes.together(lost)

    def _pool(self, group: SubCluster, ready: Ready, beside: list[float]) -> Pool:
        """Return the pool of a group, made anew only when something but the free instants has changed."""
        made = self._made.get(group.name)
        if made is not None and made.group is group and made.beside == beside and made.ready.same(ready):
            return replace(made.pool, free_at_ns=ready.free_at_ns)
        pool = self._pools.pool(group, ready.number, ready.free_at_ns, ready.instances, beside)
        self._made[group.name] = _Made(group, ready, beside, pool)
        return pool

    def _begin(self, discipline: Discipline, pool: Pool) -> Any:
        """Return a first state brought up to the present, so that what waited elsewhere is not served in the past."""
        state = discipline.initial_state(len(self._services))
        if self._at_ns > 0:
            state, _ = discipline.advance(state, Arrivals.empty(len(self._services)), pool, self._at_ns)
        return state

    def waiting(self) -> Arrivals:
        """Return all requests that still wait."""
        left = Arrivals.empty(len(self._services))
        for key in sorted(self._last):
            left = left.followed_by(_still_waiting(self._last[key]))
        return self._lanes.together(left)

    def _rehome(self, routed: Mapping[Key, Sequence[int]], arrivals: Arrivals) -> Arrivals:
        """Put what waits in groups that are gone before the arrivals; `routed` are the lanes that go to each group.

        Queues rise. Where requests join younger ones that wait already, the group's state begins anew with all of them.
        """
        gone = [key for key in self._states if key not in routed]
        if not gone:
            return arrivals
        moved = Arrivals.empty(len(self._services))
        while gone:
            for key in gone:
                del self._states[key]
                moved = moved.followed_by(_still_waiting(self._last.pop(key)))
            moved = _in_order(moved)
            gone = [
                key
                for key, lanes in routed.items()
                if key in self._states and _overtaken(_still_waiting(self._last[key]), moved, lanes)
            ]
        return moved.followed_by(arrivals)


def _keys(groups: Sequence[SubCluster]) -> list[Key]:
    """Return the key of each group's state."""
    alike: Counter[tuple[str, tuple[str, ...]]] = Counter()
    keys = []
    for group in groups:
        kind = group.batching[0].discipline, tuple(sorted(group.services))
        keys.append((*kind, alike[kind]))
        alike[kind] += 1
    return keys


def _in_order(arrivals: Arrivals) -> Arrivals:
    """Sort the requests of each lane by time."""
    lane = np.repeat(np.arange(len(arrivals.offsets) - 1), np.diff(arrivals.offsets))
    order = np.lexsort((arrivals.ns, lane))
    return Arrivals(arrivals.ns[order], arrivals.offsets, arrivals.size[order])


def _overtaken(waiting: Arrivals, joining: Arrivals, lanes: Sequence[int]) -> bool:
    """Say whether requests join one of these lanes that came before others which wait there."""
    for lane in lanes:
        last, first = waiting.offsets[lane + 1], joining.offsets[lane]
        there, come = last > waiting.offsets[lane], joining.offsets[lane + 1] > first
        if there and come and joining.ns[first] < waiting.ns[last - 1]:
            return True
    return False


def _place(instance: Instance) -> tuple[str, str, int]:
    """Return what the MPS shares beside an instance have in common with it."""
    return instance.gpu, instance.profile, instance.start


def _crowd(instances: Mapping[str, Ready]) -> Mapping[tuple[str, str, int], float]:
    """Add up the GPU% of all that can serve on each whole GPU or MIG instance."""
    crowd: dict[tuple[str, str, int], float] = defaultdict(float)
    for ready in instances.values():
        for instance in ready.instances:
            crowd[_place(instance)] += instance.gpu_percent
    return crowd


def _select(arrivals: Arrivals, services: Sequence[int]) -> Arrivals:
    """Keep the requests of some services."""
    total = len(arrivals.offsets) - 1
    if len(services) == total:
        return arrivals
    if not services or not len(arrivals):
        return Arrivals.empty(total)
    keep = np.zeros(total, np.bool_)
    keep[list(services)] = True
    return Arrivals(*select(arrivals.ns, arrivals.offsets, arrivals.size, keep))


def _still_waiting(served: Served) -> Arrivals:
    """Return the requests of an account that are not settled."""
    rows = served.finish_ns == 0
    if not rows.any():
        return Arrivals.empty(len(served.arrivals.offsets) - 1)
    offsets = np.concatenate(([0], np.cumsum(rows)))[served.arrivals.offsets]
    return Arrivals(served.arrivals.ns[rows], offsets, served.arrivals.size[rows])
