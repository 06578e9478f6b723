"""Counting what became of requests: by service, and in histograms of latency and queueing time."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import lean
from partita.kernels.batches import DROPPED, QUEUED

OFFERED, GOOD, LATE, DROPPED_COUNT = 0, 1, 2, 3
"""Columns of the counts."""

PER_OCTAVE = 32
FLOOR_NS = 1_000
CLASSES = 36 * PER_OCTAVE
"""Histogram classes: 32 an octave (2.2 % wide) from 1 us to 19 hours."""


@lean
def _class_of(ns: int) -> int:
    if ns <= FLOOR_NS:
        return 0
    return min(CLASSES - 1, int(np.log2(ns / FLOOR_NS) * PER_OCTAVE))


@njit(cache=True)
def tally(
    ns: NDArray[np.int64],
    offsets: NDArray[np.int64],
    start: NDArray[np.int64],
    finish: NDArray[np.int64],
    slo: NDArray[np.int64],
    counted_from: int,
    counted_to: int,
    settled: NDArray[np.int64],
    counts: NDArray[np.int64],
    latencies: NDArray[np.int64],
    queueing: NDArray[np.int64],
) -> None:
    """Add all settled requests to `settled`, those that arrived in ``[counted_from, counted_to)`` to the others.

    `settled` and `counts` are ``(services, 4)``; the histograms are ``(CLASSES,)`` and hold answered requests only.
    Good is a finish strictly before arrival + SLO.
    """
    for s in range(offsets.shape[0] - 1):
        for row in range(offsets[s], offsets[s + 1]):
            if finish[row] == QUEUED:
                continue
            latency = finish[row] - ns[row]
            fate = DROPPED_COUNT if finish[row] == DROPPED else GOOD if latency < slo[s] else LATE
            settled[s, OFFERED] += 1
            settled[s, fate] += 1
            if ns[row] < counted_from or ns[row] >= counted_to:
                continue
            counts[s, OFFERED] += 1
            counts[s, fate] += 1
            if fate == DROPPED_COUNT:
                continue
            latencies[_class_of(latency)] += 1
            queueing[_class_of(start[row] - ns[row])] += 1


@njit(cache=True)
def add_per_second(
    ns: NDArray[np.int64], offsets: NDArray[np.int64], since: int, until: int, counts: NDArray[np.int64]
) -> None:
    """Add requests in ``[since, until)`` to `counts`, ``(services, seconds)``, whose first second begins at `since`."""
    for s in range(offsets.shape[0] - 1):
        for row in range(offsets[s], offsets[s + 1]):
            if since <= ns[row] < until:
                counts[s, (ns[row] - since) // 1_000_000_000] += 1


@njit(cache=True)
def busy_ns(start: NDArray[np.int64], finish: NDArray[np.int64], since: int, until: int) -> int:
    """Return how long these batches kept instances busy between two instants."""
    total = 0
    for k in range(start.shape[0]):
        total += max(0, min(finish[k], until) - max(start[k], since))
    return total
