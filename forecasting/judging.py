"""How models are made to forecast from origins inside the past, combined, and held to what came."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from partita.forecasting.bands import LATE_STEPS, Judged, errors_so_far, unit_features
from partita.forecasting.naive import Recent
from partita.forecasting.origins import judged_origins
from partita.forecasting.past import Model, Past, Rule
from partita.forecasting.weights import FORGET_DAYS, combine


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
        came = what_came(past, origins, int(h))
        combined, weight = combine(expected, came, origins, int(h), FORGET_DAYS * day)
        recent, usual = errors_so_far(combined, came, origins, int(h), day, origins)
        features = unit_features(combined, recent, usual, late)
        judged.append(Judged(int(h), origins, combined, came, features))
        weights.append(weight)
    return judged, weights


def what_came(past: Past, origins: NDArray[np.int64], ahead: int) -> NDArray[np.float64]:
    """Return the counts so many steps after each origin; NaN where they are not known."""
    target = origins + ahead
    came: NDArray[np.float64] = np.where(
        target < past.length, past.counts[:, np.minimum(target, past.length - 1)], np.nan
    )
    return came
