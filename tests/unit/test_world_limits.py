"""What a plan may ask that replay cannot do, and clusters that cannot serve: each is said in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from miniature import gpus, service

from partita.controller.reconcile import Wishes, build
from partita.controller.run import run_scenario
from partita.controller.scenario_file import parse_scenario
from partita.errors import Infeasible, Unsupported
from partita.model.cluster import Batching, Route
from partita.model.plan import SetRoutes, feasible
from partita.model.service import LatencyCurve, Service
from partita.model.staggered import Overheads
from partita.replay.cluster import Delays, SimulatedCluster


def test_requests_split_by_weight_are_refused() -> None:
    served, inventory = [service("a")], gpus(2)
    plan = build(2, Wishes({}, {"a": Batching("deferred")}), served, inventory, [1.0], "")
    cluster = SimulatedCluster(inventory, Delays())
    cluster.begin_with(plan)
    halves = (Route("a", "group0", weight=0.5), Route("a", "group0", weight=0.5))
    with pytest.raises(Unsupported, match="split by weight"):
        cluster.apply([SetRoutes(plan.sub_clusters, halves, "why")], 0)


def test_an_slo_that_overheads_break_is_infeasible() -> None:
    """24 ms alone fit into 25 ms; with 2.15 ms around them they do not."""
    slow = [Service("slow", 0.025, 0.99, 1.0, (LatencyCurve("whole", ((1, 0.024),)),))]
    inventory = gpus(1)
    plan = build(1, Wishes({}, {"slow": Batching("deferred")}), slow, inventory, [1.0], "")
    assert feasible(plan, slow, inventory) == ()
    around = Overheads(control_s=1e-4, data_s=5e-5, response_s=2e-3)
    [violation] = feasible(plan, slow, inventory, overheads=around)
    assert violation.rule == "slo"
    assert "2.15 ms of overheads" in violation.message


CLUSTERS = {
    "memory": (
        "[{gpu: A100-80GB, count: 1}]",
        "[{name: big1, slo_ms: 400, memory_gib: 50, latency: {alpha_ms: 2, beta_ms: 30}},"
        " {name: big2, slo_ms: 400, memory_gib: 45, latency: {alpha_ms: 2, beta_ms: 30}}]",
        r"no instance is left for big2 \(45 GiB\): the others fill the memory of all 1 instance",
    ),
    "only slow profiles for a group": (
        '[{gpu: A100-80GB, count: 1}, {gpu: A100-80GB, count: 1, geometry: "7x1g.10gb"}]',
        "[{name: big1, slo_ms: 25, memory_gib: 8, latency: &both"
        " {whole: {alpha_ms: 1, beta_ms: 5}, 1g.10gb: {alpha_ms: 4, beta_ms: 20}}},"
        " {name: big2, slo_ms: 25, memory_gib: 8, latency: *both}]",
        "big2 takes 24 ms alone on 1g.10gb and 2.15 ms of overheads, its SLO is 25 ms",
    ),
}


@pytest.mark.parametrize(("cluster", "services", "problem"), CLUSTERS.values(), ids=CLUSTERS.keys())
def test_a_cluster_that_cannot_serve_is_refused(cluster: str, services: str, problem: str) -> None:
    load = "{arrivals: {process: poisson, rate_rps: 10, duration_s: 10}, share: {big1: 0.5, big2: 0.5}}"
    text = f"cluster: {cluster}\nservices: {services}\nload: {load}\n"
    scenario = parse_scenario(text, name="s.yaml", folder=Path())
    with pytest.raises(Infeasible, match=problem):
        run_scenario(scenario, policy=None, seed=1)


def test_overheads_count_in_every_policys_sizing() -> None:
    """Of an SLO of 10 ms the overheads take a fifth; without them the baselines would hold too few GPUs by half."""
    text = """
cluster: [{gpu: A100-80GB, count: 24}]
services: [{name: tight, slo_ms: 10, latency: {alpha_ms: 1.053, beta_ms: 5.072}}]
load: {arrivals: {process: poisson, rate_rps: 2000, duration_s: 400}}
"""
    scenario = parse_scenario(text, name="s.yaml", folder=Path())
    for policy in ("static", "reactive", "symphony"):
        assert run_scenario(scenario, policy=policy, seed=1).score.attainment > 0.97, policy
