"""A linear autoregression learned over all services at once: late counts, the same time of former days, daily waves.

Everything is taken in units of a service's own level of the last day, so that one small set of coefficients serves all;
they are the ridge solution in closed form, one set for each of a few horizons and in between linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.forecasting.past import Parameters, Past, Rule, Steps, seasons_back, spaced_horizons

MOST_ROWS = 20_000
"""Rows that coefficients are learned from: many more than coefficients, few enough to cost milliseconds."""

LARGEST = 8.0
"""Counts above so many times the level of the day are taken for that much: squares would see nothing else."""


@dataclass(frozen=True, slots=True)
class Autoregression:
    """Ridge regression on late counts, former days and daily waves, pooled over services."""

    name: str = "autoregression"
    ridge: float = 1e-3

    def days(self) -> float:
        """Return the days of history it needs."""
        return 3.0

    def learned(self, past: Past, steps: int) -> Parameters:
        """Learn the coefficients at a few horizons."""
        unit = past.level(np.arange(past.length), past.day) + 1.0
        at = spaced_horizons(min(steps, past.length // 3))
        return at, np.stack([self._learn(past, unit, int(h)) for h in at])

    def rule(self, past: Past, parameters: Parameters) -> Rule:
        """Return how it foretells: between the horizons learned at, coefficients are linear."""
        at, learned = parameters

        def foretold(origins: Steps, ahead: Steps) -> NDArray[np.float64]:
            weights = np.array([np.interp(ahead, at, learned[:, i]) for i in range(learned.shape[1])])
            unit = past.level(origins, past.day) + 1.0
            expected = np.einsum("fo,fso->so", weights, _features(past, unit, origins, ahead))
            scaled: NDArray[np.float64] = np.maximum(expected, 0.0) * unit
            return scaled

        return foretold

    def _learn(self, past: Past, unit: NDArray[np.float64], ahead: int) -> NDArray[np.float64]:
        """Solve for one horizon, on origins spread evenly over the past from the second day on."""
        last = past.length - ahead
        first = min(2 * past.day, last - 1)
        number = max(1, min(last - first, MOST_ROWS // past.counts.shape[0]))
        origins = np.unique(np.linspace(first, last - 1, number).astype(np.int64))
        features = _features(past, unit[:, origins], origins, np.full_like(origins, ahead))
        came = past.counts[:, origins + ahead] / unit[:, origins]
        known = np.isfinite(came)
        rows, wanted = features[:, known], np.minimum(came[known], LARGEST)
        gram = rows @ rows.T
        shrink = self.ridge * max(float(np.trace(gram)) / len(gram), 1.0)
        return np.asarray(np.linalg.solve(gram + shrink * np.eye(len(gram)), rows @ wanted), dtype=np.float64)


def _features(past: Past, level: NDArray[np.float64], origins: Steps, ahead: Steps) -> NDArray[np.float64]:
    """Return what the coefficients multiply, ``(features, services, origins)``, in units of the level."""
    day = past.day
    hour = max(1, round(3600.0 / past.step_s))
    late = [past.filled[:, np.maximum(origins - back, 0)] for back in (0, 1, 2)]
    late += [past.level(origins, width) for width in (hour, 6 * hour)]
    back = seasons_back(ahead, day)
    for k in (back, back + 1):
        at = origins + ahead - k * day
        late += [past.filled[:, np.maximum(at, 0)], past.level(at, hour), past.level(origins - k * day, hour)]
    scaled = [np.minimum(each / level, LARGEST) for each in late]
    turn = 2 * np.pi * (((origins + ahead) % day) / day)
    waves = [np.broadcast_to(wave(k * turn), level.shape) for k in (1, 2) for wave in (np.sin, np.cos)]
    return np.stack([np.ones_like(level), *scaled, *waves])
