"""From plans to pools: what a sub-cluster's discipline sees of its instances and services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from partita.model.cluster import Batching, OptionValue, SubCluster
from partita.model.service import INFEASIBLE_NS, Service
from partita.model.staggered import Overheads
from partita.ports import Discipline, Pool
from partita.replay.disciplines import DISCIPLINES

BUILT_IN: Mapping[str, Discipline] = {d.name: d for d in DISCIPLINES}


class PoolMaker:
    """Makes pools for the sub-clusters of one run; latency tables are made once for each set of profiles.

    `disciplines` are those that the run knows, by name. One with a true attribute `blind` looks at no deadline when it
    forms a batch, so that its batches are kept to half of the SLO; one with a true `max_batch_as_set` runs a largest
    batch that it is given, whatever the SLO.
    """

    def __init__(
        self, services: Sequence[Service], overheads: Overheads, disciplines: Mapping[str, Discipline] = BUILT_IN
    ) -> None:
        self._disciplines = disciplines
        self._services = tuple(services)
        self._index = {s.name: n for n, s in enumerate(services)}
        self._slo_ns = np.array([round(s.slo_s * 1e9) for s in services], np.int64)
        self._overheads = overheads
        self._tables: dict[object, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def rows(self, group: SubCluster) -> NDArray[np.int64]:
        """Return the places of a sub-cluster's services among those of the run."""
        return np.array(sorted(self._index[name] for name in group.services), np.int64)

    def pool(self, group: SubCluster, number: NDArray[np.int64], free_at_ns: NDArray[np.int64]) -> Pool:
        """Return the pool of a sub-cluster whose instances have these numbers and are free at these instants."""
        largest, latency = self._latencies(group)
        o = self._overheads
        return Pool(
            active=self.rows(group),
            slo_ns=self._slo_ns,
            max_batch=largest,
            latency_ns=latency,
            number=number,
            free_at_ns=free_at_ns,
            control_ns=round(o.control_s * 1e9),
            data_ns=round(o.data_s * 1e9),
            response_ns=round(o.response_s * 1e9),
            jitter_ns=round(o.jitter_s * 1e9),
            parameters=_parameters(group.batching[0]) if group.batching else {},
            by_service=self._by_service(group),
        )

    def _by_service(self, group: SubCluster) -> tuple[Mapping[str, OptionValue], ...]:
        """Return the parameters of each service of the run; none of those that the group does not serve."""
        own: list[Mapping[str, OptionValue]] = [{}] * len(self._services)
        for name, batching in zip(group.services, group.batching, strict=True):
            own[self._index[name]] = _parameters(batching)
        return tuple(own)

    def _latencies(self, group: SubCluster) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the largest batch by service, and latencies on the slowest of the group's profiles.

        The largest batch is the one the SLO allows (half of it for batching that looks at no deadlines), or the
        batching's own limit; some disciplines run what they are set to, whatever the SLO.
        """
        profiles = tuple(sorted({i.profile for i in group.instances}))
        key = (profiles, group.services, tuple((b.discipline, b.max_batch) for b in group.batching))
        if key not in self._tables:
            largest = np.ones(len(self._services), np.int64)
            rows: list[NDArray[np.int64]] = [np.zeros(3, np.int64)] * len(self._services)
            for name, batching in zip(group.services, group.batching, strict=True):
                service = self._services[self._index[name]]
                budget = self._budget_s(service, batching)
                limit = min((service.largest_batch(p, budget) for p in profiles), default=1)
                limit = max(1, min(limit, batching.max_batch or limit))
                tables = [curve.table_ns(limit) for p in profiles if (curve := service.curve(p)) is not None]
                slowest = np.max(tables, axis=0) if tables else np.full(limit + 2, INFEASIBLE_NS, np.int64)
                slowest[limit + 1] = INFEASIBLE_NS
                largest[self._index[name]] = limit
                rows[self._index[name]] = slowest
            table = np.full((len(rows), max(len(row) for row in rows)), INFEASIBLE_NS, np.int64)
            for n, row in enumerate(rows):
                table[n, : len(row)] = row
            self._tables[key] = (largest, table)
        return self._tables[key]

    def _budget_s(self, service: Service, batching: Batching) -> float:
        """Say how long a batch may run at most."""
        discipline = self._disciplines.get(batching.discipline)
        if batching.max_batch is not None and getattr(discipline, "max_batch_as_set", False):
            return inf
        return service.slo_s / 2 if getattr(discipline, "blind", False) else service.slo_s


def _parameters(batching: Batching) -> Mapping[str, OptionValue]:
    """Return a batching as a discipline is given it."""
    return {**dict(batching.options), "timeout_ms": batching.timeout_s * 1e3}
