"""What a forecaster may rest on: the measured part of a load series."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partita.errors import ForecastError
from partita.model.load import Load

LEAST_MEASURED = 2
"""Fewest measured steps a service needs: below that there is not one error to learn a spread from."""


def measured_counts(history: Load, window: int | None = None) -> NDArray[np.float64]:
    """Return the counts of the last `window` steps (None: all), NaN where a step was not measured.

    Raises ForecastError where a service has too few measured steps.
    """
    counts = history.counts if window is None else history.counts[:, -window:]
    counts = np.where(np.isfinite(counts), counts, np.nan)
    measured = np.isfinite(counts).sum(axis=1)
    if (measured < LEAST_MEASURED).any():
        row = int(np.argmin(measured))
        raise ForecastError(
            f"service {history.services[row]} has {measured[row]} measured steps of {history.step_s:g} s, "
            f"a forecast needs {LEAST_MEASURED}"
        )
    return counts
