"""Running one scenario under several policies, one after the other, and what their results look like side by side."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic

from partita.controller.config import Scenario
from partita.controller.demand import Demand
from partita.controller.run import Run, run_scenario
from partita.controller.wording import because
from partita.model.occupancy import Occupancy
from partita.plots import Course, Mark
from partita.plugins.alarm import LIMIT_S
from partita.ports import Journal
from partita.replay.score import Histograms

Progress = Callable[[float, float], None]


def compare(
    scenario: Scenario,
    policies: Sequence[str],
    *,
    seed: int,
    plugin_limit_s: float = LIMIT_S,
    watch: Callable[[str], Progress],
    demand: Demand,
    journal: Callable[[str], Journal] | None = None,
    record_gpus: bool = False,
) -> list[Run]:
    """Run the scenario under each policy, or once without any, and time it; every run sees the same requests."""
    runs = []
    for policy in policies or (None,):
        name = policy or "fixed"
        begun, progress = monotonic(), watch(name)
        run = run_scenario(
            scenario,
            policy=policy,
            seed=seed,
            demand=demand,
            plugin_limit_s=plugin_limit_s,
            progress=progress,
            journal=journal(name) if journal else None,
            record_gpus=record_gpus,
        )
        progress(*[run.score.duration_s] * 2)
        runs.append(replace(run, timing={**run.timing, **_timing(monotonic() - begun, run.score.offered)}))
    return runs


def _timing(wall_s: float, offered: int) -> dict[str, float]:
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"wall_s": wall_s, "requests_per_s": offered / max(wall_s, 1e-9), "peak_memory_mib": peak_mib}


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What the figures draw of one run."""

    course: Course
    histograms: Histograms
    occupancy: Occupancy | None = None


def shown(run: Run) -> Shown:
    """Turn a run into what the figures draw."""
    return Shown(course(run), run.histograms, run.occupancy)


def course(run: Run) -> Course:
    """Turn a run into how it went over time."""
    acted = [d for d in run.decisions if d.commands]
    marks = tuple(Mark(d.at_s, d.gpus_wanted, because({"chosen": d.chosen, "reason": d.reason})) for d in acted)
    timeline = run.timeline
    return Course(
        timeline["t_s"],
        timeline["offered_rps"],
        timeline["good_rps"],
        timeline["gpus_held"],
        timeline["forecast_rps"],
        marks,
    )
