"""What rehearsal and pricing say of a plan, worked by hand."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from miniature import DEFERRED, SECOND, cut, gpus, service

from partita.controller.appraise import CERTAINTY, Prices, appraise
from partita.controller.commands import commands_for
from partita.controller.reconcile import Wishes, build
from partita.model.cluster import Instance, SubCluster
from partita.model.plan import (
    Acquire,
    Appraisal,
    Command,
    CreateInstance,
    DestroyInstance,
    Drain,
    Objective,
    Plan,
    Release,
    SetBatching,
    SetRoutes,
    SetShare,
    StartReplicas,
    StopReplicas,
)
from partita.replay.cluster import Delays, SimulatedCluster
from partita.replay.rehearsal import Rehearsed

SERVICES = (service("a", attainment=0.99), service("b", attainment=0.9), service("c"))
INVENTORY = gpus(3, price=2.0)
PRICES = Prices(Delays(model_load_s=36.0, repartition_s=18.0), INVENTORY)
WISHES = Wishes({g.id: None for g in INVENTORY}, {s.name: DEFERRED for s in SERVICES})


def judge(
    offered: list[int] | None, good: list[int] | None = None, *, tolerance: float = 0.0, **how: object
) -> Appraisal:
    rehearsed = None if offered is None else Rehearsed(np.array(offered), np.array(good))
    plan = build(2, WISHES, SERVICES, INVENTORY, [1.0] * 3, "")
    objective = Objective(period_s=900.0, tolerance=tolerance)
    return appraise("x", plan, rehearsed, (), SERVICES, objective, PRICES, how.get("terms", {}))  # type: ignore[arg-type]


def error(good: int, offered: int) -> float:
    share = (good + 1) / (offered + 2)
    return sqrt(share * (1 - share) / (offered + 2))


def test_targets_met_leave_no_shortfall() -> None:
    seen = judge([1000, 100, 0], [995, 91, 0])
    assert seen.attainment == pytest.approx(1086 / 1100)
    assert seen.attainment_error == pytest.approx(error(1086, 1100))
    assert seen.shortfall == 0.0
    assert seen.worst_service == "a"  # 0.5 points above its target, b is 1 point above


def test_a_miss_counts_beyond_its_sampling_error_and_by_its_share_of_requests() -> None:
    seen = judge([1000, 3000, 0], [900, 2900, 0])
    beyond = 0.99 - 0.9 - CERTAINTY * error(900, 1000)
    assert seen.shortfall == pytest.approx(beyond / 4)
    assert seen.worst_service == "a"


@pytest.mark.parametrize(("offered", "good", "missed"), [(100, 98, False), (100, 90, True), (10, 9, False)])
def test_few_requests_prove_little(offered: int, good: int, missed: bool) -> None:
    assert (judge([offered, 0, 0], [good, 0, 0]).shortfall > 0) is missed


def test_the_tolerance_is_forgiven_on_top() -> None:
    assert judge([10_000, 0, 0], [9_800, 0, 0]).shortfall > 0
    assert judge([10_000, 0, 0], [9_800, 0, 0], tolerance=0.01).shortfall == 0


@pytest.mark.parametrize("offered", [None, [0, 0, 0]])
def test_without_requests_nothing_is_known(offered: list[int] | None) -> None:
    seen = judge(offered, [0, 0, 0])
    assert (seen.attainment, seen.shortfall, seen.worst_service) == (None, 0.0, "")


def test_cost_is_the_price_over_the_period_and_the_terms() -> None:
    assert judge(None).cost == pytest.approx(2 * 2.0 * 900 / 3600)
    assert judge(None, terms={"p.bonus": -0.25, "q.malus": 0.5}).cost == pytest.approx(1.0 + 0.25)


WHOLE = [Instance(name, name, 80.0) for name in ("gpu0", "gpu1")]
HALVES = [Instance(f"halved/{n}", "halved", 40.0, "3g.40gb", 4 * n) for n in range(2)]


def start(instance: str) -> Command:
    return StartReplicas(instance, ("a",), (DEFERRED,), "")


@pytest.mark.parametrize(
    ("commands", "gpu_seconds"),
    [
        ([], 0),
        ([SetRoutes((), (), ""), DestroyInstance("gpu0", ""), Release("gpu0", "")], 0),
        ([SetBatching("gpu0", ("a",), (DEFERRED,), "")], 0),
        ([Drain("gpu0", ("a",), ""), StopReplicas("gpu0", ("a",), "")], 0),
        ([Acquire("gpu0", ""), CreateInstance(WHOLE[0], "")], 0),
        ([Acquire("gpu0", ""), CreateInstance(WHOLE[0], ""), start("gpu0")], 36),
        ([Acquire("halved", ""), *(CreateInstance(half, "") for half in HALVES)], 18),
        ([Acquire("halved", ""), CreateInstance(HALVES[1], "")], 9),
        ([DestroyInstance("gpu0/3g.40gb@0", ""), CreateInstance(WHOLE[0], ""), start("gpu0")], 18 + 36),
        ([DestroyInstance("gpu1/3g.40gb@0", ""), CreateInstance(WHOLE[0], ""), start("gpu0")], 36),
        ([start("halved/0"), start("halved/1")], 36),
        ([start("halved/1")], 18),
        ([SetShare("halved/1", 50.0, "")], 18),
        ([start("gpu0"), start("gpu1")], 72),
    ],
)
def test_a_change_costs_the_time_that_gpus_are_away(commands: list[Command], gpu_seconds: float) -> None:
    """A GPU of two instances is half away while one of them loads or is made."""
    group = SubCluster("g", (*WHOLE, *HALVES), ("a",), (DEFERRED,))
    prices = Prices(PRICES.delays, (*INVENTORY, replace(INVENTORY[0], id="halved")))
    assert prices.change(commands, Plan((), (group,), ())) == pytest.approx(2.0 * gpu_seconds / 3600)


@pytest.mark.parametrize("wish", [None, "3g.40gb@0,3g.40gb@4"])
def test_a_change_is_priced_as_the_simulated_cluster_books_it(wish: str | None) -> None:
    """Three idle GPUs become two that are cut otherwise: all kinds of delays count, each for its part of its GPU."""
    delays = Delays(36.0, 18.0, create_s=5.0, destroy_s=3.0, drain_s=2.0, mps_restart_s=7.0)
    other = "3g.40gb@0,3g.40gb@4" if wish is None else None
    first, then = (
        build(n, Wishes({g.id: cut(w) for g in INVENTORY}, WISHES.batching), SERVICES, INVENTORY, [1.0] * 3, "")
        for n, w in ((3, wish), (2, other))
    )
    cluster = SimulatedCluster(INVENTORY, delays)
    cluster.begin_with(first)
    seen = cluster.observe(0)
    commands = commands_for(then, seen)
    if then.sub_clusters[0].instances[0].profile != "whole":
        share = SetShare(then.sub_clusters[0].instances[0].id, 50.0, "")
        commands = (*commands, share)
    cluster.apply(commands, 0)
    booked = 2.0 * cluster.away_gpu_seconds(0, 1000 * SECOND) / 3600
    priced = Prices(delays, INVENTORY).change(commands, then, [s.instance for s in seen.instances])
    assert priced == pytest.approx(booked)
    assert booked > 0
