"""Statistics over seeds: the mean with its interval, and whether two sides differ.

Each seed is a run of its own (independent replications: Law, Simulation Modeling and Analysis, chapter 9), so what it
gives is one draw, and Student's t is used with as few as two of them. Runs of one seed meet the same requests on both
sides: they are paired, which takes out what the draw of the requests does to both (common random numbers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95

PAIRED = "paired t-test over seeds"
WELCH = "Welch's t-test over seeds"
EQUAL = "the same in every seed"
NOTHING = "no significance can be given: it takes two seeds or more"


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `seeds` runs and the interval that covers the true one with `confidence`; NaN ends with one run."""

    mean: float
    low: float
    high: float
    seeds: int
    confidence: float = CONFIDENCE

    @property
    def half_width(self) -> float:
        """How far the ends are from the mean; NaN where there is no interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class Difference:
    """What a side has more than the first one, with its interval; `p_value` is two-sided, NaN without significance."""

    mean: float
    low: float
    high: float
    p_value: float
    test: str
    seeds: int
    confidence: float = CONFIDENCE


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of independent runs with its Student interval."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Interval(mean, nan, nan, count, confidence)
    half = _quantile(count - 1, confidence) * float(np.std(values, ddof=1)) / sqrt(count)
    return Interval(mean, mean - half, mean + half, count, confidence)


def difference(first: Mapping[int, float], other: Mapping[int, float], confidence: float = CONFIDENCE) -> Difference:
    """Compare two sides, each a value a seed: paired over the seeds they share, by Welch's test if those are too few.

    With one seed a side there is a difference, but nothing that says whether it is more than chance.
    """
    shared = sorted(first.keys() & other.keys())
    if len(shared) >= 2:
        gaps = np.array([other[seed] - first[seed] for seed in shared])
        return _judge(
            float(gaps.mean()),
            float(gaps.var(ddof=1)) / len(shared),
            len(shared) - 1.0,
            len(shared),
            PAIRED,
            confidence,
        )
    ones, others = np.array(list(first.values())), np.array(list(other.values()))
    mean, seeds = float(others.mean() - ones.mean()), min(len(ones), len(others))
    if seeds < 2:
        pair = shared[:1]
        gap = other[pair[0]] - first[pair[0]] if pair else mean
        return Difference(gap, nan, nan, nan, NOTHING, seeds, confidence)
    parts = ones.var(ddof=1) / len(ones), others.var(ddof=1) / len(others)
    return _judge(mean, float(sum(parts)), _welch_freedom(parts, len(ones), len(others)), seeds, WELCH, confidence)


def _judge(mean: float, variance: float, freedom: float, seeds: int, test: str, confidence: float) -> Difference:
    if variance == 0.0:
        return Difference(
            mean, mean, mean, 1.0 if mean == 0.0 else 0.0, EQUAL if mean == 0.0 else test, seeds, confidence
        )
    error = sqrt(variance)
    half = _quantile(freedom, confidence) * error
    p_value = 2.0 * float(stdtr(freedom, -abs(mean) / error))
    return Difference(mean, mean - half, mean + half, p_value, test, seeds, confidence)


def _welch_freedom(parts: tuple[float, float], ones: int, others: int) -> float:
    """Return the degrees of freedom of Welch and Satterthwaite."""
    below = parts[0] ** 2 / (ones - 1) + parts[1] ** 2 / (others - 1)
    return float(sum(parts) ** 2 / below) if below else inf


def _quantile(freedom: float, confidence: float) -> float:
    return float(stdtrit(freedom, 0.5 + confidence / 2))
