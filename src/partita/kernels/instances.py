"""Instances of several kinds in one pool: which of them is free, and how long a batch takes on it.

Instances of one kind run every batch alike (the same profile or GPU%); a kind may be unable to serve a service. The
instants at which instances are free stand in a *forest*: one tournament tree a kind, over all instances of the pool, in
which those of other kinds are never free. With a single kind that is one tree.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from partita.kernels import NEVER, inlined, lean
from partita.kernels.chance import normal
from partita.kernels.sizes import ANY, NO_PLACES, at_place
from partita.kernels.tournament import first_within, grow, put, smallest


class Instances(NamedTuple):
    """What is known of a pool's instances; times in ns.

    `kind` has one entry an instance. `max_batch` is ``(kinds, services)``, 0 where the kind may not serve the service;
    `planned` and `run` are ``(kinds, services, batches)``: what a discipline counts on, and the mean of what a batch
    takes. `spread` is the standard deviation of the logarithm of what it takes over that mean, drawn from `seed`.
    Where sizes of inputs count, `places` are those of the requests, and tables have rows for edges
    (`partita.kernels.sizes`).
    """

    kind: NDArray[np.int64]
    max_batch: NDArray[np.int64]
    planned: NDArray[np.int64]
    run: NDArray[np.int64]
    spread: float
    seed: int
    places: NDArray[np.float64] = NO_PLACES


@lean
def _drawn(mean: int, spread: float, seed: int, s: int, b: int, first: int) -> int:
    """Draw how long a batch takes from the lognormal law with this mean."""
    deviation = spread * normal(first, seed * 1_000_003 + s * 1_009 + b)
    return max(1, int(mean * np.exp(deviation - 0.5 * spread * spread)))


@inlined
def run_ns(p: Instances, g: int, s: int, b: int, first: int, place: float) -> int:
    """Return how long a batch of b takes on instance `g`: `first` is the arrival of its oldest request, `place` is that
    of its largest one.

    What is drawn hangs on seed, service, oldest request and size alone, so that it is the same however a run is cut
    into advances.
    """
    k = p.kind[g]
    mean = p.run[k, s, b] if place == ANY else at_place(p.run[k], p.max_batch.shape[1], s, b, place)
    return mean if p.spread == 0.0 else _drawn(mean, p.spread, p.seed, s, b, first)


@njit(cache=True)
def grow_forest(free_at: NDArray[np.int64], p: Instances) -> NDArray[np.int64]:
    """Build the forest, ``(kinds, nodes)``, over when each instance is free."""
    kinds = p.max_batch.shape[0]
    own = np.full(free_at.shape[0], NEVER, np.int64)
    forest = np.empty((kinds, grow(own).shape[0]), np.int64)
    for k in range(kinds):
        for g in range(free_at.shape[0]):
            own[g] = free_at[g] if p.kind[g] == k else NEVER
        tree = grow(own)
        for node in range(tree.shape[0]):
            forest[k, node] = tree[node]
    return forest


@njit(cache=True)
def cut_down(forest: NDArray[np.int64], p: Instances, free_at: NDArray[np.int64]) -> None:
    """Write back to `free_at` when each instance is free."""
    leaves = forest.shape[1] // 2
    for g in range(free_at.shape[0]):
        free_at[g] = forest[p.kind[g], leaves + g]


@inlined
def free_of(forest: NDArray[np.int64], p: Instances, g: int) -> int:
    """Return when an instance is free."""
    return forest[p.kind[g], forest.shape[1] // 2 + g]


@inlined
def occupy(forest: NDArray[np.int64], p: Instances, g: int, until: int) -> None:
    """Take an instance until an instant."""
    put(forest[p.kind[g]], g, until)


@inlined
def first_free_at(forest: NDArray[np.int64], p: Instances, s: int) -> int:
    """Return when the first instance that may serve the service is free; NEVER if there is none."""
    at = NEVER
    for k in range(forest.shape[0]):
        if p.max_batch[k, s] > 0:
            at = min(at, forest[k, 1])
    return at


@lean
def earliest(forest: NDArray[np.int64], p: Instances, s: int) -> int:
    """Return the instance that may serve the service and is free first (ties: the lower number); -1 if none may."""
    best, at = -1, NEVER
    for k in range(forest.shape[0]):
        if p.max_batch[k, s] > 0 and forest[k, 1] <= at:
            g = smallest(forest[k])
            if forest[k, 1] < at or best < 0 or g < best:
                best, at = g, forest[k, 1]
    return best if at < NEVER else -1


@inlined
def lowest_within(forest: NDArray[np.int64], p: Instances, s: int, bound: int) -> int:
    """Return the lowest-numbered instance that may serve the service and is free by `bound`; -1 if there is none."""
    best = -1
    for k in range(forest.shape[0]):
        if p.max_batch[k, s] > 0:
            g = first_within(forest[k], bound)
            if g >= 0 and (best < 0 or g < best):
                best = g
    return best
