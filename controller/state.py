"""What the loop is set to, what it carries from turn to turn, and what a turn makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from partita.controller.history import History
from partita.controller.reconcile import Wishes
from partita.controller.trial import Trial
from partita.model.load import Forecast, Scored
from partita.model.plan import Budgets, Decision, Objective, Plan
from partita.plugins.host import HostState


class OnMissing(StrEnum):
    """What to do while a signal is missing; none of it ever takes capacity away.

    HOLD keeps the standing plan, FLOOR holds at least `Settings.floor_gpus`, OPEN holds every GPU that is allowed.
    """

    HOLD = "hold"
    FLOOR = "floor"
    OPEN = "open"


class OnDrift(StrEnum):
    """What to do when the cluster was changed by others: put it right again, or take it as it is."""

    REPAIR = "repair"
    ADOPT = "adopt"


@dataclass(frozen=True, slots=True)
class Settings:
    """How often the loop turns, how far it looks, what it weighs, and what it does when it cannot know enough."""

    near_s: float = 10.0
    epoch_s: float = 600.0
    rehearse_s: float = 60.0
    rehearse_paths: int = 0
    stale_s: float = 60.0
    on_missing: OnMissing = OnMissing.HOLD
    floor_gpus: int = 0
    on_drift: OnDrift = OnDrift.REPAIR
    seed: int = 1
    objective: Objective = field(default_factory=Objective)
    budgets: Budgets = field(default_factory=Budgets)


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the loop carries from turn to turn.

    `standing` is the plan wanted, `good` the last one that was seen in place: where a plan that fails is undone to.
    """

    tick: int
    standing: Plan
    good: Plan
    wishes: Wishes
    near: History
    far: History
    epoch_at_s: float
    host: HostState = field(default_factory=HostState)
    far_forecast: Forecast | None = None
    need: Mapping[str, int] = field(default_factory=dict)
    """Replicas of each service that the last near forecast needed."""
    heeded: int = 0
    """Failed plans that have been taken into account."""
    near_trial: Trial = field(default_factory=Trial)
    far_trial: Trial = field(default_factory=Trial)
    """How the models have fared against the naive ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """What one turn made: the decision, the forecasts it rests on, and the plan if it acts.

    `need` is the number of replicas of each service that the near forecast needs, at most what the plan has: while the
    plan is carried out there must never be fewer. `scored` are earlier forecasts of which the truth has come.
    """

    decision: Decision
    near: Forecast | None = None
    far: Forecast | None = None
    plan: Plan | None = None
    need: Mapping[str, int] = field(default_factory=dict)
    scored: tuple[Scored, ...] = ()
