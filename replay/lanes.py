"""Lanes: the queues of one run, one for each service, or for each bucket of input sizes of a service.

A request is padded to its bucket's edge, so that all of a lane cost the same; only requests of one lane share a batch.
A service with exact sizes is one lane: nobody is padded, and a batch takes as long as its largest input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf

import numpy as np
from numpy.typing import NDArray

from partita.model.load import Arrivals
from partita.model.service import Service
from partita.ports import Served

MILLION = 1_000_000
"""What requests are counted in parts of, so that sums do not hang on how a run is cut."""


class Lanes:
    """Takes the arrivals of services apart into those of lanes, and puts accounts of lanes together again.

    `services` are the lanes in the order of their services, each as a service of the same name; without buckets they
    are the services themselves, and nothing is taken apart. `buckets` are the same with a service for each bucket of
    exact sizes too.
    """

    def __init__(self, services: Sequence[Service]) -> None:
        by_service = [service.lanes() for service in services]
        self.services = tuple(lane for lanes in by_service for lane in lanes)
        self._first = np.cumsum([0, *map(len, by_service)]).astype(np.int64)
        self._of = np.repeat(np.arange(len(by_service)), np.diff(self._first))
        edges = [np.array([b.up_to for b in service.buckets()], np.float32) for service in services]
        self._edges = {s: e for s, e in enumerate(edges) if len(e) > 1 or e[0] < inf}
        self.buckets = tuple(bucket for service in services for bucket in service.by_bucket())
        self._exact = {s for s in self._edges if services[s].exact_sizes and len(self._edges[s]) > 1}

    @property
    def apart(self) -> bool:
        """Say whether sizes count for any service."""
        return bool(self._edges)

    def split(self, arrivals: Arrivals) -> tuple[Arrivals, Arrivals]:
        """Return the arrivals by lane, in their order, and by service those that are larger than the last bucket.

        A size that nobody logged (NaN) counts as one of the largest.
        """
        if not self._edges or not len(arrivals):
            count = len(self._first) - 1
            return (arrivals if len(arrivals) else Arrivals.empty(len(self.services))), Arrivals.empty(count)
        lane = np.repeat(self._first[:-1], np.diff(arrivals.offsets))
        fits = np.ones(len(arrivals), bool)
        for s, edges in self._edges.items():
            own = slice(arrivals.offsets[s], arrivals.offsets[s + 1])
            bucket = np.searchsorted(edges, arrivals.size[own])
            bucket[np.isnan(arrivals.size[own])] = len(edges) - 1
            fits[own] = bucket < len(edges)
            if s not in self._exact:
                lane[own] += bucket
        kept = lane[fits].astype(np.int16 if len(self.services) < 2**15 else np.int64)  # short ones sort by radix
        rows = np.flatnonzero(fits)[np.argsort(kept, kind="stable")]
        counts = np.bincount(kept, minlength=len(self.services))
        inside = Arrivals(arrivals.ns[rows], np.concatenate(([0], np.cumsum(counts))), arrivals.size[rows])
        offsets = np.concatenate(([0], np.cumsum(~fits)))[arrivals.offsets]
        return inside, Arrivals(arrivals.ns[~fits], offsets, arrivals.size[~fits])

    def by_bucket(self, inside: Arrivals, counted: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Count by bucket, in millionths, those of the arrivals of lanes that are `counted`.

        Where sizes are exact, one between two edges counts for both, for the nearer one more: what it takes lies
        between what they take.
        """
        by_lane = MILLION * np.diff(np.concatenate(([0], np.cumsum(counted)))[inside.offsets])
        parts = []
        for s, (first, last) in enumerate(pairwise(self._first)):
            parts.append(by_lane[first:last])
            if s in self._exact:
                rows = slice(inside.offsets[first], inside.offsets[last])
                edges = self._edges[s]
                sizes = np.nan_to_num(inside.size[rows][counted[rows]], nan=edges[-1])
                place = np.interp(sizes, edges, np.arange(len(edges)))
                below = np.minimum(place.astype(np.int64), len(edges) - 2)
                above = np.rint((place - below) * MILLION).astype(np.int64)
                parts[-1] = np.zeros(len(edges), np.int64)
                np.add.at(parts[-1], below, MILLION - above)
                np.add.at(parts[-1], below + 1, above)
        return np.concatenate(parts) if parts else by_lane

    def join(self, served: Served) -> Served:
        """Return an account of lanes as one of services; the requests of a service stand bucket by bucket."""
        if not self._edges:
            return served
        return replace(served, arrivals=self.together(served.arrivals), batch_service=self._of[served.batch_service])

    def together(self, arrivals: Arrivals) -> Arrivals:
        """Return requests by lane as those by service, bucket by bucket."""
        return replace(arrivals, offsets=arrivals.offsets[self._first]) if self._edges else arrivals
