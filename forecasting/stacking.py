"""How much each of several guesses counts in their mean: the weights that would have come closest so far.

Weights are never negative and sum to 1 (stacking: Wolpert 1992; Breiman 1996). One service's own past is short, so
its errors are taken together with those of all services.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KNOWN_BEFORE = 12.0
"""Windows that the errors of all services together count as, beside a service's own."""

HALF_LIVES = (0.5, 2.0, 8.0, 32.0)
"""In windows: from hardly more than the last one to a day or more."""

DAYS = 7
"""Former days that are looked at."""

DAY_KEPT = 0.7
"""Weight of a day relative to the one after it."""

BESIDE = 0.5
"""Weight of the windows before and after the same one of a former day."""

FORGET = 24.0
"""Half-life of an error in windows, where a day is not longer: what came closest changes too."""

ROUNDS, RATE = 400, 4.0
"""Rounds and rate of the multiplicative updates: what is left to gain then is far below a hundredth."""

Array = NDArray[np.float64]


def stacked_weights(errors: Array, weight: Array) -> Array:
    """Return weights ``(models, services)`` from errors ``(models, services, windows, values)`` of past guesses.

    `weight`, ``(services, windows)``, says how much a window counts (0: not at all). Minimises the summed squares of
    the weighted mean's errors. Where nothing is known all count the same.
    """
    wrong = np.where(weight[None, :, :, None] > 0, np.nan_to_num(errors), 0.0)
    gram = np.einsum("mstk,nstk->smn", wrong * weight[None, :, :, None], wrong, optimize=True)
    size = np.trace(gram, axis1=1, axis2=2)
    own = gram / np.where(size > 0, size, 1.0)[:, None, None] * len(errors)
    number = weight.sum(axis=1)
    share = number / max(number.sum(), 1e-300)
    pooled = np.einsum("smn,s->mn", own, share)
    mixed = (number[:, None, None] * own + KNOWN_BEFORE * pooled) / (number + KNOWN_BEFORE)[:, None, None]
    found = np.full((len(weight), len(errors)), 1.0 / len(errors))
    for _ in range(ROUNDS):
        slope = np.einsum("smn,sn->sm", mixed, found)
        found = found * np.exp(-RATE * (slope - slope.min(axis=1, keepdims=True)))
        found /= found.sum(axis=1, keepdims=True)
    return found.T


def guesses(values: Array, mass: Array, day: int, prior: Array, *, kept: float) -> Array:
    """Return what the past up to each window tells of the next, ``(models, services, windows, values)``.

    `values`, ``(services, windows, values)``, are summed, and so is their `mass` ``(services, windows)``; NaN is no
    mass. Each guess is a weighted mean of values by mass, with `prior` (``(values,)``, of mass 1) beside the mean of
    all time, and that, with a mass of `kept`, beside the others. They are: all time; exponentially forgotten with
    HALF_LIVES; the same time of the last days, if `day` (the windows in one) is at least 2.
    """
    known = np.isfinite(mass) & np.isfinite(values).all(axis=-1)
    summed = np.where(known[..., None], values, 0.0)
    weight = np.where(known, mass, 0.0)
    ever = _mean(summed.cumsum(axis=1), weight.cumsum(axis=1), prior[None, None], 1.0)
    found = [ever]
    for half_life in HALF_LIVES:
        found.append(_mean(*_forgotten(summed, weight, 0.5 ** (1 / half_life)), ever, kept))
    if 2 <= day < summed.shape[1]:
        found.append(_mean(*_same_time(summed, weight, day), ever, kept))
    return np.stack(found)


def lately(windows: int, day: int) -> Array:
    """Return how much an error counts by the window it was made in, ``(windows,)``: old ones are forgotten."""
    half_life = max(FORGET, float(day)) if 2 * day <= windows else FORGET
    weight: Array = 0.5 ** (np.arange(windows)[::-1] / half_life)
    return weight


def _mean(summed: Array, weight: Array, prior: Array, known: float) -> Array:
    mean: Array = (summed + known * prior) / (weight + known)[..., None]
    return mean


def _forgotten(summed: Array, weight: Array, kept: float) -> tuple[Array, Array]:
    total, mass = np.empty_like(summed), np.empty_like(weight)
    running, held = np.zeros_like(summed[:, 0]), np.zeros_like(weight[:, 0])
    for t in range(summed.shape[1]):
        running, held = kept * running + summed[:, t], kept * held + weight[:, t]
        total[:, t], mass[:, t] = running, held
    return total, mass


def _same_time(summed: Array, weight: Array, day: int) -> tuple[Array, Array]:
    """Sum what came in the windows around the next one's time of former days."""
    total, mass = np.zeros_like(summed), np.zeros_like(weight)
    length = summed.shape[1]
    for back in range(1, DAYS + 1):
        for off, part in ((-1, BESIDE), (0, 1.0), (1, BESIDE)):
            shift = back * day - 1 - off
            if shift < 0 or shift >= length:
                continue
            strength = part * DAY_KEPT ** (back - 1)
            total[:, shift:] += strength * summed[:, : length - shift]
            mass[:, shift:] += strength * weight[:, : length - shift]
    return total, mass
