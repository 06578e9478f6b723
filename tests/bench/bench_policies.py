"""Compare the policies on real traces: `python tests/bench/bench_policies.py` (needs PARTITA_REFERENCE_DIR).

Each scenario runs through the whole loop. It passes if symphony attains 99 % overall and 95 % on every service with at
least a thousand requests, on at most 0.8 of static's GPU-hours, and on no more than reactive's unless reactive attains
less than 99 %. Peak memory is that of the whole process.

Beside them stands, for judgement and not for passing, reactive as tuned by hand with hindsight.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from datetime import date
from pathlib import Path
from time import monotonic

from partita.controller.config import Scenario
from partita.controller.demand import read_demand
from partita.controller.entries import PolicyEntry
from partita.controller.run import run_scenario
from partita.replay.score import Score

SCENARIOS = Path(__file__).parent / "scenarios"
ENOUGH_REQUESTS = 1000
MOST_MEMORY_GIB = 1.5
TUNED = ((0.75, 60.0), (0.8, 60.0))
"""Target utilisation and stabilisation time of reactive that these traces turned out to favour."""


def main() -> int:
    """Run both scenarios, print a table each, return 1 if one does not pass."""
    if "PARTITA_REFERENCE_DIR" not in os.environ:
        print("PARTITA_REFERENCE_DIR is not set: there are no traces to replay.", file=sys.stderr)
        return 2
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {date.today()}, {Path(sys.argv[0])}")
    passed = [compare(SCENARIOS / name) for name in ("azure-conv.yaml", "servegen-day.yaml")]
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak_gib:.2f} GiB (at most {MOST_MEMORY_GIB} GiB)")
    return 0 if all(passed) and peak_gib < MOST_MEMORY_GIB else 1


def compare(path: Path) -> bool:
    """Run one scenario under its policies; print what came out, and whether it passes."""
    scenario = Scenario.load(path)
    demand = read_demand(scenario)
    scores: dict[str, Score] = {}
    titles = f"{'good':>9} {'worst*':>9} {'GPU-hours':>10} {'of static':>9} {'changes':>8} {'requests/s':>11}"
    print(f"\n{path.name}\n{'policy':15} {titles}")
    for policy in scenario.policy_options():
        begun = monotonic()
        score = run_scenario(scenario, policy=policy, seed=scenario.seed, demand=demand).score
        scores[policy] = score
        show(policy, score, scores["static"], speed=score.offered / (monotonic() - begun))
    for target, stabilisation_s in TUNED:
        options = {"target": target, "stabilisation_s": stabilisation_s}
        tuned = scenario.model_copy(update={"policies": [PolicyEntry(name="reactive", options=options)]})
        score = run_scenario(tuned, policy="reactive", seed=scenario.seed, demand=demand).score
        show(f"reactive {target:g}/{stabilisation_s:g}", score, scores["static"])
    passed = passes(scores)
    print(f"{'passes' if passed else 'DOES NOT PASS'}   (* of services with at least {ENOUGH_REQUESTS:,} requests)")
    return passed


def show(name: str, score: Score, static: Score, *, speed: float | None = None) -> None:
    """Print one line of the table."""
    shares = f"{score.attainment:9.3%} {worst(score):9.3%}"
    hours = f"{score.gpu_hours:10.2f} {score.gpu_hours / static.gpu_hours:9.3f} {score.reconfigurations:8}"
    print(f"{name:15} {shares} {hours} {f'{speed:,.0f}' if speed else '':>11}", flush=True)


def worst(score: Score) -> float:
    """Return the lowest attainment of a service with enough requests."""
    known = [a for n, a in score.attainment_by_service.items() if score.offered_by_service[n] >= ENOUGH_REQUESTS]
    return min(known, default=1.0)


def passes(scores: dict[str, Score]) -> bool:
    """Say whether symphony keeps its promises beside the others."""
    static, reactive, symphony = (scores[name] for name in ("static", "reactive", "symphony"))
    return (
        symphony.attainment >= 0.99
        and worst(symphony) >= 0.95
        and symphony.gpu_hours <= 0.8 * static.gpu_hours
        and (symphony.gpu_hours <= reactive.gpu_hours or reactive.attainment < 0.99)
    )


if __name__ == "__main__":
    sys.exit(main())
