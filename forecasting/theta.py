"""Exponential smoothing and Theta, over all services at once.

Source: Assimakopoulos and Nikolopoulos (2000), The theta model; Hyndman and Billah (2003) show that it is simple
exponential smoothing with half the slope of a line through the past as drift.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.forecasting.past import Parameters, Past, Rule, Steps, seasons_back
from partita.forecasting.smoothing import GRID, best_states, reach, states
from partita.kernels.blending import line_slopes

Shape = Callable[[Steps, Steps], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Exponential:
    """Exponential smoothing with a damped trend where one pays, each service under the best row of a small grid."""

    name: str = "exponential"

    def days(self) -> float:
        """Return the days of history it needs."""
        return 0.0

    def learned(self, past: Past, steps: int) -> Parameters:
        """Choose the rows."""
        return (_chosen(past.counts, steps),)

    def rule(self, past: Past, parameters: Parameters) -> Rule:
        """Return how it foretells."""
        (chosen,) = parameters
        level, trend = states(past.counts.T, chosen)

        def foretold(origins: Steps, ahead: Steps) -> NDArray[np.float64]:
            far, which = np.unique(ahead, return_inverse=True)
            carried = np.stack([reach(int(h), GRID[:, 2]) for h in far], axis=1)[chosen]
            expected: NDArray[np.float64] = level[:, origins] + trend[:, origins] * carried[:, which]
            return np.maximum(expected, 0.0)

        return foretold


@dataclass(frozen=True, slots=True)
class Theta:
    """Smoothing with half the slope as drift, of what is left when the shape of the last days is divided out."""

    name: str = "theta"
    times: int = 4

    def days(self) -> float:
        """Return the days of history it needs."""
        return 2.5

    def learned(self, past: Past, steps: int) -> Parameters:
        """Take out the shape and choose the rows."""
        return (_chosen(_plain(past, _shape(past, self.times)), min(steps, past.day // 6)),)

    def rule(self, past: Past, parameters: Parameters) -> Rule:
        """Return how it foretells."""
        (chosen,) = parameters
        shape = _shape(past, self.times)
        plain = _plain(past, shape)
        level, _ = states(plain.T, chosen)
        slope = np.empty_like(plain)
        line_slopes(plain, slope)

        def foretold(origins: Steps, ahead: Steps) -> NDArray[np.float64]:
            expected = level[:, origins] + 0.5 * ahead * slope[:, origins]
            return np.maximum(expected, 0.0) * shape(origins, ahead)

        return foretold


def _chosen(counts: NDArray[np.float64], steps: int) -> NDArray[np.int64]:
    """Choose the row of the grid for each of some counts ``(services, steps)``, best at 1 step and some more."""
    first = min(9, counts.shape[1] // 3)
    farthest = max(1, min(steps, counts.shape[1] - first - 8))
    _, _, chosen = best_states(counts.T, first, sorted({1, max(1, farthest // 3)}))
    return chosen


def _plain(past: Past, shape: Shape) -> NDArray[np.float64]:
    """Return the counts without the shape of the day."""
    every = np.arange(past.length)
    plain: NDArray[np.float64] = past.counts / shape(every, np.zeros_like(every))
    return plain


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
