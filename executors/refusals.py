"""Which commands cannot be, as far as a look at the cluster tells: the checks that executors share."""

from __future__ import annotations

from collections.abc import Sequence

from partita.errors import Busy, ExecutionError, Failed, Unsupported
from partita.model.cluster import Batching, ClusterState, Gpu, Instance, in_the_way
from partita.model.plan import (
    Acquire,
    Command,
    CreateInstance,
    DestroyInstance,
    Release,
    SetBatching,
    SetRoutes,
    SetShare,
    StartReplicas,
)
from partita.model.service import WHOLE_GPU
from partita.ports import Capabilities


def refusal(
    command: Command, cluster: ClusterState, inventory: Sequence[Gpu], capabilities: Capabilities
) -> ExecutionError | None:
    """Return why a command cannot be carried out on a cluster as it is, or None.

    An instance that is there already as it should be is no reason; an instance that still holds services is one not to
    destroy it.
    """
    if beyond := _beyond(command, capabilities):
        return Unsupported(beyond, command=command)
    match command:
        case Acquire(gpu):
            if gpu not in {g.id for g in inventory} or gpu in cluster.held:
                return Failed(f"GPU {gpu} is not there to be acquired", command=command)
        case Release(gpu):
            if gpu not in cluster.held:
                return Failed(f"GPU {gpu} is not held", command=command)
            if any(s.instance.gpu == gpu for s in cluster.instances):
                return Busy(f"GPU {gpu} still has instances", command=command)
        case CreateInstance(instance):
            if instance.gpu not in cluster.held:
                return Failed(f"GPU {instance.gpu} is not held", command=command)
            if problem := _in_the_way(instance, cluster, inventory):
                return Busy(problem, command=command)
        case SetRoutes():
            return None
        case _:
            return _of_instance(command.instance, command, cluster)
    return None


def _of_instance(key: str, command: Command, cluster: ClusterState) -> ExecutionError | None:
    state = cluster.state(key)
    if state is None:
        return Failed(f"there is no instance {key}", command=command)
    if isinstance(command, DestroyInstance) and (state.loaded or state.loading):
        return Busy(f"{key} still holds {', '.join((*state.loaded, *state.loading))}", command=command)
    if isinstance(command, SetBatching):
        absent = [s for s in command.services if s not in (*state.loaded, *state.loading)]
        if absent:
            return Failed(f"{absent[0]} is not loaded on {key}", command=command)
    return None


def _beyond(command: Command, can: Capabilities) -> str | None:
    """Say what a command asks that the executor cannot do at all."""
    batching: tuple[Batching, ...] = ()
    match command:
        case SetShare(key):
            return None if can.shares else f"{key}: a GPU% cannot be set here"
        case CreateInstance(instance):
            return (
                None if can.partition or instance.profile == WHOLE_GPU else f"{instance.id}: GPUs are used whole here"
            )
        case StartReplicas(_, _, batching) | SetBatching(_, _, batching):
            pass
        case SetRoutes(sub_clusters):
            batching = tuple(b for group in sub_clusters for b in group.batching)
        case _:
            return None
    unknown = () if can.disciplines is None else sorted({b.discipline for b in batching} - set(can.disciplines))
    return f"there is no discipline {unknown[0]} here" if unknown else None


def _in_the_way(instance: Instance, cluster: ClusterState, inventory: Sequence[Gpu]) -> str | None:
    """Say why an instance does not fit beside those that are there."""
    there = cluster.state(instance.id)
    if there is not None:
        return None if there.instance == instance else f"another instance is called {instance.id}"
    others = [s.instance for s in cluster.instances if s.instance.gpu == instance.gpu]
    return in_the_way(instance, others, next(g.model for g in inventory if g.id == instance.gpu))
