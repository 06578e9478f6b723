"""Exponential smoothing and Theta, over all services at once.

Source: Assimakopoulos and Nikolopoulos (2000), The theta model; Hyndman and Billah (2003) show that it is simple
exponential smoothing with half the slope of a line through the past as drift.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.forecasting.past import Past, Rule, Steps, seasons_back
from partita.forecasting.smoothing import GRID, best_states, reach

Shape = Callable[[Steps, Steps], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Exponential:
    """Exponential smoothing with a damped trend where one pays, each service under the best row of a small grid."""

    name: str = "exponential"

    def days(self) -> float:
        """Return the days of history it needs."""
        return 0.0

    def fitted(self, past: Past, steps: int) -> Rule:
        """Choose the rows."""
        level, trend, chosen = _states(past.counts, steps)
        carried = np.stack([reach(h, GRID[:, 2]) for h in range(1, steps + 1)], axis=1)
        return lambda origins, ahead: np.maximum(
            level[:, origins] + trend[:, origins] * carried[chosen[:, None], ahead - 1], 0.0
        )


@dataclass(frozen=True, slots=True)
class Theta:
    """Smoothing with half the slope as drift, of what is left when the shape of the last days is divided out."""

    name: str = "theta"
    times: int = 4

    def days(self) -> float:
        """Return the days of history it needs."""
        return 2.5

    def fitted(self, past: Past, steps: int) -> Rule:
        """Take out the shape and choose the rows."""
        shape = _shape(past, self.times)
        every = np.arange(past.length)
        plain = past.counts / shape(every, np.zeros_like(every))
        level, _, _ = _states(plain, min(steps, past.day // 6))
        slope = _slope(plain)

        def rule(origins: Steps, ahead: Steps) -> NDArray[np.float64]:
            expected = level[:, origins] + 0.5 * ahead * slope[:, origins]
            return np.maximum(expected, 0.0) * shape(origins, ahead)

        return rule


def _states(
    counts: NDArray[np.float64], steps: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Smooth counts ``(services, steps)``; return level, trend and the number of the row, best at 1 step and some."""
    first = min(9, counts.shape[1] // 3)
    farthest = max(1, min(steps, counts.shape[1] - first - 8))
    level, trend, chosen = best_states(counts.T, first, sorted({1, max(1, farthest // 3)}))
    return level.T, trend.T, chosen


def _slope(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the slope of the line through everything measured up to each step; 0 while that is less than two."""
    known = np.isfinite(counts).astype(np.float64)
    time = np.arange(counts.shape[1]) * known
    values = np.where(known > 0, counts, 0.0)
    number, times, sums = (np.cumsum(each, axis=1) for each in (known, time, values))
    squares, products = np.cumsum(time * time, axis=1), np.cumsum(time * values, axis=1)
    apart = number * squares - times * times
    slope: NDArray[np.float64] = np.where(number > 1, (number * products - times * sums) / np.maximum(apart, 1.0), 0.0)
    return slope


def _shape(past: Past, times: int) -> Shape:
    """Return the share, about 1, of the mean of a day that falls to the step so many steps after each origin."""
    every, day = np.arange(past.length), past.day
    middle = past.level(every, day)
    spare = 1.0 + 0.1 * middle
    share = (past.filled + spare) / (middle + spare)

    def shape(origins: Steps, ahead: Steps) -> NDArray[np.float64]:
        back = np.maximum(seasons_back(ahead, day), 1)
        total, number = np.zeros((past.counts.shape[0], len(origins))), np.zeros(len(origins))
        for more in range(times):
            at = origins + ahead - (back + more) * day
            total += np.where(at >= 0, share[:, np.maximum(at, 0)], 0.0)
            number += at >= 0
        return np.where(number > 0, total / np.maximum(number, 1.0), 1.0)

    return shape
