"""Counting what became of requests: by service, and in histograms of latency and queueing time."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import NEVER, entrance, lean
from partita.kernels.batches import DROPPED, QUEUED

OFFERED, GOOD, LATE, DROPPED_COUNT = 0, 1, 2, 3
"""Columns of the counts."""

PER_OCTAVE = 32
FLOOR_NS = 1_000
CLASSES = 36 * PER_OCTAVE
"""Histogram classes: 32 an octave (2.2 % wide) from 1 us to 19 hours."""


_MANTISSA_BITS, _CELL_BITS = 52, 8
_SHIFT = _MANTISSA_BITS - _CELL_BITS
"""A time as a float begins, sign apart, with its octave; this far on come the first bits of its place in it."""


def _first_of_each_class() -> NDArray[np.int64]:
    """Return the smallest time, in ns, of each class; none is in the class after the last."""
    edges = np.ceil(FLOOR_NS * 2 ** (np.arange(CLASSES + 1) / PER_OCTAVE)).astype(np.int64)
    edges[0], edges[-1] = 0, NEVER
    return edges


def _class_of_each_cell() -> NDArray[np.int16]:
    """Return the class at the beginning of each cell, 256 an octave, so that none holds more than one edge."""
    last = int(np.float64(_FIRST[-2]).view(np.int64)) >> _SHIFT
    begins = (np.arange(_LOWEST, last + 1) << _SHIFT).view(np.float64)
    return (np.searchsorted(_FIRST, begins, side="right") - 1).astype(np.int16)


_FIRST = _first_of_each_class()
_LOWEST = int(np.float64(FLOOR_NS).view(np.int64)) >> _SHIFT
_CELLS = _class_of_each_cell()


@lean
def _class_of(ns: int) -> int:
    """Return the class of a time, looked up by the first bits of its float: a logarithm takes several times as long."""
    if ns <= FLOOR_NS:
        return 0
    if ns >= _FIRST[CLASSES - 1]:
        return CLASSES - 1
    k = _CELLS[(np.float64(ns).view(np.int64) >> _SHIFT) - _LOWEST]
    return k + 1 if ns >= _FIRST[k + 1] else k


@entrance
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
        dropped = good = late = counted_dropped = counted_good = counted_late = 0
        for row in range(offsets[s], offsets[s + 1]):
            at, end = ns[row], finish[row]
            if end == QUEUED:
                continue
            inside = counted_from <= at < counted_to
            if end == DROPPED:
                dropped += 1
                counted_dropped += inside
                continue
            if end - at < slo[s]:
                good += 1
                counted_good += inside
            else:
                late += 1
                counted_late += inside
            if inside:
                latencies[_class_of(end - at)] += 1
                queueing[_class_of(start[row] - at)] += 1
        settled[s, OFFERED] += good + late + dropped
        settled[s, GOOD] += good
        settled[s, LATE] += late
        settled[s, DROPPED_COUNT] += dropped
        counts[s, OFFERED] += counted_good + counted_late + counted_dropped
        counts[s, GOOD] += counted_good
        counts[s, LATE] += counted_late
        counts[s, DROPPED_COUNT] += counted_dropped


@njit(cache=True)
def add_per_second(
    ns: NDArray[np.int64], offsets: NDArray[np.int64], since: int, until: int, counts: NDArray[np.int64]
) -> None:
    """Add requests in ``[since, until)`` to `counts`, ``(services, seconds)``, whose first second begins at `since`."""
    for s in range(offsets.shape[0] - 1):
        for row in range(offsets[s], offsets[s + 1]):
            if since <= ns[row] < until:
                counts[s, (ns[row] - since) // 1_000_000_000] += 1


def busy_ns(start: NDArray[np.int64], finish: NDArray[np.int64], since: int, until: int) -> int:
    """Return how long these batches kept instances busy between two instants; too little to be compiled for."""
    return int(np.maximum(np.minimum(finish, until) - np.maximum(start, since), 0).sum())
