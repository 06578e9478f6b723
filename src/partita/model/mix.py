"""The mix of input sizes: which share of a service's requests falls into each of its buckets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from partita.model.load import Arrivals
from partita.model.service import Service

KNOWN_BEFORE = 20
"""Requests that the mix known before counts as, so that the first few seen do not make a mix of their own."""


def as_given(service: Service, shares: Mapping[float, float]) -> Service:
    """Return a service with the mix that these shares by size, which sum to 1, make of its buckets."""
    sizes = sorted(shares)
    return _mixed(service, np.array(sizes, np.float32), np.array([shares[size] for size in sizes]))


def as_seen(services: Sequence[Service], recent: Arrivals | None) -> tuple[Service, ...]:
    """Return services with the mix of the requests that came of late, and of what was known before.

    Where nothing was known, that is KNOWN_BEFORE requests of the largest sizes. A request whose size nobody logged
    counts as of the largest, and so does one that is larger still.
    """
    if recent is None:
        return tuple(services)
    pairs = zip(services, np.split(recent.size, recent.offsets[1:-1]), strict=True)
    return tuple(_mixed(service, sizes, before=KNOWN_BEFORE) for service, sizes in pairs)


def _mixed(
    service: Service, sizes: NDArray[np.float32], weights: NDArray[np.float64] | None = None, *, before: float = 0.0
) -> Service:
    edges = np.array([bucket.up_to for bucket in service.buckets()], np.float32)
    if len(edges) == 1:
        return service
    bucket = np.minimum(np.searchsorted(edges, sizes), len(edges) - 1)  # NaN is sorted behind all others
    known = np.array(service.mix) if service.mix else np.eye(len(edges))[-1]
    counted = np.bincount(bucket, weights, minlength=len(edges)) + before * known
    return replace(service, mix=tuple((counted / counted.sum()).tolist()))
