"""The one feasibility check: each rule broken alone, and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

import pytest

from partita.controller.standing import beyond
from partita.mig import Geometry, Placed, parse
from partita.model.cluster import Batching, Gpu, Instance, Route, SubCluster, instances_of
from partita.model.plan import Budgets, HeldGpu, Plan, feasible
from partita.model.service import LatencyCurve, Service
from partita.model.staggered import Overheads
from partita.ports import Capabilities

WHOLE = Gpu("g0", "A100-80GB", 80.0, price_per_hour=2.0)
SLICED = Gpu("g1", "A100-80GB", 80.0, price_per_hour=3.0)
INVENTORY = (WHOLE, SLICED)
GEOMETRY = parse("A100-80GB", "3g.40gb@0,1g.10gb@6")
EAGER = Batching("eager")

# 10 ms a request on the whole GPU, 30 ms on a 3g; nothing measured on a 1g
RESNET = Service(
    "resnet",
    slo_s=0.050,
    attainment=0.99,
    memory_gib=20.0,
    curves=(LatencyCurve.linear(9, 1, profile="whole"), LatencyCurve.linear(29, 1, profile="3g.40gb")),
)
BERT = replace(RESNET, name="bert", memory_gib=15.0)
SERVICES = (RESNET, BERT)


def good_plan() -> Plan:
    """Serve both on the whole GPU, and a third of bert's load on the 3g of the other."""
    three_g = instances_of(SLICED, GEOMETRY)[0]
    return Plan(
        gpus=(HeldGpu("g0"), HeldGpu("g1", GEOMETRY)),
        sub_clusters=(
            SubCluster("a", instances_of(WHOLE, None), ("resnet", "bert"), (EAGER, EAGER)),
            SubCluster("b", (three_g,), ("bert",), (EAGER,)),
        ),
        routes=(Route("resnet", "a"), Route("bert", "a", weight=2 / 3), Route("bert", "b", weight=1 / 3)),
    )


def regroup(plan: Plan, name: str, **change: object) -> Plan:
    groups = tuple(replace(g, **change) if g.name == name else g for g in plan.sub_clusters)  # type: ignore[arg-type]
    return replace(plan, sub_clusters=groups)


def hold(plan: Plan, *gpus: HeldGpu) -> Plan:
    return replace(plan, gpus=gpus)


def test_a_good_plan_breaks_nothing() -> None:
    assert feasible(good_plan(), SERVICES, INVENTORY, Budgets(max_gpus=2, max_price_per_hour=5.0)) == ()


ONE_G = instances_of(SLICED, GEOMETRY)[1]
OVERLAPPING = Geometry("A100-80GB", (Placed(0, "3g.40gb"), Placed(3, "1g.10gb")))
UNKNOWN_PROFILE = Geometry("A100-80GB", (Placed(0, "3g.40gb"), Placed(6, "1g.5gb")))


@pytest.mark.parametrize(
    ("broken", "rule", "subject", "message"),
    [
        (lambda p: hold(p, *p.gpus, HeldGpu("g9")), "inventory", "g9", "GPU g9 is not in the cluster"),
        (lambda p: hold(p, *p.gpus, p.gpus[0]), "inventory", "g0", "GPU g0 is held twice"),
        (
            lambda p: regroup(p, "b", instances=(Instance("g1", "g1", 80.0),)),  # g1 is partitioned
            "inventory",
            "g1",
            "no held GPU has the instance g1",
        ),
        (
            lambda p: regroup(p, "b", instances=(replace(p.sub_clusters[1].instances[0], memory_gib=60.0),)),
            "inventory",
            "g1/3g.40gb@0",
            "no held GPU has the instance",
        ),
        (
            lambda p: regroup(p, "b", instances=p.sub_clusters[1].instances * 2),
            "overlap",
            "g1/3g.40gb@0",
            "is in two sub-clusters",
        ),
        (lambda p: regroup(p, "b", services=("bert", "vgg")), "route", "vgg", "b names an unknown service vgg"),
        (lambda p: replace(p, routes=p.routes[1:]), "route", "resnet", "do not cover all requests"),
        (
            lambda p: replace(p, routes=(*p.routes[:2], replace(p.routes[2], weight=0.5))),
            "route",
            "bert",
            "do not cover all requests",
        ),
        (
            lambda p: replace(p, routes=(p.routes[0], Route("bert", "a", weight=1.5), Route("bert", "b", weight=-0.5))),
            "route",
            "bert",
            "not shares of 1",
        ),
        (
            lambda p: replace(p, routes=(*p.routes, Route("resnet", "a", up_to_size=64.0, weight=0.5))),
            "route",
            "resnet",
            "up to size 64",
        ),
        (lambda p: replace(p, routes=(Route("resnet", "b"), *p.routes[1:])), "route", "resnet", "does not serve it"),
        (lambda p: replace(p, routes=(Route("resnet", "z"), *p.routes[1:])), "route", "resnet", "does not serve it"),
        (lambda p: replace(p, routes=(*p.routes, Route("vgg", "a"))), "route", "vgg", "unknown service vgg"),
        (
            lambda p: replace(p, sub_clusters=(*p.sub_clusters, replace(p.sub_clusters[1], instances=()))),
            "route",
            "b",
            "two sub-clusters are called b",
        ),
    ],
)
def test_each_broken_rule_is_named(broken: Callable[[Plan], Plan], rule: str, subject: str, message: str) -> None:
    found = feasible(broken(good_plan()), SERVICES, INVENTORY)
    assert [(v.rule, v.subject) for v in found if message in v.message] == [(rule, subject)]


@pytest.mark.parametrize(("geometry", "message"), [(OVERLAPPING, "overlaps"), (UNKNOWN_PROFILE, "no profile '1g.5gb'")])
def test_a_geometry_the_gpu_does_not_allow(geometry: Geometry, message: str) -> None:
    plan = hold(good_plan(), HeldGpu("g0"), HeldGpu("g1", geometry))
    found = feasible(plan, SERVICES, INVENTORY)
    # its instances do not come into being either
    assert [(v.rule, v.subject) for v in found] == [("geometry", "g1"), ("inventory", "g1/3g.40gb@0")]
    assert message in found[0].message


def test_models_that_do_not_fit_into_memory_side_by_side() -> None:
    # 20 + 15 GiB fit into 80 and into 39.25 GiB, 61 + 15 and 61 + 20 do not fit into 80 or 39.25
    grown = (replace(RESNET, memory_gib=66.0), BERT)
    assert [(v.rule, v.subject) for v in feasible(good_plan(), grown, INVENTORY)] == [("memory", "a")]
    exact = (replace(RESNET, memory_gib=65.0), BERT)
    assert feasible(good_plan(), exact, INVENTORY) == ()


def test_a_profile_without_a_measured_curve() -> None:
    # a tenth of the memory, so that only the curve is missing on the 1g (9.5 GiB)
    small = (RESNET, replace(BERT, memory_gib=1.5))
    found = feasible(regroup(good_plan(), "b", instances=(ONE_G,)), small, INVENTORY)
    assert [(v.rule, v.subject, v.message) for v in found] == [
        ("curve", "bert", "service bert has no latency curve for 1g.10gb")
    ]


def mixed_plan() -> Plan:
    """Serve both in one group: on the whole GPU, and on the 3g and the 1g of the other."""
    instances = (*instances_of(WHOLE, None), *instances_of(SLICED, GEOMETRY))
    group = SubCluster("all", instances, ("resnet", "bert"), (EAGER, EAGER))
    routes = (Route("resnet", "all"), Route("bert", "all"))
    return Plan((HeldGpu("g0"), HeldGpu("g1", GEOMETRY)), (group,), routes)


def test_of_mixed_instances_each_service_needs_one_kind_that_can_serve_it() -> None:
    small = tuple(replace(s, memory_gib=4.0) for s in SERVICES)  # 10 GiB on the 1g, for which there is no curve
    assert feasible(mixed_plan(), small, INVENTORY) == ()
    tight = (small[0], replace(small[1], slo_s=0.025))  # 10 ms on the whole GPU, 30 ms on the 3g
    assert feasible(mixed_plan(), tight, INVENTORY) == ()
    hopeless = (small[0], replace(small[1], slo_s=0.0125))
    assert feasible(mixed_plan(), hopeless, INVENTORY) == ()
    found = feasible(mixed_plan(), hopeless, INVENTORY, overheads=Overheads(data_s=0.003))
    assert [(v.rule, v.subject) for v in found] == [("curve", "bert"), ("slo", "bert"), ("slo", "bert")]


def test_an_executor_that_tells_no_kinds_apart_is_given_none_that_cannot_serve() -> None:
    small = tuple(replace(s, memory_gib=4.0) for s in SERVICES)
    assert beyond(mixed_plan(), small, Capabilities()) == []
    assert beyond(mixed_plan(), small, Capabilities(kinds=False)) == [
        f"the executor sends {name} to all instances of all, and 1g.10gb cannot answer it in time"
        for name in ("resnet", "bert")
    ]
    assert beyond(good_plan(), SERVICES, Capabilities(kinds=False)) == []


def test_an_slo_that_a_single_request_misses() -> None:
    tight = (RESNET, replace(BERT, slo_s=0.025))  # 10 ms on the whole GPU, 30 ms on the 3g
    found = feasible(good_plan(), tight, INVENTORY)
    assert [(v.rule, v.subject) for v in found] == [("slo", "bert")]
    assert "takes 30 ms alone on 3g.40gb, its SLO is 25 ms" in found[0].message


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        (Budgets(max_gpus=1), "2 GPUs held, 1 allowed"),
        (Budgets(max_price_per_hour=4.9), "5 an hour, 4.9 allowed"),
    ],
)
def test_budgets(budgets: Budgets, message: str) -> None:
    assert [(v.rule, v.message) for v in feasible(good_plan(), SERVICES, INVENTORY, budgets)] == [("budget", message)]


def test_a_route_for_large_inputs_only_leaves_no_gap_below() -> None:
    plan = good_plan()
    split = (Route("resnet", "a", up_to_size=64.0), Route("resnet", "a", up_to_size=inf))
    assert feasible(replace(plan, routes=(*split, *plan.routes[1:])), SERVICES, INVENTORY) == ()


def test_an_empty_plan_serves_nobody() -> None:
    found = feasible(Plan((), (), ()), SERVICES, INVENTORY)
    assert [(v.rule, v.subject) for v in found] == [("route", "resnet"), ("route", "bert")]
