"""Whether one model is better than another: a paired bootstrap over series and blocks of origins.

Both models met the same truths, so what they lost is compared series by series. Errors of neighbouring origins go
together, so origins are drawn in blocks (Künsch 1989), the same for all series of a group, which share their time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
DRAWS = 2_000

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """What two models lost on one group of series: sums by origin, ``(origins, series)``, and by how many steps.

    `added` is added, by series, to the mean loss of both: what keeps ratios sensible near zero.
    """

    first: Array
    other: Array
    steps: Array
    added: Array


@dataclass(frozen=True, slots=True)
class Ratio:
    """The geometric mean over series of what the first model loses for each loss of the other, with its interval."""

    mean: float
    low: float
    high: float
    series: int

    @property
    def is_better(self) -> bool:
        """Say whether the first model is significantly better."""
        return self.high < 1.0

    @property
    def is_worse(self) -> bool:
        """Say whether the first model is significantly worse."""
        return self.low > 1.0


def compare(
    pairs: Sequence[Pair],
    rng: np.random.Generator,
    *,
    block: int = 3,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
) -> Ratio:
    """Compare two models over all groups; NaN where no series was scored."""
    whole = np.concatenate([_logs(p, np.ones((1, p.steps.shape[0])))[0] for p in pairs] or [np.zeros(0)])
    number = int(np.isfinite(whole).sum())
    if not number:
        return Ratio(np.nan, np.nan, np.nan, 0)
    drawn = np.concatenate([_logs(p, _weights(p.steps.shape[0], block, draws, rng)) for p in pairs], axis=1)
    picked = rng.integers(0, drawn.shape[1], drawn.shape)
    chosen = np.take_along_axis(drawn, picked, axis=1)
    known = np.isfinite(chosen)
    some = known.any(axis=1)
    means = np.where(known, chosen, 0.0).sum(axis=1)[some] / known.sum(axis=1)[some]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Ratio(float(np.exp(np.nanmean(whole))), float(np.exp(low)), float(np.exp(high)), number)


def _weights(origins: int, block: int, draws: int, rng: np.random.Generator) -> Array:
    """Return how often each origin was drawn, ``(draws, origins)``: blocks of neighbours that go round at the end."""
    block = max(1, min(block, origins))
    blocks = -(-origins // block)
    begins = rng.integers(0, origins, (draws, blocks))
    place = ((begins[:, :, None] + np.arange(block)) % origins).reshape(draws, -1)[:, :origins]
    weights = np.zeros((draws, origins))
    np.add.at(weights, (np.arange(draws)[:, None], place), 1.0)
    return weights


def _logs(pair: Pair, weights: Array) -> Array:
    """Return the logarithms of the ratios by draw and series, NaN where nothing was scored."""
    steps = weights @ pair.steps
    scored = steps > 0
    first, other = (
        np.where(scored, weights @ loss / np.where(scored, steps, 1.0), np.nan) + pair.added
        for loss in (pair.first, pair.other)
    )
    known = scored & (first > 0) & (other > 0)
    logs: Array = np.where(known, np.log(np.where(known, first, 1.0) / np.where(known, other, 1.0)), np.nan)
    return logs
