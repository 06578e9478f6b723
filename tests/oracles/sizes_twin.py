"""What batches take by their largest input, in plain Python; shared by the twins of all disciplines."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from partita.kernels import INFEASIBLE_NS, callable_from_python
from partita.kernels.instances import Instances
from partita.kernels.instances import run_ns as lean_run_ns
from partita.ports import ExactSizes, Pool

run_ns = callable_from_python(lean_run_ns)


def counts(pool: Pool, s: int) -> bool:
    """Say whether the sizes of a service's requests count."""
    return pool.sizes is not None and bool(np.isfinite(pool.sizes.edges[s, 0]))


def takes(pool: Pool, table: NDArray[np.int64], s: int, b: int, sizes: Iterable[float]) -> int:
    """Return what a batch of b takes with inputs of these sizes, by a table of ``(services, edges, batches)``."""
    assert pool.sizes is not None
    place, last = _place(pool.sizes, s, max(sizes))
    low = int(place)
    below, above = int(table[s, low, b]), int(table[s, min(low + 1, last), b])
    if place > low and above >= INFEASIBLE_NS:
        return above
    return below + int((above - below) * (place - low))


@lru_cache(maxsize=10_000)
def _place(sizes: ExactSizes, s: int, size: float) -> tuple[float, int]:
    """Return where a size lies among the edges, and the place of the last edge."""
    known = sizes.edges[s][np.isfinite(sizes.edges[s])]
    return float(np.interp(np.float32(size), known, np.arange(len(known)))), len(known) - 1


def mean_ns(pool: Pool, g: int, s: int, b: int, sizes: Iterable[float]) -> int:
    """Return what a batch takes on average on the instance in place `g`."""
    kinds = pool.by_kind()
    if pool.sizes is not None and counts(pool, s):
        return takes(pool, pool.sizes.run_ns[kinds.of[g]], s, b, sizes)
    return int(kinds.run_ns[kinds.of[g], s, b])


def planned_ns(pool: Pool, g: int, s: int, b: int, sizes: Iterable[float]) -> int:
    """Return what a batch is planned to take on the instance in place `g` by who knows the sizes."""
    kinds = pool.by_kind()
    if pool.sizes is not None and counts(pool, s):
        return takes(pool, pool.sizes.planned_ns[1 + kinds.of[g]], s, b, sizes)
    return int(kinds.planned_ns[kinds.of[g], s, b])


def really_ns(pool: Pool, g: int, s: int, b: int, oldest_ns: int, sizes: Iterable[float]) -> int:
    """Return what a batch really takes: the mean, or what is drawn around it by the hash of the kernels."""
    kinds, mean = pool.by_kind(), mean_ns(pool, g, s, b, sizes)
    if kinds.spread == 0:
        return mean
    table = np.full((1, s + 1, b + 1), mean)
    alike = Instances(np.zeros(g + 1, np.int64), np.ones((1, s + 1), np.int64), table, table, kinds.spread, kinds.seed)
    return int(run_ns(alike, g, s, b, oldest_ns, -1.0))
