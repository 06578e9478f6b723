"""What the operator knows and the log cannot: events to come, holidays, and bounds that always hold.

In the order in which they apply: a holiday takes the rates of another day, factors multiply, of floors the highest and
then of ceilings the lowest counts. What has passed must not be learned as if it came again: the counts of a past event
are divided by its factor before any model sees them, and a past holiday counts as not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import inf

import numpy as np
from numpy.typing import NDArray

from partita.model.load import Forecast, Load

WEEK_S = 7 * 86_400.0
WEEKS_BACK = 4
"""Weeks in which a holiday looks for the day that it is like: one may be a holiday itself, or not be measured."""

AROUND_S = 1800.0
"""Half of what the rate of a former day is the mean over: a few requests in one step make no shape."""

LATE_S, LATE_STEPS = 3600.0, 6
"""What of a holiday stays in a history while it is so new: it says how high the load is now."""

MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class Event:
    """One entry: what becomes of the load of services that match a pattern, from `from_s` until before `to_s`.

    A holiday takes the rates of `back_s` before (0: it is none), or of one more `week_s` before where those are
    unknown.
    """

    name: str
    services: tuple[str, ...] = ("*",)
    from_s: float = -inf
    to_s: float = inf
    factor: float = 1.0
    floor_rps: float = 0.0
    ceiling_rps: float = inf
    back_s: float = 0.0
    week_s: float = WEEK_S

    def rows(self, services: Sequence[str]) -> NDArray[np.bool_]:
        """Say which services it is about."""
        return np.array([any(fnmatchcase(s, pattern) for pattern in self.services) for s in services], np.bool_)

    def inside(self, start_s: float, step_s: float, steps: int) -> NDArray[np.float64]:
        """Return the part of each step that lies in it, 0 to 1."""
        begin = start_s + step_s * np.arange(steps)
        shared = np.minimum(begin + step_s, self.to_s) - np.maximum(begin, self.from_s)
        part: NDArray[np.float64] = np.clip(shared / step_s, 0.0, 1.0)
        return part


@dataclass(frozen=True, slots=True)
class Calendar:
    """All entries; without any, histories and forecasts stay as they are."""

    events: tuple[Event, ...] = ()

    def cleaned(self, history: Load) -> Load:
        """Return a history as it would have been without past events."""
        counts, steps = history.counts, history.counts.shape[1]
        for event in self.events:
            if not _touches(event, history):
                continue
            rows, inside = event.rows(history.services), event.inside(history.start_s, history.step_s, steps)
            if event.factor != 1.0:
                counts = np.where(rows[:, None], counts / _factor(event, inside), counts)
            if event.back_s:
                counts = np.where(rows[:, None] & _forgotten(event, history), np.nan, counts)
        return history if counts is history.counts else replace(history, counts=counts)

    def applied(self, made: Forecast, history: Load) -> Forecast:
        """Return a forecast with the entries applied to it; its model's text names those that had an effect.

        `history` is the one that it was made from.
        """
        told = dict[str, str]()
        changed = self._shaped(made, history, told)
        for change, effect in _STAGES:
            for event in self.events:
                rps = change(event, changed)
                if not np.array_equal(rps, changed.rps):
                    told[event.name] = f"{told.get(event.name, event.name)} {effect(event)}"
                    changed = replace(changed, rps=rps)
        for event in self.events:
            forgotten = event.factor != 1.0 or _forgotten(event, history).any()
            if event.name not in told and forgotten and _touches(event, history):
                told[event.name] = f"{event.name} taken out of the past"
        if not told:
            return made
        more = f" and {len(told) - MOST_NAMED} more" if len(told) > MOST_NAMED else ""
        return replace(changed, model=f"{made.model}; calendar: {', '.join([*told.values()][:MOST_NAMED])}{more}")

    def _shaped(self, made: Forecast, history: Load, told: dict[str, str]) -> Forecast:
        """Return a forecast with the rates of holidays, and tell of those that there are."""
        for event in self.events:
            rps = _shaped(event, made, history) if event.back_s else made.rps
            if not np.array_equal(rps, made.rps):
                told[event.name] = f"{event.name} like {7 * event.back_s / event.week_s:g} days before"
                made = replace(made, rps=rps)
        return made


# What an entry does to a forecast -------------------------------------------------------------------------------------


def _in_forecast(event: Event, made: Forecast) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Say which rows of a forecast an entry is about, and which part of each step."""
    return event.rows(made.services), event.inside(made.made_at_s, made.step_s, made.rps.shape[2])


def _shaped(event: Event, made: Forecast, history: Load) -> NDArray[np.float64]:
    """Give the steps of a holiday the rates of the day that it is like; quantiles keep their distance, as shares."""
    rows, inside = _in_forecast(event, made)
    rps, middle = made.rps.copy(), made.quantile(0.5)
    for step in np.flatnonzero(inside >= 0.5):
        former = _former(event, history, made.made_at_s + step * made.step_s)
        was = middle[:, step]
        scaled = rps[:, :, step] * (former / np.where(was > 0, was, 1.0))[:, None]
        moved = np.maximum(rps[:, :, step] + (former - was)[:, None], 0.0)
        like = np.where(((was > 0) & (former > 0))[:, None], scaled, moved)
        rps[:, :, step] = np.where((rows & np.isfinite(former))[:, None], like, rps[:, :, step])
    return rps


def _former(event: Event, history: Load, at_s: float) -> NDArray[np.float64]:
    """Return the rates around the same time of the day that a holiday is like; NaN where they are unknown."""
    around, length = max(0, round(AROUND_S / history.step_s)), history.counts.shape[1]
    found = np.full(len(history.services), np.nan)
    for week in range(WEEKS_BACK):
        place = round((at_s - event.back_s - week * event.week_s - history.start_s) / history.step_s)
        if not 0 <= place < length:
            continue
        near = history.counts[:, max(0, place - around) : place + around + 1]
        known = np.isfinite(near)
        number = known.sum(axis=1)
        mean = np.where(number > 0, np.where(known, near, 0.0).sum(axis=1) / np.maximum(number, 1), np.nan)
        found = np.where(np.isfinite(found), found, mean / history.step_s)
    return found


def _multiplied(event: Event, made: Forecast) -> NDArray[np.float64]:
    if event.factor == 1.0:
        return made.rps
    rows, inside = _in_forecast(event, made)
    return np.where(rows[:, None, None], made.rps * _factor(event, inside), made.rps)


def _raised(event: Event, made: Forecast) -> NDArray[np.float64]:
    """Hold the floor in every step that the entry touches."""
    rows, inside = _in_forecast(event, made)
    floor = np.where(rows[:, None, None] & (inside > 0), event.floor_rps, 0.0)
    raised: NDArray[np.float64] = np.maximum(made.rps, floor)
    return raised


def _capped(event: Event, made: Forecast) -> NDArray[np.float64]:
    """Hold the ceiling in every step that lies wholly in the entry."""
    rows, inside = _in_forecast(event, made)
    ceiling = np.where(rows[:, None, None] & (inside >= 1), event.ceiling_rps, inf)
    capped: NDArray[np.float64] = np.minimum(made.rps, ceiling)
    return capped


def _factor(event: Event, inside: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the factor of steps that lie in an event in part."""
    return 1.0 + inside * (event.factor - 1.0)


def _forgotten(event: Event, history: Load) -> NDArray[np.bool_]:
    """Say which steps of a history are those of a holiday, but for the latest."""
    steps = history.counts.shape[1]
    if not event.back_s:
        return np.zeros(steps, np.bool_)
    late = max(LATE_STEPS, round(LATE_S / history.step_s))
    old: NDArray[np.bool_] = np.arange(steps) < steps - late
    return old & (event.inside(history.start_s, history.step_s, steps) > 0)


def _touches(event: Event, history: Load) -> bool:
    inside = event.inside(history.start_s, history.step_s, history.counts.shape[1])
    return bool(inside.any() and event.rows(history.services).any())


_Change = Callable[[Event, Forecast], NDArray[np.float64]]

_STAGES: tuple[tuple[_Change, Callable[[Event], str]], ...] = (
    (_multiplied, lambda e: f"×{e.factor:g}"),
    (_raised, lambda e: f"≥{e.floor_rps:g}/s"),
    (_capped, lambda e: f"≤{e.ceiling_rps:g}/s"),
)
"""What is done to a forecast after holidays, in this order, and how it is told."""

NO_CALENDAR = Calendar()
