"""One replay of many: what a worker is given, and what it gives back.

A task carries everything it depends on, so that it gives the same wherever and however often it runs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from time import monotonic
from typing import Any

from partita.controller.config import Scenario
from partita.controller.demand import Demand, read_demand
from partita.controller.results import versions
from partita.controller.run import run_scenario
from partita.errors import PartitaError
from partita.model.plain import to_json, to_plain


@dataclass(frozen=True, slots=True)
class Task:
    """A replay to be done; `name` tells it from the others, `dsn` is where its `load.log` is, if it has one."""

    name: str
    scenario: Scenario
    seed: int
    policy: str | None = None
    dsn: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a task gave: its score record as plain data, or a problem in one sentence.

    `kind` is the problem's class among our errors; None is one that the same task need not meet again, such as the
    death of its worker. `worker` is the process that ran it, with these `versions`.
    """

    score: dict[str, Any] | None
    problem: str | None = None
    kind: str | None = None
    wall_s: float = 0.0
    worker: int = 0
    versions: dict[str, str] | None = None


def run_task(task: Task) -> Outcome:
    """Replay and score; a problem with the scenario, its trace or a plugin is an outcome as well."""
    begun = monotonic()

    def outcome(score: dict[str, Any] | None, problem: str | None = None, kind: str | None = None) -> Outcome:
        return Outcome(score, problem, kind, monotonic() - begun, os.getpid(), versions())

    try:
        demand = _demand(task.scenario, task.dsn)
        run = run_scenario(task.scenario, policy=task.policy, seed=task.seed, demand=demand)
    except PartitaError as problem:
        return outcome(None, str(problem), type(problem).__name__)
    return outcome(to_plain(run.score))


_read: tuple[str, Demand] | None = None


def _demand(scenario: Scenario, dsn: str | None) -> Demand:
    """Read what a scenario asks for, or return what was read last if it is the same: a trace is looked through once."""
    global _read  # noqa: PLW0603 - a worker's memory, of one value that its key checks
    asked = scenario.document()
    place = [str(path) for path in scenario.trace_paths()] or dsn
    key = to_json([asked["load"], asked["services"], place])
    kept = _read
    if kept is None or kept[0] != key:
        kept = key, read_demand(scenario, dsn=dsn)
        _read = kept
    return kept[1]
