"""How bursty load is and will be: the index of dispersion of counts, window by window.

The index is the variance of what arrives in a step over its mean: 1 for Poisson arrivals, more where requests come in
bursts. A daily cycle is not a burst, so in each window the variance is taken around a parabola: what a cycle does
within an hour is nearly one, while bursts of minutes stay in. Differences of successive steps would remove a trend too,
but they also hide every burst that lasts longer than a step. A level that shifts inside a window counts as a burst.

The index is forecast on a logarithmic scale, where its error is alike whether it is 1 or 30.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.errors import ForecastError
from partita.forecasting.past import DAY_S
from partita.forecasting.quantiles import LEVELS, error_quantiles
from partita.forecasting.stacking import guesses, lately, stacked_weights
from partita.model.load import Load

LEAST_STEPS = 8
"""Measured steps that a window needs: a parabola takes three."""

LEAST_REQUESTS = 10
"""Requests that it needs: of fewer, whether they came in a burst is chance."""

LEAST_INDEX = 0.05
"""Indices below count as this: evenly spaced arrivals give 0, which has no logarithm."""

LEAST_ORIGINS = 3
"""Past windows with an error, below which the last index is all that is known."""

SPREAD = 0.7
"""Half-width, as a logarithm, of the outermost band while no error is known: a factor of two."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Dispersion:
    """The index of dispersion by service and window: `index` has shape ``(services, windows)``, NaN where unknown."""

    services: tuple[str, ...]
    start_s: float
    window_s: float
    step_s: float
    index: Array

    def until(self, window: int) -> Dispersion:
        """Return what came before a window."""
        return Dispersion(self.services, self.start_s, self.window_s, self.step_s, self.index[:, :window])


@dataclass(frozen=True, slots=True, eq=False)
class DispersionForecast:
    """The index expected in the next window: `index` has shape ``(services, levels)``, `basis` says what it rests on.

    NaN for a service that no window tells of.
    """

    services: tuple[str, ...]
    levels: tuple[float, ...]
    index: Array
    basis: tuple[str, ...]


def dispersion_by_window(load: Load, window_s: float) -> Dispersion:
    """Measure the index in each whole window, from the first multiple of its width on.

    ForecastError where windows are not made of LEAST_STEPS steps or more.
    """
    width = round(window_s / load.step_s)
    if width < LEAST_STEPS or abs(width * load.step_s - window_s) > 1e-6 * window_s:
        raise ForecastError(
            f"a window of {window_s:g} s must be {LEAST_STEPS} or more whole steps, they are {load.step_s:g} s"
        )
    skip = min(round(-load.start_s / load.step_s) % width, load.counts.shape[1])
    windows = (load.counts.shape[1] - skip) // width
    cut = load.counts[:, skip : skip + windows * width].reshape(len(load.services), windows, width)
    known = np.isfinite(cut)
    number = known.sum(axis=2)
    counts = np.where(known, cut, 0.0)
    total = counts.sum(axis=2)
    squares = _around_parabola(counts)
    for service, window in np.argwhere((number < width) & (number >= LEAST_STEPS)):
        here = known[service, window]
        squares[service, window] = _around_parabola(cut[service, window][here], np.flatnonzero(here))
    spare = np.maximum(number - 3, 1)
    told = (number >= LEAST_STEPS) & (total >= LEAST_REQUESTS)
    mean = total / np.maximum(number, 1)
    index = np.where(told, squares / spare / np.where(told, mean, 1.0), np.nan)
    start_s = load.start_s + skip * load.step_s
    return Dispersion(load.services, start_s, window_s, load.step_s, index)


def _around_parabola(counts: Array, at: NDArray[np.int64] | None = None) -> Array:
    """Return the sum of squares around the best parabola along the last axis."""
    steps = np.arange(counts.shape[-1]) if at is None else at
    middle = (steps - steps.mean()) / max(float(np.ptp(steps)), 1.0)
    base, _ = np.linalg.qr(np.stack([np.ones(len(steps)), middle, middle**2], axis=1))
    centred = counts - counts.mean(axis=-1, keepdims=True)
    squares: Array = (centred**2).sum(axis=-1) - ((centred @ base) ** 2).sum(axis=-1)
    return np.asarray(np.maximum(squares, 0.0))


def forecast_dispersion(past: Dispersion, *, levels: Sequence[float] = LEVELS) -> DispersionForecast:
    """Forecast the index in the next window, of all services at once.

    The mean of the logarithm over several stretches of the past, weighted as would have come closest in the windows
    known, with the quantiles of the errors made there.
    """
    logs = np.log(np.maximum(past.index, LEAST_INDEX))
    known = np.isfinite(logs)
    number = known.sum(axis=1)
    if not logs.size:
        return _nothing(past, levels)
    day = round(DAY_S / past.window_s)
    level = np.where(known, logs, 0.0).sum(axis=1) / np.maximum(number, 1)
    # what is known of no window yet is measured from the service's own level
    made = guesses((logs - level[:, None])[..., None], known.astype(np.float64), day, np.zeros(1), kept=1.0)
    guessed = made[..., 0] + level[None, :, None]
    counted = known[:, 1:] & (known.cumsum(axis=1)[:, :-1] > 0)
    errors = np.where(counted, logs[:, 1:] - guessed[:, :, :-1], 0.0)
    weights = stacked_weights(errors[..., None], counted * lately(counted.shape[1], day))
    middle = np.einsum("ms,ms->s", weights, guessed[:, :, -1])
    missed = np.where(counted, np.einsum("ms,mst->st", weights, errors), np.nan)
    learned = error_quantiles(missed, levels) if missed.shape[1] else np.full((len(logs), len(levels)), np.nan)
    wide = SPREAD * (2 * np.asarray(levels) - 1)
    few = counted.sum(axis=1) < LEAST_ORIGINS
    offsets = np.where(few[:, None] | ~np.isfinite(learned), wide[None], learned)
    index = np.exp(np.sort(middle[:, None] + offsets, axis=1))
    index = np.where((number > 0)[:, None], index, np.nan)
    return DispersionForecast(past.services, tuple(levels), index, tuple(_basis(n) for n in number.tolist()))


def naive_dispersion(past: Dispersion, *, levels: Sequence[float] = LEVELS) -> DispersionForecast:
    """Return the last index known, with the quantiles of its own changes: what a forecast is held against."""
    logs = np.log(np.maximum(past.index, LEAST_INDEX))
    if not logs.size:
        return _nothing(past, levels)
    known = np.isfinite(logs)
    last = np.maximum.accumulate(np.where(known, np.arange(logs.shape[1]), -1), axis=1)
    carried = np.where(last >= 0, np.take_along_axis(logs, np.maximum(last, 0), axis=1), np.nan)
    changes = logs[:, 1:] - carried[:, :-1]
    learned = error_quantiles(changes, levels) if changes.shape[1] else np.full((len(logs), len(levels)), np.nan)
    few = np.isfinite(changes).sum(axis=1) < LEAST_ORIGINS
    wide = SPREAD * (2 * np.asarray(levels) - 1)
    offsets = np.where(few[:, None] | ~np.isfinite(learned), wide[None], learned)
    index = np.exp(np.sort(carried[:, -1:] + offsets, axis=1))
    return DispersionForecast(past.services, tuple(levels), index, tuple("the last window" for _ in past.services))


def _nothing(past: Dispersion, levels: Sequence[float]) -> DispersionForecast:
    blank = np.full((len(past.services), len(levels)), np.nan)
    return DispersionForecast(past.services, tuple(levels), blank, tuple(_basis(0) for _ in past.services))


def dispersion_loss(made: DispersionForecast, came: Array) -> Array:
    """Return the mean quantile loss of the logarithm of the index, by service; NaN where either is not known."""
    above = np.log(np.maximum(came, LEAST_INDEX))[:, None] - np.log(made.index)
    level = np.asarray(made.levels)
    loss: Array = np.where(above >= 0, level * above, (level - 1) * above).mean(axis=1)
    return loss


def _basis(windows: int) -> str:
    if windows == 0:
        return "no window with enough requests yet"
    if windows <= LEAST_ORIGINS:
        return f"{windows} window{'' if windows == 1 else 's'} only: no error is known yet"
    return f"{windows} windows"
