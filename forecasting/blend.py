"""The blend: what a handful of models foretell, combined by how they have done, with quantiles from its own errors.

Stateless: everything is judged anew on the history given, from origins inside it, so the same rows give the same
forecast live and in replay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.forecasting.bands import (
    FULL_LEVEL,
    LATE_STEPS,
    Band,
    Judged,
    errors_so_far,
    learn,
    spread_lines,
    unit_features,
)
from partita.forecasting.change import widened, widening
from partita.forecasting.history import measured_counts
from partita.forecasting.naive import LevelRatio, Recent, SameTime
from partita.forecasting.origins import DENSE, MOST_ORIGINS, judged_horizons, judged_origins
from partita.forecasting.past import DAY_S, HORIZONS, Model, Past, Rule
from partita.forecasting.quantiles import LEVELS, sound_forecast
from partita.forecasting.regression import Autoregression
from partita.forecasting.theta import Exponential, Theta
from partita.forecasting.weights import FORGET_DAYS, combine, middle
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


@dataclass(frozen=True, slots=True)
class Blend:
    """A combination of models, weighted by service and horizon, and calibrated on its own past errors."""

    name: str = "blend"
    members: tuple[Model, ...] = (*LATE, *SEASONAL)
    horizons: int = HORIZONS
    origins: int = MOST_ORIGINS
    window: int | None = None
    """Newest steps that it looks at; None: all."""

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float] = LEVELS) -> Forecast:
        """Forecast `steps` steps after the history; ForecastError if a service has fewer than two measured steps."""
        past = Past.of(measured_counts(history, self.window), history.step_s)
        asked = np.asarray(levels, dtype=np.float64)
        wanted = np.unique(np.append(asked, FULL_LEVEL))
        members = fitting(self.members, past)
        rules = [model.fitted(past, steps) for model in members]
        judged, weights = judge(past, rules, judged_horizons(steps, past, self.horizons), self.origins)
        ahead = np.arange(1, steps + 1)
        expected = _foretell(past, rules, weights, [j.ahead for j in judged], ahead)
        size = past.total[:, -1] / past.known[:, -1] + 0.05
        bands = [learn(each, wanted, size) for each in judged]
        lines = _carry(judged, bands, expected, wanted)
        usual = judged[0].features[3, :, -1]
        newest = (judged[0].came - judged[0].middle)[:, -DENSE - 1 :]
        lines = widened(lines, expected, widening(newest, usual))
        return sound_forecast(
            history,
            expected,
            lines[:, np.searchsorted(wanted, asked)],
            levels=levels,
            model=self._explain(members, weights[0], past),
            used_steps=past.length,
        )

    def _explain(self, members: Sequence[Model], weights: NDArray[np.float64], past: Past) -> str:
        """Say who leads at the next step, and what the history was too short for."""
        leads = Counter(members[i].name for i in np.argmax(weights, axis=0))
        first = ", ".join(f"{name} leads for {number}" for name, number in leads.most_common(3))
        text = f"{self.name} of {len(members)} models: {first}" if len(members) > 1 else members[0].name
        missing = [model for model in self.members if model not in members]
        if missing:
            days = past.length * past.step_s / DAY_S
            need = min(model.days() for model in missing)
            why = f"the history of {days:.2f} days is too short for {len(missing)} models (the first needs {need:g})"
            text += f"; {why if past.day else 'no daily cycle: a day is no whole number of steps'}"
        return text


def fitting(members: Sequence[Model], past: Past) -> tuple[Model, ...]:
    """Return the members that the history is long enough for; the last value where there is none."""
    fit = tuple(
        model for model in members if model.days() == 0 or (past.day and past.length >= model.days() * past.day)
    )
    return fit or (Recent(),)


def judge(
    past: Past, rules: Sequence[Rule], at: NDArray[np.int64], most: int
) -> tuple[list[Judged], list[NDArray[np.float64]]]:
    """Forecast from origins in the past at some horizons; return what was foretold and came, and the newest weights."""
    origins = judged_origins(past, most)
    day = float(past.day or past.length)
    late = past.change(origins, LATE_STEPS)
    judged, weights = [], []
    for h in at:
        expected = np.stack([rule(origins, np.full_like(origins, h)) for rule in rules])
        target = origins + h
        inside = target < past.length
        came = np.where(inside, past.counts[:, np.minimum(target, past.length - 1)], np.nan)
        combined, weight = combine(expected, came, origins, int(h), FORGET_DAYS * day)
        recent, usual = errors_so_far(combined, came, origins, int(h), day)
        features = unit_features(combined, recent, usual, late)
        judged.append(Judged(int(h), origins, combined, came, features))
        weights.append(weight)
    return judged, weights


def _foretell(
    past: Past,
    rules: Sequence[Rule],
    weights: Sequence[NDArray[np.float64]],
    at: Sequence[int],
    ahead: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Combine what the rules foretell from the newest step; weights are linear between the horizons judged."""
    newest = np.full_like(ahead, past.length - 1)
    expected = np.stack([rule(newest, ahead) for rule in rules])
    between = _between(np.asarray(at), ahead)
    weight = np.stack(weights, axis=-1) @ between
    return middle(expected, weight, np.arange(len(ahead)))


def _between(at: NDArray[np.int64], ahead: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how much each of the horizons judged counts at each step ahead, ``(horizons, steps)``."""
    return np.stack([np.interp(ahead, at, unit) for unit in np.eye(len(at))])


def _carry(
    judged: Sequence[Judged],
    bands: Sequence[Band],
    expected: NDArray[np.float64],
    levels: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Carry the bands from the horizons judged to every step; beyond the last they grow with its root."""
    at, ahead = np.array([j.ahead for j in judged]), np.arange(1, expected.shape[1] + 1)
    between = _between(at, ahead)
    recent, usual = (np.stack([j.features[i, :, -1] for j in judged], axis=-1) @ between for i in (2, 3))
    late = judged[0].features[4, :, -1:]
    carried = Band(
        {name: np.stack([b.quantiles[name] for b in bands], axis=-1) @ between for name in bands[-1].quantiles},
        {name: np.stack([b.weights[name] for b in bands], axis=-1) @ between for name in bands[-1].quantiles},
        np.stack([b.mix for b in bands], axis=-1) @ between,
        np.stack([b.tail for b in bands], axis=-1) @ between,
        np.stack([b.stretch for b in bands], axis=-1) @ between,
    )
    lines = spread_lines(carried, expected, unit_features(expected, recent, usual, late), levels)
    grown = np.sqrt(np.maximum(ahead / at[-1], 1.0))
    carried_on: NDArray[np.float64] = expected[:, None, :] + (lines - expected[:, None, :]) * grown
    return carried_on
