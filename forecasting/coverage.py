"""Which series' coverage is beyond chance: binomial bands for bins that go together.

Bins of one forecast miss together, and so do those of forecasts whose horizons overlap. As many independent bins are
counted as they are worth, by the design effect of cluster samples (Kish 1965).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CHANCE = 0.05
"""Share of series whose coverage lies outside its own band by chance alone."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """How many bins of a group of series were counted, and covered: ``(origins, series)`` each.

    `block` neighbouring origins have horizons that overlap.
    """

    counted: Array
    covered: Array
    block: int = 1


def outside(groups: Sequence[Bins], level: float) -> list[NDArray[np.bool_]]:
    """Say by group which series cover too few or too many bins to be chance."""
    clusters = [(_clusters(g.counted, g.block), _clusters(g.covered, g.block)) for g in groups]
    together = correlation(clusters)
    return [_beyond(bins, hits, level, together) for bins, hits in clusters]


def _beyond(bins: Array, hits: Array, level: float, together: float) -> NDArray[np.bool_]:
    number = bins.sum(axis=0)
    size = (bins * bins).sum(axis=0) / np.maximum(number, 1)
    effect = 1 + np.maximum(size - 1, 0.0) * together
    worth = np.maximum(np.rint(number / effect), np.minimum(number, 1))
    share = hits.sum(axis=0) / np.maximum(number, 1)
    low, high = (stats.binom.ppf(q, worth, level) for q in (CHANCE / 2, 1 - CHANCE / 2))
    seen = np.rint(share * worth)
    beyond: NDArray[np.bool_] = (number > 0) & ((seen < low) | (seen > high))
    return beyond


def correlation(groups: Sequence[tuple[Array, Array]]) -> float:
    """Return how far bins of one cluster go together, 0 to 1, over all series: one has too few clusters to tell.

    From bins and hits ``(clusters, series)`` of each group, by how much clusters of a series differ (analysis of
    variance, Fleiss 1981).
    """
    between, within, apart, inside, sizes = 0.0, 0.0, 0, 0.0, []
    for bins, hits in groups:
        n, c = (each[:, (bins > 0).sum(axis=0) > 1] for each in (bins, hits))
        if not n.size:
            continue
        number, clusters = n.sum(axis=0), (n > 0).sum(axis=0)
        share = c.sum(axis=0) / number
        own = np.where(n > 0, c / np.maximum(n, 1), share)
        between += float((n * (own - share) ** 2).sum())
        within += float((n * own * (1 - own)).sum())
        apart += int((clusters - 1).sum())
        inside += float((number - clusters).sum())
        sizes += ((number - (n * n).sum(axis=0) / number) / (clusters - 1)).tolist()
    if not sizes:
        return 0.0
    between, within = between / apart, within / max(inside, 1.0)
    spread = between + (float(np.mean(sizes)) - 1) * within
    return float(np.clip((between - within) / spread, 0.0, 1.0)) if spread > 0 else 0.0


def _clusters(values: Array, block: int) -> Array:
    """Add up neighbouring origins; the first cluster may hold fewer."""
    starts = np.unique(np.maximum(np.arange(len(values), 0, -max(block, 1)) - max(block, 1), 0))
    return np.add.reduceat(values, starts, axis=0)
