"""Appraise: what each candidate would attain on the rehearsal load, and what it would cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partita.model.cluster import Gpu, Instance
from partita.model.plan import (
    Appraisal,
    Command,
    CreateInstance,
    DestroyInstance,
    Drain,
    Objective,
    Plan,
    SetShare,
    StartReplicas,
)
from partita.model.service import WHOLE_GPU, Service
from partita.replay.cluster import Delays
from partita.replay.rehearsal import Rehearsed

CERTAINTY = 2.0
"""Standard errors by which a rehearsed attainment must miss its target to count as missed."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What change costs: how long it takes, and the GPUs' prices."""

    delays: Delays
    inventory: Sequence[Gpu]

    def change(self, commands: Sequence[Command], plan: Plan, there: Sequence[Instance] = ()) -> float:
        """Price the GPU time away while these commands turn what is `there` into the plan, in GPU-hours times price.

        An instance that loads, or starts again for another GPU%, takes its share of its GPU away, one that is created
        or destroyed its part of the memory, as in the simulated cluster; whole GPUs take no time to create unless
        something else was destroyed for them.
        """
        delays, gone = self.delays, {i.id: i for i in there}
        drained = {c.instance for c in commands if isinstance(c, Drain)}
        price = {g.id: g.price_per_hour for g in self.inventory}
        memory = {g.id: g.memory_gib for g in self.inventory}
        home = {i.id: i.gpu for group in plan.sub_clusters for i in group.instances}
        instances = Counter(home.values())
        destroyed = {c.instance.partition("/")[0] for c in commands if isinstance(c, DestroyInstance)}
        cost = 0.0
        for command in commands:
            match command:
                case StartReplicas(key):
                    cost += price[home[key]] * delays.model_load_s / instances[home[key]]
                case SetShare(key):
                    cost += price[home[key]] * delays.share_s / instances[home[key]]
                case CreateInstance(i) if i.profile != WHOLE_GPU or i.gpu in destroyed:
                    cost += price[i.gpu] * delays.creation_s * min(1.0, i.memory_gib / memory[i.gpu])
                case DestroyInstance(key) if key in gone:
                    i, away_s = gone[key], delays.destroy_s + (delays.drain_s if key in drained else 0.0)
                    cost += price[i.gpu] * away_s * min(1.0, i.memory_gib / memory[i.gpu])
                case _:
                    pass
        return cost / 3600


def appraise(
    label: str,
    plan: Plan,
    rehearsed: Rehearsed | None,
    commands: Sequence[Command],
    services: Sequence[Service],
    objective: Objective,
    prices: Prices,
    terms: Mapping[str, float],
    there: Sequence[Instance] = (),
) -> Appraisal:
    """Put what rehearsal and pricing say of a plan together; without a rehearsal nothing is known of attainment.

    `there` are the instances that the commands find.
    """
    share, error, shortfall, worst = _attainment(rehearsed, services, objective)
    hours = objective.period_s / 3600
    return Appraisal(
        label=label,
        plan=plan,
        gpus=len(plan.gpus),
        attainment=share,
        attainment_error=error,
        shortfall=shortfall,
        worst_service=worst,
        cost=plan.price_per_hour(prices.inventory) * hours + sum(terms.values()),
        change_cost=prices.change(commands, plan, there),
        commands=len(commands),
        terms=terms,
    )


def _attainment(
    rehearsed: Rehearsed | None, services: Sequence[Service], objective: Objective
) -> tuple[float | None, float, float, str]:
    """Return overall share and its error, the weighted shortfall beyond errors, and the worst service."""
    if rehearsed is None or not rehearsed.offered.sum():
        return None, 0.0, 0.0, ""
    offered = rehearsed.offered.astype(np.float64)
    share = rehearsed.good / np.maximum(offered, 1.0)
    target = np.array([s.attainment for s in services])
    missed = np.where(offered > 0, target - objective.tolerance - share, -np.inf)
    beyond = np.maximum(0.0, missed - CERTAINTY * _standard_error(rehearsed.good, offered))
    total = offered.sum()
    overall = float(rehearsed.good.sum() / total)
    error = float(_standard_error(rehearsed.good.sum(), total))
    return overall, error, float((beyond * offered).sum() / total), services[int(np.argmax(missed))].name


def _standard_error(good: NDArray[np.int64], offered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard error of a share, with one success and one failure added so that it is never 0."""
    share = (good + 1.0) / (offered + 2.0)
    return np.sqrt(share * (1.0 - share) / (offered + 2.0))
