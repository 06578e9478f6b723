"""The simulated cluster: GPUs that take their time to drain, repartition and load.

Everything that a command starts has a known end, so an instance joins its sub-cluster at once, with the instant from
which it can serve. Models of one command load side by side; while an instance loads, it serves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import assert_never

from partita.errors import Failed, Unsupported
from partita.mig import Geometry
from partita.model.cluster import (
    ClusterState,
    Gpu,
    Instance,
    InstanceState,
    Route,
    Status,
    SubCluster,
    instances_of,
)
from partita.model.plan import Acquire, Command, LoadModels, Plan, Regroup, Release, Repartition, UnloadModels

INSTANCES_A_GPU = 64
"""Numbers kept free for the instances of one GPU, so that an instance's number grows with its GPU's."""


@dataclass(frozen=True, slots=True)
class Delays:
    """How long changes take, in seconds."""

    model_load_s: float = 22.0
    repartition_s: float = 4.0


@dataclass(slots=True)
class Slot:
    """An instance that exists or is coming: when it may start its next batch, and what it holds.

    `services` are those it holds or will hold; `loading`, the last ones loaded, are not there before `loaded_ns`.
    """

    instance: Instance
    number: int
    created_ns: int
    free_ns: int
    busy_ns: int
    services: tuple[str, ...] = ()
    loading: tuple[str, ...] = ()
    loaded_ns: int = 0

    def state(self, now_ns: int) -> InstanceState:
        """Describe the instance as it is now."""
        if now_ns < self.created_ns:
            return InstanceState(self.instance, Status.CREATING, (), self.loading)
        if now_ns < self.loaded_ns:
            ready = tuple(s for s in self.services if s not in self.loading)
            return InstanceState(self.instance, Status.LOADING, ready, self.loading)
        return InstanceState(self.instance, Status.READY, self.services)


@dataclass(slots=True)
class Hold:
    """One span of time in which a GPU was held; `until_ns` is None as long as it is."""

    gpu: str
    since_ns: int
    until_ns: int | None = None


@dataclass(slots=True)
class Away:
    """A span of time in which a GPU, or a share of it, drained, was partitioned or loaded."""

    gpu: str
    since_ns: int
    until_ns: int
    share: float = 1.0


class SimulatedCluster:
    """GPUs, their instances, and the groups and routes in force.

    `changes` counts how many times a GPU was acquired, released or repartitioned.
    """

    def __init__(self, inventory: Sequence[Gpu], delays: Delays) -> None:
        self._inventory = {g.id: (n, g) for n, g in enumerate(inventory)}
        self._delays = delays
        self._geometry: dict[str, Geometry | None] = {}
        self.holds: list[Hold] = []
        self._away: list[Away] = []
        self.changes = 0
        self.slots: dict[str, Slot] = {}
        self.sub_clusters: tuple[SubCluster, ...] = ()
        self.routes: tuple[Route, ...] = ()

    def begin_with(self, plan: Plan) -> None:
        """Put a plan in place at instant 0 at no cost: everything it wants is there and loaded."""
        for held in plan.gpus:
            self._geometry[held.gpu] = held.geometry
            self.holds.append(Hold(held.gpu, 0))
            self._create(held.gpu, 0)
        for group in plan.sub_clusters:
            for instance in group.instances:
                self.slots[instance.id].services = group.services
        self.sub_clusters, self.routes = plan.sub_clusters, plan.routes

    def apply(self, commands: Sequence[Command], now_ns: int) -> None:
        """Start carrying out commands; Failed if one names what is not there."""
        for command in commands:
            self._start(command, now_ns)
        self.changes += len({c.gpu for c in commands if isinstance(c, Acquire | Release | Repartition)})

    def observe(self, now_ns: int) -> ClusterState:
        """Describe the cluster as it is now."""
        slots = sorted(self.slots.values(), key=lambda slot: slot.number)
        held = tuple(g for g in self._inventory if g in self._geometry)
        return ClusterState(
            held,
            {g: self._geometry[g] for g in held},
            tuple(slot.state(now_ns) for slot in slots),
            self.sub_clusters,
            self.routes,
        )

    def settled_at_ns(self) -> int:
        """Return when everything started so far is done."""
        return max((max(s.created_ns, s.loaded_ns) for s in self.slots.values()), default=0)

    def held(self) -> int:
        """Count the GPUs held now; those that still drain are not among them."""
        return len(self._geometry)

    def gpu_seconds(self, since_ns: int, until_ns: int) -> float:
        """Add up the time that GPUs were held between two instants, the time they drain included."""
        return sum(_overlap(h.since_ns, h.until_ns, since_ns, until_ns) for h in self.holds) / 1e9

    def away_gpu_seconds(self, since_ns: int, until_ns: int) -> float:
        """Add up the time between two instants that held GPUs were away to drain, repartition or load."""
        return sum(a.share * _overlap(a.since_ns, a.until_ns, since_ns, until_ns) for a in self._away) / 1e9

    def peak(self, since_ns: int, until_ns: int) -> int:
        """Return the largest number of GPUs held at one time between two instants."""
        edges = [
            edge
            for h in self.holds
            if _overlap(h.since_ns, h.until_ns, since_ns, until_ns) > 0
            for edge in ((max(h.since_ns, since_ns), 1), (until_ns if h.until_ns is None else h.until_ns, -1))
        ]
        level = highest = 0
        for _, step in sorted(edges):
            level += step
            highest = max(highest, level)
        return highest

    def _start(self, command: Command, now_ns: int) -> None:
        match command:
            case Acquire(gpu, geometry):
                self._acquire(gpu, geometry, command, now_ns)
            case Repartition(gpu, geometry):
                self._repartition(gpu, geometry, command, now_ns)
            case Release(gpu):
                self._release(gpu, command, now_ns)
            case LoadModels(instance, services):
                slot = self._slot(instance, command)
                begin, idle = max(now_ns, slot.created_ns, slot.free_ns), max(now_ns, slot.created_ns, slot.loaded_ns)
                slot.loading = tuple(sorted({*slot.loading, *services} if now_ns < slot.loaded_ns else services))
                slot.services = tuple(sorted({*slot.services, *slot.loading}))
                slot.free_ns = slot.loaded_ns = begin + round(self._delays.model_load_s * 1e9)
                share = 1 / sum(other.instance.gpu == slot.instance.gpu for other in self.slots.values())
                self._away.append(Away(slot.instance.gpu, idle, slot.free_ns, share))
            case UnloadModels(instance, services):
                slot = self._slot(instance, command)
                slot.services = tuple(s for s in slot.services if s not in services)
                slot.loading = tuple(s for s in slot.loading if s not in services)
            case Regroup(sub_clusters, routes):
                if any(r.weight != 1.0 or r.up_to_size != inf for r in routes):
                    raise Unsupported("requests cannot be split by weight or size in replay", command=command)
                self.sub_clusters, self.routes = sub_clusters, routes
            case _:
                assert_never(command)

    def _acquire(self, gpu: str, geometry: Geometry | None, command: Command, now_ns: int) -> None:
        if gpu not in self._inventory or gpu in self._geometry:
            raise Failed(f"GPU {gpu} is not there to be acquired", command=command)
        draining = next((h for h in reversed(self.holds) if h.gpu == gpu and (h.until_ns or 0) > now_ns), None)
        begin = now_ns
        if draining is not None and draining.until_ns is not None:
            begin = draining.until_ns
            draining.until_ns = None
        else:
            self.holds.append(Hold(gpu, now_ns))
        self._geometry[gpu] = geometry
        created = begin if geometry is None else begin + round(self._delays.repartition_s * 1e9)
        self._create(gpu, created)
        if created > begin:
            self._away.append(Away(gpu, begin, created))

    def _repartition(self, gpu: str, geometry: Geometry | None, command: Command, now_ns: int) -> None:
        if gpu not in self._geometry:
            raise Failed(f"GPU {gpu} is not held", command=command)
        drained = self._destroy(gpu, now_ns)
        self._geometry[gpu] = geometry
        created = drained + round(self._delays.repartition_s * 1e9)
        self._create(gpu, created)
        self._away.append(Away(gpu, now_ns, created))

    def _release(self, gpu: str, command: Command, now_ns: int) -> None:
        if gpu not in self._geometry:
            raise Failed(f"GPU {gpu} is not held", command=command)
        drained = self._destroy(gpu, now_ns)
        del self._geometry[gpu]
        hold = next(h for h in reversed(self.holds) if h.gpu == gpu)
        hold.until_ns = drained
        self._away.append(Away(gpu, now_ns, drained))

    def _create(self, gpu: str, at_ns: int) -> None:
        place, known = self._inventory[gpu]
        for n, instance in enumerate(instances_of(known, self._geometry[gpu])):
            number = place * INSTANCES_A_GPU + n
            self.slots[instance.id] = Slot(instance, number, at_ns, at_ns, at_ns)

    def _destroy(self, gpu: str, now_ns: int) -> int:
        """Remove a GPU's instances, with what they were still waiting for; return when the last batch on them ends."""
        for away in self._away:
            if away.gpu == gpu and away.until_ns > now_ns:
                away.until_ns = max(away.since_ns, now_ns)
        gone = [key for key, slot in self.slots.items() if slot.instance.gpu == gpu]
        return max([now_ns, *(self.slots.pop(key).busy_ns for key in gone)])

    def _slot(self, instance: str, command: Command) -> Slot:
        if instance not in self.slots:
            raise Failed(f"there is no instance {instance}", command=command)
        return self.slots[instance]


def _overlap(begin: int, end: int | None, since: int, until: int) -> int:
    return max(0, min(until if end is None else end, until) - max(begin, since))
