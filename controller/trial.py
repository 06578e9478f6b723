"""Models on trial: what each forecast came to, and who is in charge of which service's forecast.

Beside every forecast the naive one is made from the same history. When the truth has come both are scored, and a model
that has been worse than the naive one gives way to it, service by service, until it is better again. It goes on being
tried meanwhile. Four rules, from the slow to the quick one:

- Over the last forecasts its loss is more than DEMOTE_ABOVE times the naive one's.
- Its losses beyond that, summed over the newest forecasts, however few, come to more than ALARM usual losses of the
  naive one (a cumulative sum test: Page 1954). One forecast that is wrong beyond measure is enough.
- The same of a far forecast of which only the first steps have come: it need not end first. A near one soon ends, and
  its single steps are chance.
- Before it is used: what no history of the service's could make anybody say (`_beyond_reach`) is not used at all.

A model that gives no forecast is replaced at that turn, and after some such turns it is not asked for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from partita.errors import ForecastError, PartitaError
from partita.forecasting.backtest import ADDED_SHARE, check
from partita.forecasting.calendar import NO_CALENDAR, Calendar
from partita.forecasting.history import measured_counts
from partita.forecasting.quantiles import LEVELS
from partita.forecasting.score import score
from partita.forecasting.yardstick import Naive
from partita.model.load import Forecast, Load, Scored
from partita.plugins.host import BENCH_TICKS, BENCH_TICKS_CAP, FAULTS_ALLOWED
from partita.ports import Forecaster

SCORES_KEPT = 30
LEAST_SCORES = 12
"""Scores below which nobody is demoted: two minutes of near forecasts."""

DEMOTE_ABOVE, PROMOTE_BELOW = 1.15, 1.0
"""Ratios of quantile losses to the naive one's. Differences of a tenth are noise on so few forecasts, and a model that
is as good as the naive one must not come and go."""

ALARM = 9.0
"""Usual losses of the naive one that a model may lose beyond DEMOTE_ABOVE in a row: three forecasts that are four times
as bad, or one that is ten times as bad."""
ADDED_REQUESTS = 0.1
"""Requests a step that count as usual loss where the naive one had none: on so few a factor says nothing."""

FAR_BEYOND = 10.0
"""How far beyond all that was measured a forecast cannot be meant: nothing in a history leads there. It is the same
factor in either direction."""
FEW_REQUESTS = 10.0
"""Requests a step up to which nothing is beyond reach."""

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
    services that it was given back at the last turn, `beyond` those whose forecast of it was beyond reach. After
    `faults` turns in a row in which it ought to have given one, the model is not asked before turn `asked_from`; that
    has been so `benches` times.
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
    beyond: tuple[str, ...] = ()
    faults: int = 0
    benches: int = 0
    asked_from: int = 0

    def ratios(self, least: int = LEAST_SCORES) -> NDArray[np.float64]:
        """Return the model's loss over the naive one's by service, NaN below so many scores."""
        known = np.isfinite(self.losses) & np.isfinite(self.naive_losses)
        sums = [np.where(known, values, 0.0).sum(axis=1) for values in (self.losses, self.naive_losses, self.rates)]
        added = ADDED_SHARE * sums[2]
        enough = (known.sum(axis=1) >= least) & (sums[1] + added > 0)
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
    if not trial.waiting or _is_new(trial.waiting[0].model, measured):
        return (replace(trial, restored=()) if trial.restored else trial), ()
    under_way = tuple(left) if horizon == "far" else ()
    return _ruled(replace(trial, waiting=tuple(left)), scored, under_way, measured), tuple(scored)


def _is_new(made: Forecast, measured: Load) -> bool:
    """Say that no step of a forecast has come."""
    return made.made_at_s + made.step_s > measured.end_s + 1e-6


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


def _ruled(trial: Trial, scored: Sequence[Scored], under_way: Sequence[Waiting], measured: Load) -> Trial:
    number = len(measured.services)
    fresh = Trial(waiting=trial.waiting) if trial.demoted.size != number else trial
    kept = [_rows(old, number) for old in (fresh.losses, fresh.naive_losses, fresh.rates)]
    if scored:
        columns = (
            np.stack([s.pinball.mean(axis=1) for s in scored], axis=1),
            np.stack([s.naive_pinball.mean(axis=1) for s in scored], axis=1),
            np.stack([_mean(s.truth_rps) for s in scored], axis=1),
        )
        kept = [np.concatenate(both, axis=1)[:, -SCORES_KEPT:] for both in zip(kept, columns, strict=True)]
    ruled = replace(trial, losses=kept[0], naive_losses=kept[1], rates=kept[2], services=measured.services)
    was = fresh.demoted if fresh.demoted.size == number else np.zeros(number, np.bool_)
    ratio, alarmed = ruled.ratios(), _alarmed(ruled, under_way, measured)
    demoted = np.where(was, ~(ratio <= PROMOTE_BELOW) | alarmed, (ratio > DEMOTE_ABOVE) | alarmed)
    restored = tuple(ruled.services[n] for n in np.flatnonzero(was & ~demoted))
    return replace(ruled, demoted=demoted, restored=restored)


def _rows(kept: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """Return what is kept of so many services; nothing if it is of others."""
    return kept if kept.shape[0] == number else np.zeros((number, 0))


def _alarmed(trial: Trial, under_way: Sequence[Waiting], measured: Load) -> Flags:
    """Say of which services the model lost too much over the newest forecasts, or over one that is still under way."""
    known = np.isfinite(trial.losses) & np.isfinite(trial.naive_losses)
    own, naive, rates = (np.where(known, values, 0.0) for values in (trial.losses, trial.naive_losses, trial.rates))
    number = np.maximum(known.sum(axis=1), 1)
    least = ADDED_SHARE * rates.sum(axis=1) / number + ADDED_REQUESTS / measured.step_s
    usual = naive.sum(axis=1) / number + least
    excess = np.where(known, own - DEMOTE_ABOVE * naive, 0.0)[:, ::-1]
    alarmed: Flags = (np.cumsum(excess, axis=1) > ALARM * usual[:, None]).any(axis=1)
    for waiting in under_way:
        made = waiting.model
        if made.services != measured.services or _is_new(made, measured) or made.made_at_s < measured.start_s:
            continue
        truth = _during(made, measured)
        lost, plain = (score(forecast, truth).pinball.mean(axis=1) for forecast in (made, waiting.naive))
        alarmed = alarmed | (lost - DEMOTE_ABOVE * plain > ALARM * np.maximum(usual, plain + least))
    return alarmed


def _mean(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(rates)
    mean: NDArray[np.float64] = np.where(known, rates, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return mean


def restored_trial(scores: Sequence[Scored], measured: Load, *, name: str, naive_name: str) -> Trial:
    """Return the standing that stored scores give, oldest first, to a model which nobody here has seen at work.

    Scores of another model, or against another naive one, say nothing of this one. Services of the history that were
    not there yet begin anew.
    """
    services = measured.services
    kept = [_of(s, services) for s in scores if s.model == name and s.naive == naive_name][-SCORES_KEPT:]
    begun = Trial(demoted=np.zeros(len(services), np.bool_), services=services, name=name, naive_name=naive_name)
    if not kept:
        return begun
    # not in charge once only may be a single forecast that was beyond reach; who is demoted is out for longer
    out = np.all([~s.in_charge for s in kept[-2:]], axis=0)
    return replace(_ruled(replace(begun, demoted=out), kept, (), measured), restored=())


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
    trial: Trial,
    tick: int,
    model: Forecaster,
    naive: Naive,
    measured: Load,
    steps: int,
    calendar: Calendar = NO_CALENDAR,
) -> tuple[Trial, Forecast]:
    """Forecast with whoever is in charge of each service, and keep both forecasts until the truth comes.

    A model that raises, or forecasts what cannot be, is left out at this turn. What the calendar says is no matter of
    models: it applies to either forecast. ForecastError if there is too little history for anybody.
    """
    seen = calendar.cleaned(measured)
    latest = seen.counts[:, -NAIVE_STEPS:]
    history = Load(seen.services, seen.end_s - latest.shape[1] * seen.step_s, seen.step_s, latest)
    trial, made = _asked(trial, tick, model, seen, steps)
    plain = naive.forecast(history if np.isfinite(latest).any(axis=1).all() else seen, steps=steps, levels=LEVELS)
    number = len(seen.services)
    demoted = trial.demoted if trial.demoted.size == number else np.zeros(number, np.bool_)
    trial = replace(trial, demoted=demoted, services=seen.services, name=model.name, naive_name=naive.name, beyond=())
    if made is None:
        instead = replace(plain, model=f"{naive.name}, in place of {model.name}")
        return trial, calendar.applied(instead, seen)
    beyond = _beyond_reach(made, seen)
    out = demoted | beyond
    kept = Waiting(tick, calendar.applied(made, seen), calendar.applied(plain, seen), ~out)
    named = tuple(seen.services[n] for n in np.flatnonzero(beyond))
    trial = replace(trial, waiting=(*trial.waiting, kept)[-MOST_WAITING:], beyond=named)
    return trial, calendar.applied(joined(made, plain, out), seen)


def _asked(trial: Trial, tick: int, model: Forecaster, seen: Load, steps: int) -> tuple[Trial, Forecast | None]:
    """Ask the model for a forecast; None where it gives none, with the reason in the trial."""
    if tick < trial.asked_from:
        return trial, None
    try:
        made = model.forecast(seen, steps=steps, levels=LEVELS)
    except ForecastError as problem:
        measured_counts(seen)  # with too little history nobody is at fault
        return replace(trial, failed=str(problem), faults=0), None
    except Exception as problem:
        measured_counts(seen)
        return _faulted(trial, tick, str(problem) if isinstance(problem, PartitaError) else _shown(problem)), None
    try:
        check(made, seen.services, LEVELS, steps)
    except Exception as problem:
        return _faulted(trial, tick, str(problem) if isinstance(problem, PartitaError) else _shown(problem)), None
    return replace(trial, failed="", faults=0, benches=0), made


def _faulted(trial: Trial, tick: int, why: str) -> Trial:
    """Return the trial of a model that has failed once more: it is benched as a plugin's hook is."""
    faults = trial.faults + 1
    if faults <= FAULTS_ALLOWED:
        return replace(trial, failed=why, faults=faults)
    until = tick + 1 + min(BENCH_TICKS * 2 ** min(trial.benches, 30), BENCH_TICKS_CAP)
    why = f"{why}; it is asked again at turn {until}"
    return replace(trial, failed=why, faults=faults, benches=trial.benches + 1, asked_from=until)


def _beyond_reach(made: Forecast, seen: Load) -> Flags:
    """Say of which services a forecast cannot be meant.

    Its median is above FAR_BEYOND times the highest count ever measured, or its highest quantile below the lowest count
    over that, at every step to come.
    """
    known = np.isfinite(seen.counts)
    highest = np.where(known, seen.counts, 0.0).max(axis=1, initial=0.0)
    lowest = np.where(known, seen.counts, np.inf).min(axis=1, initial=np.inf)
    above = made.quantile(0.5).max(axis=1) * made.step_s > FAR_BEYOND * np.maximum(highest, FEW_REQUESTS)
    below = made.rps[:, -1].max(axis=1) * made.step_s < lowest / FAR_BEYOND
    beyond: Flags = above | (below & np.isfinite(lowest) & (lowest >= FEW_REQUESTS))
    return beyond


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
    if trial.beyond:
        found.append(
            f"the {horizon} forecast of {_named(trial.beyond)} is the naive one ({trial.naive_name}): that of "
            f"{trial.name} is more than {FAR_BEYOND:g} times beyond all that was measured"
        )
    demoted = [n for n in np.flatnonzero(trial.demoted).tolist() if trial.services[n] not in trial.beyond]
    if demoted:
        found.append(
            f"the {horizon} forecast of {_named([trial.services[n] for n in demoted])} is the naive one "
            f"({trial.naive_name}): {trial.name} had {_worst(trial, demoted)}"
        )
    if trial.restored:
        found.append(f"{trial.name} makes the {horizon} forecast of {_named(trial.restored)} again")
    return "; ".join(found)


def _worst(trial: Trial, rows: Sequence[int]) -> str:
    """Say by how much the model was worse."""
    ratio = trial.ratios(1)[rows] if trial.losses.shape[1] else np.zeros(0)
    worst = float(np.nanmax(ratio)) if np.isfinite(ratio).any() else 0.0
    number = trial.losses.shape[1]
    if worst > PROMOTE_BELOW:
        forecasts = "forecast" if number == 1 else f"{number} forecasts"
        return f"up to {worst:.2f} times the loss over its last {forecasts}"
    return "a far greater loss of late"


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _shown(problem: Exception) -> str:
    text = " ".join(str(problem).split())[:120]
    return f"it raised {type(problem).__name__}{f': {text}' if text else ''}"
