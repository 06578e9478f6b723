"""Lanes: the queues of one run, one for each service, or for each bucket of input sizes of a service.

A request is padded to its bucket's edge, so that all of a lane cost the same; only requests of one lane share a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import numpy as np

from partita.model.load import Arrivals
from partita.model.service import Service
from partita.ports import Served


class Lanes:
    """Takes the arrivals of services apart into those of lanes, and puts accounts of lanes together again.

    `services` are the lanes in the order of their services, each as a service of the same name; without buckets they
    are the services themselves, and nothing is taken apart.
    """

    def __init__(self, services: Sequence[Service]) -> None:
        by_service = [service.lanes() for service in services]
        self.services = tuple(lane for lanes in by_service for lane in lanes)
        self._first = np.cumsum([0, *map(len, by_service)]).astype(np.int64)
        self._of = np.repeat(np.arange(len(by_service)), np.diff(self._first))
        edges = [np.array([b.up_to for b in service.buckets()], np.float32) for service in services]
        self._edges = {s: e for s, e in enumerate(edges) if len(e) > 1 or e[0] < inf}

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
            lane[own] += bucket
        kept = lane[fits].astype(np.int16 if len(self.services) < 2**15 else np.int64)  # short ones sort by radix
        rows = np.flatnonzero(fits)[np.argsort(kept, kind="stable")]
        counts = np.bincount(kept, minlength=len(self.services))
        inside = Arrivals(arrivals.ns[rows], np.concatenate(([0], np.cumsum(counts))), arrivals.size[rows])
        offsets = np.concatenate(([0], np.cumsum(~fits)))[arrivals.offsets]
        return inside, Arrivals(arrivals.ns[~fits], offsets, arrivals.size[~fits])

    def join(self, served: Served) -> Served:
        """Return an account of lanes as one of services; the requests of a service stand bucket by bucket."""
        if not self._edges:
            return served
        return replace(served, arrivals=self.together(served.arrivals), batch_service=self._of[served.batch_service])

    def together(self, arrivals: Arrivals) -> Arrivals:
        """Return requests by lane as those by service, bucket by bucket."""
        return replace(arrivals, offsets=arrivals.offsets[self._first]) if self._edges else arrivals
