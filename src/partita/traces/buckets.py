"""Series by service and input-size bucket: each request is counted under the name of the bucket it falls into.

Bucket names are ``chat:up-to-512`` and ``chat:over-2048``; a request that told no size counts in ``chat:unknown-size``.
So the buckets of a service always add up to the service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.model.load import Load
from partita.model.size_counts import SizeCounts
from partita.ports import Counts, Rows
from partita.traces.series import Series
from partita.traces.services import ServiceMap

UNKNOWN = "unknown-size"

OCTAVES = tuple(2.0**n for n in range(-10, 31))
"""Edges for sizes of any kind where nobody names any: each is twice the one before."""

FINE_EDGES = tuple(2.0 ** (n / 8) for n in range(-80, 241))
"""Edges for quantiles of sizes: each is 9 % above the one before."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """Upper edges of input sizes, rising: those of a service that has its `own`, else `edges`.

    A service without any is kept whole.
    """

    edges: tuple[float, ...] = ()
    own: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for edges in (self.edges, *self.own.values()):
            if any(not 0 < edge < inf for edge in edges) or any(low >= high for low, high in pairwise(edges)):
                raise ConfigError("edges of sizes must be above 0 and rise, like 128,512,2048", key="--buckets")

    def of(self, service: str) -> tuple[float, ...]:
        """Return the edges that hold for a service."""
        return self.own.get(service, self.edges)

    def names(self, service: str) -> tuple[str, ...]:
        """Return the names of a service's buckets, smallest first, then that of requests of unknown size."""
        edges = self.of(service)
        if not edges:
            return (service, service)
        sized = (*(f"up-to-{_written(edge)}" for edge in edges), f"over-{_written(edges[-1])}")
        return tuple(f"{service}:{name}" for name in (*sized, UNKNOWN))

    def all_edges(self) -> tuple[float, ...]:
        """Return every edge of any service."""
        return tuple(sorted({*self.edges, *(edge for edges in self.own.values() for edge in edges)}))


def owner(name: str) -> str:
    """Return the service that a bucket's name belongs to; a name of no bucket is its own."""
    service, colon, bucket = name.rpartition(":")
    return service if colon and (bucket == UNKNOWN or bucket.startswith(("up-to-", "over-"))) else name


class BySize:
    """Names requests after their service and bucket; `mapping` lists those names, every bucket of a service seen."""

    def __init__(self, buckets: Buckets) -> None:
        self.buckets = buckets
        self.mapping = ServiceMap()
        self._services = ServiceMap()
        self._names: list[tuple[str, ...]] = []

    @property
    def services(self) -> tuple[str, ...]:
        """The services seen."""
        return self._services.services

    def rows(self, block: Rows | Counts) -> Rows:
        """Return a block of requests under the names of their buckets; ConfigError for counts, which have no sizes."""
        if isinstance(block, Counts):
            raise ConfigError("counts tell no input sizes: buckets need a source of single requests", key="--buckets")
        names = self.names(block.service, np.asarray(block.size, np.float32))
        return Rows(block.at_ns, names, block.size, block.output_size)

    def names(self, service: NDArray[np.object_], size: NDArray[np.float32]) -> NDArray[np.object_]:
        """Return the name of the bucket of each request; a size of NaN is unknown."""
        whose = self._services.indices(service)
        self._meet()
        place = np.zeros(len(whose), np.int64)
        edges_of = [self.buckets.of(name) for name in self.services]
        for edges in dict.fromkeys(edges_of):
            here = np.array([one == edges for one in edges_of], np.bool_)[whose] if len(set(edges_of)) > 1 else ...
            found = np.searchsorted(np.array(edges, np.float32), size[here], side="left")
            place[here] = np.where(np.isnan(size[here]), len(edges) + 1, found)
        first = np.concatenate(([0], np.cumsum([len(names) for names in self._names])))[:-1].astype(np.int64)
        flat = np.array([name for names in self._names for name in names], object)
        named: NDArray[np.object_] = flat[first[whose] + place] if len(flat) else np.empty(0, object)
        return named

    def _meet(self) -> None:
        for service in self.services[len(self._names) :]:
            names = self.buckets.names(service)
            self._names.append(names)
            for name in names[:-1]:
                self.mapping.index(name)


def size_counts(load: Load, buckets: Buckets, services: Sequence[str]) -> SizeCounts:
    """Put the series of buckets together again, by service; all services have the same edges."""
    row = {name: n for n, name in enumerate(load.services)}
    gone = np.isnan(load.counts).any(axis=0) if load.services else np.zeros(load.counts.shape[1], np.bool_)
    blank = np.where(gone, np.nan, 0.0)
    found = [[load.counts[row[name]] if name in row else blank for name in buckets.names(s)] for s in services]
    shape = (len(services), len(buckets.edges) + 2, load.counts.shape[1])
    counts = np.array(found, np.float64).reshape(shape).transpose(0, 2, 1)
    return SizeCounts(
        tuple(services), load.start_s, load.step_s, buckets.edges, counts[:, :, :-1].copy(), counts[:, :, -1].copy()
    )


def completed(split: Series, whole: Series, buckets: Buckets) -> Series:
    """Count as of unknown size what the whole series holds and its buckets do not: requests that only counts tell of.

    Both are on the same grid.
    """
    row = {name: n for n, name in enumerate(split.load.services)}
    first = round((whole.load.start_s - split.load.start_s) / whole.load.step_s)
    steps = whole.load.counts.shape[1]
    listed: dict[str, NDArray[np.float64]] = {}
    for number, service in enumerate(whole.load.services):
        names = list(buckets.names(service))
        total = np.append(whole.load.counts[number], whole.rest[number])
        parts = {name: _laid(split, row.get(name), first, steps) for name in names}
        if len(parts) == 1:
            listed[service] = total
            continue
        known = sum((parts[name] for name in names[:-1]), np.zeros(steps + 1))
        for name in names[:-1]:
            listed[name] = np.where(np.isnan(total), np.nan, parts[name])
        left = np.where(np.isnan(total), np.nan, np.maximum(total - known, 0.0))
        if np.nansum(left):
            listed[names[-1]] = left
    counts = np.stack(list(listed.values())) if listed else np.zeros((0, steps + 1))
    load = Load(tuple(listed), whole.load.start_s, whole.load.step_s, counts[:, :-1])
    late = {name: whole.late[owner(name)] for name in listed if owner(name) in whole.late}
    return Series(load, whole.watermark_s, counts[:, -1], whole.rest_s, whole.beyond, late)


def _laid(split: Series, row: int | None, first: int, steps: int) -> NDArray[np.float64]:
    """Return a row of the buckets' series on the whole one's grid, its begun step last."""
    laid = np.zeros(steps + 1)
    if row is not None:
        counts = np.append(split.load.counts[row], split.rest[row])
        low, high = max(0, first), min(len(counts), first + steps + 1)
        laid[low - first : max(high, low) - first] = np.nan_to_num(counts[low : max(high, low)])
    return laid


def merged_edges(*edges: Iterable[float]) -> tuple[float, ...]:
    """Return all the edges, rising."""
    return tuple(sorted({edge for some in edges for edge in some}))


def _written(edge: float) -> str:
    return f"{edge:.15g}"
