"""One replayed run: a scenario's world, and the loop over it under one policy, or no controller at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.controller.assembly import (
    REHEARSALS,
    SIZES,
    check_beginning,
    delays,
    failures_of,
    known_disciplines,
    make_loop,
    settings_of,
    variation_of,
)
from partita.controller.config import Scenario
from partita.controller.demand import Demand, read_demand
from partita.controller.loop import Loop
from partita.controller.state import State, Turn
from partita.controller.turn import AtOnce, Watch
from partita.controller.turn import run as turn_until
from partita.errors import PluginError
from partita.forecasting.calendar import Calendar
from partita.model.occupancy import Occupancy
from partita.model.plan import Action, Decision, Opinion, OptionValue
from partita.plugins.alarm import LIMIT_S, AlarmCaller
from partita.plugins.host import FAULTS_ALLOWED, PluginHost
from partita.ports import Discipline, Journal
from partita.replay.cluster import SimulatedCluster
from partita.replay.presence import PresentOnly
from partita.replay.score import Histograms, Score
from partita.replay.sizes import DrawnSizes
from partita.replay.timeline import OccupancyRecorder
from partita.replay.world import ReplayClock, ReplayExecutor, ReplayLog, World
from partita.traces.arrivals import ArrivalSource

Progress = Callable[[float, float], None]
"""Told the simulated seconds done, and their total."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What one run gave.

    `decisions` are those that acted, and those in which a plugin failed. `timeline` holds parallel arrays by interval:
    t_s, offered_rps, good_rps, gpus_held and forecast_rps (NaN before the first forecast). `occupancy` is there if it
    was asked for. `timing` is wall-clock.
    """

    policy: str | None
    score: Score
    decisions: tuple[Decision, ...]
    timeline: Mapping[str, NDArray[np.float64]]
    histograms: Histograms
    occupancy: Occupancy | None = None
    timing: Mapping[str, float] = field(default_factory=dict)


def run_scenario(
    scenario: Scenario,
    *,
    policy: str | None,
    seed: int,
    progress: Progress | None = None,
    journal: Journal | None = None,
    demand: Demand | None = None,
    plugin_limit_s: float = LIMIT_S,
    record_gpus: bool = False,
) -> Run:
    """Replay a scenario under one policy (None: the cluster as given) and score it.

    `demand` saves reading the trace's summary again; `record_gpus` keeps who ran on which GPU; `plugin_limit_s` is how
    long one call of a plugin may take before it counts as hung. Raises Infeasible if the cluster as given cannot serve
    the scenario, PluginError if the policy never gives a usable answer.
    """
    demand = demand or read_demand(scenario)
    host = PluginHost.load(caller=AlarmCaller(plugin_limit_s))
    if policy is not None:
        host.require([policy])
    disciplines = known_disciplines(host)
    loop = _make_loop(scenario, demand, host, disciplines, policy, seed)
    state = loop.begin()
    check_beginning(state.standing, loop)
    with demand.open(seed) as source:
        span_s = source.span_ns / 1e9
        loop = replace(loop, calendar=_calendar(scenario, source.origin_ns))
        names = [service.name for service in demand.services]
        recorder = OccupancyRecorder(loop.inventory, names, span_s) if record_gpus else None
        world = _make_world(scenario, demand, loop, source, disciplines, recorder, watched=policy is not None)
        world.cluster.begin_with(state.standing)
        record = _Record(policy, progress, span_s)
        if policy is None:
            _pass_time(world, loop.settings.near_s, span_s, record)
        else:
            asyncio.run(_control(loop, state, world, span_s, journal, record))
        score = world.finish()
    occupancy = recorder.occupancy() if recorder is not None else None
    return Run(policy, score, tuple(record.decisions), record.timeline(world), world.histograms(), occupancy)


class _Record:
    """Keeps what is to be shown of a run while it goes."""

    def __init__(self, policy: str | None, progress: Progress | None, span_s: float) -> None:
        self._policy, self._progress, self._span_s = policy, progress, span_s
        self._failures: list[Opinion] | None = []
        self._forecasts: list[tuple[float, float]] = []
        self.decisions: list[Decision] = []

    def watch(self, turn: Turn) -> None:
        """Take note of one turn."""
        decision = turn.decision
        if turn.near is not None:
            self._forecasts.append((decision.at_s, decision.forecast_rps))
        if decision.action is Action.ACT or any(o.fault for o in decision.opinions):
            self.decisions.append(decision)
        self._judge([o for o in decision.opinions if o.plugin == self._policy])
        self.reached(decision.at_s)

    def _judge(self, opinions: Sequence[Opinion]) -> None:
        """Give up on a policy that has failed in its first turns and never worked: its score would not be its own."""
        if self._failures is None or not opinions:
            return
        if any(not o.fault for o in opinions):
            self._failures = None
            return
        self._failures.append(opinions[0])
        if len(self._failures) > FAULTS_ALLOWED:
            first = self._failures[0]
            raise PluginError(f"{first.fault}; no turn of the policy worked", plugin=first.plugin, hook=first.hook)

    def reached(self, at_s: float) -> None:
        """Tell whoever watches how far the run is."""
        if self._progress is not None:
            self._progress(at_s, self._span_s)

    def timeline(self, world: World) -> dict[str, NDArray[np.float64]]:
        """Return the world's timeline with the forecasts beside it."""
        columns: dict[str, NDArray[np.float64]] = world.timeline.columns()
        forecast = np.full(len(columns["t_s"]), np.nan)
        at = {round(t, 6): n for n, t in enumerate(columns["t_s"].tolist())}
        for when, rate in self._forecasts:
            if round(when, 6) in at:
                forecast[at[round(when, 6)]] = rate
        return {**columns, "forecast_rps": forecast}


def _pass_time(world: World, step_s: float, span_s: float, record: _Record) -> None:
    at_s = 0.0
    while at_s < span_s:
        at_s = min(span_s, at_s + step_s)
        world.advance(round(at_s * 1e9))
        record.reached(at_s)


async def _control(
    loop: Loop, state: State, world: World, span_s: float, journal: Journal | None, record: _Record
) -> None:
    try:
        await turn_until(
            loop,
            state,
            log=ReplayLog(world),
            hands=AtOnce(ReplayExecutor(world)),
            clock=ReplayClock(world),
            until_s=span_s,
            journal=journal,
            watch=Watch(turned=record.watch),
        )
    finally:
        if journal is not None:
            await journal.close()


def _make_loop(
    scenario: Scenario,
    demand: Demand,
    host: PluginHost,
    disciplines: Mapping[str, Discipline],
    policy: str | None,
    seed: int,
) -> Loop:
    return make_loop(
        scenario,
        demand.services,
        host,
        disciplines,
        policy=policy,
        options=_options(scenario, demand, policy),
        settings=settings_of(scenario, seed=seed),
        variation=variation_of(scenario, seed=seed + REHEARSALS),
    )


def _calendar(scenario: Scenario, origin_ns: int) -> Calendar:
    """Return the calendar in seconds of a replay that begins at an instant of its trace."""
    played = scenario.demand.trace or scenario.demand.log
    return scenario.forecast.calendar_of(origin_ns=origin_ns, speed=1.0 if played is None else played.speed)


def _make_world(
    scenario: Scenario,
    demand: Demand,
    loop: Loop,
    source: ArrivalSource,
    disciplines: Mapping[str, Discipline],
    recorder: OccupancyRecorder | None,
    *,
    watched: bool,
) -> World:
    source = _shaped(source, scenario, loop.settings.seed)
    remember_s = loop.settings.rehearse_s + loop.settings.near_s + scenario.overhead.log_delay_s + 1.0
    return World(
        demand.services,
        source,
        SimulatedCluster(loop.inventory, delays(scenario)),
        disciplines,
        scenario.overheads(),
        counted_s=(demand.counted_from_s, source.span_ns / 1e9),
        log_delay_s=scenario.overhead.log_delay_s,
        remember_s=remember_s if watched else 0.0,
        recorder=recorder,
        variation=variation_of(scenario, seed=loop.settings.seed),
        failures=failures_of(scenario, span_s=source.span_ns / 1e9, seed=loop.settings.seed),
    )


def _shaped(source: ArrivalSource, scenario: Scenario, seed: int) -> ArrivalSource:
    """Return the requests with the sizes that the scenario gives them, and while their services are there."""
    if scenario.demand.sizes:
        source = DrawnSizes(source, scenario.demand.sizes, [seed, SIZES])
    present = scenario.presence_s(source.services)
    return PresentOnly(source, present) if any(span != (0.0, inf) for span in present) else source


def _options(scenario: Scenario, demand: Demand, policy: str | None) -> dict[str, dict[str, OptionValue]]:
    """Return the options of the policy; `static` is told the busiest minute of the load, known in advance."""
    options: dict[str, Any] = {name: dict(given) for name, given in scenario.policy_options().items()}
    if policy == "static" and not any(key.startswith("peak_rps.") for key in options.get("static", {})):
        peaks = {f"peak_rps.{name}": rate for name, rate in demand.peak_rps.items()}
        options["static"] = {**options.get("static", {}), **peaks}
    return options
