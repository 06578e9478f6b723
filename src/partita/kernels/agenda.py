"""Who is next: the service that may have a free instance first, and among several the most urgent one.

A service may be ready for instances of one kind and not yet for those of another (which run larger batches, say). So
there are two trees over services for each kind: `ready` says when those that are not ready will be, `urgent` holds the
urgency of those that are (the smaller the sooner; ties: the lower number). Either has NEVER where the other has a key.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import NEVER, lean
from partita.kernels.tournament import first_within, grow, put, smallest


class Agenda(NamedTuple):
    """Both sets of trees, ``(kinds, nodes)``, and the urgency of each service, ready or not."""

    ready: NDArray[np.int64]
    urgent: NDArray[np.int64]
    urgency: NDArray[np.int64]


@njit(cache=True)
def empty_agenda(kinds: int, services: int) -> Agenda:
    """Return an agenda of so many services of which none will ever be ready."""
    nodes = grow(np.full(services, NEVER, np.int64)).shape[0]
    return Agenda(
        np.full((kinds, nodes), NEVER, np.int64),
        np.full((kinds, nodes), NEVER, np.int64),
        np.full(services, NEVER, np.int64),
    )


@lean
def enter(a: Agenda, kind: int, leaf: int, at: int, now: int) -> None:
    """Note when a service is ready for instances of a kind; its urgency must be noted first."""
    put(a.urgent[kind], leaf, a.urgency[leaf] if at <= now else NEVER)
    put(a.ready[kind], leaf, NEVER if at <= now else at)


@lean
def next_at(a: Agenda, forest: NDArray[np.int64]) -> int:
    """Return when the first service is ready for an instance that is free."""
    at = NEVER
    for kind in range(forest.shape[0]):
        free = forest[kind, 1]
        at = min(at, free if a.urgent[kind, 1] < NEVER else max(free, a.ready[kind, 1]))
    return at


@lean
def most_urgent(a: Agenda, forest: NDArray[np.int64], now: int) -> int:
    """Return the most urgent service that is ready for an instance that is free now."""
    best, key = -1, NEVER
    for kind in range(forest.shape[0]):
        if forest[kind, 1] > now:
            continue
        while a.ready[kind, 1] <= now:
            leaf = smallest(a.ready[kind])
            put(a.ready[kind], leaf, NEVER)
            put(a.urgent[kind], leaf, a.urgency[leaf])
        if a.urgent[kind, 1] <= key and a.urgent[kind, 1] < NEVER:
            leaf = smallest(a.urgent[kind])
            if a.urgent[kind, 1] < key or leaf < best:
                best, key = leaf, a.urgent[kind, 1]
    return best


@lean
def taker(a: Agenda, forest: NDArray[np.int64], leaf: int, now: int, min_id: bool) -> int:
    """Return the free instance that a ready service takes: the lowest-numbered one, or the one free longest."""
    best, since = -1, NEVER
    leaves = a.urgent.shape[1] // 2
    for kind in range(forest.shape[0]):
        if forest[kind, 1] > now or a.urgent[kind, leaves + leaf] >= NEVER:
            continue
        g = first_within(forest[kind], now) if min_id else smallest(forest[kind])
        free = 0 if min_id else forest[kind, 1]
        if best < 0 or free < since or (free == since and g < best):
            best, since = g, free
    return best
