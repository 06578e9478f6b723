"""Models on trial: what each forecast came to, and who is in charge of which service's forecast.

Beside every forecast the naive one is made from the same history. When the truth has come both are scored, and a model
that has been worse than the naive one gives way to it, service by service, until it is better again. It goes on being
tried meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from partita.errors import ForecastError
from partita.forecasting.backtest import ADDED_SHARE, check
from partita.forecasting.history import measured_counts
from partita.forecasting.quantiles import LEVELS
from partita.forecasting.score import score
from partita.forecasting.yardstick import Naive
from partita.model.load import Forecast, Load, Scored
from partita.ports import Forecaster

SCORES_KEPT = 30
LEAST_SCORES = 12
"""Scores below which nobody is demoted: two minutes of near forecasts."""

DEMOTE_ABOVE, PROMOTE_BELOW = 1.15, 1.0
"""Ratios of quantile losses to the naive one's. Differences of a tenth are noise on so few forecasts, and a model that
is as good as the naive one must not come and go."""

NAIVE_STEPS = 120
"""Latest steps that the naive forecast's errors are read from: it is made at every turn, and sorting takes time."""

MOST_WAITING = 64
MOST_NAMED = 3

Flags = NDArray[np.bool_]


def _nothing() -> NDArray[np.float64]:
    return np.zeros((0, 0))


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A forecast that turn `tick` made and whose truth has not come: what the model said, and what the naive one."""

    tick: int
    model: Forecast
    naive: Forecast
    in_charge: Flags


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """How one model has fared, by service: mean quantile losses of the latest forecasts, newest last.

    `losses`, `naive_losses` and `rates` (what came, as the unit of both) have shape ``(services, scores)``. `demoted`
    says whose forecast is the naive one's; `failed` why the model gave none at the last turn; `restored` names the
    services that it was given back at the last turn.
    """

    waiting: tuple[Waiting, ...] = ()
    losses: NDArray[np.float64] = field(default_factory=_nothing)
    naive_losses: NDArray[np.float64] = field(default_factory=_nothing)
    rates: NDArray[np.float64] = field(default_factory=_nothing)
    demoted: Flags = field(default_factory=lambda: np.zeros(0, np.bool_))
    services: tuple[str, ...] = ()
    name: str = ""
    naive_name: str = ""
    failed: str = ""
    restored: tuple[str, ...] = ()

    def ratios(self) -> NDArray[np.float64]:
        """Return the model's loss over the naive one's by service, NaN below LEAST_SCORES."""
        known = np.isfinite(self.losses) & np.isfinite(self.naive_losses)
        sums = [np.where(known, values, 0.0).sum(axis=1) for values in (self.losses, self.naive_losses, self.rates)]
        added = ADDED_SHARE * sums[2]
        enough = (known.sum(axis=1) >= LEAST_SCORES) & (sums[1] + added > 0)
        ratio: NDArray[np.float64] = np.where(
            enough, (sums[0] + added) / np.where(enough, sums[1] + added, 1.0), np.nan
        )
        return ratio


# Scoring ------------------------------------------------------------------------------------------------------------


def judged(trial: Trial, horizon: str, measured: Load) -> tuple[Trial, tuple[Scored, ...]]:
    """Score the forecasts whose truth has come, and demote or restore the model by service."""
    scored = []
    left = []
    for waiting in trial.waiting:
        made = waiting.model
        if made.made_at_s + made.rps.shape[2] * made.step_s > measured.end_s + 1e-6:
            left.append(waiting)
        elif made.made_at_s >= measured.start_s - 1e-6 and made.services == measured.services:
            scored.append(_scored(waiting, horizon, _during(made, measured), trial))
    if len(left) == len(trial.waiting):
        return (replace(trial, restored=()) if trial.restored else trial), ()
    return _ruled(replace(trial, waiting=tuple(left)), scored), tuple(scored)


def _during(made: Forecast, measured: Load) -> Load:
    first = round((made.made_at_s - measured.start_s) / made.step_s)
    counts = measured.counts[:, first : first + made.rps.shape[2]]
    return Load(measured.services, made.made_at_s, made.step_s, counts)


def _scored(waiting: Waiting, horizon: str, truth: Load, trial: Trial) -> Scored:
    own, naive = score(waiting.model, truth), score(waiting.naive, truth)
    return Scored(
        tick=waiting.tick,
        horizon=horizon,
        model=trial.name,
        naive=trial.naive_name,
        services=own.services,
        levels=own.levels,
        truth_rps=truth.counts / truth.step_s,
        wape=own.wape,
        pinball=own.pinball,
        coverage=own.coverage,
        naive_wape=naive.wape,
        naive_pinball=naive.pinball,
        in_charge=waiting.in_charge,
    )


def _ruled(trial: Trial, scored: Sequence[Scored]) -> Trial:
    if not scored:
        return replace(trial, restored=())
    number = len(scored[0].services)
    fresh = Trial() if trial.demoted.size != number else trial
    columns = [
        np.stack([s.pinball.mean(axis=1) for s in scored], axis=1),
        np.stack([s.naive_pinball.mean(axis=1) for s in scored], axis=1),
        np.stack([_mean(s.truth_rps) for s in scored], axis=1),
    ]
    kept = [
        np.concatenate((old if old.shape[0] == number else np.zeros((number, 0)), new), axis=1)[:, -SCORES_KEPT:]
        for old, new in zip((fresh.losses, fresh.naive_losses, fresh.rates), columns, strict=True)
    ]
    ruled = replace(trial, losses=kept[0], naive_losses=kept[1], rates=kept[2], services=scored[0].services)
    was = fresh.demoted if fresh.demoted.size == number else np.zeros(number, np.bool_)
    ratio = ruled.ratios()
    demoted = np.where(was, ~(ratio <= PROMOTE_BELOW), ratio > DEMOTE_ABOVE)
    restored = tuple(ruled.services[n] for n in np.flatnonzero(was & ~demoted))
    return replace(ruled, demoted=demoted, restored=restored)


def _mean(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(rates)
    mean: NDArray[np.float64] = np.where(known, rates, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return mean


def restored_trial(scores: Sequence[Scored], services: tuple[str, ...], *, name: str, naive_name: str) -> Trial:
    """Return the standing that stored scores give, oldest first, to a model which nobody here has seen at work.

    Scores of another model, or against another naive one, say nothing of this one. Services that were not there yet
    begin anew.
    """
    kept = [_of(s, services) for s in scores if s.model == name and s.naive == naive_name][-SCORES_KEPT:]
    begun = Trial(demoted=np.zeros(len(services), np.bool_), services=services, name=name, naive_name=naive_name)
    if not kept:
        return begun
    return replace(_ruled(replace(begun, demoted=~kept[-1].in_charge), kept), restored=())


def _of(scored: Scored, services: tuple[str, ...]) -> Scored:
    """Return a score with a row for each of these services; of those it does not know nothing was measured."""
    if scored.services == services:
        return scored
    place = {name: n for n, name in enumerate(scored.services)}
    rows = np.array([place.get(name, -1) for name in services], np.int64)
    known = rows >= 0

    def taken(values: NDArray[np.float64]) -> NDArray[np.float64]:
        there = known.reshape(-1, *[1] * (values.ndim - 1))
        return np.where(there, values[rows], np.nan)

    return replace(
        scored,
        services=services,
        truth_rps=taken(scored.truth_rps),
        wape=taken(scored.wape),
        pinball=taken(scored.pinball),
        coverage=taken(scored.coverage),
        naive_wape=taken(scored.naive_wape),
        naive_pinball=taken(scored.naive_pinball),
        in_charge=np.where(known, scored.in_charge[rows], True),
    )


# Forecasting --------------------------------------------------------------------------------------------------------


def forecast(
    trial: Trial, tick: int, model: Forecaster, naive: Naive, measured: Load, steps: int
) -> tuple[Trial, Forecast]:
    """Forecast with whoever is in charge of each service, and keep both forecasts until the truth comes.

    A model that raises, or forecasts what cannot be, is left out at this turn. ForecastError if there is too little
    history for anybody.
    """
    latest = measured.counts[:, -NAIVE_STEPS:]
    start_s = measured.end_s - latest.shape[1] * measured.step_s
    history = Load(measured.services, start_s, measured.step_s, latest)
    failed, made = "", None
    try:
        made = model.forecast(measured, steps=steps, levels=LEVELS)
        check(made, measured.services, LEVELS, steps)
    except Exception as problem:
        made = None
        measured_counts(measured)  # with too little history nobody is at fault
        failed = str(problem) if isinstance(problem, ForecastError) else f"it raised {_shown(problem)}"
    plain = naive.forecast(history if np.isfinite(latest).any(axis=1).all() else measured, steps=steps, levels=LEVELS)
    number = len(measured.services)
    demoted = trial.demoted if trial.demoted.size == number else np.zeros(number, np.bool_)
    trial = replace(
        trial, demoted=demoted, services=measured.services, name=model.name, naive_name=naive.name, failed=failed
    )
    if made is None:
        return trial, replace(plain, model=f"{naive.name}, in place of {model.name}")
    waiting = (*trial.waiting, Waiting(tick, made, plain, ~demoted))[-MOST_WAITING:]
    return replace(trial, waiting=waiting), joined(made, plain, demoted)


def joined(made: Forecast, plain: Forecast, demoted: Flags) -> Forecast:
    """Take the rows of the services where the model is demoted from the naive forecast."""
    if not demoted.any():
        return made
    rps = np.where(demoted[:, None, None], plain.rps, made.rps)
    names = _named([made.services[n] for n in np.flatnonzero(demoted)])
    return replace(made, rps=rps, model=f"{made.model}; {plain.model} for {names}")


def remark(trial: Trial, horizon: str) -> str:
    """Say who is in charge if it is not the model alone; empty otherwise."""
    if trial.failed:
        return f"the {horizon} forecast is the naive one ({trial.naive_name}): {trial.name} gave none, {trial.failed}"
    found = []
    if trial.demoted.any():
        rows = np.flatnonzero(trial.demoted)
        ratio = trial.ratios()[rows]
        worst = f"{np.nanmax(ratio):.2f} times the loss" if np.isfinite(ratio).any() else "a greater loss"
        found.append(
            f"the {horizon} forecast of {_named([trial.services[n] for n in rows])} is the naive one "
            f"({trial.naive_name}): {trial.name} had up to {worst} over its last {trial.losses.shape[1]} forecasts"
        )
    if trial.restored:
        found.append(f"{trial.name} makes the {horizon} forecast of {_named(trial.restored)} again")
    return "; ".join(found)


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _shown(problem: Exception) -> str:
    text = " ".join(str(problem).split())[:120]
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__
