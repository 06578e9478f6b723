"""Serving a sub-cluster plan: each group's discipline over its pool, and the queues that outlive a change of groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from partita.kernels.splice import select, splice
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


class Server:
    """Advances the disciplines of all sub-clusters side by side.

    Disciplines and `pools` know lanes (a queue for each bucket of a service); what comes in and what is told is by
    service. A group keeps its discipline's state as long as discipline and services stay the same; when they change,
    requests that still wait move to the group that serves their service now.
    """

    def __init__(self, lanes: Lanes, pools: PoolMaker, disciplines: Mapping[str, Discipline]) -> None:
        self._lanes = lanes
        self._services = tuple(lane.name for lane in lanes.services)
        self._pools = pools
        self._disciplines = disciplines
        self._states: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._last: dict[tuple[str, tuple[str, ...]], Served] = {}
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
        """Serve until `until_ns`; return each group's account, and the requests that nobody serves.

        `instances` gives what can serve by sub-cluster; the free instants are moved forward in place.
        """
        arrivals, too_large = self._lanes.split(arrivals)
        arrivals = self._rehome(groups, arrivals)
        crowd = _crowd(instances) if self._pools.variation.colocation else {}
        holders = {group.name for group in groups}
        target = {route.service: route.sub_cluster for route in routes if route.sub_cluster in holders}
        accounts = []
        for group in groups:
            served_here = [n for n, s in enumerate(self._services) if target.get(s) == group.name]
            ready = instances[group.name]
            pool = self._pool(
                group, ready, [crowd[_place(i)] - i.gpu_percent for i in ready.instances] if crowd else []
            )
            discipline = self._disciplines[group.batching[0].discipline]
            key = _key(group)
            state = self._states[key] if key in self._states else self._begin(discipline, pool)
            state, served = discipline.advance(state, _select(arrivals, served_here), pool, until_ns)
            self._states[key], self._last[key] = state, served
            accounts.append((group, self._lanes.join(served)))
        placed = {n for n, s in enumerate(self._services) if s in target}
        lost = _select(arrivals, [n for n in range(len(self._services)) if n not in placed])
        self._at_ns = until_ns
        return accounts, _merge(self._lanes.together(lost), too_large)

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
            left = _merge(left, _still_waiting(self._last[key]))
        return self._lanes.together(left)

    def _rehome(self, groups: Sequence[SubCluster], arrivals: Arrivals) -> Arrivals:
        """Put what waits in groups that are gone before the arrivals."""
        keys = {_key(group) for group in groups}
        for key in sorted(k for k in self._states if k not in keys):
            del self._states[key]
            arrivals = _merge(_still_waiting(self._last.pop(key)), arrivals)
        return arrivals


def _key(group: SubCluster) -> tuple[str, tuple[str, ...]]:
    return group.batching[0].discipline, tuple(sorted(group.services))


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


def _merge(older: Arrivals, newer: Arrivals) -> Arrivals:
    if not len(older):
        return newer
    if not len(newer):
        return older
    return Arrivals(*splice(older.ns, older.offsets, older.size, newer.ns, newer.offsets, newer.size))


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
