"""What the global model sees of a series from an origin, and how far ahead: the same numbers whatever the load's size.

A count x is seen as z = ln((x + c) / (L + c)): L is the mean of the last day, c a tenth of that of the last week (a
tenth of L if larger) plus 1. So z is 0 at the level, about a relative change near it, and finite in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from partita.forecasting.history import measured_counts
from partita.forecasting.past import DAY_S, Past, Steps, seasons_back
from partita.model.load import Load

WEEK = 7
HOUR_S = 3600.0

SPARE = 0.1
"""Share of the level that is added to counts before the logarithm: below it, differences hardly matter to capacity."""

FARTHEST = 6.0
"""Largest distance from the level, either way, that an input may have: more than 400 times as much is all the same."""

DAYS = 4
"""Former days that are looked at, as in the blend."""

LATE_STEPS = 6
"""Steps whose mean change is the newest volatility, as in the bands."""

CHANGE_DAYS = 2
"""Days over which changes are averaged: two of every hour."""

STILL = 0.003
"""Of the level, what is added to changes before the logarithm."""

SKIP = 100.0
"""How much sooner the last value is taken than each other candidate, at one step ahead, before anything is learned.

It falls with the steps ahead: 0.92 of the median is the last value's at one step, half of it at eleven.
"""

QUIET = 0.05
"""Of the week's mean: a step with less is quiet. Load that is on or off is foretold by how often, and since when."""

MOST_NUMBERS = 400_000
"""Counts looked at in one part of the services: a dozen arrays of this size are in use at a time."""

Array = NDArray[np.float64]

CANDIDATES = ("last", "hour", "quarter day", "day", "yesterday", "days", "yesterday's course", "days' course", "week",
              "week's course")  # fmt: skip
"""Values that the model's median is mixed from."""


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What is seen of some series from some origins: arrays have first axes ``(services, origins)``.

    `rows`, ``(…, inputs)``, is what the network is given, `candidates`, ``(…, CANDIDATES)``, what it mixes, in units of
    z; `level` is L + c, `spare` is c. `unit`, ``(…, 2)``, is first that by which the median is shifted, then that by
    which quantiles are apart: the size of a usual change of z over so many steps. For the median just ahead it
    is the size of the newest changes, so that what stands still is foretold to. `skip` is how much sooner, as a logit,
    the last value is taken than others.
    """

    rows: NDArray[np.float32]
    candidates: NDArray[np.float32]
    unit: NDArray[np.float32]
    skip: NDArray[np.float32]
    level: Array
    spare: Array

    def scaled(self, counts: Array) -> Array:
        """Turn counts ``(services, origins)`` into z."""
        z: Array = np.log((np.maximum(counts, 0.0) + self.spare) / self.level)
        return z

    def counts(self, z: Array) -> Array:
        """Turn z, ``(services, origins, levels)``, back into counts."""
        counts: Array = self.level[..., None] * np.exp(np.clip(z, -FARTHEST, FARTHEST)) - self.spare[..., None]
        return np.maximum(counts, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Some of the services of a history, made ready to be looked at from many origins.

    `changed` are by lag (in steps) the running sums of absolute changes over so many steps; `day_high` and `week_high`
    the largest count of the day and the week up to each step; `quiet` is the running number of quiet steps, `loud` the
    number of the last step that was not.
    """

    past: Past
    start_s: float
    changed: Mapping[int, Array]
    day_high: Array
    week_high: Array
    quiet: Array
    loud: Steps

    @classmethod
    def of(cls, history: Load) -> View:
        """Look at a history; ForecastError if a service has fewer than two measured steps."""
        past = Past.of(measured_counts(history), history.step_s)
        every, day = np.arange(past.length), day_steps(history.step_s)
        hour = hour_steps(history.step_s)
        changed = {
            lag: running(np.abs(past.filled - past.filled[:, np.maximum(every - lag, 0)]))
            for lag in sorted({1, hour, max(1, day // 4), day})
        }
        silent = past.filled <= QUIET * past.level(every, WEEK * day)
        loud = np.maximum.accumulate(np.where(silent, 0, every), axis=1)
        return cls(
            past,
            history.start_s,
            changed,
            _highest(past.filled, day),
            _highest(past.filled, WEEK * day),
            running(silent.astype(np.float64)),
            loud,
        )

    def inputs(self, origins: Steps, ahead: Steps, reach: int) -> Inputs:
        """Return what is seen from each origin (the number of the last step known) of the step so far ahead of it.

        Steps farther ahead than `reach` are told to be at it: nothing was learned beyond.
        """
        past, day = self.past, day_steps(self.past.step_s)
        hour = hour_steps(past.step_s)
        level, week = past.level(origins, day), past.level(origins, WEEK * day)
        spare = 1.0 + SPARE * np.maximum(level, week)
        level = level + spare

        def scaled(counts: Array) -> Array:
            return np.clip(np.log((counts + spare) / level), -FARTHEST, FARTHEST)

        def seen(at: Steps) -> Array:
            return scaled(past.filled[:, np.maximum(at, 0)])

        late = [seen(origins - back) for back in range(3)]
        means = [scaled(past.level(origins, max(width, 1))) for width in (hour, day // 4)]
        newest = _mean_of(self.changed[1], origins, LATE_STEPS) / level
        usual = np.stack([_mean_of(each, origins, CHANGE_DAYS * day) for each in self.changed.values()]) / level
        usual = np.log(usual + 0.01)
        between = [np.interp(np.log(ahead), np.log(list(self.changed)), unit) for unit in np.eye(len(usual))]
        over = np.einsum("lso,lo->so", usual, np.array(between))
        quiet = [_mean_of(self.quiet, origins, width) for width in (hour, day, WEEK * day)]
        since = 0.3 * np.log1p((origins - self.loud[:, origins]) / hour)
        highest = [scaled(high[:, origins]) for high in (self.day_high, self.week_high)]
        days = [self._season(scaled, origins, ahead, day, hour, more) for more in range(DAYS)]
        weeks = self._season(scaled, origins, ahead, WEEK * day, hour, 0)
        known = np.stack([each[3] for each in days])
        share = np.maximum(known.sum(axis=0), 1.0)
        near, course = (sum((each[i] for each in days), np.zeros_like(level)) / share for i in (0, 1))
        seasonal = [*days[0][:3], *days[1][:2], near, course, *weeks[:2]]
        candidates = [
            late[0], *means, np.zeros_like(level), days[0][0], near, means[0] + days[0][1], means[0] + course,
            weeks[0], means[0] + weeks[1],
        ]  # fmt: skip
        flat = [known[0], known.sum(axis=0) / DAYS, weeks[3], *self._calendar(origins, ahead, day, reach)]
        columns = [*late, *means, scaled(week), *highest, np.log(newest + 0.01), *usual, over]
        columns += [*quiet, since, *seasonal]
        columns += [0.2 * np.log(level), *(np.broadcast_to(each, level.shape) for each in flat)]
        near = LATE_STEPS / (LATE_STEPS + ahead)
        still = near * np.log(newest + STILL) + (1 - near) * over
        return Inputs(
            _stacked(columns),
            _stacked(candidates),
            np.exp(np.minimum(np.stack([still, over], axis=-1), 0.0)).astype(np.float32),
            np.broadcast_to(np.log(SKIP / ahead), level.shape).astype(np.float32),
            level,
            spare,
        )

    def _season(
        self, scaled: object, origins: Steps, ahead: Steps, season: int, hour: int, more: int
    ) -> tuple[Array, Array, Array, Array]:
        """Return, of the last season that is known (or of one so many before it), what was there and if it is known.

        The hour about the target's time, how far that lies above the hour up to the origin's time, and the target's
        step itself; all 0 where the history does not reach back so far, or has no days.
        """
        assert callable(scaled)
        back = (np.maximum(seasons_back(ahead, season), 1) + more) * season
        target, before = origins + ahead - back, origins - back
        known = ((before >= 0) & (self.past.day > 0)).astype(np.float64)
        # the hour about the target must not reach beyond the origin
        middle = np.minimum(target + hour // 2, origins)
        there = scaled(self.past.level(middle, hour)) * known
        rise = there - scaled(self.past.level(before, hour)) * known
        return there, rise, scaled(self.past.filled[:, np.maximum(target, 0)]) * known, known

    def _calendar(self, origins: Steps, ahead: Steps, day: int, reach: int) -> list[Array]:
        """Return the time of day and of week of the target, as waves, and how far ahead it lies."""
        at_s = self.start_s + (origins + ahead + 0.5) * self.past.step_s
        turns = [(at_s / DAY_S, 1), (at_s / DAY_S, 2), (at_s / DAY_S / WEEK, 1)]
        waves = [wave(2 * np.pi * times * (turn % 1.0)) for turn, times in turns for wave in (np.sin, np.cos)]
        told = np.minimum(ahead, reach)
        return [*waves, 0.3 * np.log(told), told / day]


def day_steps(step_s: float) -> int:
    """Return about how many steps a day has, at least one."""
    return max(1, round(DAY_S / step_s))


def hour_steps(step_s: float) -> int:
    """Return about how many steps an hour has, at least one."""
    return max(1, round(HOUR_S / step_s))


def running(values: Array) -> Array:
    """Return running sums along the steps, with a column of zeros before the first."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _mean_of(sums: Array, origins: Steps, width: int) -> Array:
    """Return the mean of the `width` steps up to each origin, from running sums."""
    since = np.maximum(origins + 1 - width, 0)
    mean: Array = np.maximum(sums[:, origins + 1] - sums[:, since], 0.0) / (origins + 1 - since)
    return mean


def parts(history: Load, most: int = MOST_NUMBERS) -> Iterator[tuple[slice, Load]]:
    """Cut a history into parts of whole services with about so many counts each."""
    many = max(1, most // max(history.counts.shape[1], 1))
    for first in range(0, len(history.services), many):
        rows = slice(first, first + many)
        yield rows, Load(history.services[rows], history.start_s, history.step_s, history.counts[rows])


def _highest(filled: Array, width: int) -> Array:
    """Return the largest of the `width` steps up to each step."""
    width = min(width, filled.shape[1])
    highest: Array = ndimage.maximum_filter1d(filled, width, axis=1, mode="nearest", origin=(width - 1) // 2)
    return highest


def _stacked(columns: list[Array]) -> NDArray[np.float32]:
    stacked = np.empty((*columns[0].shape, len(columns)), np.float32)
    for i, column in enumerate(columns):
        stacked[..., i] = column
    return stacked
