"""Random exact sizes for random pools: which services they count for, and what smaller inputs take less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from partita.model.load import Arrivals
from partita.ports import ExactSizes, Kinds, Pool

MS = 1_000_000


def let_sizes_count(draw: st.DrawFn, pools: Sequence[Pool], arrivals: Arrivals) -> tuple[tuple[Pool, ...], Arrivals]:
    """Mostly leave everything as it is; else let sizes count in all pools, and mix them.

    Sizes tell requests apart: they are the numbers from 0 on, in an order of their own. Which services sizes count for
    is the same in all pools, as are their edges.
    """
    if draw(st.integers(0, 2)):
        made = {id(pool): replace(pool, sizes=None) for pool in pools}
        return tuple(made[id(pool)] for pool in pools), arrivals
    edges = _edges(draw, len(pools[0].slo_ns), max(1, len(arrivals) - 1))
    made = {id(pool): replace(pool, sizes=_sizes(draw, pool, edges)) for pool in pools}
    order = np.random.default_rng(draw(st.integers(0, 999))).permutation(len(arrivals))
    return tuple(made[id(pool)] for pool in pools), replace(arrivals, size=order.astype(np.float32))


def _edges(draw: st.DrawFn, services: int, top: int) -> NDArray[np.float64]:
    """Draw two or three edges for most services, and none for the others."""
    edges = np.full((services, 3), np.inf)
    for s in range(services):
        if s == 0 or draw(st.integers(0, 3)):
            below = np.array(draw(st.sampled_from([(2,), (5,), (9,), (2, 5), (5, 9)]))) * top / 10
            edges[s, : len(below) + 1] = [*(np.ceil(below) if top > 20 else below), top + 0.5]
    return edges


def _sizes(draw: st.DrawFn, pool: Pool, edges: NDArray[np.float64]) -> ExactSizes:
    """Let the largest inputs take what the pool says, smaller ones a part of it, in batches that may be larger."""
    kinds: Kinds = pool.by_kind()
    counted = np.isfinite(edges[:, 0])
    wider = np.where(counted, draw(st.sampled_from([1, 2, 3])), 1)
    largest, largest_of = pool.max_batch * wider, kinds.max_batch * wider
    width = int(max(largest.max(), largest_of.max(initial=0))) + 2
    parts = np.array(draw(st.sampled_from([(10, 10, 10), (1, 5, 10), (5, 9, 10), (9, 10, 10)])))
    planned = np.full((1 + len(largest_of), *edges.shape, width), 3_600_000 * MS, np.int64)
    run = np.full((len(largest_of), *edges.shape, width), 3_600_000 * MS, np.int64)
    for s in np.flatnonzero(counted):
        count = int(np.isfinite(edges[s]).sum())
        for e, part in enumerate(parts[-count:]):
            planned[0, s, e] = _longer(pool.latency_ns[s], pool.max_batch[s], largest[s], width, part)
            for k, most in enumerate(kinds.max_batch[:, s]):
                planned[1 + k, s, e] = _longer(kinds.planned_ns[k, s], most, largest_of[k, s], width, part)
                run[k, s, e] = _longer(kinds.run_ns[k, s], most, largest_of[k, s], width, part)
    return ExactSizes(edges, largest, largest_of, planned, run)


def _longer(table: NDArray[np.int64], most: int, wide: int, width: int, part: int) -> NDArray[np.int64]:
    """Return a part of a table's times, that goes on beyond its largest batch by 1 ms a request."""
    b = np.arange(width)
    known = table[np.minimum(b, most)] + np.maximum(0, b - most) * MS
    return np.where(b <= wide, np.maximum(np.minimum(b, 1), known * part // 10), 3_600_000 * MS)
