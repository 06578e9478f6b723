"""Rolling-origin backtest: every model forecasts again and again from the past alone, and is held to what then came.

The error at a horizon is that of the last fifth of the steps up to it. All models are given the same histories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from partita.errors import ForecastError
from partita.forecasting.past import DAY_S
from partita.forecasting.quantiles import LEVELS
from partita.forecasting.yardstick import DAILY_NAIVE
from partita.model.load import Forecast, Load
from partita.ports import Forecaster

WEEK_S = 7 * DAY_S
ORIGINS = 24
LAST_PART = 0.2
"""Of the steps up to a horizon, the last part that counts as the error at it."""
ADDED_SHARE = 0.01
"""Of the mean load, what is added to both sides of a ratio: near zero, ratios say nothing."""

Array = NDArray[np.float64]


@runtime_checkable
class Trainable(Protocol):
    """A model that is trained before it forecasts; it is trained once, on what lies before the first origin."""

    def fitted(self, history: Load) -> Forecaster:
        """Return the model trained on a history."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How a backtest goes: horizons in seconds, rising; how many origins; what ties are drawn from.

    Every origin has at least `least_after` steps after it, else those of the shortest horizon.
    """

    horizons_s: tuple[float, ...]
    origins: int = ORIGINS
    levels: tuple[float, ...] = LEVELS
    seed: int = 1
    step_back_s: float = WEEK_S
    least_after: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """One model's errors, summed over the steps of one horizon: axes are (horizons, origins, series[, levels]).

    `steps` counts the measured steps; `wrong`, `truth` and `loss` are sums over them of absolute errors of the median,
    of what came, and of quantile losses, in requests a second. `counted` are the steps where truth or quantile is above
    zero, `covered` those of them where the truth did not exceed the quantile.
    """

    steps: Array
    wrong: Array
    truth: Array
    loss: Array
    counted: Array
    covered: Array


@dataclass(frozen=True, slots=True, eq=False)
class Backtest:
    """What a backtest found: errors by model, and what they are to be set against.

    `origins` are the numbers of the first forecast steps; `scale_rps` is by series the mean absolute error, before the
    first origin, of the value a day earlier (a step earlier, where no two days lie there); `mean_rps` is the mean load.
    `fit_s` and `predict_s` (mean of a forecast of all series) are by model; `failed` tells of models that gave up.
    """

    services: tuple[str, ...]
    start_s: float
    step_s: float
    settings: Settings
    origins: tuple[int, ...]
    errors: dict[str, Errors]
    naive: Errors
    scale_rps: Array
    mean_rps: Array
    fit_s: dict[str, float]
    predict_s: dict[str, float]
    failed: dict[str, str]


Seen = Callable[[str, int, Forecast], None]
"""Told of each forecast: by which model, from which origin."""


def backtest(
    load: Load,
    models: Sequence[Forecaster],
    settings: Settings,
    *,
    clock: Callable[[], float] = lambda: 0.0,
    seen: Seen = lambda *_: None,
    told: Callable[[int, int], None] = lambda *_: None,
) -> Backtest:
    """Forecast from rolling origins in the last week of a series, or its last fifth if that is shorter.

    `clock` times models; `told` hears how many forecasts are done, of how many. A model that raises is left
    out, with the reason. ForecastError if the series is too short for a horizon.
    """
    origins = choose_origins(load, settings)
    reach = max(steps_of(settings, load.step_s))
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise ForecastError(f"two models have the same name: {', '.join(names)}")
    errors: dict[str, Errors] = {}
    fit_s, predict_s, failed = dict[str, float](), dict[str, float](), dict[str, str]()
    whole = (1 + len(models)) * len(origins)

    def run(model: Forecaster, number: int, watch: Seen) -> tuple[Errors, float, float]:
        ready, fitting_s = _trained(model, _until(load, origins[0]), clock)
        done = number * len(origins)
        found, each_s = _run(ready, load, origins, reach, settings, clock, watch, lambda n: told(done + n, whole))
        return found, fitting_s, each_s

    naive, _, _ = run(DAILY_NAIVE, 0, lambda *_: None)
    for number, model in enumerate(models, start=1):
        try:
            errors[model.name], fit_s[model.name], predict_s[model.name] = run(model, number, seen)
        except ForecastError as problem:
            failed[model.name] = str(problem)
        except Exception as problem:  # a model may be anybody's, and must not cost the others their scores
            failed[model.name] = f"it raised {type(problem).__name__}: {' '.join(str(problem).split())[:160]}"
    return Backtest(
        load.services,
        load.start_s,
        load.step_s,
        settings,
        tuple(origins),
        errors,
        naive,
        seasonal_scale(_until(load, origins[0])),
        load.rate_rps(),
        fit_s,
        predict_s,
        failed,
    )


def steps_of(settings: Settings, step_s: float) -> list[int]:
    """Return the horizons in steps; ForecastError for one that is no whole number of steps."""
    found = []
    for horizon_s in settings.horizons_s:
        steps = round(horizon_s / step_s)
        if steps < 1 or abs(steps * step_s - horizon_s) > 1e-6 * horizon_s:
            raise ForecastError(f"a horizon of {horizon_s:g} s is not a whole number of steps of {step_s:g} s")
        found.append(steps)
    return found


def choose_origins(load: Load, settings: Settings) -> list[int]:
    """Spread origins evenly over the last week or fifth, so that the shortest horizon fits after each.

    ForecastError if the longest one fits after none.
    """
    length = load.counts.shape[1]
    steps = steps_of(settings, load.step_s)
    back = min(settings.step_back_s / load.step_s, length / 5)
    first, last = max(2, length - round(back)), length - max(min(steps), settings.least_after)
    if last < first:
        first = max(2, last)
    if length - first < max(steps):
        first = max(2, length - max(steps))
    if last < first or length - first < max(steps):
        raise ForecastError(
            f"the series holds {length} steps of {load.step_s:g} s, too few for a horizon of "
            f"{max(settings.horizons_s):g} s with a history before it"
        )
    spread = np.linspace(first, last, max(1, min(settings.origins, last - first + 1)))
    return [int(origin) for origin in np.unique(np.rint(spread))]


def overlapping(found: Backtest, horizon: int) -> int:
    """Return how many neighbouring origins have steps in common up to a horizon (by its place)."""
    apart = np.diff(found.origins)
    steps = steps_of(found.settings, found.step_s)[horizon]
    return ceil(steps / float(np.median(apart))) if len(apart) else 1


def seasonal_scale(history: Load) -> Array:
    """Return by series the mean absolute error of the value a day earlier, or a step earlier in a short history."""
    day = round(DAY_S / history.step_s)
    lag = day if 1 < 2 * day <= history.counts.shape[1] else 1
    apart = np.abs(history.counts[:, lag:] - history.counts[:, :-lag]) / history.step_s
    known = np.isfinite(apart)
    scale: Array = np.where(known, apart, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return scale


def _until(load: Load, step: int) -> Load:
    return Load(load.services, load.start_s, load.step_s, load.counts[:, :step])


def _trained(model: Forecaster, history: Load, clock: Callable[[], float]) -> tuple[Forecaster, float]:
    """Return a model ready to forecast, and what its training took."""
    if not isinstance(model, Trainable):
        return model, 0.0
    before = clock()
    return model.fitted(history), clock() - before


def _run(
    model: Forecaster,
    load: Load,
    origins: Sequence[int],
    reach: int,
    settings: Settings,
    clock: Callable[[], float],
    seen: Seen,
    told: Callable[[int], None],
) -> tuple[Errors, float]:
    """Let one model forecast from every origin; return its errors, and what a forecast took."""
    horizons = steps_of(settings, load.step_s)
    shape = (len(horizons), len(origins), len(load.services))
    plain, leveled = np.zeros((3, *shape)), np.zeros((3, *shape, len(settings.levels)))
    spent = 0.0
    for place, origin in enumerate(origins):
        truth = load.counts[:, origin : origin + reach] / load.step_s
        before = clock()
        made = model.forecast(_until(load, origin), steps=truth.shape[1], levels=settings.levels)
        spent += clock() - before
        check(made, load.services, settings.levels, truth.shape[1])
        seen(model.name, origin, made)
        draws = np.random.Generator(np.random.PCG64([settings.seed, origin])).random(truth.shape)
        for number, steps in enumerate(horizons):
            if steps <= truth.shape[1]:
                part = slice(steps - ceil(LAST_PART * steps), steps)
                sums = step_errors(made, truth[:, part], draws[:, part], part)
                plain[:, number, place], leveled[:, number, place] = sums
        told(place + 1)
    return Errors(*plain, *leveled), spent / len(origins)


def check(made: Forecast, services: tuple[str, ...], levels: tuple[float, ...], steps: int) -> None:
    """Raise ForecastError unless a forecast keeps what it promises: shape, finite, never negative, never crossing."""
    if made.services != services or made.levels != levels or made.rps.shape != (len(services), len(levels), steps):
        raise ForecastError(f"{made.model} forecast something else than it was asked for")
    if not np.isfinite(made.rps).all():
        raise ForecastError(f"{made.model} forecast a rate that is no number")
    if (made.rps < 0).any():
        raise ForecastError(f"{made.model} forecast a rate below zero")
    if (np.diff(made.rps, axis=1) < 0).any():
        raise ForecastError(f"{made.model} forecast quantiles that cross")


def step_errors(made: Forecast, truth: Array, draws: Array, part: slice) -> tuple[Array, Array]:
    """Return the sums over some steps of a forecast, ``(3, services)`` and ``(3, services, levels)``; see `Errors`."""
    known = np.isfinite(truth)
    came = np.where(known, truth, 0.0)
    expected = made.rps[:, :, part]
    level = np.asarray(made.levels)[None, :, None]
    above = came[:, None] - expected
    loss = np.where(above >= 0, level * above, (level - 1) * above) * known[:, None]
    wrong = np.abs(came - made.quantile(0.5)[:, part]) * known
    counted = ((came[:, None] > 0) | (expected > 0)) & known[:, None]
    covered = is_covered(came, expected, made.levels, draws) & counted
    sums = np.stack([known.sum(axis=1), wrong.sum(axis=1), came.sum(axis=1)]).astype(np.float64)
    return sums, np.stack([loss.sum(axis=2), counted.sum(axis=2), covered.sum(axis=2)]).astype(np.float64)


def is_covered(came: Array, expected: Array, levels: Sequence[float], draws: Array) -> NDArray[np.bool_]:
    """Say where the truth ``(services, steps)`` does not exceed the quantiles ``(services, levels, steps)``.

    A truth that equals quantiles stands for any level between the next lower quantile's and the next higher one's;
    which, `draws` (0..1) say. Else a forecast of counts would seem to cover too much wherever few values are possible.
    """
    bounds = np.array([0.0, *levels, 1.0])
    below = (expected < came[:, None]).sum(axis=1)
    upto = (expected <= came[:, None]).sum(axis=1)
    low, high = bounds[below], bounds[upto + 1]
    drawn = low + draws * (high - low)
    tied = (below < upto)[:, None]
    return np.where(tied, drawn[:, None] <= np.asarray(levels)[None, :, None], came[:, None] < expected)


# Summaries ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """How good one model was at one horizon, by series; NaN where there is nothing to tell.

    `pinball` is in requests a second, `coverage` a share, both ``(series, levels)``. Ratios are to the daily
    seasonal-naive, with ADDED_SHARE of the mean load on both sides.
    """

    n: NDArray[np.int64]
    wape: Array
    mase: Array
    pinball: Array
    coverage: Array
    counted: NDArray[np.int64]
    wape_ratio: Array
    pinball_ratio: Array


def scores(found: Backtest, model: str, horizon: int) -> Scores:
    """Score a model (by name) at a horizon (by its place)."""
    own, naive = found.errors[model], found.naive
    steps, wrong, truth = (a[horizon].sum(axis=0) for a in (own.steps, own.wrong, own.truth))
    loss, counted, covered = (a[horizon].sum(axis=0) for a in (own.loss, own.counted, own.covered))
    added = ADDED_SHARE * found.mean_rps
    pinball = _share(loss, steps[:, None])
    mean_wrong = _share(wrong, steps)
    naive_wrong = _share(naive.wrong[horizon].sum(axis=0), steps)
    naive_pinball = _share(naive.loss[horizon].sum(axis=0), steps[:, None])
    return Scores(
        n=steps.astype(np.int64),
        wape=_share(wrong, truth),
        mase=_share(mean_wrong, found.scale_rps),
        pinball=pinball,
        coverage=_share(covered, counted),
        counted=counted.astype(np.int64),
        wape_ratio=_share(mean_wrong + added, naive_wrong + added),
        pinball_ratio=_share(pinball + added[:, None], naive_pinball + added[:, None]),
    )


def geometric_mean(ratios: Array) -> Array:
    """Return the geometric mean over series (the first axis), without those that say nothing."""
    known = np.isfinite(ratios) & (ratios > 0)
    logs = np.where(known, np.log(np.where(known, ratios, 1.0)), 0.0)
    number = known.sum(axis=0)
    return np.where(number > 0, np.exp(logs.sum(axis=0) / np.maximum(number, 1)), np.nan)


def _share(part: Array, whole: Array) -> Array:
    found: Array = np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)
    return found
