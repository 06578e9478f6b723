"""How large inputs are, by service: counts in logarithmic buckets, which can be added up.

Quantiles are true to within RELATIVE of their value, whatever the law of the sizes, as in the sketches of Masson, Rim
and Lee (DDSketch, VLDB 2019).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.ports import Rows
from partita.traces.services import ServiceMap

RELATIVE = 0.01
LEAST, MOST = 1e-3, 1e9
"""Sizes below and above count as these."""

_GROWTH = np.log((1 + RELATIVE) / (1 - RELATIVE))
BUCKETS = int(np.ceil(np.log(MOST / LEAST) / _GROWTH)) + 2
"""Bucket 0 is for zero; the others are equally wide on a logarithmic scale."""


@dataclass(frozen=True, slots=True, eq=False)
class Sizes:
    """Input sizes by service: `counts` has shape ``(services, BUCKETS)``; `unknown` requests told no size."""

    services: tuple[str, ...]
    counts: NDArray[np.int64]
    unknown: NDArray[np.int64]

    def quantile(self, level: float) -> NDArray[np.float64]:
        """Return the smallest size that this share of the requests does not exceed, by service; NaN without sizes."""
        total = self.counts.sum(axis=1)
        reached = self.counts.cumsum(axis=1) >= np.maximum(np.ceil(level * total), 1)[:, None]
        sizes: NDArray[np.float64] = np.where(total > 0, _middle(np.argmax(reached, axis=1)), np.nan)
        return sizes

    def shares(self, edges: Sequence[float]) -> NDArray[np.float64]:
        """Return which share of each service's requests falls up to each edge, and above the last.

        Shape ``(services, edges + 1)``; an edge inside a bucket counts by the bucket's middle.
        """
        place = np.searchsorted(np.asarray(edges, np.float64), _middle(np.arange(BUCKETS)), side="left")
        split = np.stack([self.counts[:, place == n].sum(axis=1) for n in range(len(edges) + 1)], axis=1)
        total = self.counts.sum(axis=1, keepdims=True)
        found: NDArray[np.float64] = np.where(total > 0, split / np.maximum(total, 1), np.nan)
        return found


def sizes_of(blocks: Iterable[Rows], mapping: ServiceMap | None = None) -> Sizes:
    """Count the input sizes of a stream of requests."""
    mapping = mapping or ServiceMap()
    counts, unknown = np.zeros((0, BUCKETS), np.int64), np.zeros(0, np.int64)
    for block in blocks:
        service = mapping.indices(block.service)
        more = len(mapping.services) - len(unknown)
        counts, unknown = np.pad(counts, ((0, more), (0, 0))), np.pad(unknown, (0, more))
        known = np.isfinite(block.size) & (service >= 0)
        place = service[known] * BUCKETS + _bucket(block.size[known].astype(np.float64))
        counts += np.bincount(place, minlength=counts.size).reshape(counts.shape)
        left = service[~known & (service >= 0)]
        unknown += np.bincount(left, minlength=len(unknown))
    return Sizes(mapping.services, counts, unknown)


def merged(one: Sizes, other: Sizes) -> Sizes:
    """Add up two counts of the same services."""
    return Sizes(one.services, one.counts + other.counts, one.unknown + other.unknown)


def _bucket(sizes: NDArray[np.float64]) -> NDArray[np.int64]:
    within = np.clip(sizes, LEAST, MOST)
    place = np.floor(np.log(within / LEAST) / _GROWTH).astype(np.int64) + 1
    return np.where(sizes > 0, np.minimum(place, BUCKETS - 1), 0)


def _middle(bucket: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the size that stands for a bucket: as far above its lower edge as below its upper one, relatively."""
    low = LEAST * np.exp((bucket - 1) * _GROWTH)
    return np.where(bucket == 0, 0.0, low * 2 * np.exp(_GROWTH) / (1 + np.exp(_GROWTH)))
