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
from partita.forecasting.history import LEAST_MEASURED, measured_counts
from partita.forecasting.judging import fitting, judge
from partita.forecasting.origins import judged_horizons
from partita.forecasting.past import Past, fitted
from partita.forecasting.quantiles import between, scatter
from partita.model.load import Forecast, Load

LEVEL_STEPS = 6
"""Steps whose mean stands for a forecast when only what goes together is asked: one alone has too much chance in it,
which all errors made from it would share."""

LEVEL_WINDOW = 360
"""Newest steps that such errors are taken from."""

LEVEL_ORIGINS = 72
"""Origins among them at most: ranking more at every turn takes longer than it tells."""

LEAST_ORIGINS = 24
"""Origins below which a level of what all services do together hangs on two or three of them."""

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


def level_errors(history: Load, steps: int) -> PastErrors:
    """Return the errors that the mean of the last few steps made from origins in the history, in units of its scatter.

    Paths need only ranks that went together, and what services do together they do to the errors of any sound model; so
    this serves whatever made the forecast, and takes a few milliseconds. ForecastError where the history is too short.
    """
    past = Past.of(measured_counts(history, LEVEL_WINDOW), history.step_s)
    origins = np.arange(min(LEVEL_STEPS, past.length) - 1, past.length - steps)
    origins = origins[:: -(-len(origins) // LEVEL_ORIGINS) or 1]
    if len(origins) < LEAST_ORIGINS:
        raise ForecastError(f"sample paths of {steps} steps need a longer history than {past.length} steps")
    ahead = np.arange(1, steps + 1)
    level = past.level(origins, LEVEL_STEPS)[:, None, :]
    errors = (past.counts[:, origins + ahead[:, None]] - level) / scatter(level)
    return PastErrors(history.services, ahead, np.nan_to_num(errors))


def sample_paths(forecast: Forecast, past: PastErrors, paths: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw rates ``(paths, services, steps)``, each as likely as the others.

    At each step and service they follow the forecast's quantiles, straight between the levels and not beyond the
    outermost. Origins are drawn without repetition until all are used.
    """
    ranks = _ranks(past, forecast.rps.shape[2], rng)
    number = ranks.shape[2]
    order = np.concatenate([rng.permutation(number) for _ in range(-(-paths // number))])[:paths]
    drawn: NDArray[np.float64] = _at_ranks(forecast, ranks)[:, :, order].transpose(2, 0, 1)
    return drawn


def _at_ranks(forecast: Forecast, ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the forecast's rates at ranks ``(services, steps, origins)``, straight between the levels."""
    levels, lines = np.asarray(forecast.levels), forecast.rps.transpose(0, 2, 1)
    if len(levels) == 1:
        return np.broadcast_to(lines, ranks.shape)
    below = np.clip(np.searchsorted(levels, ranks, side="right") - 1, 0, len(levels) - 2)
    part = np.clip((ranks - levels[below]) / np.diff(levels)[below], 0.0, 1.0)
    low, high = np.take_along_axis(lines, below, axis=2), np.take_along_axis(lines, below + 1, axis=2)
    rates: NDArray[np.float64] = low + part * (high - low)
    return rates


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
        errors = np.einsum("sjk,jh->shk", score, between(past.ahead, at))
    else:
        errors = past.errors[:, :steps]
    shares: NDArray[np.float64] = (_ordered(errors, jitter) + rng.random((services, 1, number))) / number
    return shares


def _ordered(errors: NDArray[np.float64], jitter: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the place of each error among those of all origins, from 0; the jitter decides between equal ones."""
    order = np.argsort(errors, axis=-1)
    ranked = np.take_along_axis(errors, order, axis=-1)
    tied = (ranked[..., 1:] == ranked[..., :-1]).any(axis=-1)
    if tied.any():
        # sorting by two keys takes three times as long, and few errors are equal but those of silent services
        order[tied] = np.lexsort((np.broadcast_to(jitter, errors.shape)[tied], errors[tied]), axis=-1)
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(errors.shape[-1]), errors.shape), axis=-1)
    return place
