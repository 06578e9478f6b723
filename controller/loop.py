"""The loop's pure middle: one observation in; a decision, its commands and the next state out.

observe → forecast → propose → reconcile → constrain → rehearse → decide; what follows (journal, apply, verify) is in
`turn`. There is no clock, no I/O and no hidden randomness here: replaying the observations gives the same decisions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partita.controller.appraise import Prices, appraise
from partita.controller.commands import commands_for, signature
from partita.controller.decide import choose
from partita.controller.futures import REHEARSED_LEVEL, gpu_seconds, rehearsed_rates
from partita.controller.history import History
from partita.controller.reconcile import Candidate, Wishes, build, candidates, least
from partita.controller.standing import adopted, beyond, grown, wishes_of
from partita.controller.state import OnDrift, OnMissing, Settings, State, Turn
from partita.controller.trial import forecast, judged, remark
from partita.errors import ForecastError
from partita.forecasting.calendar import NO_CALENDAR, Calendar
from partita.forecasting.yardstick import LAST_ARRIVALS
from partita.model.cluster import Batching, Gpu
from partita.model.load import Forecast, Observation
from partita.model.mix import as_seen
from partita.model.plan import (
    Action,
    Appraisal,
    Command,
    Decision,
    Opinion,
    OptionValue,
    Plan,
    Proposal,
    SetRoutes,
    feasible,
    same,
)
from partita.model.service import Service
from partita.model.staggered import NO_OVERHEADS, Overheads, sets_needed
from partita.plugins.host import PluginHost
from partita.ports import ANYTHING, Capabilities, Forecaster
from partita.replay.rehearsal import Rehearsed, Rehearser, mean, scale

NEAR_HOOKS = ("propose_capacity", "propose_batching", "propose_shares")
FAR_HOOKS = ("propose_geometry", "propose_placement")
WISH_HOOKS = ("propose_batching", *FAR_HOOKS)
"""Hooks whose suggestions hold until another is made."""

NEAR_STEPS_KEPT = 512
"""What the near blend learns from, and the steps since it last did."""

FAR_STEPS_KEPT = 4096
FAR_STEPS = 3
"""Epochs that the far forecast looks ahead."""

PATHS = 1
"""Number beside seed and tick that sample paths are drawn with: what else is drawn at a turn stays as it is."""
MOST_GROWTH = 4.0
"""Largest factor by which a service's recent requests are multiplied for a rehearsal."""


_NO_SHARES = "GPU% is not carried out by any executor of this version"


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """One controller's fixed parts: what it serves, on what, by whose policies, judged how."""

    services: tuple[Service, ...]
    inventory: tuple[Gpu, ...]
    batching: Batching
    host: PluginHost
    policies: tuple[str, ...] | None
    options: Mapping[str, Mapping[str, OptionValue]]
    near: Forecaster
    far: Forecaster
    rehearser: Rehearser
    prices: Prices
    settings: Settings
    overheads: Overheads = NO_OVERHEADS
    capabilities: Capabilities = ANYTHING
    calendar: Calendar = NO_CALENDAR

    def begin(self, start_s: float = 0.0) -> State:
        """Return the first state: the cluster as given is the standing plan."""
        names = tuple(s.name for s in self.services)
        wishes = Wishes({g.id: g.geometry for g in self.inventory}, dict.fromkeys(names, self.batching))
        gpus = min(len(self.inventory), self.settings.budgets.max_gpus or len(self.inventory))
        standing = build(gpus, wishes, self.services, self.inventory, [1.0] * len(names), "the cluster as given")
        near_s, epoch_s = self.settings.near_s, self.settings.epoch_s
        return State(
            tick=0,
            standing=standing,
            good=standing,
            wishes=wishes,
            near=History.empty(names, start_s=start_s, step_s=near_s, keep=NEAR_STEPS_KEPT),
            far=History.empty(names, start_s=start_s, step_s=epoch_s, keep=FAR_STEPS_KEPT),
            epoch_at_s=start_s,
        )

    def step(self, state: State, observation: Observation) -> tuple[State, Turn, tuple[Command, ...]]:
        """Take one turn."""
        near, far = state.near.extended(observation.load), state.far.extended(observation.load)
        near_trial, near_scored = judged(state.near_trial, "near", near.steps)
        far_trial, far_scored = judged(state.far_trial, "far", far.steps)
        state = replace(state, tick=state.tick + 1, near=near, far=far, near_trial=near_trial, far_trial=far_trial)
        state, turn, commands = self._turn(state, observation)
        remarks = [remark(trial, at) for at, trial in (("near", state.near_trial), ("far", state.far_trial))]
        if turn.near is not None and any(remarks):
            reason = "; ".join(text for text in (turn.decision.reason, *remarks) if text)
            turn = replace(turn, decision=replace(turn.decision, reason=reason))
        return state, replace(turn, scored=(*near_scored, *far_scored)), commands

    def _turn(self, state: State, observation: Observation) -> tuple[State, Turn, tuple[Command, ...]]:
        """Heed what is missing, failed or ordered before anything is forecast."""
        state = self._heeding(state, observation)
        if observation.orders.plan is not None:
            return self._obey(state, observation, observation.orders.plan)
        if observation.orders.paused:
            return self._hold(state, observation, f"paused: {observation.orders.paused}")
        if left := len(observation.work.left):
            commands = "1 command is" if left == 1 else f"{left} commands are"
            return self._hold(state, observation, f"decision {observation.work.tick} goes on: {commands} left")
        if missing := self._missing(observation):
            return self._without(state, observation, missing)
        if (followed := self._follow(state, observation)) is not None:
            return followed
        try:
            state, near, far = self._forecast(state, observation)
        except ForecastError as problem:
            return self._keep(state, observation, f"no forecast yet ({problem}): the plan stays as it is")
        seeing = replace(self, services=as_seen(self.services, observation.recent))
        return seeing._plan(state, observation, near, far)

    # What comes before any forecast ---------------------------------------------------------------------------------

    def _heeding(self, state: State, observation: Observation) -> State:
        """Go back to the last good plan if the one decided since could not be carried out."""
        work = observation.work
        if work.good is not None:
            state = replace(state, good=work.good)
        elif state.good is not state.standing and not work.left and not observation.missing:
            in_place = not commands_for(state.standing, observation.cluster)
            state = replace(state, good=state.standing) if in_place else state
        if work.failures > state.heeded:
            return replace(state, standing=state.good, wishes=wishes_of(state.good, state.wishes), heeded=work.failures)
        return state

    def _missing(self, observation: Observation) -> str:
        """Say which signals are missing; empty if all are there."""
        found = [f"{signal}: {problem}" for signal, problem in sorted(observation.missing.items())]
        behind_s = observation.now_s - observation.watermark_s
        if behind_s > self.settings.stale_s and "log" not in observation.missing:
            found.append(f"the log is {behind_s:.0f} s behind")
        return "; ".join(found)

    def _without(self, state: State, observation: Observation, missing: str) -> tuple[State, Turn, tuple[Command, ...]]:
        """Do what is configured while a signal is missing: hold, or hold more; never less."""
        settings, held = self.settings, len(state.standing.gpus)
        most = min(len(self.inventory), settings.budgets.max_gpus or len(self.inventory))
        wanted = {OnMissing.HOLD: held, OnMissing.FLOOR: settings.floor_gpus, OnMissing.OPEN: most}[settings.on_missing]
        gpus = min(max(held, wanted), most)
        if "cluster" in observation.missing:
            return self._hold(state, observation, f"{missing}: nothing is done until it can be seen")
        if gpus <= held:
            return self._keep(state, observation, f"{missing}: the last good plan stays")
        reason = f"{missing}: {gpus} GPUs are held until it is back ({settings.on_missing.value})"
        plan = grown(state.standing, gpus, self._usable(observation), state.wishes.geometry, reason)
        if problems := self._problems(plan, observation):
            return self._keep(state, observation, f"{missing}: the last good plan stays ({problems[0]})")
        return self._act(state, observation, plan, reason)

    def _obey(self, state: State, observation: Observation, plan: Plan) -> tuple[State, Turn, tuple[Command, ...]]:
        """Put a plan into force that the operator has asked for, if it is still allowed."""
        if "cluster" in observation.missing:
            return self._hold(state, observation, f"the cluster cannot be seen: {observation.missing['cluster']}")
        if problems := self._problems(plan, None):
            return self._hold(state, observation, f"{observation.orders.plan_reason} cannot be had: {problems[0]}")
        state = replace(state, wishes=wishes_of(plan, state.wishes))
        why = observation.orders.plan_reason
        return self._act(
            state, observation, replace(plan, reason=why), f"{why} ({plan.reason})" if plan.reason else why
        )

    def _follow(self, state: State, observation: Observation) -> tuple[State, Turn, tuple[Command, ...]] | None:
        """Where drift is adopted, take the cluster as it is for the standing plan, if it is one that can stand.

        Then nothing but what routes say of it may be left to change; what cannot be adopted so is put right.
        """
        if self.settings.on_drift is not OnDrift.ADOPT or not commands_for(state.standing, observation.cluster):
            return None
        found = adopted(observation.cluster, state.standing, self.inventory)
        left = commands_for(found, observation.cluster)
        if same(found, state.standing) or any(not isinstance(c, SetRoutes) for c in left):
            return None
        if self._problems(found, observation):
            return None
        reason = f"the cluster was changed by others, and is adopted as the standing plan: {found.reason}"
        return self._act(replace(state, wishes=wishes_of(found, state.wishes)), observation, found, reason)

    def _usable(self, observation: Observation) -> tuple[Gpu, ...]:
        """Return the inventory without GPUs in quarantine, but for those that serve."""
        serving = {s.instance.gpu for s in observation.cluster.instances if s.loaded}
        return tuple(g for g in self.inventory if g.id in serving or g.id not in observation.work.quarantine)

    # The stages ---------------------------------------------------------------------------------------------------

    def _forecast(self, state: State, observation: Observation) -> tuple[State, Forecast, Forecast]:
        """Forecast until a change decided now would be in force; over the coming epochs once in each.

        What is naive takes the place of a model where that fails, or has been worse.
        """
        settings = self.settings
        reach_s = 2 * settings.near_s + self.prices.delays.model_load_s
        steps = max(2, ceil(reach_s / state.near.step_s))
        trial, near = forecast(
            state.near_trial, state.tick, self.near, LAST_ARRIVALS, state.near.steps, steps, self.calendar
        )
        state = replace(state, near_trial=trial)
        if state.far_forecast is not None and observation.watermark_s < state.epoch_at_s:
            return state, near, state.far_forecast
        try:
            trial, far = forecast(
                state.far_trial, state.tick, self.far, LAST_ARRIVALS, state.far.steps, FAR_STEPS, self.calendar
            )
        except ForecastError:
            return state, near, replace(near, model=f"{near.model}, in place of a far forecast: too little history")
        return replace(state, far_trial=trial), near, far

    def _propose(
        self, state: State, observation: Observation, near: Forecast, far: Forecast
    ) -> tuple[State, list[tuple[str, Proposal]], list[Opinion]]:
        """Ask the plugins: about near matters at every turn, about far ones once an epoch."""
        hooks: tuple[str, ...] = NEAR_HOOKS
        if observation.watermark_s >= state.epoch_at_s:
            hooks = (*NEAR_HOOKS, *FAR_HOOKS)
            state = replace(state, epoch_at_s=observation.watermark_s + self.settings.epoch_s, far_forecast=far)
        proposals: list[tuple[str, Proposal]] = []
        opinions: list[Opinion] = []
        memory = state.host
        for hook in hooks:
            found, said, memory = self.host.propose(
                hook,
                tick=state.tick,
                state=memory,
                only=self.policies,
                services=self.services,
                inventory=self.inventory,
                observation=observation,
                near=near,
                far=far,
                standing=state.standing,
                overheads=self.overheads,
                options=self.options,
            )
            proposals += found
            opinions += [replace(o, fault=_NO_SHARES) if hook == "propose_shares" and not o.fault else o for o in said]
        state = replace(state, host=memory)
        wishes, opinions = self._heed(state, proposals, opinions, near)
        return replace(state, wishes=wishes), proposals, opinions

    def _heed(
        self, state: State, proposals: Sequence[tuple[str, Proposal]], opinions: Sequence[Opinion], near: Forecast
    ) -> tuple[Wishes, list[Opinion]]:
        """Take up what plugins wish of geometry, batching and placement; what cannot be had is told as their fault.

        A wish is part of every plan from now on, so one that no plan can have would silence everybody. One plugin's
        wishes are taken together.
        """
        wishes, told = state.wishes, list(opinions)
        rates = near.quantile(0.5).mean(axis=1).tolist()
        for name in sorted({name for name, _ in proposals}):
            tried = wishes.updated([(n, p) for n, p in proposals if n == name])
            if tried == wishes:
                continue
            gpus = least(max(1, len(state.standing.gpus)), tried, self.services, self.inventory, rates)
            problems = self._problems(build(gpus, tried, self.services, self.inventory, rates, ""), None)
            if problems:
                fault = f"cannot be had: {problems[0]}"
                told = [
                    replace(o, fault=fault) if o.plugin == name and o.hook in WISH_HOOKS and not o.fault else o
                    for o in told
                ]
            else:
                wishes = tried
        return wishes, told

    def _problems(self, plan: Plan, observation: Observation | None) -> list[str]:
        """Say why a plan is not allowed, or needs (seen from an observation) what has failed; empty if it is fine."""
        violations = feasible(plan, self.services, self.inventory, self.settings.budgets, self.overheads)
        found = [v.message for v in violations]
        found += beyond(plan, self.services, self.capabilities, self.overheads)
        if refusal := self.rehearser.refusal(plan):
            found.append(refusal)
        if observation is not None and (failed := observation.work.quarantine):
            needed = (signature(c) for c in commands_for(plan, observation.cluster))
            found += [f"it needs what has just failed: {failed[key]}" for key in needed if key in failed]
        return found

    def _plan(
        self, state: State, observation: Observation, near: Forecast, far: Forecast
    ) -> tuple[State, Turn, tuple[Command, ...]]:
        state, proposals, opinions = self._propose(state, observation, near, far)
        rates = near.quantile(0.5).mean(axis=1)
        usable = self._usable(observation)
        found = candidates(proposals, state.wishes, self.services, usable, rates.tolist(), state.standing)
        standing = Candidate("standing", state.standing)
        allowed, refused, state, faults = self._constrain(state, found, observation)
        opinions = [*opinions, *faults]
        firm = next((c for c in allowed if c.firm), None)
        weighed = [firm] if firm else allowed
        if weighed and not firm:
            rehearsed = self._rehearse(state, [standing, *weighed], observation, near)
        else:
            rehearsed = [None] * (1 + len(weighed))
        appraised = []
        for candidate, result in zip([standing, *weighed], rehearsed, strict=True):
            appraisal, state, faults = self._appraise(state, candidate, result, observation)
            appraised.append(appraisal)
            opinions += [fault for fault in faults if fault not in opinions]
        if firm:
            chosen, reason = appraised[1], f"{firm.label}, as its policy's own rule wants: {firm.plan.reason}"
        else:
            chosen, reason = choose(appraised[0], [*appraised[1:], *refused], self.settings.objective)
        if not found:
            reason = _agreed(opinions)
        commands = commands_for(chosen.plan, observation.cluster)
        if chosen is appraised[0] and commands:
            reason, commands = _put_right(reason, commands, observation.work.quarantine)
        decision = Decision(
            tick=state.tick,
            at_s=observation.now_s,
            action=Action.ACT if commands else Action.HOLD,
            chosen=chosen.label,
            reason=reason,
            opinions=tuple(opinions),
            candidates=(*appraised, *refused),
            commands=commands,
            objective=self.settings.objective,
            offered_rps=float(observation.load.rate_rps().sum()),
            forecast_rps=float(rates.sum()),
            gpus_held=len(observation.cluster.held),
            gpus_wanted=chosen.gpus,
        )
        need = self._need(chosen.plan, near)
        turn = Turn(decision, near, far, chosen.plan if commands else None, need)
        if chosen is not appraised[0]:
            state = replace(state, wishes=wishes_of(chosen.plan, state.wishes))
        return replace(state, standing=chosen.plan, need=need), turn, commands

    def _need(self, plan: Plan, near: Forecast) -> dict[str, int]:
        """Return how many replicas of each service the near forecast keeps busy, at most what the plan has."""
        rates = dict(zip((s.name for s in self.services), near.lasting(REHEARSED_LEVEL).tolist(), strict=True))
        need: dict[str, int] = {}
        for group in plan.sub_clusters:
            members = [s for s in self.services if s.name in group.services]
            kinds = Counter((i.profile, i.gpu_percent) for i in group.instances)
            replicas = len(group.instances)
            busy = replicas * sets_needed(members, [rates[s.name] for s in members], kinds, self.overheads)
            need |= dict.fromkeys(group.services, replicas if busy >= replicas else max(1, ceil(busy)))
        return need

    def _needed_still(self, state: State, plan: Plan) -> dict[str, int]:
        """Return the last need, at most what a plan has: what to keep to while there is no forecast."""
        has = Counter(r.service for r in plan.replicas())
        return {service: min(number, has[service]) for service, number in state.need.items()}

    def _act(
        self, state: State, observation: Observation, plan: Plan, reason: str
    ) -> tuple[State, Turn, tuple[Command, ...]]:
        """Put a plan into force that nothing was weighed against."""
        commands = commands_for(plan, observation.cluster)
        decision = replace(
            self._held(state, observation, reason),
            action=Action.ACT if commands else Action.HOLD,
            chosen=f"{len(plan.gpus)} GPU{'s' if len(plan.gpus) != 1 else ''}",
            commands=commands,
            gpus_wanted=len(plan.gpus),
        )
        turn = Turn(decision, plan=plan if commands else None, need=self._needed_still(state, plan))
        return replace(state, standing=plan), turn, commands

    def _constrain(
        self, state: State, found: Sequence[Candidate], observation: Observation
    ) -> tuple[list[Candidate], list[Appraisal], State, list[Opinion]]:
        """Keep the candidates that are feasible and that nobody vetoes; the others keep their reason."""
        allowed, refused, faults = [], [], list[Opinion]()
        for candidate in found:
            problems = self._problems(candidate.plan, observation)
            if not problems:
                vetoes, said, memory = self.host.vetoes(**self._asked(state, candidate, observation))
                state = replace(state, host=memory)
                faults += [fault for fault in said if fault not in faults]
                problems = [f"{name} vetoes: {why}" for name, why in vetoes]
            if problems:
                appraisal, state, said = self._appraise(state, candidate, None, observation)
                faults += [fault for fault in said if fault not in faults]
                refused.append(replace(appraisal, rejected="; ".join(problems)))
            else:
                allowed.append(candidate)
        return allowed, refused, state, faults

    def _rehearse(
        self, state: State, plans: Sequence[Candidate], observation: Observation, near: Forecast
    ) -> list[Rehearsed | None]:
        """Replay the plans on the recent log at upper rates of the forecast; None where there is no log to replay."""
        recent, (since_s, until_s) = observation.recent, observation.recent_span_s
        if recent is None or not len(recent) or until_s <= since_s:
            return [None] * len(plans)
        measured = np.diff(recent.offsets) / (until_s - since_s)
        span = (round(since_s * 1e9), round(until_s * 1e9))
        rng = np.random.Generator(np.random.PCG64([self.settings.seed, state.tick]))
        loads = []
        for expected in self._futures(state, observation, near):
            factors: NDArray[np.float64] = np.where(
                measured > 0, np.clip(expected / np.maximum(measured, 1e-9), 0.0, MOST_GROWTH), 0.0
            )
            loads.append(scale(recent, span, factors, rng))
        return [mean([self.rehearser.rehearse(c.plan, load, span[1]) for load in loads]) for c in plans]

    def _futures(self, state: State, observation: Observation, near: Forecast) -> NDArray[np.float64]:
        """Return the rates to rehearse, ``(futures, services)``."""
        kinds = Counter((i.profile, i.gpu_percent) for g in state.standing.sub_clusters for i in g.instances)
        return rehearsed_rates(
            near,
            state.near.steps,
            at_least=observation.load.surely_rps(),
            gpu_s=lambda rates: gpu_seconds(self.services, rates.tolist(), kinds, self.overheads),
            paths=self.settings.rehearse_paths,
            rng=np.random.Generator(np.random.PCG64([self.settings.seed, state.tick, PATHS])),
        )

    def _appraise(
        self, state: State, candidate: Candidate, rehearsed: Rehearsed | None, observation: Observation
    ) -> tuple[Appraisal, State, list[Opinion]]:
        """Price one candidate, its change counted from the standing plan; opinions are for faults only."""
        terms, faults, memory = self.host.terms(**self._asked(state, candidate, observation))
        change = () if candidate.plan is state.standing else commands_for(candidate.plan, observation.cluster)
        appraisal = appraise(
            candidate.label,
            candidate.plan,
            rehearsed,
            change,
            self.services,
            self.settings.objective,
            self.prices,
            terms,
            [s.instance for s in observation.cluster.instances],
        )
        return appraisal, replace(state, host=memory), faults

    def _asked(self, state: State, candidate: Candidate, observation: Observation) -> dict[str, Any]:
        """Return what plugins are told of one candidate."""
        return {
            "tick": state.tick,
            "state": state.host,
            "only": self.policies,
            "candidate": candidate.plan,
            "standing": state.standing,
            "observation": observation,
            "options": self.options,
        }

    def _hold(self, state: State, observation: Observation, reason: str) -> tuple[State, Turn, tuple[Command, ...]]:
        """Decide to change nothing, and say why."""
        return state, Turn(self._held(state, observation, reason)), ()

    def _keep(self, state: State, observation: Observation, reason: str) -> tuple[State, Turn, tuple[Command, ...]]:
        """Keep the standing plan without weighing anything, and put right what differs from it."""
        commands = commands_for(state.standing, observation.cluster)
        if commands:
            reason, commands = _put_right(reason, commands, observation.work.quarantine)
        decision = self._held(state, observation, reason)
        if not commands:
            return state, Turn(decision), ()
        decision = replace(decision, action=Action.ACT, commands=commands)
        return state, Turn(decision, plan=state.standing, need=self._needed_still(state, state.standing)), commands

    def _held(self, state: State, observation: Observation, reason: str) -> Decision:
        return Decision(
            tick=state.tick,
            at_s=observation.now_s,
            action=Action.HOLD,
            chosen="standing",
            reason=reason,
            opinions=(),
            candidates=(),
            commands=(),
            objective=self.settings.objective,
            offered_rps=float(observation.load.rate_rps().sum()),
            forecast_rps=0.0,
            gpus_held=len(observation.cluster.held),
            gpus_wanted=len(state.standing.gpus),
        )


def _put_right(
    reason: str, commands: tuple[Command, ...], quarantine: Mapping[str, str]
) -> tuple[str, tuple[Command, ...]]:
    """Let the cluster be put right, unless that is what has just failed."""
    failed = next((quarantine[key] for c in commands if (key := signature(c)) in quarantine), None)
    if failed is not None:
        return f"{reason}; the cluster differs from the standing plan, and what would put it right failed: {failed}", ()
    return f"{reason}; the cluster differs from the standing plan and is put right", commands


def _agreed(opinions: Sequence[Opinion]) -> str:
    """Say why nothing is to be done when every proposal is what stands already."""
    said = [f"{o.plugin}: {o.reason}" for o in opinions if o.hook == "propose_capacity" and not o.fault]
    return f"the standing plan is what is asked for ({'; '.join(said)})" if said else "no plugin asks for a change"
