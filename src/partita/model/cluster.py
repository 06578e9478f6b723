"""The cluster: GPUs, the instances on them, and what has been observed of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from partita.mig import Geometry
from partita.model.service import WHOLE_GPU


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU the cluster has, held or not. Its place in the inventory is its number for min-id choices."""

    id: str
    model: str
    memory_gib: float
    geometry: Geometry | None = None
    node: str = "local"
    price_per_hour: float = 1.0


@dataclass(frozen=True, slots=True, order=True)
class Instance:
    """Something a model can run on: a whole GPU, a MIG instance, or a share (`gpu_percent`) of either."""

    id: str
    gpu: str
    memory_gib: float
    profile: str = WHOLE_GPU
    start: int = 0
    gpu_percent: float = 100.0


class Status(StrEnum):
    """Where an instance is in its life."""

    CREATING = "creating"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class InstanceState:
    """An instance as observed: which services are loaded and ready, and which are still loading."""

    instance: Instance
    status: Status
    loaded: tuple[str, ...] = ()
    loading: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClusterState:
    """Everything the executor can see: held GPUs with their geometry, instances, and the batching in force.

    `batching` maps (service, sub-cluster) to the text of its batching, as commanded; `routes` is kept the same way.
    """

    held: tuple[str, ...] = ()
    geometry: Mapping[str, Geometry | None] = field(default_factory=dict)
    instances: tuple[InstanceState, ...] = ()
    busy: tuple[str, ...] = ()
    """GPUs with a command still in progress."""

    def state(self, instance_id: str) -> InstanceState | None:
        """Return the state of one instance, or None if it does not exist."""
        return next((s for s in self.instances if s.instance.id == instance_id), None)


def instances_of(gpu: Gpu, geometry: Geometry | None) -> tuple[Instance, ...]:
    """List the instances that `geometry` (None: not partitioned) gives on `gpu`, in order of their start."""
    if geometry is None:
        return (Instance(gpu.id, gpu.id, gpu.memory_gib),)
    return tuple(
        Instance(f"{gpu.id}/{p.profile}@{p.start}", gpu.id, geometry.memory_gib(p.profile), p.profile, p.start)
        for p in geometry.placements
    )
