"""The blend: what a handful of models foretell, combined by how they have done, with quantiles from its own errors.

What takes long to learn (parameters, weights, bands) is learned anew every `renewed` steps, on the history up to then;
every forecast takes it up with the newest counts. Which step that is follows from the time alone, so the same rows give
the same forecast, live and in replay; what was learned last is kept only to save learning it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from partita.forecasting.bands import (
    FULL_LEVEL,
    LATE_STEPS,
    MANY_ERRORS,
    Band,
    errors_so_far,
    learn,
    spread_lines,
    unit_features,
)
from partita.forecasting.change import widened, widening
from partita.forecasting.history import LEAST_MEASURED, measured_counts
from partita.forecasting.judging import fitting, judge, what_came
from partita.forecasting.naive import LevelRatio, Recent, SameTime
from partita.forecasting.origins import DENSE, MOST_ORIGINS, judged_horizons
from partita.forecasting.past import DAY_S, HORIZONS, Model, Parameters, Past, Rule, whole_day
from partita.forecasting.quantiles import LEVELS, between, sound_forecast
from partita.forecasting.regression import Autoregression
from partita.forecasting.theta import Exponential, Theta
from partita.forecasting.weights import middle
from partita.model.load import Forecast, Load

LATE: tuple[Model, ...] = (
    Recent(),
    Recent("mean-3", 3),
    Recent("mean-6", 6),
    Recent("mean-12", 12),
    Exponential(),
)
"""Models that know no cycle."""

SEASONAL: tuple[Model, ...] = (
    SameTime(),
    SameTime("days-4", 1, 4),
    SameTime("week", 7),
    LevelRatio(),
    LevelRatio("ratio-4", 3600.0, 4),
    LevelRatio("ratio-4-6h", 6 * 3600.0, 4),
    LevelRatio("ratio-4-day", DAY_S, 4),
    Theta(),
    Autoregression(),
)
"""Models that look at former days."""

SHORT = 4
"""A history of less than so many renewals is learned whole at every forecast: there is little of it, all of it new."""


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """What a blend has learned of the first `length` steps of a past, for some steps and levels.

    `middles` holds what was foretold at each of the horizons `at` from each of the `origins`; `weights`,
    ``(models, services)``, and `bands` are by horizon.
    """

    members: tuple[Model, ...]
    parameters: tuple[Parameters, ...]
    length: int
    at: tuple[int, ...]
    origins: NDArray[np.int64]
    middles: tuple[NDArray[np.float64], ...]
    weights: tuple[NDArray[np.float64], ...]
    bands: tuple[Band, ...]
    proven: NDArray[np.bool_]
    """Services with errors enough at every horizon to go by them alone."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """What was learned last, and what from."""

    asked: tuple[int, tuple[float, ...], float]
    counts: NDArray[np.float64]
    lessons: Lessons


@dataclass(frozen=True, slots=True)
class Blend:
    """A combination of models, weighted by service and horizon, and calibrated on its own past errors."""

    name: str = "blend"
    members: tuple[Model, ...] = (*LATE, *SEASONAL)
    horizons: int = HORIZONS
    origins: int = MOST_ORIGINS
    window: int | None = None
    """Newest steps that it learns from; None: all."""
    renewed: int = 36
    """Steps after which it learns anew."""
    together: int = 2_000
    """Services learned together, which tell of each other; more are taken in parts, each learning in its own step.

    That bounds memory, and what a single forecast takes.
    """
    about: str = ""
    """What it is in a line, where that says more than its class."""
    _kept: dict[tuple[str, ...], _Kept] = field(default_factory=dict, init=False, compare=False, repr=False)
    """What each group of services has learned last."""

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Forecast `steps` steps after the history; ForecastError if a service has fewer than two measured steps."""
        rps = np.empty((len(history.services), len(levels), steps))
        groups = self._groups(history)
        learned, history_s = [], 0.0
        for rows, phase in groups:
            made, lessons = self._forecast(_part(history, rows), phase, steps, levels)
            rps[rows], history_s = made.rps, made.history_s
            learned.append(lessons)
        now = {tuple(history.services[n] for n in rows) for rows, _ in groups}
        for gone in [services for services in self._kept if services not in now]:
            del self._kept[gone]
        model = self._explain(learned, history) if learned else self.name
        return Forecast(history.services, history.end_s, history.step_s, tuple(levels), rps, model, history_s)

    def _groups(self, history: Load) -> list[tuple[NDArray[np.int64], int]]:
        """Return which services are learned together, and how many steps before a renewal.

        Those that were first measured since then go by themselves, and are learned whole until the next: a newcomer
        must not make all the others be learned anew at every step.
        """
        services = np.arange(len(history.services))
        groups = []
        parts = np.array_split(services, max(1, -(-len(services) // self.together)))
        for n, rows in enumerate(parts):
            phase = self.renewed * n // len(parts)
            late = self._late(history, phase)
            known = np.isfinite(history.counts[rows, : history.counts.shape[1] - late]).sum(axis=1) >= LEAST_MEASURED
            groups += [(some, phase) for some in (rows[known], rows[~known]) if len(some)]
        return groups

    def _late(self, history: Load, phase: int) -> int:
        """Return the steps since the last renewal; 0 where the history is so short that all of it is learned."""
        late = (round(history.end_s / history.step_s) + phase) % self.renewed
        return late if history.counts.shape[1] - late >= SHORT * self.renewed else 0

    def _forecast(self, history: Load, phase: int, steps: int, levels: Sequence[float]) -> tuple[Forecast, Lessons]:
        """Forecast services that are learned together; return what was learned too."""
        counts, learned_from = self.seen(history, phase)
        wanted = np.unique(np.append(np.asarray(levels, dtype=np.float64), FULL_LEVEL))
        lessons = self._learned(counts[:, :learned_from], history, steps, wanted)
        past = Past.of(counts, history.step_s)
        rules = [m.rule(past, p) for m, p in zip(lessons.members, lessons.parameters, strict=True)]
        expected = _foretell(past, rules, lessons, steps)
        recent, usual, newest = _late_errors(past, rules, lessons)
        lines = _carry(past, lessons, expected, (recent, usual), wanted)
        lines = widened(lines, expected, widening(newest, usual[:, 0]))
        made = sound_forecast(
            history,
            expected,
            lines[:, np.searchsorted(wanted, levels)],
            levels=levels,
            model=self.name,
            used_steps=past.length,
            proven=lessons.proven,
        )
        return made, lessons

    def seen(self, history: Load, phase: int = 0) -> tuple[NDArray[np.float64], int]:
        """Return the counts that it looks at, and how many of their first steps it learns from.

        Those end `phase` steps before a multiple of `renewed` steps since time zero, and begin where all histories up
        to the next such step reach back to, however they were cut. All is learned from where a service was not
        measured twice there.
        """
        counts = measured_counts(history)
        late, length, unit = self._late(history, phase), counts.shape[1], SHORT * self.renewed
        held = min(length - late, self.window or length)
        if self.window is None and length > 2 * SHORT * unit:
            # a history that drops a step for each new one is still cut at the same step until the next renewal
            held = (length - self.renewed + 1) // unit * unit
        taken = counts[:, -(held + late) :]
        if (np.isfinite(taken[:, :held]).sum(axis=1) < LEAST_MEASURED).any():
            return counts, length
        return taken, held

    def _learned(self, counts: NDArray[np.float64], history: Load, steps: int, levels: NDArray[np.float64]) -> Lessons:
        asked, kept = (steps, tuple(levels.tolist()), history.step_s), self._kept.get(history.services)
        if kept is not None and kept.asked == asked and _same(kept.counts, counts):
            return kept.lessons
        lessons = self._learn(Past.of(counts, history.step_s), steps, levels)
        self._kept[history.services] = _Kept(asked, counts.copy(), lessons)
        return lessons

    def _learn(self, past: Past, steps: int, levels: NDArray[np.float64]) -> Lessons:
        members = fitting(self.members, past)
        parameters = tuple(model.learned(past, steps) for model in members)
        rules = [m.rule(past, p) for m, p in zip(members, parameters, strict=True)]
        judged, weights = judge(past, rules, judged_horizons(steps, past, self.horizons), self.origins)
        size = past.total[:, -1] / past.known[:, -1] + 0.05
        return Lessons(
            members,
            parameters,
            past.length,
            tuple(j.ahead for j in judged),
            judged[0].origins,
            tuple(j.middle for j in judged),
            tuple(weights),
            tuple(learn(j, levels, size) for j in judged),
            (np.isfinite(judged[-1].came).sum(axis=1) >= MANY_ERRORS),
        )

    def _explain(self, learned: Sequence[Lessons], history: Load) -> str:
        """Say who leads at the next step, and what the history was too short for."""
        leads = Counter(o.members[i].name for o in learned for i in np.argmax(o.weights[0], axis=0))
        first = ", ".join(f"{name} leads for {number}" for name, number in leads.most_common(3))
        members = learned[0].members
        text = f"{self.name} of {len(members)} models: {first}" if len(members) > 1 else members[0].name
        missing = [model for model in self.members if model not in members]
        if missing:
            days = learned[0].length * history.step_s / DAY_S
            need = min(model.days() for model in missing)
            why = f"the history of {days:.2f} days is too short for {len(missing)} models (the first needs {need:g})"
            whole = whole_day(history.step_s)
            text += f"; {why if whole else 'no daily cycle: a day is no whole number of steps'}"
        return text


def _same(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Say whether counts are the same to the last bit; what is missing is missing in both."""
    return one.shape == other.shape and np.array_equal(one.view(np.int64), other.view(np.int64))


def _part(history: Load, rows: NDArray[np.int64]) -> Load:
    return replace(history, services=tuple(history.services[n] for n in rows), counts=history.counts[rows])


def _foretell(past: Past, rules: Sequence[Rule], lessons: Lessons, steps: int) -> NDArray[np.float64]:
    """Combine what the rules foretell from the newest step; weights are linear between the horizons judged."""
    ahead = np.arange(1, steps + 1)
    newest = np.full_like(ahead, past.length - 1)
    expected = np.stack([rule(newest, ahead) for rule in rules])
    weight = np.stack(lessons.weights, axis=-1) @ between(np.asarray(lessons.at), ahead)
    return middle(expected, weight, np.arange(steps))


def _late_errors(
    past: Past, rules: Sequence[Rule], lessons: Lessons
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the recent and the usual mean error at each horizon judged, ``(services, horizons)``, as known by now.

    And the newest errors at the first of them, ``(services, steps)``. Steps after the lessons count for the recent one.
    """
    since = np.arange(lessons.length, past.length)
    day, now = float(past.day or lessons.length), np.array([past.length - 1])
    recent, usual, first = [], [], None
    for h, kept, weight in zip(lessons.at, lessons.middles, lessons.weights, strict=True):
        foretold, origins = kept, lessons.origins
        if len(since):
            expected = np.stack([rule(since, np.full_like(since, h)) for rule in rules])
            late = middle(expected, weight[:, :, None], np.zeros_like(since))
            foretold, origins = np.hstack([kept, late]), np.concatenate([origins, since])
        came = what_came(past, origins, h)
        then = slice(None, len(lessons.origins))
        lately, _ = errors_so_far(foretold, came, origins, h, day, now)
        _, usually = errors_so_far(kept, came[:, then], origins[then], h, day, now)
        recent.append(lately[:, 0])
        usual.append(usually[:, 0])
        first = (came - foretold)[:, -DENSE - 1 :] if first is None else first
    assert first is not None, "there is a horizon of one step at least"
    return np.stack(recent, axis=1), np.stack(usual, axis=1), first


def _known(quantiles: Sequence[NDArray[np.float64] | None]) -> list[NDArray[np.float64]]:
    """Take the quantiles of the horizon before where errors are too few for a line; its weight is nought there."""
    found: list[NDArray[np.float64]] = []
    for own in quantiles:
        found.append(found[-1] if own is None else own)
    return found


def _carry(
    past: Past,
    lessons: Lessons,
    expected: NDArray[np.float64],
    errors: tuple[NDArray[np.float64], NDArray[np.float64]],
    levels: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Carry the bands from the horizons judged to every step; beyond the last they grow with its root."""
    at, ahead, bands = np.array(lessons.at), np.arange(1, expected.shape[1] + 1), lessons.bands
    share = between(at, ahead)
    recent, usual = (each @ share for each in errors)
    late = past.change(np.array([past.length - 1]), LATE_STEPS)
    names, nought = bands[0].quantiles, np.zeros_like(bands[0].weights["flat"])
    carried = Band(
        {name: np.stack(_known([b.quantiles.get(name) for b in bands]), axis=-1) @ share for name in names},
        {name: np.stack([b.weights.get(name, nought) for b in bands], axis=-1) @ share for name in names},
        np.stack([b.mix for b in bands], axis=-1) @ share,
        np.stack([b.tail for b in bands], axis=-1) @ share,
        np.stack([b.stretch for b in bands], axis=-1) @ share,
    )
    lines = spread_lines(carried, expected, unit_features(expected, recent, usual, late), levels)
    grown = np.sqrt(np.maximum(ahead / at[-1], 1.0))
    carried_on: NDArray[np.float64] = expected[:, None, :] + (lines - expected[:, None, :]) * grown
    return carried_on
