"""The standing plan and the world: what it wishes, what a changed cluster makes of it, what is beyond an executor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from partita.controller.reconcile import Wishes
from partita.mig import Geometry, Placed
from partita.model.cluster import ClusterState, Gpu, InstanceState, SubCluster, instances_of
from partita.model.plan import HeldGpu, Plan
from partita.model.service import WHOLE_GPU, Service, label
from partita.model.staggered import NO_OVERHEADS, Overheads, answers
from partita.ports import Capabilities


def wishes_of(plan: Plan, wishes: Wishes) -> Wishes:
    """Return the wishes with what a plan has of geometry and batching, so that later plans keep it."""
    geometry = {h.gpu: h.geometry for h in plan.gpus}
    batching = {s: b for group in plan.sub_clusters for s, b in zip(group.services, group.batching, strict=True)}
    return replace(wishes, geometry={**wishes.geometry, **geometry}, batching={**wishes.batching, **batching})


def grown(
    standing: Plan, gpus: int, inventory: Sequence[Gpu], geometry: Mapping[str, Geometry | None], reason: str
) -> Plan:
    """Return the standing plan on so many GPUs: every group keeps all it has, and gets its part of what is added."""
    held = {h.gpu for h in standing.gpus}
    added = [g for g in inventory if g.id not in held][: max(0, gpus - len(held))]
    cut = {g.id: geometry.get(g.id, g.geometry) for g in added}
    groups = list(standing.sub_clusters)
    for instance in (i for g in added for i in instances_of(g, cut[g.id])):
        sizes = [len(group.instances) for group in groups]
        begun = [len(group.instances) for group in standing.sub_clusters]
        if groups:
            n = max(range(len(groups)), key=lambda n: (begun[n] / sizes[n], -n))
            groups[n] = replace(groups[n], instances=(*groups[n].instances, instance))
    more = tuple(HeldGpu(g.id, cut[g.id]) for g in added)
    return replace(standing, gpus=(*standing.gpus, *more), sub_clusters=tuple(groups), reason=reason)


def adopted(cluster: ClusterState, standing: Plan, inventory: Sequence[Gpu]) -> Plan:
    """Return the plan that a cluster is, in the groups of the standing one.

    A group keeps the instances that still hold all its services, and batches as they do where they agree.
    """
    known = {g.id: g for g in inventory}
    states = {s.instance.id: s for s in cluster.instances}
    gpus = tuple(HeldGpu(g, _geometry(known[g], cluster)) for g in cluster.held if g in known)
    groups = [_group(group, states) for group in standing.sub_clusters]
    kept = tuple(group for group in groups if group.instances)
    names = {group.name for group in kept}
    routes = tuple(r for r in standing.routes if r.sub_cluster in names)
    return Plan(gpus, kept, routes, f"{len(gpus)} GPUs with {sum(len(g.instances) for g in kept)} instances, as found")


def _geometry(gpu: Gpu, cluster: ClusterState) -> Geometry | None:
    there = sorted(
        {Placed(s.instance.start, s.instance.profile) for s in cluster.instances if s.instance.gpu == gpu.id}
    )
    if not there or there[0].profile == WHOLE_GPU:
        return None
    return Geometry(gpu.model, tuple(there))


def _group(group: SubCluster, states: dict[str, InstanceState]) -> SubCluster:
    there = [
        states[i.id] for i in group.instances if i.id in states and set(group.services) <= set(states[i.id].loaded)
    ]
    batching = tuple(
        seen.pop() if len(seen := {s.batching.get(name, wanted) for s in there}) == 1 else wanted
        for name, wanted in zip(group.services, group.batching, strict=True)
    )
    return replace(group, instances=tuple(s.instance for s in there), batching=batching)


def beyond(
    plan: Plan, services: Sequence[Service], capabilities: Capabilities, overheads: Overheads = NO_OVERHEADS
) -> list[str]:
    """Say what a plan asks of an executor that it cannot do."""
    found = []
    if capabilities.disciplines is not None:
        asked = {b.discipline for group in plan.sub_clusters for b in group.batching}
        can = ", ".join(capabilities.disciplines)
        found += [
            f"the executor cannot batch by {name!r}, only by {can}"
            for name in sorted(asked - set(capabilities.disciplines))
        ]
    if not capabilities.partition and any(h.geometry is not None for h in plan.gpus):
        found.append("the executor cannot partition GPUs")
    if not capabilities.shares and any(i.gpu_percent != 100.0 for g in plan.sub_clusters for i in g.instances):
        found.append("the executor cannot set GPU%")
    return found if capabilities.kinds else [*found, *_unfit(plan, services, overheads)]


def _unfit(plan: Plan, services: Sequence[Service], overheads: Overheads) -> list[str]:
    """Say which services some instances of their own sub-cluster cannot answer in time."""
    known = {s.name: s for s in services}
    return [
        f"the executor sends {name} to all instances of {group.name}, and {label(*kind)} cannot answer it in time"
        for group in plan.sub_clusters
        for kind in sorted({(i.profile, i.gpu_percent) for i in group.instances})
        for name in group.services
        if name in known and not answers(known[name], *kind, overheads=overheads)
    ]
