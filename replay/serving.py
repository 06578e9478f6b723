"""Serving a sub-cluster plan: each group's discipline over its pool, and the queues that outlive a change of groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.kernels.splice import splice
from partita.model.cluster import Route, SubCluster
from partita.model.load import Arrivals
from partita.ports import Discipline, Pool, Served
from partita.replay.pools import PoolMaker


class Server:
    """Advances the disciplines of all sub-clusters side by side.

    A group keeps its discipline's state as long as discipline and services stay the same; when they change, requests
    that still wait move to the group that serves their service now.
    """

    def __init__(self, services: Sequence[str], pools: PoolMaker, disciplines: Mapping[str, Discipline]) -> None:
        self._services = tuple(services)
        self._pools = pools
        self._disciplines = disciplines
        self._states: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._last: dict[tuple[str, tuple[str, ...]], Served] = {}
        self._at_ns = 0

    def advance(
        self,
        groups: Sequence[SubCluster],
        routes: Sequence[Route],
        instances: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]],
        arrivals: Arrivals,
        until_ns: int,
    ) -> tuple[list[tuple[SubCluster, Served]], Arrivals]:
        """Serve until `until_ns`; return each group's account, and the requests that nobody serves.

        `instances` gives numbers and free instants by sub-cluster; the instants are moved forward in place.
        """
        arrivals = self._rehome(groups, arrivals)
        holders = {group.name for group in groups}
        target = {route.service: route.sub_cluster for route in routes if route.sub_cluster in holders}
        accounts = []
        for group in groups:
            served_here = [n for n, s in enumerate(self._services) if target.get(s) == group.name]
            number, free_at = instances[group.name]
            pool = self._pools.pool(group, number, free_at)
            discipline = self._disciplines[group.batching[0].discipline]
            key = _key(group)
            state = self._states[key] if key in self._states else self._begin(discipline, pool)
            state, served = discipline.advance(state, _select(arrivals, served_here), pool, until_ns)
            self._states[key], self._last[key] = state, served
            accounts.append((group, served))
        placed = {n for n, s in enumerate(self._services) if s in target}
        lost = _select(arrivals, [n for n in range(len(self._services)) if n not in placed])
        self._at_ns = until_ns
        return accounts, lost

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
        return left

    def _rehome(self, groups: Sequence[SubCluster], arrivals: Arrivals) -> Arrivals:
        """Put what waits in groups that are gone before the arrivals."""
        keys = {_key(group) for group in groups}
        for key in sorted(k for k in self._states if k not in keys):
            del self._states[key]
            arrivals = _merge(_still_waiting(self._last.pop(key)), arrivals)
        return arrivals


def _key(group: SubCluster) -> tuple[str, tuple[str, ...]]:
    return group.batching[0].discipline, tuple(sorted(group.services))


def _merge(older: Arrivals, newer: Arrivals) -> Arrivals:
    if not len(older):
        return newer
    return Arrivals(*splice(older.ns, older.offsets, older.size, newer.ns, newer.offsets, newer.size))


def _select(arrivals: Arrivals, services: Sequence[int]) -> Arrivals:
    """Keep the requests of some services."""
    total = len(arrivals.offsets) - 1
    if len(services) == total:
        return arrivals
    keep = np.zeros(total, bool)
    keep[list(services)] = True
    counts = np.diff(arrivals.offsets)
    rows = np.repeat(keep, counts)
    offsets = np.concatenate(([0], np.cumsum(np.where(keep, counts, 0))))
    return Arrivals(arrivals.ns[rows], offsets, arrivals.size[rows])


def _still_waiting(served: Served) -> Arrivals:
    """Return the requests of an account that are not settled."""
    rows = served.finish_ns == 0
    if not rows.any():
        return Arrivals.empty(len(served.arrivals.offsets) - 1)
    offsets = np.concatenate(([0], np.cumsum(rows)))[served.arrivals.offsets]
    return Arrivals(served.arrivals.ns[rows], offsets, served.arrivals.size[rows])
