"""The naive family: the level of late, the same time of former days, and former days' curves at the level of late."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.forecasting.past import Parameters, Past, Rule, Steps, seasons_back
from partita.kernels.blending import ratio_medians

MOST_RATIO = 4.0
"""Largest factor, up or down, by which a former day's curve is brought to the level of late."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The mean of the last `width` measured steps."""

    name: str = "last"
    width: int = 1

    @property
    def about(self) -> str:
        """What it is in a line."""
        return "the last measured step" if self.width == 1 else f"the mean of the last {self.width} measured steps"

    def days(self) -> float:
        """Return the days of history it needs."""
        return 0.0

    def learned(self, past: Past, steps: int) -> Parameters:
        """Choose nothing."""
        return ()

    def rule(self, past: Past, parameters: Parameters) -> Rule:
        """Return how it foretells."""
        return lambda origins, _ahead: past.level(origins, self.width)


@dataclass(frozen=True, slots=True)
class SameTime:
    """The mean of the same time of the last `times` seasons of `period` days."""

    name: str = "day"
    period: int = 1
    times: int = 1

    @property
    def about(self) -> str:
        """What it is in a line."""
        season = {1: "day", 7: "week"}.get(self.period, f"{self.period} days")
        if self.times > 1:
            return f"the mean of the same time of the last {self.times} {season}s"
        return f"the same time of the last {season}"

    def days(self) -> float:
        """Return the days of history it needs: one season to repeat, and half of one to be judged on."""
        return 1.5 * self.period if self.times == 1 else self.times + 1.0

    def learned(self, past: Past, steps: int) -> Parameters:
        """Choose nothing."""
        return ()

    def rule(self, past: Past, parameters: Parameters) -> Rule:
        """Return how it foretells."""
        season = past.day * self.period

        def foretold(origins: Steps, ahead: Steps) -> NDArray[np.float64]:
            total, number = np.zeros((2, past.counts.shape[0], len(origins)))
            for back in range(self.times):
                value = former(past, origins + ahead - (seasons_back(ahead, season) + back) * season)
                known = np.isfinite(value)
                total += np.where(known, value, 0.0)
                number += known
            return np.where(number > 0, total / np.maximum(number, 1.0), past.level(origins, 1))

        return foretold


@dataclass(frozen=True, slots=True)
class LevelRatio:
    """The curve of each of the last `times` days times the ratio of the level of late to that of then; their median.

    The level is the mean over `width_s` seconds (at least one step). A little is added to both levels, so that silence
    then does not make an explosion now.
    """

    name: str = "ratio"
    width_s: float = 3600.0
    times: int = 1

    @property
    def about(self) -> str:
        """What it is in a line."""
        days = "the last day's curve" if self.times == 1 else f"the median of the last {self.times} days' curves"
        return f"{days} at the level of the last {self.width_s / 3600:g} h"

    def days(self) -> float:
        """Return the days of history it needs."""
        return 1.5 if self.times == 1 else self.times + 1.0

    def learned(self, past: Past, steps: int) -> Parameters:
        """Choose nothing."""
        return ()

    def rule(self, past: Past, parameters: Parameters) -> Rule:
        """Return how it foretells."""
        width = max(1, round(self.width_s / past.step_s))

        def foretold(origins: Steps, ahead: Steps) -> NDArray[np.float64]:
            spare = 1.0 + 0.05 * past.level(origins, past.day)
            medians, curves = np.empty((len(past.counts), len(origins))), np.empty(self.times)
            level = past.level_of_all(width)
            ratio_medians(past.counts, level, spare, origins, ahead, past.day, MOST_RATIO, curves, medians)
            return np.where(np.isfinite(medians), medians, past.level(origins, 1))

        return foretold


def former(past: Past, steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the counts of former steps; NaN before the past and where nothing was measured."""
    value = np.take(past.counts, np.maximum(steps, 0), axis=1)
    value[:, steps < 0] = np.nan
    return value
