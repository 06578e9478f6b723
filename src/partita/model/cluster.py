"""The cluster: GPUs, the instances on them, and what has been observed of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf

from partita.mig import Geometry, Placed, validate
from partita.model.service import WHOLE_GPU

OptionValue = str | float | int | bool

MOST_ON_A_GPU = 48
"""MPS clients that one GPU takes at a time (NVIDIA's documentation of the Multi-Process Service, from Volta on)."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU the cluster has, held or not. Its place in the inventory is its number for min-id choices.

    `shares` are the GPU% of the MPS shares into which it, or each of its MIG instances, is divided; empty: undivided.
    """

    id: str
    model: str
    memory_gib: float
    geometry: Geometry | None = None
    node: str = "local"
    price_per_hour: float = 1.0
    shares: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Instance:
    """Something a model can run on: a whole GPU, a MIG instance, or a share (`gpu_percent`) of either."""

    id: str
    gpu: str
    memory_gib: float
    profile: str = WHOLE_GPU
    start: int = 0
    gpu_percent: float = 100.0


@dataclass(frozen=True, slots=True)
class Batching:
    """How queued requests of one service become batches.

    `timeout_s` is the longest wait for a batch to fill (the disciplines timeout and triton only); `max_batch` None
    means the largest that the SLO allows. `options` are the discipline's own, as sorted pairs.
    """

    discipline: str
    timeout_s: float = 0.0
    max_batch: int | None = None
    options: tuple[tuple[str, OptionValue], ...] = ()


@dataclass(frozen=True, slots=True)
class Replica:
    """One service on one instance."""

    service: str
    instance: str
    batching: Batching


@dataclass(frozen=True, slots=True)
class Route:
    """Requests of `service` up to `up_to_size` go to `sub_cluster`, `weight` being its share."""

    service: str
    sub_cluster: str
    up_to_size: float = inf
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class SubCluster:
    """Instances that share one set of services; each of them holds every one of `services`.

    `batching` runs parallel to `services`.
    """

    name: str
    instances: tuple[Instance, ...]
    services: tuple[str, ...]
    batching: tuple[Batching, ...]

    def replicas(self) -> tuple[Replica, ...]:
        """List each service on each instance."""
        return tuple(
            Replica(service, instance.id, batching)
            for instance in self.instances
            for service, batching in zip(self.services, self.batching, strict=True)
        )


class Status(StrEnum):
    """Where an instance is in its life."""

    CREATING = "creating"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class InstanceState:
    """An instance as observed: which services are loaded and ready, which still load, which are being drained.

    What drains is among `loaded`. `batching` says how the replicas batch, by service; one that is missing is not known.
    `problem` says what is wrong with an instance that is only believed to be so, such as a server that does not answer.
    """

    instance: Instance
    status: Status
    loaded: tuple[str, ...] = ()
    loading: tuple[str, ...] = ()
    draining: tuple[str, ...] = ()
    batching: Mapping[str, Batching] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ClusterState:
    """Everything the executor can see: held GPUs, their instances, and the sub-clusters and routes in force."""

    held: tuple[str, ...] = ()
    instances: tuple[InstanceState, ...] = ()
    sub_clusters: tuple[SubCluster, ...] = ()
    routes: tuple[Route, ...] = ()

    def state(self, instance_id: str) -> InstanceState | None:
        """Return the state of one instance, or None if it does not exist."""
        return next((s for s in self.instances if s.instance.id == instance_id), None)


def instances_of(gpu: Gpu, geometry: Geometry | None) -> tuple[Instance, ...]:
    """List the instances that `geometry` (None: not partitioned) gives on `gpu`, in order of their start.

    A GPU that is divided gives a share for each entry of its `shares` in place of each instance; memory goes with GPU%.
    """
    if geometry is None:
        undivided: tuple[Instance, ...] = (Instance(gpu.id, gpu.id, gpu.memory_gib),)
    else:
        undivided = tuple(
            Instance(f"{gpu.id}/{p.profile}@{p.start}", gpu.id, geometry.memory_gib(p.profile), p.profile, p.start)
            for p in geometry.placements
        )
    return tuple(part for instance in undivided for part in _divided(instance, gpu.shares))


def _divided(instance: Instance, shares: Sequence[float]) -> tuple[Instance, ...]:
    if not shares:
        return (instance,)
    whole = max(100.0, sum(shares))
    return tuple(
        replace(
            instance,
            id=f"{instance.id}/{percent:g}%.{n}",
            memory_gib=instance.memory_gib * percent / whole,
            gpu_percent=percent,
        )
        for n, percent in enumerate(shares)
    )


def in_the_way(instance: Instance, others: Sequence[Instance], model: str) -> str | None:
    """Say why an instance does not fit beside those that are on its GPU, which is of this model; None if it does."""
    if others and WHOLE_GPU in {i.profile for i in (instance, *others)}:
        return f"{others[0].id} is where {instance.id} should be"
    if instance.profile == WHOLE_GPU:
        return None
    placements = tuple(sorted(Placed(i.start, i.profile) for i in (instance, *others)))
    return validate(model, Geometry(model, placements))
