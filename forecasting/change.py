"""Change points and flash crowds: errors far beyond the usual widen a forecast at once, and it narrows slowly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALARM = 4.0
"""Root mean square of the newest errors, in usual mean errors, from which a forecast is widened in proportion.

Of normal errors it is about 1.25, and above 4 less than once in ten thousand steps.
"""

FADE = 0.6
"""Weight of an error against the one a step later: the newest two or three decide."""

NARROWING = 0.85
"""What is left of a widening after one more step without cause."""

MOST = 4.0
"""Largest factor."""


def widening(errors: NDArray[np.float64], usual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the factor, from 1 to `MOST`, by which each service's quantiles are to be spread.

    `errors`, ``(services, steps)``, are the newest one-step errors (NaN: not known), `usual` the mean of absolute ones.
    """
    factor = np.ones(len(errors))
    square, mass = np.zeros((2, len(errors)))
    for error in errors.T:
        known = np.isfinite(error) & (usual > 0)
        unusual = np.where(known, np.minimum(np.abs(error) / np.where(known, usual, 1.0), 1e6), 0.0)
        square = np.where(known, FADE * square + unusual**2, square)
        mass = np.where(known, FADE * mass + 1.0, mass)
        # starting as if two usual errors had gone before, so that a single one is no alarm
        seen = np.sqrt((square + 2 * FADE) / (mass + 2 * FADE))
        factor = np.maximum(1 + (factor - 1) * NARROWING, np.clip(seen / ALARM, 1.0, MOST))
    return factor


def widened(
    lines: NDArray[np.float64], middle: NDArray[np.float64], factor: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Spread lines ``(services, levels, steps)`` from the middle by the factor that will be left at each step."""
    left = 1 + (factor[:, None] - 1) * NARROWING ** np.arange(middle.shape[1])
    spread: NDArray[np.float64] = middle[:, None, :] + (lines - middle[:, None, :]) * left[:, None, :]
    return spread
