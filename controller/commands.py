"""From plan to commands, and what commands make of a cluster: all of it pure.

`commands_for` is the difference between what is wanted and what is there, in an order that keeps capacity: it comes
first and is taken away last. `after` says what a command makes of a cluster, `progress` how far the world has followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import reduce
from hashlib import sha256
from typing import assert_never

from partita.model.cluster import Batching, ClusterState, Instance, InstanceState, Route, Status, SubCluster
from partita.model.plain import to_json
from partita.model.plan import (
    Acquire,
    Command,
    CreateInstance,
    DestroyInstance,
    Drain,
    Plan,
    Release,
    SetBatching,
    SetRoutes,
    SetShare,
    StartReplicas,
    StopReplicas,
    target,
)
from partita.model.revive import command_to_plain

Wanted = Mapping[str, tuple[Instance, Mapping[str, Batching]]]
"""Instance id -> the instance, and its services with their batching."""


class Progress(StrEnum):
    """How far the world has followed a command."""

    ABSENT = "absent"
    UNDERWAY = "underway"
    DONE = "done"


def commands_for(plan: Plan, cluster: ClusterState) -> tuple[Command, ...]:
    """Return what must be started so that the cluster becomes the plan; empty if it is, or is on its way.

    GPUs are acquired, instances created and replicas started before routes change; what is not wanted any more goes
    after that. Only where there is no room for both does the old make way first: on a GPU that is cut otherwise, and on
    an instance that changes services. Those GPUs take their turns, and after each the routes lead to what is there by
    then. An instance that no sub-cluster uses is neither created nor kept.
    """
    wanted, reason = _wanted(plan), plan.reason
    held = {h.gpu for h in plan.gpus}
    there = {s.instance.id: s for s in cluster.instances}
    missing = [i for key, (i, _) in wanted.items() if key not in there]
    surplus = [s for key, s in there.items() if key not in wanted]
    recut = {s.instance.gpu for s in surplus} & {i.gpu for i in missing}
    unlike = {k: (i, services) for k, (i, services) in wanted.items() if k not in there or _differs(services, there[k])}
    changing = {key for key, (_, services) in unlike.items() if key in there and _swaps(services, there[key])}
    turning = dict.fromkeys(
        [*(i.gpu for i in missing if i.gpu in recut), *(i.gpu for key, (i, _) in unlike.items() if key in changing)]
    )

    chains: dict[str, list[Command]] = {gpu: [] for gpu in turning}
    going: list[Command] = []
    for state in surplus:
        chains.get(state.instance.gpu if state.instance.gpu in recut else "", going).extend(_removal(state, reason))
    for key, (_, services) in unlike.items():
        if key in there:
            chains.get(there[key].instance.gpu if key in changing else "", going).extend(
                _emptying(there[key], services, reason)
            )
    first: list[Command] = [Acquire(h.gpu, reason) for h in plan.gpus if h.gpu not in cluster.held]
    for instance in missing:
        chains.get(instance.gpu, first).append(CreateInstance(instance, reason))
    for start in _starts(unlike, there, reason):
        chains.get(wanted[start.instance][0].gpu, first).append(start)
    turns = tuple(_in_turn(list(chains.values()), plan, cluster, first))
    return (
        *first,
        *turns,
        *_adjustments(wanted, there, reason),
        *_routes(plan, reduce(after, (c for c in turns if isinstance(c, SetRoutes)), cluster)),
        *going,
        *(Release(gpu, reason) for gpu in cluster.held if gpu not in held),
    )


def _in_turn(
    chains: Sequence[Sequence[Command]], plan: Plan, cluster: ClusterState, first: Sequence[Command]
) -> Iterator[Command]:
    """Yield the chains one after the other; between two, routes lead to what the ones before have made.

    Routes that would cut off a service which the present ones still reach wait for the next chain.
    """
    seen = reduce(after, first, cluster)
    for number, chain in enumerate(chains, 1):
        yield from chain
        seen = reduce(after, chain, seen)
        if number < len(chains):
            bridge = SetRoutes(*_bridged(plan, seen), plan.reason)
            bridged = after(seen, bridge)
            if bridged != seen and _reached(bridged) >= _reached(seen):
                yield bridge
                seen = bridged


def _bridged(plan: Plan, cluster: ClusterState) -> tuple[tuple[SubCluster, ...], tuple[Route, ...]]:
    """Return the plan's groups with the instances that can serve them now, old ones among them."""
    ready = {s.instance.id: s for s in cluster.instances if s.status is Status.READY}
    taken = {i.id for group in plan.sub_clusters for i in group.instances}
    groups = []
    for group in plan.sub_clusters:
        fits = [s for s in ready.values() if set(group.services) <= set(s.loaded) - set(s.draining)]
        own = {i.id for i in group.instances}
        members = tuple(s.instance for s in fits if s.instance.id in own or s.instance.id not in taken)
        taken.update(i.id for i in members)
        if members:
            groups.append(replace(group, instances=members))
    names = {group.name for group in groups}
    kept = tuple(r for r in plan.routes if r.sub_cluster in names)
    served = {r.service for r in kept}
    old = [g for g in cluster.sub_clusters if g.name not in names and not served & set(g.services)]
    rest = tuple(r for r in cluster.routes if r.service not in served and r.sub_cluster in {g.name for g in old})
    return (*groups, *old), (*kept, *rest)


def _reached(cluster: ClusterState) -> set[str]:
    """Return the services that routes lead to a replica of that does not drain."""
    there = {(s.instance.id, service) for s in cluster.instances for service in set(s.loaded) - set(s.draining)}
    homes = {g.name: [i.id for i in g.instances] for g in cluster.sub_clusters}
    return {r.service for r in cluster.routes if any((i, r.service) in there for i in homes.get(r.sub_cluster, ()))}


def _wanted(plan: Plan) -> Wanted:
    wanted: dict[str, tuple[Instance, Mapping[str, Batching]]] = {}
    for group in plan.sub_clusters:
        services = dict(zip(group.services, group.batching, strict=True))
        wanted.update((instance.id, (instance, services)) for instance in group.instances)
    return wanted


def _services(state: InstanceState) -> set[str]:
    """Return what an instance holds or is about to hold."""
    return {*state.loaded, *state.loading}


def _serving(state: InstanceState) -> set[str]:
    """Return what an instance holds or is about to hold and does not drain: what drains must be started again."""
    return _services(state) - set(state.draining)


def _differs(services: Mapping[str, Batching], state: InstanceState) -> bool:
    """Say whether an instance holds other services than these, or not all of them to stay."""
    return bool(state.loading or state.draining) or state.loaded != tuple(services)


def _swaps(services: Mapping[str, Batching], state: InstanceState) -> bool:
    """Say whether an instance must let go of services and take others, which together may not fit into its memory."""
    has = _services(state)
    return not services.keys() <= has and not has <= services.keys()


def _removal(state: InstanceState, reason: str) -> list[Command]:
    """Take an instance away with all that it holds."""
    return [*_emptying(state, {}, reason), DestroyInstance(state.instance.id, reason)]


def _emptying(state: InstanceState, kept: Mapping[str, Batching], reason: str) -> list[Command]:
    """Drain and stop all that an instance holds beside what is kept."""
    leaving = tuple(sorted(_services(state) - kept.keys()))
    key = state.instance.id
    return [Drain(key, leaving, reason), StopReplicas(key, leaving, reason)] if leaving else []


def _starts(wanted: Wanted, there: Mapping[str, InstanceState], reason: str) -> Iterator[StartReplicas]:
    for key, (_, services) in wanted.items():
        has = _serving(there[key]) if key in there else set()
        if absent := tuple(s for s in services if s not in has):
            yield StartReplicas(key, absent, tuple(services[s] for s in absent), reason)


def _adjustments(wanted: Wanted, there: Mapping[str, InstanceState], reason: str) -> Iterator[Command]:
    """Set shares and batching of what stays where it is; batching that is not known is left alone."""
    for key, (instance, services) in wanted.items():
        state = there.get(key)
        if state is None:
            continue
        if state.instance.gpu_percent != instance.gpu_percent:
            yield SetShare(key, instance.gpu_percent, reason)
        if state.batching == services:
            continue
        serving = _serving(state)
        other = tuple(s for s, b in services.items() if s in serving and state.batching.get(s, b) != b)
        if other:
            yield SetBatching(key, other, tuple(services[s] for s in other), reason)


def _routes(plan: Plan, cluster: ClusterState) -> Iterator[Command]:
    if cluster.sub_clusters != plan.sub_clusters or cluster.routes != plan.routes:
        yield SetRoutes(plan.sub_clusters, plan.routes, plan.reason)


def below_need(command: Command, cluster: ClusterState, need: Mapping[str, int]) -> str:
    """Say which service a command would leave with fewer replicas than it needs; empty if none.

    Counted are the replicas that routes lead to, that are ready and do not drain. Only a drain, and an instance that
    starts again for another share, take any away: what is stopped or destroyed has drained.
    """
    if not isinstance(command, Drain | SetShare):
        return ""
    routed = {(r.service, r.sub_cluster) for r in cluster.routes}
    homes = {(s, i.id) for g in cluster.sub_clusters for s in g.services if (s, g.name) in routed for i in g.instances}
    leaving = command.services if isinstance(command, Drain) else tuple(need)
    for service in leaving:
        others = [
            s
            for s in cluster.instances
            if s.instance.id != command.instance
            and s.status is Status.READY
            and service in s.loaded
            and service not in s.draining
            and (service, s.instance.id) in homes
        ]
        is_there = (service, command.instance) in homes
        if is_there and len(others) < need.get(service, 0):
            return f"{service} needs {need[service]} replicas, and would have {len(others)} without {command.instance}"
    return ""


def signature(command: Command) -> str:
    """Name what a command does, whatever its reason: two commands with the same signature do the same."""
    content = to_json({k: v for k, v in command_to_plain(command).items() if k != "reason"})
    return f"{type(command).__name__} {target(command)} {sha256(content.encode()).hexdigest()[:12]}"


# What commands make of a cluster ------------------------------------------------------------------------------------


def progress(command: Command, cluster: ClusterState) -> Progress:
    """Say how far a cluster has followed a command; a drain leaves no trace and counts as absent until all is gone."""
    match command:
        case Acquire(gpu):
            return _done(gpu in cluster.held)
        case Release(gpu):
            return _done(gpu not in cluster.held)
        case SetRoutes(sub_clusters, routes):
            return _done((cluster.sub_clusters, cluster.routes) == (sub_clusters, routes))
        case CreateInstance(instance):
            return _of_instance(cluster.state(instance.id))
        case DestroyInstance(key):
            return _done(cluster.state(key) is None)
        case SetShare(key, gpu_percent):
            state = cluster.state(key)
            return _done(state is not None and state.instance.gpu_percent == gpu_percent)
        case StartReplicas(key, services, batching):
            return _of_start(cluster.state(key), dict(zip(services, batching, strict=True)))
        case StopReplicas(key, services) | Drain(key, services):
            state = cluster.state(key)
            return _done(state is None or not _services(state) & set(services))
        case SetBatching(key, services, batching):
            state = cluster.state(key)
            wanted = dict(zip(services, batching, strict=True))
            return _done(state is not None and all(state.batching.get(s) == b for s, b in wanted.items()))
        case _:
            assert_never(command)


def _done(is_so: bool) -> Progress:
    return Progress.DONE if is_so else Progress.ABSENT


def _of_instance(state: InstanceState | None) -> Progress:
    if state is None:
        return Progress.ABSENT
    return Progress.UNDERWAY if state.status is Status.CREATING else Progress.DONE


def _of_start(state: InstanceState | None, wanted: Mapping[str, Batching]) -> Progress:
    if state is None or not wanted.keys() <= _serving(state):
        return Progress.ABSENT
    if not wanted.keys() <= set(state.loaded):
        return Progress.UNDERWAY
    return _done(all(state.batching.get(service, batching) == batching for service, batching in wanted.items()))


def after(cluster: ClusterState, command: Command) -> ClusterState:
    """Return the cluster as it is once a command is done."""
    match command:
        case Acquire(gpu):
            return replace(cluster, held=tuple(dict.fromkeys((*cluster.held, gpu))))
        case Release(gpu):
            return replace(cluster, held=tuple(g for g in cluster.held if g != gpu))
        case SetRoutes(sub_clusters, routes):
            return replace(cluster, sub_clusters=sub_clusters, routes=routes)
        case CreateInstance(instance):
            fresh = () if cluster.state(instance.id) else (InstanceState(instance, Status.READY),)
            return replace(cluster, instances=(*cluster.instances, *fresh))
        case DestroyInstance(key):
            return replace(cluster, instances=tuple(s for s in cluster.instances if s.instance.id != key))
        case _:
            changed = (_changed(s, command) if s.instance.id == command.instance else s for s in cluster.instances)
            return replace(cluster, instances=tuple(changed))


def _changed(
    state: InstanceState, command: SetShare | StartReplicas | Drain | StopReplicas | SetBatching
) -> InstanceState:
    match command:
        case SetShare(_, gpu_percent):
            return replace(state, instance=replace(state.instance, gpu_percent=gpu_percent))
        case StartReplicas(_, services, batching):
            return replace(
                state,
                status=Status.READY,
                loaded=tuple(dict.fromkeys((*state.loaded, *services))),
                loading=tuple(s for s in state.loading if s not in services),
                draining=tuple(s for s in state.draining if s not in services),
                batching={**state.batching, **dict(zip(services, batching, strict=True))},
            )
        case Drain(_, services):
            return replace(state, draining=tuple(s for s in state.loaded if s in {*state.draining, *services}))
        case StopReplicas(_, services):
            return replace(
                state,
                loaded=tuple(s for s in state.loaded if s not in services),
                loading=tuple(s for s in state.loading if s not in services),
                draining=tuple(s for s in state.draining if s not in services),
                batching={s: b for s, b in state.batching.items() if s not in services},
            )
        case SetBatching(_, services, batching):
            known = dict(zip(services, batching, strict=True))
            return replace(state, batching={**state.batching, **known})
        case _:
            assert_never(command)
