"""Where in the past models are made to forecast, so that they can be judged by what came."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partita.forecasting.past import Past
from partita.forecasting.quantiles import LEAST_ERRORS

MOST_ORIGINS = 288
"""Origins judged: twelve a day over the window, which keeps a thousand series within seconds."""

WINDOW_DAYS = 10.0
"""Days before the newest step in which origins lie: more than a week, so that every weekday is among them."""

CLEAR = 8
"""Part of a day by which judged horizons keep clear of whole days."""

DENSE = 16
"""Newest origins, one a step, from which a change is seen at once."""


def judged_horizons(steps: int, past: Past, number: int) -> NDArray[np.int64]:
    """Choose at most `number` horizons, at even ratios from 1, at which a past can be judged.

    The farthest leaves errors enough to learn from, and never less than two thirds of the history as past. None is
    close to whole days: there the last value is that of the same time, and looks good for all the hours between.
    """
    farthest = max(1, min(steps, past.length - LEAST_ERRORS, max(past.length // 3, 1)))
    chosen = np.rint(np.geomspace(1, farthest, number)).astype(np.int64)
    if past.day:
        near = past.day // CLEAR
        over = (chosen + near) % past.day
        chosen = np.where((chosen + near >= past.day) & (over < 2 * near), chosen - over, chosen)
    return np.unique(chosen)


def judged_origins(past: Past, most: int) -> NDArray[np.int64]:
    """Choose the origins, rising; the last one is the newest step, from which the forecast itself is made.

    They are spread evenly over the window and dense at its end. A third of the history, or a day, is left before
    them, where there is that much.
    """
    newest = past.length - 1
    spare = min(past.length // 3, past.day) if past.day else past.length // 4
    window = int(WINDOW_DAYS * past.day) if past.day else past.length
    first = max(spare, newest - max(window, most))
    stride = max(1, -(-(newest - first) // most))
    if 0 < past.day < newest - first and stride > 1 and past.day % stride == 0:
        # a stride that divides the day would see only some times of it
        stride += 1
    spread = np.arange(newest, first - 1, -stride)
    dense = np.arange(max(first, newest - DENSE), newest + 1)
    return np.unique(np.concatenate((spread, dense)))
