"""Commands turn any cluster into any plan, and are given only where they are needed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from miniature import SECOND, cut, gpus, service

from partita.controller.commands import commands_for
from partita.controller.reconcile import Wishes, build
from partita.mig import Geometry
from partita.model.cluster import Batching, ClusterState, Status
from partita.model.plan import (
    Acquire,
    Command,
    LoadModels,
    Placement,
    Plan,
    Regroup,
    Release,
    Repartition,
    UnloadModels,
)
from partita.replay.cluster import Delays, SimulatedCluster

INVENTORY = gpus(4)
SERVICES = tuple(service(name) for name in "abcd")
NAMES = tuple(s.name for s in SERVICES)
GEOMETRIES: tuple[Geometry | None, ...] = tuple(
    map(cut, (None, "7x1g.10gb", "3g.40gb@0,3g.40gb@4", "2g.20gb@0,3g.40gb@4"))
)
DELAYS = Delays(model_load_s=20.0, repartition_s=4.0)
examples = settings(max_examples=100, deadline=None, database=None)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Make up a plan: some GPUs, each cut in some way, services in groups, some instances left empty."""
    geometry = {g.id: draw(st.sampled_from(GEOMETRIES)) for g in INVENTORY}
    batching = {name: draw(st.sampled_from([Batching("deferred"), Batching("timeout", 0.01)])) for name in NAMES}
    marks = [draw(st.integers(0, 2)) for _ in NAMES]
    members = [tuple(n for n, m in zip(NAMES, marks, strict=True) if m == mark) for mark in sorted(set(marks))]
    placement = Placement(tuple((names, draw(st.floats(0.1, 3.0))) for names in members))
    plan = build(draw(st.integers(0, 4)), Wishes(geometry, batching, placement), SERVICES, INVENTORY, [1.0] * 4, "why")
    held = draw(st.permutations(plan.gpus))
    groups = tuple(replace(g, instances=g.instances[: draw(st.integers(1, 7))]) for g in plan.sub_clusters)
    return replace(plan, gpus=tuple(held), sub_clusters=groups)


@dataclass(frozen=True)
class Change:
    """A plan that is wanted so many seconds after the one before."""

    plan: Plan
    after_s: float


changes = st.builds(Change, plans(), st.sampled_from([0.0, 1.0, 5.0, 22.0, 100.0]))


def assert_is(cluster: ClusterState, plan: Plan) -> None:
    """Compare everything that can be observed with what is wanted."""
    assert set(cluster.held) == {h.gpu for h in plan.gpus}
    assert cluster.geometry == {h.gpu: h.geometry for h in plan.gpus}
    assert (cluster.sub_clusters, cluster.routes) == (plan.sub_clusters, plan.routes)
    wanted = {i: set(g.services) for g in plan.sub_clusters for i in g.instances}
    for state in cluster.instances:
        assert state.status is Status.READY
        assert set(state.loaded) == wanted.pop(state.instance, set()), state.instance.id
        assert state.loading == ()
    assert wanted == {}


@examples
@given(plans(), st.lists(changes, min_size=1, max_size=4))
def test_commands_applied_to_any_cluster_give_the_plan(first: Plan, wanted: list[Change]) -> None:
    cluster = SimulatedCluster(INVENTORY, DELAYS)
    cluster.begin_with(first)
    now_ns = 0
    for change in wanted:  # some of them while the one before is still on its way
        now_ns += round(change.after_s * SECOND)
        cluster.apply(commands_for(change.plan, cluster.observe(now_ns)), now_ns)
        # What is on its way is not commanded again.
        assert commands_for(change.plan, cluster.observe(now_ns)) == ()
    settled_ns = max(now_ns, cluster.settled_at_ns())
    assert_is(cluster.observe(settled_ns), wanted[-1].plan)
    assert commands_for(wanted[-1].plan, cluster.observe(settled_ns)) == ()


@examples
@given(plans())
def test_a_cluster_that_is_the_plan_needs_nothing(plan: Plan) -> None:
    cluster = SimulatedCluster(INVENTORY, DELAYS)
    cluster.begin_with(plan)
    assert commands_for(plan, cluster.observe(0)) == ()
    assert commands_for(replace(plan, reason="another"), cluster.observe(0)) == ()


@examples
@given(plans(), plans())
def test_capacity_comes_first_and_is_taken_away_last(first: Plan, wanted: Plan) -> None:
    cluster = SimulatedCluster(INVENTORY, DELAYS)
    cluster.begin_with(first)
    commands = commands_for(wanted, cluster.observe(0))
    order = (Acquire, Repartition, LoadModels, Regroup, UnloadModels, Release)
    loaded = {c.instance for c in commands if isinstance(c, LoadModels)}
    changing = [c for c in commands if isinstance(c, UnloadModels) and c.instance in loaded]
    kinds = [order.index(type(c)) for c in commands if c not in changing]
    assert kinds == sorted(kinds)
    # An instance that changes services makes room before it loads: both sets together may not fit.
    for unloading in changing:
        [loading] = [c for c in commands if isinstance(c, LoadModels) and c.instance == unloading.instance]
        assert commands.index(unloading) < commands.index(loading)
    assert all(c.reason == "why" for c in commands)
    # Groups change once and whole; nothing is taken from a GPU that stays as it is.
    assert kinds.count(order.index(Regroup)) <= 1
    kept = {h.gpu for h in first.gpus if h in wanted.gpus}
    assert not [c for c in commands if isinstance(c, Acquire | Repartition | Release) and c.gpu in kept]


@examples
@given(plans(), st.data())
def test_what_is_lost_is_commanded_again(plan: Plan, data: st.DataObject) -> None:
    """A GPU that fell out and an instance whose models are gone differ from the plan, and nothing else does."""
    cluster = SimulatedCluster(INVENTORY, DELAYS)
    cluster.begin_with(plan)
    expected: set[tuple[type[Command], str]] = set()
    held = sorted(h.gpu for h in plan.gpus)
    serving = {i.id: (i.gpu, g.services) for g in plan.sub_clusters for i in g.instances}
    gone, empty = data.draw(st.tuples(st.booleans(), st.booleans()))
    if held and gone:
        lost: str = data.draw(st.sampled_from(held))
        cluster.apply([Release(lost, "by someone else")], 0)
        expected.add((Acquire, lost))
        expected |= {(LoadModels, i) for i, (gpu, _) in serving.items() if gpu == lost}
    left = sorted(i for i in serving if i in cluster.slots)
    if left and empty:
        emptied: str = data.draw(st.sampled_from(left))
        cluster.apply([UnloadModels(emptied, serving[emptied][1], "by someone else")], 0)
        expected.add((LoadModels, emptied))
    commands = commands_for(plan, cluster.observe(0))
    assert {(type(c), getattr(c, "gpu", None) or getattr(c, "instance", "")) for c in commands} == expected
    cluster.apply(commands, 0)
    assert_is(cluster.observe(cluster.settled_at_ns()), plan)
