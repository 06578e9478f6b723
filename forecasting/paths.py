"""Joint sample paths: one future of all services at a time, as rehearsal needs it, for marginal quantiles do not add.

Each path takes the quantiles of the forecast at ranks that really went together: those of the errors that one origin
in the past had, over all services and along the horizon (the Schaake shuffle of Clark et al. 2004, on forecast errors).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from partita.errors import ForecastError
from partita.forecasting.blend import Blend
from partita.forecasting.history import LEAST_MEASURED
from partita.forecasting.judging import fitting, judge
from partita.forecasting.origins import judged_horizons
from partita.forecasting.past import Past, fitted
from partita.model.load import Forecast, Load

MOST_ERRORS = 20_000_000
"""Errors kept: with more services and steps than fit, only some horizons are judged, and those between follow them."""


@dataclass(frozen=True, slots=True, eq=False)
class PastErrors:
    """Errors ``(services, horizons, origins)`` that were made together, at the horizons `ahead` (steps); all known."""

    services: tuple[str, ...]
    ahead: NDArray[np.int64]
    errors: NDArray[np.float64]


def past_errors(blend: Blend, history: Load, steps: int) -> PastErrors:
    """Return the errors that a blend made from origins in the history, in units of what was usual at each.

    An error that is not known (a step was not measured) counts as none; ForecastError where there is none at all.
    """
    past = Past.of(blend.seen(history)[0], history.step_s)
    rules = [fitted(model, past, steps) for model in fitting(blend.members, past)]
    farthest = judged_horizons(steps, past, blend.horizons)
    every = np.arange(1, int(farthest[-1]) + 1)
    fits = past.counts.shape[0] * len(every) * blend.origins <= MOST_ERRORS
    judged, _ = judge(past, rules, every if fits else farthest, blend.origins)
    errors = np.stack([(j.came - j.middle) / np.maximum(j.features[3], 1e-9) for j in judged], axis=1)
    whole = np.array([j.origins + j.ahead < past.length for j in judged]).all(axis=0)
    if whole.sum() < LEAST_MEASURED:
        raise ForecastError(f"sample paths of {steps} steps need a longer history than {past.length} steps")
    return PastErrors(history.services, every if fits else farthest, np.nan_to_num(errors[:, :, whole]))


def sample_paths(forecast: Forecast, past: PastErrors, paths: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw rates ``(paths, services, steps)``, each as likely as the others.

    At each step and service they follow the forecast's quantiles, straight between the levels and not beyond the
    outermost. Origins are drawn without repetition until all are used.
    """
    ranks = _ranks(past, forecast.rps.shape[2], rng)
    number = ranks.shape[2]
    order = np.concatenate([rng.permutation(number) for _ in range(-(-paths // number))])[:paths]
    drawn = np.empty((paths, *forecast.rps[:, 0].shape))
    for s, lines in enumerate(forecast.rps):
        for h in range(lines.shape[1]):
            drawn[:, s, h] = np.interp(ranks[s, h, order], forecast.levels, lines[:, h])
    return drawn


def _ranks(past: PastErrors, steps: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the share of origins with smaller errors, ``(services, steps, origins)``.

    Ties are broken by chance, alike at all steps. Between horizons the normal scores of the ranks are carried along a
    straight line and ranked anew; beyond the last they stay.
    """
    services, _, number = past.errors.shape
    jitter = rng.random((services, 1, number))
    at = np.arange(1, steps + 1)
    if len(past.ahead) < steps:
        score = special.ndtri((_ordered(past.errors, jitter) + 0.5) / number)
        weights = np.stack([np.interp(at, past.ahead, unit) for unit in np.eye(len(past.ahead))])
        errors = np.einsum("sjk,jh->shk", score, weights)
    else:
        errors = past.errors[:, :steps]
    shares: NDArray[np.float64] = (_ordered(errors, jitter) + rng.random((services, 1, number))) / number
    return shares


def _ordered(errors: NDArray[np.float64], jitter: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the place of each error among those of all origins, from 0."""
    order = np.lexsort((np.broadcast_to(jitter, errors.shape), errors), axis=-1)
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(errors.shape[-1]), errors.shape), axis=-1)
    return place
