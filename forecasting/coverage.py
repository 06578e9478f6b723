"""Which series' coverage is beyond chance: binomial bands for bins that go together.

Bins of one forecast miss together, and so do those of forecasts whose horizons overlap. As many independent bins are
counted as they are worth, by the design effect of cluster samples (Kish 1965).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CHANCE = 0.05
"""Share of series whose coverage lies outside its own band by chance alone."""

Array = NDArray[np.float64]


def outside(counted: Array, covered: Array, level: float, block: int) -> NDArray[np.bool_]:
    """Say which series cover too few or too many bins to be chance; `counted` and `covered` are ``(origins, series)``.

    `block` neighbouring origins have horizons that overlap.
    """
    bins, hits = (_clusters(each, block) for each in (counted, covered))
    number = bins.sum(axis=0)
    worth = np.maximum(np.rint(number / design_effect(bins, hits)), np.minimum(number, 1))
    share = hits.sum(axis=0) / np.maximum(number, 1)
    low, high = (stats.binom.ppf(q, worth, level) for q in (CHANCE / 2, 1 - CHANCE / 2))
    seen = np.rint(share * worth)
    beyond: NDArray[np.bool_] = (number > 0) & ((seen < low) | (seen > high))
    return beyond


def design_effect(bins: Array, hits: Array) -> Array:
    """Return by series how many bins are worth one, from how much clusters differ; arrays are ``(clusters, series)``.

    One plus (size of a cluster - 1) times the correlation within it, which is that of all series together: one has too
    few clusters to tell its own.
    """
    number, clusters = bins.sum(axis=0), (bins > 0).sum(axis=0)
    several = clusters > 1
    if not several.any():
        return np.ones(bins.shape[1])
    n, c = bins[:, several], hits[:, several]
    total, share = number[several], c.sum(axis=0) / number[several]
    own = np.where(n > 0, c / np.maximum(n, 1), share)
    between = (n * (own - share) ** 2).sum() / (clusters[several] - 1).sum()
    within = (n * own * (1 - own)).sum() / max(float((total - clusters[several]).sum()), 1.0)
    size = ((total - (n * n).sum(axis=0) / total) / (clusters[several] - 1)).mean()
    spread = between + (size - 1) * within
    together = np.clip((between - within) / spread, 0.0, 1.0) if spread > 0 else 0.0
    largest = (bins * bins).sum(axis=0) / np.maximum(number, 1)
    effect: Array = 1 + np.maximum(largest - 1, 0.0) * together
    return effect


def _clusters(values: Array, block: int) -> Array:
    """Add up neighbouring origins; the first cluster may hold fewer."""
    starts = np.unique(np.maximum(np.arange(len(values), 0, -max(block, 1)) - max(block, 1), 0))
    return np.add.reduceat(values, starts, axis=0)
