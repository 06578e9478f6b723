"""From plans to pools: what a sub-cluster's discipline sees of its instances and services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from partita.kernels import INFEASIBLE_NS
from partita.model.cluster import Batching, Instance, OptionValue, SubCluster
from partita.model.service import LatencyCurve, Service
from partita.model.staggered import Overheads
from partita.ports import Discipline, ExactSizes, Kinds, Pool
from partita.replay.disciplines import DISCIPLINES

BUILT_IN: Mapping[str, Discipline] = {d.name: d for d in DISCIPLINES}

SEEDS = 2**31
"""Seeds of jitter are taken modulo this, so that what is drawn from them stays within 64 bits."""


@dataclass(frozen=True, slots=True)
class Variation:
    """How what batches take differs from their latency curves.

    Disciplines count on `tail` times the curve; batches take the curve on average, and `jitter` is the standard
    deviation of the logarithm of what they take over that, drawn from `seed`. `colocation` is how much longer a batch
    takes, as a part of its latency, for each whole GPU's worth of other MPS shares beside it: the factor is
    1 + colocation · (sum of the others' GPU%) / 100, whether those are busy or not.
    """

    tail: float = 1.0
    jitter: float = 0.0
    colocation: float = 0.0
    seed: int = 0


AS_MEASURED = Variation()


class Kind(NamedTuple):
    """What makes instances alike: profile, GPU%, the GPU% of the shares beside it, and services too large for it."""

    profile: str
    gpu_percent: float
    beside: float
    too_large: tuple[str, ...]


class _Tables(NamedTuple):
    """Largest batches and latencies in ns: for the pool as a whole, and by kind; and by size where that counts."""

    max_batch: NDArray[np.int64]
    latency: NDArray[np.int64]
    max_batch_of: NDArray[np.int64]
    planned_of: NDArray[np.int64]
    run_of: NDArray[np.int64]
    sizes: ExactSizes | None


class _SizedRow(NamedTuple):
    """What batches of one service take by the size of their largest input; see `ExactSizes`."""

    edges: Sequence[float]
    max_batch: int
    max_batch_of: Sequence[int]
    planned: NDArray[np.int64]
    run: NDArray[np.int64]


class _Row(NamedTuple):
    """The same for one service: `slowest` is None where no kind can serve it."""

    max_batch: int
    slowest: NDArray[np.int64] | None
    max_batch_of: Sequence[int]
    planned_of: Sequence[NDArray[np.int64]]
    run_of: Sequence[NDArray[np.int64]]
    sized: _SizedRow | None = None


class PoolMaker:
    """Makes pools for the sub-clusters of one run; latency tables are made once for each set of kinds.

    Services of one name are its lanes, one for each bucket of input sizes: a sub-cluster that serves the name serves
    them all. `disciplines` are those that the run knows, by name. One with a true attribute `blind` looks at no
    deadline when it forms a batch, so that its batches are kept to half of the SLO; one with a true `max_batch_as_set`
    runs a largest batch that it is given, whatever the SLO. With exact sizes the pool's own tables are those of the
    largest inputs, on which every discipline may count.
    """

    def __init__(
        self,
        services: Sequence[Service],
        overheads: Overheads,
        disciplines: Mapping[str, Discipline] = BUILT_IN,
        variation: Variation = AS_MEASURED,
    ) -> None:
        self._disciplines = disciplines
        self._services = tuple(services)
        self._lanes: dict[str, list[int]] = {}
        for n, service in enumerate(services):
            self._lanes.setdefault(service.name, []).append(n)
        self._slo_ns = np.array([round(s.slo_s * 1e9) for s in services], np.int64)
        self._overheads = overheads
        self.variation = variation
        self._tables: dict[object, _Tables] = {}
        self._too_large: dict[tuple[tuple[str, ...], float], tuple[str, ...]] = {}

    def rows(self, group: SubCluster) -> NDArray[np.int64]:
        """Return the places of a sub-cluster's services among those of the run."""
        return np.array(sorted(row for name in group.services for row in self._lanes[name]), np.int64)

    def pool(
        self,
        group: SubCluster,
        number: NDArray[np.int64],
        free_at_ns: NDArray[np.int64],
        instances: Sequence[Instance] | None = None,
        beside: Sequence[float] = (),
    ) -> Pool:
        """Return the pool of a sub-cluster whose instances have these numbers and are free at these instants.

        `instances` says which those are, and `beside` the GPU% of other shares next to each, where they count; without
        `instances` the kinds are not told apart, and all count as the slowest of the sub-cluster's.
        """
        own = self._crowded(group, instances, beside) if instances is not None and self.variation.colocation else None
        found = own if own is not None else self._distinct(group, instances or ())
        kinds = sorted({*self._distinct(group, group.instances), *found})
        if own is None and instances is not None and len(kinds) > 1:
            own = self._crowded(group, instances, ())
        tables, o = self._made(group, tuple(kinds)), self._overheads
        told_apart = self._told_apart(kinds, own, tables, len(number))
        return Pool(
            active=self.rows(group),
            slo_ns=self._slo_ns,
            max_batch=tables.max_batch,
            latency_ns=tables.latency,
            number=number,
            free_at_ns=free_at_ns,
            control_ns=round(o.control_s * 1e9),
            data_ns=round(o.data_s * 1e9),
            response_ns=round(o.response_s * 1e9),
            jitter_ns=round(o.jitter_s * 1e9),
            parameters=_parameters(group.batching[0]) if group.batching else {},
            by_service=self._by_service(group),
            kinds=told_apart,
            sizes=_on_the_slowest(tables.sizes) if told_apart is None and tables.sizes else tables.sizes,
        )

    def _told_apart(
        self, kinds: Sequence[Kind], own: Sequence[Kind] | None, tables: _Tables, instances: int
    ) -> Kinds | None:
        """Return the kinds where they say more than the pool's own table: several of them, or batches that vary."""
        v = self.variation
        if len(kinds) == 1:
            own = [kinds[0]] * instances
        if own is None or not kinds or (len(kinds) == 1 and v.tail == 1.0 and v.jitter == 0.0):
            return None
        place = {kind: k for k, kind in enumerate(kinds)}
        of = np.array([place[kind] for kind in own], np.int64)
        return Kinds(of, tables.max_batch_of, tables.planned_of, tables.run_of, v.jitter, v.seed % SEEDS)

    def _distinct(self, group: SubCluster, instances: Sequence[Instance]) -> set[Kind]:
        """Return the kinds there are among instances that nothing stands beside."""
        found = {(i.profile, i.gpu_percent, i.memory_gib) for i in instances}
        return {Kind(profile, percent, 0.0, self._unfit(group, memory)) for profile, percent, memory in found}

    def _crowded(self, group: SubCluster, instances: Sequence[Instance], beside: Sequence[float]) -> list[Kind]:
        """Return the kind of each instance, beside others with so much GPU% each (none: beside nobody)."""
        unfit = {memory: self._unfit(group, memory) for memory in {i.memory_gib for i in instances}}
        return [
            Kind(i.profile, i.gpu_percent, others, unfit[i.memory_gib])
            for i, others in zip(instances, beside or [0.0] * len(instances), strict=True)
        ]

    def _unfit(self, group: SubCluster, memory_gib: float) -> tuple[str, ...]:
        """Return the services of a sub-cluster that a memory cannot hold."""
        key = group.services, memory_gib
        if key not in self._too_large:
            needs = {name: self._services[self._lanes[name][0]].memory_gib for name in group.services}
            self._too_large[key] = tuple(name for name, need in needs.items() if need > memory_gib)
        return self._too_large[key]

    def _by_service(self, group: SubCluster) -> tuple[Mapping[str, OptionValue], ...]:
        """Return the parameters of each service of the run; none of those that the group does not serve."""
        own: list[Mapping[str, OptionValue]] = [{}] * len(self._services)
        for name, batching in zip(group.services, group.batching, strict=True):
            for row in self._lanes[name]:
                own[row] = _parameters(batching)
        return tuple(own)

    def _made(self, group: SubCluster, kinds: tuple[Kind, ...]) -> _Tables:
        """Return largest batches and latencies, on each of the kinds and on the slowest that may serve a service."""
        key = (kinds, group.services, tuple((b.discipline, b.max_batch) for b in group.batching))
        if key not in self._tables:
            rows = {
                row: self._row(self._services[row], batching, kinds)
                for name, batching in zip(group.services, group.batching, strict=True)
                for row in self._lanes[name]
            }
            self._tables[key] = _joined(rows, len(self._services), len(kinds))
        return self._tables[key]

    def _row(self, service: Service, batching: Batching, kinds: Sequence[Kind]) -> _Row:
        """Return what the kinds make of one service.

        The largest batch is the one the SLO allows (half of it for batching that looks at no deadlines), or the
        batching's own limit; some disciplines run what they are set to, whatever the SLO. A kind whose memory is too
        small, or that cannot answer a single request in time, serves none as long as another kind can.
        """
        v = self.variation
        slower = [1.0 + v.colocation * kind.beside / 100.0 for kind in kinds]
        curves = [_curve(service, kind) for kind in kinds]
        alone = {k: curve.latency_s(1) * slower[k] * v.tail for k, curve in enumerate(curves) if curve is not None}
        fits = [k for k in alone if service.name not in kinds[k].too_large] or [*alone]
        o = self._overheads
        left_s = service.slo_s - o.control_s - o.data_s - o.response_s
        serving = [k for k in fits if alone[k] <= left_s] or fits
        budget = self._budget_s(service, batching)
        limits, planned, run = [0] * len(kinds), [_NEVER] * len(kinds), [_NEVER] * len(kinds)
        for k in serving:
            curve = curves[k]
            assert curve is not None
            limit = curve.largest_within(budget / (slower[k] * v.tail))
            limits[k] = max(1, min(limit, batching.max_batch or limit))
            planned[k] = _table(curve, limits[k], slower[k] * v.tail)
            run[k] = _table(curve, limits[k], slower[k])
        least = min((limits[k] for k in serving), default=1)
        slowest = np.max([planned[k][: least + 2] for k in serving], axis=0) if serving else None
        if slowest is not None:
            slowest[least + 1] = INFEASIBLE_NS
        sized = self._sized(service, batching, kinds, {k: slower[k] for k in serving}) if service.exact_sizes else None
        return _Row(least, slowest, limits, planned, run, sized)

    def _sized(
        self, service: Service, batching: Batching, kinds: Sequence[Kind], slower: Mapping[int, float]
    ) -> _SizedRow | None:
        """Return what batches take by their largest input, on the kinds that serve, each so many times slower.

        The largest batch is what the SLO allows for the smallest inputs.
        """
        buckets, tail = service.by_bucket(), self.variation.tail
        if not slower or len(buckets) == 1:
            return None
        budget, limits = self._budget_s(service, batching), [0] * len(kinds)
        curves = {k: [_measured(bucket, kinds[k]) for bucket in buckets] for k in slower}
        for k, factor in slower.items():
            limit = max(curve.largest_within(budget / (factor * tail)) for curve in curves[k])
            limits[k] = max(1, min(limit, batching.max_batch or limit))
        shape = len(buckets), max(limits) + 2
        planned = np.full((1 + len(kinds), *shape), INFEASIBLE_NS, np.int64)
        run = np.full((len(kinds), *shape), INFEASIBLE_NS, np.int64)
        for k, factor in slower.items():
            for edge, curve in enumerate(curves[k]):
                planned[1 + k, edge, : limits[k] + 2] = _table(curve, limits[k], factor * tail)
                run[k, edge, : limits[k] + 2] = _table(curve, limits[k], factor)
        least = min(limits[k] for k in slower)
        planned[0, :, : least + 1] = planned[[1 + k for k in slower], :, : least + 1].max(axis=0)
        return _SizedRow([bucket.buckets()[0].up_to for bucket in buckets], least, limits, planned, run)

    def _budget_s(self, service: Service, batching: Batching) -> float:
        """Say how long a batch may run at most."""
        discipline = self._disciplines.get(batching.discipline)
        if batching.max_batch is not None and getattr(discipline, "max_batch_as_set", False):
            return inf
        return service.slo_s / 2 if getattr(discipline, "blind", False) else service.slo_s


_NEVER = np.full(3, INFEASIBLE_NS, np.int64)
"""Latencies where there is no curve."""


def _curve(service: Service, kind: Kind) -> LatencyCurve | None:
    """Return what the largest inputs take on a kind; None where some bucket of exact sizes was not measured there."""
    if service.exact_sizes and any(b.curve(kind.profile, kind.gpu_percent) is None for b in service.by_bucket()):
        return None
    return service.curve(kind.profile, kind.gpu_percent)


def _measured(service: Service, kind: Kind) -> LatencyCurve:
    curve = service.curve(kind.profile, kind.gpu_percent)
    assert curve is not None
    return curve


def _table(curve: LatencyCurve, limit: int, factor: float) -> NDArray[np.int64]:
    """Return the latency by batch, up to a largest one, times a factor."""
    table = curve.table_ns(limit)
    if factor != 1.0:
        table = np.where(table < INFEASIBLE_NS, np.rint(table * factor), INFEASIBLE_NS).astype(np.int64)
    table[limit + 1] = INFEASIBLE_NS
    return table


def _joined(rows: Mapping[int, _Row], services: int, kinds: int) -> _Tables:
    """Put the rows of a sub-cluster's services among those of the run."""
    lengths = [3, *(len(r.slowest) for r in rows.values() if r.slowest is not None)]
    width = max(lengths)
    longest = max([width, *(len(table) for r in rows.values() for table in r.planned_of)])
    largest, latency = np.ones(services, np.int64), np.full((services, width), INFEASIBLE_NS, np.int64)
    latency[:, :3] = 0
    max_batch_of = np.zeros((kinds, services), np.int64)
    planned_of, run_of = (np.full((kinds, services, longest), INFEASIBLE_NS, np.int64) for _ in range(2))
    for n, row in rows.items():
        largest[n], latency[n] = row.max_batch, INFEASIBLE_NS
        if row.slowest is not None:
            latency[n, : len(row.slowest)] = row.slowest
        for k in range(kinds):
            max_batch_of[k, n] = row.max_batch_of[k]
            planned_of[k, n, : len(row.planned_of[k])] = row.planned_of[k]
            run_of[k, n, : len(row.run_of[k])] = row.run_of[k]
    tables = _Tables(largest, latency, max_batch_of, planned_of, run_of, None)
    sized = {n: row.sized for n, row in rows.items() if row.sized is not None}
    return tables._replace(sizes=_joined_sizes(sized, tables)) if sized else tables


def _joined_sizes(rows: Mapping[int, _SizedRow], tables: _Tables) -> ExactSizes:
    """Put the rows of services with exact sizes among those of the run."""
    kinds, services = tables.max_batch_of.shape
    shape = services, max(len(row.edges) for row in rows.values()), max(row.run.shape[2] for row in rows.values())
    edges = np.full(shape[:2], inf)
    largest, largest_of = tables.max_batch.copy(), tables.max_batch_of.copy()
    planned = np.full((1 + kinds, *shape), INFEASIBLE_NS, np.int64)
    run = np.full((kinds, *shape), INFEASIBLE_NS, np.int64)
    for n, row in rows.items():
        edges[n, : len(row.edges)] = np.array(row.edges, np.float32)  # as sizes are
        largest[n], largest_of[:, n] = row.max_batch, row.max_batch_of
        planned[:, n, : len(row.edges), : row.run.shape[2]] = row.planned
        run[:, n, : len(row.edges), : row.run.shape[2]] = row.run
    return ExactSizes(edges, largest, largest_of, planned, run)


def _on_the_slowest(sizes: ExactSizes) -> ExactSizes:
    """Return what the slowest kind takes, as that of the only one."""
    slowest = sizes.planned_ns[:1]
    return ExactSizes(sizes.edges, sizes.max_batch, sizes.max_batch[None], np.concatenate((slowest, slowest)), slowest)


def _parameters(batching: Batching) -> Mapping[str, OptionValue]:
    """Return a batching as a discipline is given it."""
    return {**dict(batching.options), "timeout_ms": batching.timeout_s * 1e3}
