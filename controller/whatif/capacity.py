"""Searching for what a cluster carries: one search for each discipline and seed, all side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, Literal

from partita.controller.config import Scenario
from partita.controller.demand import read_demand
from partita.controller.results import versions
from partita.controller.run import run_scenario
from partita.controller.whatif.grid import vary_scenario
from partita.controller.whatif.task import Outcome, Task
from partita.controller.whatif.workers import Workers
from partita.controller.wording import percent
from partita.errors import ConfigError, Failed, Infeasible, TraceError
from partita.model.plain import to_json
from partita.replay.capacity import NOT_MONOTONE, FewestGpus, Found, HighestRate, Question, Reading
from partita.replay.significance import CONFIDENCE, Interval, interval

Find = Literal["rate", "gpus"]
By = Literal["worst", "average"]

METHOD = (
    "independent replications: each seed is a search of its own, on the same requests for every discipline; "
    "Student's t interval of the mean over seeds"
)
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be found, for which disciplines and seeds; `entry` is the cluster's whose GPUs are counted.

    `folder` is the scenario's, `dsn` where its `load.log` is.
    """

    scenario: Scenario
    folder: Path
    disciplines: tuple[str, ...]
    seeds: tuple[int, ...]
    find: Find = "rate"
    by: By = "worst"
    bad_rate: float = 0.01
    resolution: float = 0.005
    curve: int = 0
    scan: bool = False
    policy: str | None = None
    entry: int = 0
    most_gpus: int | None = None
    dsn: str | None = None


@dataclass(frozen=True, slots=True)
class Basis:
    """The scenario as it is, run once: its rate, what all its GPUs carry at best, and how many there are."""

    offered_rps: float
    fluid_rps: float
    staggered_rps: float
    gpus: int


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: a discipline at a level (a rate, or a number of GPUs) with a seed, and its score record.

    `problem` says why a cluster this small cannot serve the scenario at all; there is no score then.
    """

    discipline: str
    level: float
    seed: int
    score: Mapping[str, Any] | None
    problem: str | None = None

    def reading(self, by: By) -> Reading:
        """Return what the search looks at."""
        if self.score is None:
            return Reading(1.0, 1)
        if by == "average":
            return Reading(float(self.score["bad_rate"]), int(self.score["offered"]))
        worst = self.score["worst_service"]
        return Reading(1.0 - float(self.score["worst_attainment"]), int(self.score["offered_by_service"][worst]))


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for a discipline: for each seed, and their mean with its interval (0 where nothing was found).

    `monotone` is false where more load fared better somewhere; `why` says where. It was `scanned` then, or because it
    is known not to be monotone, or because that was asked for.
    """

    discipline: str
    by_seed: Mapping[int, Found]
    interval: Interval
    monotone: bool
    scanned: bool
    why: str | None


@dataclass(slots=True)
class _Hunt:
    """The searches of one discipline, a seed each."""

    question: Question
    points: dict[int, dict[float, Point]] = field(default_factory=dict)
    asked: set[tuple[int, float]] = field(default_factory=set)

    def readings(self, seed: int, by: By) -> dict[float, Reading]:
        return {level: point.reading(by) for level, point in self.points[seed].items()}


def look_at(asked: Asked) -> Basis:
    """Run the scenario once as it is, without a controller, to learn its rate and its bounds."""
    scenario = asked.scenario
    demand = read_demand(scenario, dsn=asked.dsn)
    score = run_scenario(scenario, policy=None, seed=asked.seeds[0], demand=demand).score
    if not score.offered:
        raise ConfigError("no request arrives in the time that is counted", key="load")
    return Basis(
        score.offered / score.duration_s,
        score.bound_fluid_rps,
        score.bound_staggered_rps,
        len(scenario.inventory()),
    )


def search(
    asked: Asked,
    basis: Basis,
    open_workers: Callable[[], Workers],
    *,
    points: list[Point],
    watch: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Answer]:
    """Measure until every search is over and say what was found; every measurement is put into `points` as it comes.

    All seeds of a discipline are scanned if the readings of one of them contradict each other, but not before all
    their bisections are over: so the same points are measured however many workers there are.
    """
    hunts = {name: _Hunt(_question(asked, basis, name), {s: {} for s in asked.seeds}) for name in asked.disciplines}
    with open_workers() as workers:

        def submit() -> None:
            for name, hunt in hunts.items():
                for task in _next(asked, basis, name, hunt):
                    workers.submit(task)

        submit()
        while finished := workers.finished():
            for task, outcome in finished:
                point = _point(task, outcome)
                points.append(point)
                hunts[point.discipline].points[point.seed][point.level] = point
            submit()
            left = sum(_remaining(asked, hunt) for hunt in hunts.values())
            watch(len(points), len(points) + left)
    return [_answer(asked, name, hunt) for name, hunt in hunts.items()]


def _question(asked: Asked, basis: Basis, discipline: str) -> Question:
    scan = asked.scan or discipline in NOT_MONOTONE
    bound = basis.fluid_rps or 2 * basis.offered_rps  # a cluster of several profiles may have no bound
    if asked.find == "rate":
        return HighestRate(asked.bad_rate, bound, asked.resolution, scan, asked.curve)
    needed = ceil(basis.offered_rps / bound * basis.gpus)
    others = basis.gpus - asked.scenario.cluster[asked.entry].count
    guess = max(1, needed - others)
    most = asked.most_gpus or 4 * guess + 12
    return FewestGpus(asked.bad_rate, min(guess, most), most, scan)


def _next(asked: Asked, basis: Basis, name: str, hunt: _Hunt) -> Iterator[Task]:
    """Yield the tasks of a discipline that are to be done next and have not been handed out."""
    wanted = {seed: hunt.question.wanted(hunt.readings(seed, asked.by)) for seed in asked.seeds}
    if not any(wanted.values()) and not hunt.question.scan and _contradictions(asked, hunt):
        hunt.question = hunt.question.scanned()
        wanted = {seed: hunt.question.wanted(hunt.readings(seed, asked.by)) for seed in asked.seeds}
    for seed, levels in wanted.items():
        for level in levels:
            if (seed, level) not in hunt.asked:
                hunt.asked.add((seed, level))
                yield _task(asked, basis, name, level, seed)


def _task(asked: Asked, basis: Basis, name: str, level: float, seed: int) -> Task:
    key = to_json([name, level, seed])
    return Task(key, at_level(asked, basis, name, level), seed, asked.policy, asked.dsn)


def at_level(asked: Asked, basis: Basis, discipline: str, level: float) -> Scenario:
    """Return the scenario under a discipline at a rate, or with a number of GPUs.

    A rate is set in `load.arrivals`; a trace is played faster or slower.
    """
    scenario, demand = asked.scenario, asked.scenario.demand
    settings: list[tuple[str, Any]] = []
    if discipline != scenario.discipline.name:
        settings.append(("discipline.name", discipline))
    if asked.find == "gpus":
        settings.append((f"cluster.{asked.entry}.count", int(level)))
    elif demand.arrivals is not None:
        settings.append(("load.arrivals.rate_rps", level))
    else:
        kind, window = ("trace", demand.trace) if demand.trace else ("log", demand.log)
        assert window is not None
        settings.append((f"load.{kind}.speed", window.speed * level / basis.offered_rps))
    return vary_scenario(scenario, settings, asked.folder)


def _point(task: Task, outcome: Outcome) -> Point:
    discipline, level, seed = json.loads(task.name)
    if outcome.score is None and outcome.kind != Infeasible.__name__:
        if outcome.kind in (ConfigError.__name__, TraceError.__name__):
            raise ConfigError(str(outcome.problem))
        raise Failed(f"{discipline} at {level:,.6g} with seed {seed}: {outcome.problem}", command="capacity")
    return Point(discipline, float(level), seed, outcome.score, outcome.problem)


def _contradictions(asked: Asked, hunt: _Hunt) -> dict[int, tuple[float, float]]:
    found = {seed: hunt.question.conclude(hunt.readings(seed, asked.by)) for seed in asked.seeds if hunt.points[seed]}
    return {seed: each.contradiction for seed, each in found.items() if each.contradiction is not None}


def _remaining(asked: Asked, hunt: _Hunt) -> int:
    return sum(hunt.question.remaining(hunt.readings(seed, asked.by)) for seed in asked.seeds)


def _answer(asked: Asked, name: str, hunt: _Hunt) -> Answer:
    by_seed = {seed: hunt.question.conclude(hunt.readings(seed, asked.by)) for seed in asked.seeds}
    contradictions = _contradictions(asked, hunt)
    why = None
    if contradictions:
        seed, (easier, harder) = next(iter(contradictions.items()))
        before, after = (hunt.points[seed][level].reading(asked.by).bad_rate for level in (easier, harder))
        unit = "req/s" if asked.find == "rate" else "GPUs"
        why = f"{percent(before)} bad at {easier:,.0f} {unit}, {percent(after)} at {harder:,.0f}, with seed {seed}"
    levels = [found.level or 0.0 for found in by_seed.values()]
    return Answer(name, by_seed, interval(levels), not contradictions, hunt.question.scan, why)


# The document ---------------------------------------------------------------------------------------------------------


def capacity_document(
    asked: Asked, basis: Basis, answers: Sequence[Answer], points: Sequence[Point], *, finished: bool = True
) -> dict[str, Any]:
    """Put a search together as plain data, the same bytes for the same scenario and seeds."""
    return {
        "partita_capacity": FORMAT,
        "finished": finished,
        "scenario": asked.scenario.document(),
        "versions": versions(),
        "find": asked.find,
        "by": asked.by,
        "bad_rate": asked.bad_rate,
        "resolution": asked.resolution,
        "policy": asked.policy,
        "disciplines": list(asked.disciplines),
        "seeds": list(asked.seeds),
        "method": METHOD,
        "confidence": CONFIDENCE,
        "bounds": {
            "gpus": basis.gpus,
            "offered_rps": basis.offered_rps,
            "fluid_rps": basis.fluid_rps,
            "staggered_rps": basis.staggered_rps,
        },
        "answers": {answer.discipline: _answer_document(asked, basis, answer, points) for answer in answers},
        "points": [_point_document(asked, point) for point in _in_order(asked, points)],
    }


def _in_order(asked: Asked, points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda p: (asked.disciplines.index(p.discipline), p.level, p.seed))


def _answer_document(asked: Asked, basis: Basis, answer: Answer, points: Sequence[Point]) -> dict[str, Any]:
    found = answer.interval
    shares = {"of_staggered": basis.staggered_rps, "of_fluid": basis.fluid_rps} if asked.find == "rate" else {}
    return {
        "mean": found.mean,
        "low": None if len(asked.seeds) < 2 else found.low,
        "high": None if len(asked.seeds) < 2 else found.high,
        "by_seed": {
            str(seed): {"level": each.level, "missed": each.missed} for seed, each in sorted(answer.by_seed.items())
        },
        "monotone": answer.monotone,
        "scanned": answer.scanned,
        "why": answer.why,
        **{name: found.mean / bound if bound else None for name, bound in shares.items()},
        "at_it": _at_it(answer, points),
    }


AT_IT = ("mean_batch", "utilisation", "gpus_held_mean", "gpus_busy_mean", "latency_p99_ms")
"""What is told of the runs at the level found, as means over the seeds."""


def _at_it(answer: Answer, points: Sequence[Point]) -> dict[str, float] | None:
    levels = {seed: found.level for seed, found in answer.by_seed.items()}
    there = [
        _numbers(point.score)
        for point in points
        if point.discipline == answer.discipline and point.score and levels[point.seed] == point.level
    ]
    return {key: sum(n[key] for n in there) / len(there) for key in AT_IT} if there else None


def _point_document(asked: Asked, point: Point) -> dict[str, Any]:
    begin = {"discipline": point.discipline, "level": point.level, "seed": point.seed, "problem": point.problem}
    if point.score is None:
        return begin
    met = point.reading(asked.by).bad_rate <= asked.bad_rate
    return {**begin, "met": met, **_numbers(point.score), "worst_service": point.score["worst_service"]}


def _numbers(score: Mapping[str, Any]) -> dict[str, float]:
    return {
        "offered_rps": score["offered"] / score["duration_s"],
        "goodput_rps": score["goodput_rps"],
        "bad_rate": score["bad_rate"],
        "worst_bad_rate": 1.0 - score["worst_attainment"],
        "mean_batch": score["mean_batch"],
        "utilisation": score["utilisation"],
        "gpus_held_mean": score["gpus_held_mean"],
        "gpus_busy_mean": score["utilisation"] * score["gpus_held_mean"],
        "latency_p99_ms": score["latency_ms"]["p99"],
        "bound_staggered_rps": score["bound_staggered_rps"],
        "bound_fluid_rps": score["bound_fluid_rps"],
    }
