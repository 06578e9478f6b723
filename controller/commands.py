"""From plan to commands: the difference between what is wanted and what is there, and nothing else."""

from __future__ import annotations

from partita.model.cluster import ClusterState, InstanceState
from partita.model.plan import (
    Acquire,
    Command,
    LoadModels,
    Plan,
    Regroup,
    Release,
    Repartition,
    UnloadModels,
)


def commands_for(plan: Plan, cluster: ClusterState) -> tuple[Command, ...]:
    """Return what must be started so that the cluster becomes the plan; empty if it is, or is on its way.

    Capacity comes first and is taken away last: GPUs are acquired, then repartitioned and loaded, then groups and
    routes change, then services are unloaded and GPUs released. Only an instance that changes services unloads before
    it loads, since both together may not fit into its memory.
    """
    wanted = {held.gpu: held.geometry for held in plan.gpus}
    reason = plan.reason
    acquire: list[Command] = [Acquire(g, geometry, reason) for g, geometry in wanted.items() if g not in cluster.held]
    repartition: list[Command] = [
        Repartition(g, geometry, reason)
        for g, geometry in wanted.items()
        if g in cluster.held and cluster.geometry.get(g) != geometry
    ]
    fresh = {c.gpu for c in (*acquire, *repartition) if isinstance(c, Acquire | Repartition)}
    there = {s.instance.id: s for s in cluster.instances if s.instance.gpu in wanted and s.instance.gpu not in fresh}
    serving = {i.id: group.services for group in plan.sub_clusters for i in group.instances}
    load: list[Command] = []
    for instance, services in serving.items():
        has = _services(there.get(instance))
        if missing := tuple(s for s in services if s not in has):
            load.append(LoadModels(instance, missing, reason))
    unload: list[Command] = []
    for instance, state in there.items():
        if surplus := tuple(sorted(_services(state).difference(serving.get(instance, ())))):
            unload.append(UnloadModels(instance, surplus, reason))
    regroup: list[Command] = []
    if cluster.sub_clusters != plan.sub_clusters or cluster.routes != plan.routes:
        regroup.append(Regroup(plan.sub_clusters, plan.routes, reason))
    release: list[Command] = [Release(g, reason) for g in cluster.held if g not in wanted]
    changing = {c.instance for c in load if isinstance(c, LoadModels)}
    make_room = [c for c in unload if isinstance(c, UnloadModels) and c.instance in changing]
    unload = [c for c in unload if c not in make_room]
    return (*acquire, *repartition, *make_room, *load, *regroup, *unload, *release)


def _services(state: InstanceState | None) -> set[str]:
    """Return what an instance holds or is about to hold."""
    return {*state.loaded, *state.loading} if state is not None else set()
