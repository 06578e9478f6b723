"""What models look at: the measured past, and the origins in it from which they forecast to be judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from partita.kernels.blending import look_at, window_means

DAY_S = 86_400.0

HORIZONS = 7
"""Horizons at which forecasts are judged; what is found there is carried to those in between."""

Steps = NDArray[np.int64]

FEW = 8
"""A level asked for at less than this part of all steps is found for them alone."""

Parameters = tuple[NDArray[Any], ...]
"""What a model has chosen, by service or for all; empty where there is nothing to choose."""

Rule = Callable[[Steps, Steps], NDArray[np.float64]]
"""Expected counts ``(services, origins)`` so many steps after each origin, from what was known up to it.

An origin is the number of the last step known; how far ahead to look is given for each of them. A rule gives a finite
value everywhere.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """Counts ``(services, steps)``, NaN where not measured, and what models often need of them.

    `filled` carries the last measured count on (the first one backwards); `known` and `total` are running numbers and
    sums of what was measured, with a column of zeros before the first step. `day` is the number of steps in a day, 0
    where that is no whole number.
    """

    counts: NDArray[np.float64]
    filled: NDArray[np.float64]
    known: NDArray[np.float64]
    total: NDArray[np.float64]
    step_s: float
    day: int
    levels: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    """Levels found so far, by width."""

    @classmethod
    def of(cls, counts: NDArray[np.float64], step_s: float) -> Past:
        """Look at counts of steps of `step_s` seconds; every service has at least one measured."""
        counts = np.ascontiguousarray(counts)
        services, length = counts.shape
        filled, known, total = np.empty_like(counts), np.zeros((services, length + 1)), np.zeros((services, length + 1))
        look_at(counts, filled, known, total)
        return cls(counts, filled, known, total, step_s, whole_day(step_s))

    @property
    def length(self) -> int:
        """Steps in the past."""
        return int(self.counts.shape[1])

    def level(self, at: NDArray[np.int64], width: int) -> NDArray[np.float64]:
        """Return the mean of what was measured in the `width` steps up to each step; the last known where nothing was.

        Steps before the past count as the first one.
        """
        at = np.clip(at, 0, self.length - 1)
        if width == 1:
            return np.take(self.filled, at, axis=1)
        if width not in self.levels and len(at) < self.length // FEW:
            return self._level(at, width)
        return np.take(self.level_of_all(width), at, axis=1)

    def level_of_all(self, width: int) -> NDArray[np.float64]:
        """Return the level at every step: most models ask for the same few widths, from many origins."""
        if width == 1:
            return self.filled
        if width not in self.levels:
            self.levels[width] = self._level(np.arange(self.length), width)
        return self.levels[width]

    def _level(self, at: NDArray[np.int64], width: int) -> NDArray[np.float64]:
        means = np.empty((len(self.filled), len(at)))
        window_means(self.filled, self.known, self.total, at, width, means)
        return means

    def change(self, at: NDArray[np.int64], width: int) -> NDArray[np.float64]:
        """Return the mean absolute change from step to step over the `width` steps up to each step."""
        steps = np.abs(np.diff(self.filled, axis=1, prepend=self.filled[:, :1]))
        back = np.maximum(at[:, None] - np.arange(width), 0)
        change: NDArray[np.float64] = steps[:, back].mean(axis=2)
        return change


def whole_day(step_s: float) -> int:
    """Return the number of steps in a day, 0 where that is no whole number."""
    day = round(DAY_S / step_s)
    return day if day > 1 and abs(day * step_s - DAY_S) < 1e-6 * DAY_S else 0


def seasons_back(ahead: Steps, season: int) -> Steps:
    """Return how many seasons lie between a step so far ahead and the last one like it that is known."""
    return -(-ahead // season)


def spaced_horizons(steps: int) -> NDArray[np.int64]:
    """Return a few horizons from 1 to `steps`, at even ratios."""
    return np.unique(np.rint(np.geomspace(1, max(steps, 1), HORIZONS)).astype(np.int64))


class Model(Protocol):
    """A way to foretell counts, which may be looked at from any origin in the past."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def days(self) -> float:
        """Return the days of history below which it has nothing to say."""
        ...

    def learned(self, past: Past, steps: int) -> Parameters:
        """Choose parameters on the past, for forecasts of up to `steps` steps."""
        ...

    def rule(self, past: Past, parameters: Parameters) -> Rule:
        """Return how it foretells with these parameters, which an earlier part of the same past may have given."""
        ...


def fitted(model: Model, past: Past, steps: int) -> Rule:
    """Return how a model foretells with what it learns of the whole past."""
    return model.rule(past, model.learned(past, steps))
