"""Commands turn any cluster into any plan, and are given only where they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

from hypothesis import given, settings
from hypothesis import strategies as st
from miniature import SECOND, cut, gpus, service

from partita.controller.commands import Progress, after, commands_for, progress
from partita.controller.reconcile import Wishes, build
from partita.mig import Geometry
from partita.model.cluster import Batching, ClusterState, Instance, Status
from partita.model.plan import (
    Acquire,
    Command,
    CreateInstance,
    DestroyInstance,
    Drain,
    Placement,
    Plan,
    Release,
    SetBatching,
    SetRoutes,
    SetShare,
    StartReplicas,
    StopReplicas,
    target,
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
    """Make up a plan: some GPUs, each cut in some way, services in groups, some instances unused, some a share."""
    geometry = {g.id: draw(st.sampled_from(GEOMETRIES)) for g in INVENTORY}
    batching = {name: draw(st.sampled_from([Batching("deferred"), Batching("timeout", 0.01)])) for name in NAMES}
    marks = [draw(st.integers(0, 2)) for _ in NAMES]
    members = [tuple(n for n, m in zip(NAMES, marks, strict=True) if m == mark) for mark in sorted(set(marks))]
    placement = Placement(tuple((names, draw(st.floats(0.1, 3.0))) for names in members))
    plan = build(draw(st.integers(0, 4)), Wishes(geometry, batching, placement), SERVICES, INVENTORY, [1.0] * 4, "why")
    held = draw(st.permutations(plan.gpus))
    share = draw(st.sampled_from([100.0, 100.0, 40.0]))
    groups = []
    for group in plan.sub_clusters:
        kept = group.instances[: draw(st.integers(1, 7))]
        groups.append(replace(group, instances=(replace(kept[0], gpu_percent=share), *kept[1:])))
    return replace(plan, gpus=tuple(held), sub_clusters=tuple(groups))


@dataclass(frozen=True)
class Change:
    """A plan that is wanted so many seconds after the one before."""

    plan: Plan
    after_s: float


changes = st.builds(Change, plans(), st.sampled_from([0.0, 1.0, 5.0, 22.0, 100.0]))


def uses(plan: Plan) -> dict[Instance, dict[str, Batching]]:
    """Return each instance that a plan uses, and how its services batch there."""
    return {i: dict(zip(g.services, g.batching, strict=True)) for g in plan.sub_clusters for i in g.instances}


def assert_is(cluster: ClusterState, plan: Plan) -> None:
    """Compare everything that can be observed with what is wanted."""
    assert set(cluster.held) == {h.gpu for h in plan.gpus}
    assert (cluster.sub_clusters, cluster.routes) == (plan.sub_clusters, plan.routes)
    assert {state.instance: dict(state.batching) for state in cluster.instances} == uses(plan)
    for state in cluster.instances:
        assert state.status is Status.READY
        assert set(state.loaded) == set(state.batching), state.instance.id
        assert len(state.loaded) == len(set(state.loaded))
        assert (state.loading, state.draining) == ((), ())


def as_seen(cluster: ClusterState) -> object:
    """Return all that a cluster shows, without an order that means nothing."""
    states = {
        s.instance: (s.status, set(s.loaded), set(s.loading), set(s.draining), dict(s.batching))
        for s in cluster.instances
    }
    return set(cluster.held), states, cluster.sub_clusters, cluster.routes


def last_routes(commands: Sequence[Command]) -> int:
    """Return the place of the last change of routes; those before only hold until there is more to lead to."""
    return max((n for n, c in enumerate(commands) if isinstance(c, SetRoutes)), default=-1)


def begun(plan: Plan) -> SimulatedCluster:
    cluster = SimulatedCluster(INVENTORY, DELAYS)
    cluster.begin_with(plan)
    return cluster


@examples
@given(plans(), st.lists(changes, min_size=1, max_size=4))
def test_commands_applied_to_any_cluster_give_the_plan(first: Plan, wanted: list[Change]) -> None:
    cluster = begun(first)
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
    cluster = begun(plan)
    assert commands_for(plan, cluster.observe(0)) == ()
    assert commands_for(replace(plan, reason="another"), cluster.observe(0)) == ()


@examples
@given(plans(), plans())
def test_capacity_comes_first_and_is_taken_away_last(first: Plan, wanted: Plan) -> None:
    """Only where there is no room for both does the old go before the new is there."""
    had, wants = ({i.id: (i.gpu, set(services)) for i, services in uses(plan).items()} for plan in (first, wanted))
    lost, gained = ({gpu for key, (gpu, _) in a.items() if key not in b} for a, b in ((had, wants), (wants, had)))
    recut = lost & gained
    changing = {key for key, (_, now) in wants.items() if key in had and not (now <= had[key][1] or had[key][1] <= now)}
    commands = commands_for(wanted, begun(first).observe(0))

    def places(*kinds: type[Command]) -> list[int]:
        return [n for n, c in enumerate(commands) if isinstance(c, kinds)]

    added = places(Acquire, CreateInstance, StartReplicas, SetShare, SetBatching, SetRoutes)
    for n in places(Drain, StopReplicas, DestroyInstance):
        key = target(commands[n])
        if key not in changing and had[key][0] not in recut:
            assert n > max(added, default=-1)
    assert all(n > m for n in places(Release) for m in range(len(commands)) if m not in places(Release))
    assert all(n < m for n in places(Acquire) for m in range(len(commands)) if m not in places(Acquire))
    # What requests are routed to in the end is on its way by then.
    assert all(n > m for n in places(SetRoutes)[-1:] for m in places(CreateInstance, StartReplicas))
    # An instance that changes services makes room before it loads: both sets together may not fit.
    for n in places(StopReplicas):
        assert all(n < m for m in places(StartReplicas) if target(commands[n]) == target(commands[m]))
    assert all(c.reason == "why" for c in commands)
    # Groups change once, and once more between two GPUs that must make way.
    turning = recut | {had[key][0] for key in changing}
    assert len(places(SetRoutes)) <= max(1, len(turning))
    # Nothing is taken from an instance or a GPU that stays as it is.
    kept = {i.id for i, services in uses(first).items() if uses(wanted).get(i) == services}
    assert not [c for c in commands if target(c) in kept and not isinstance(c, Acquire | Release)]
    held = {h.gpu for h in first.gpus} & {h.gpu for h in wanted.gpus}
    assert not [c for c in commands if isinstance(c, Acquire | Release) and c.gpu in held]


def test_gpus_that_make_way_take_their_turns_in_the_order_of_the_plan() -> None:
    """Every GPU changes a service: without an order of its own, the turns would differ from process to process."""
    batching = dict.fromkeys(NAMES, Batching("deferred"))
    first, wanted = (
        build(4, Wishes({}, batching, Placement(((names, 1.0),))), SERVICES, INVENTORY, [1.0] * 4, "why")
        for names in (("a", "b"), ("a", "c"))
    )
    commands = commands_for(wanted, begun(first).observe(0))
    assert [c.instance for c in commands if isinstance(c, Drain)] == ["gpu0", "gpu1", "gpu2", "gpu3"]


@examples
@given(plans(), plans())
def test_what_is_stopped_drains_first_and_what_is_destroyed_is_empty(first: Plan, wanted: Plan) -> None:
    cluster = begun(first).observe(0)
    drained: list[tuple[str, tuple[str, ...]]] = []
    for command in commands_for(wanted, cluster):
        match command:
            case Drain(key, services):
                drained.append((key, services))
            case StopReplicas(key, services):
                drained.remove((key, services))
            case DestroyInstance(key):
                state = cluster.state(key)
                assert state is not None
                assert {*state.loaded, *state.loading} == set()
        cluster = after(cluster, command)
    assert drained == []


def served(cluster: ClusterState) -> set[str]:
    """Return the services that routes lead to an instance for that holds them and does not drain them."""
    there = {(s.instance.id, name) for s in cluster.instances for name in {*s.loaded} - {*s.draining}}
    groups = {g.name: g for g in cluster.sub_clusters}
    return {
        r.service
        for r in cluster.routes
        if r.sub_cluster in groups and any((i.id, r.service) in there for i in groups[r.sub_cluster].instances)
    }


@examples
@given(plans(), plans())
def test_no_routes_on_the_way_cut_off_a_service_that_is_there(first: Plan, wanted: Plan) -> None:
    cluster = begun(first).observe(0)
    for command in commands_for(wanted, cluster):
        before = served(cluster)
        cluster = after(cluster, command)
        if isinstance(command, SetRoutes) and command.routes != wanted.routes:
            assert served(cluster) >= before


@examples
@given(plans(), plans(), plans(), st.integers(0, 40))
def test_what_commands_make_of_a_cluster_is_the_plan(first: Plan, given_up: Plan, wanted: Plan, done: int) -> None:
    """Wherever a change was given up, after whichever command."""
    cluster = begun(first).observe(0)
    cluster = reduce(after, commands_for(given_up, cluster)[:done], cluster)
    for command in commands_for(wanted, cluster):
        assert progress(command, cluster) is Progress.ABSENT
        cluster = after(cluster, command)
        assert progress(command, cluster) is (Progress.ABSENT if isinstance(command, Drain) else Progress.DONE)
    assert_is(cluster, wanted)
    assert commands_for(wanted, cluster) == ()


@examples
@given(plans(), st.lists(plans(), min_size=1, max_size=3))
def test_the_simulated_cluster_becomes_what_commands_make_of_it(first: Plan, wanted: list[Plan]) -> None:
    cluster, now_ns = begun(first), 0
    for plan in wanted:
        seen = cluster.observe(now_ns)
        commands = commands_for(plan, seen)
        cluster.apply(commands, now_ns)
        lasting = [c for n, c in enumerate(commands) if not isinstance(c, SetRoutes) or n == last_routes(commands)]
        underway = cluster.observe(now_ns)
        assert all(progress(c, underway) is not Progress.ABSENT for c in lasting)
        now_ns = max(now_ns, cluster.settled_at_ns())
        assert as_seen(cluster.observe(now_ns)) == as_seen(reduce(after, commands, seen))
        assert all(progress(c, cluster.observe(now_ns)) is Progress.DONE for c in lasting)


@examples
@given(plans(), st.data())
def test_what_is_lost_is_commanded_again(plan: Plan, data: st.DataObject) -> None:
    """A GPU that fell out and an instance whose models are gone differ from the plan, and nothing else does."""
    cluster = begun(plan)
    expected: set[tuple[type[Command], str]] = set()
    held = sorted(h.gpu for h in plan.gpus)
    serving = {i.id: (i.gpu, tuple(services)) for i, services in uses(plan).items()}
    gone, empty = data.draw(st.tuples(st.booleans(), st.booleans()))
    if held and gone:
        lost: str = data.draw(st.sampled_from(held))
        there = [i for i, (gpu, _) in serving.items() if gpu == lost]
        cluster.apply([*(DestroyInstance(i, "by someone else") for i in there), Release(lost, "by someone else")], 0)
        expected |= {(Acquire, lost), *((CreateInstance, i) for i in there), *((StartReplicas, i) for i in there)}
    left = sorted(i for i in serving if i in cluster.slots)
    if left and empty:
        emptied: str = data.draw(st.sampled_from(left))
        cluster.apply([StopReplicas(emptied, serving[emptied][1], "by someone else")], 0)
        expected.add((StartReplicas, emptied))
    commands = commands_for(plan, cluster.observe(0))
    assert sorted((type(c).__name__, target(c)) for c in commands) == sorted((c.__name__, at) for c, at in expected)
    cluster.apply(commands, 0)
    assert_is(cluster.observe(cluster.settled_at_ns()), plan)
