"""The simulated cluster: GPUs that take their time to drain, repartition and load.

Everything that a command starts has a known end, so an instance joins its sub-cluster at once, with the instant from
which it can serve. Models of one command load side by side; while an instance loads, it serves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import assert_never

from partita.errors import Busy, Failed, Unsupported
from partita.model.cluster import (
    Batching,
    ClusterState,
    Gpu,
    Instance,
    InstanceState,
    Route,
    Status,
    SubCluster,
    in_the_way,
)
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
)
from partita.model.service import WHOLE_GPU

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
    batching: Mapping[str, Batching] = field(default_factory=dict)

    def state(self, now_ns: int) -> InstanceState:
        """Describe the instance as it is now."""
        ready = tuple(s for s in self.services if s not in self.loading)
        if now_ns < self.created_ns:
            return InstanceState(self.instance, Status.CREATING, (), self.loading, batching=self.batching)
        if now_ns < self.loaded_ns:
            return InstanceState(self.instance, Status.LOADING, ready, self.loading, batching=self.batching)
        return InstanceState(self.instance, Status.READY, self.services, batching=self.batching)


@dataclass(slots=True)
class Hold:
    """One span of time in which a GPU was held; `until_ns` is None as long as it is."""

    gpu: str
    since_ns: int
    until_ns: int | None = None


@dataclass(slots=True)
class Away:
    """A span of time in which an instance drained, was created or loaded; `share` is its part of its GPU."""

    instance: str
    since_ns: int
    until_ns: int
    share: float


@dataclass(slots=True)
class _Held:
    """A GPU that is held: when what was destroyed on it has drained, and whether it is (or was last) partitioned."""

    free_ns: int
    cut: bool = False


class SimulatedCluster:
    """GPUs, their instances, and the groups and routes in force.

    `changes` counts how many times a GPU was acquired, released or repartitioned.
    """

    def __init__(self, inventory: Sequence[Gpu], delays: Delays) -> None:
        self._inventory = {g.id: (n, g) for n, g in enumerate(inventory)}
        self._delays = delays
        self._held: dict[str, _Held] = {}
        self.holds: list[Hold] = []
        self._away: list[Away] = []
        self.changes = 0
        self.slots: dict[str, Slot] = {}
        self.sub_clusters: tuple[SubCluster, ...] = ()
        self.routes: tuple[Route, ...] = ()

    def begin_with(self, plan: Plan) -> None:
        """Put a plan in place at instant 0 at no cost: everything it uses is there and loaded."""
        for held in plan.gpus:
            self._held[held.gpu] = _Held(0)
            self.holds.append(Hold(held.gpu, 0))
        for group in plan.sub_clusters:
            batching = dict(zip(group.services, group.batching, strict=True))
            for instance in group.instances:
                slot = self._create(instance, 0)
                slot.services, slot.batching = group.services, batching
        self.sub_clusters, self.routes = plan.sub_clusters, plan.routes

    def apply(self, commands: Sequence[Command], now_ns: int) -> None:
        """Start carrying out commands; Failed if one names what is not there."""
        for command in commands:
            self._start(command, now_ns)
        changed = {c.gpu for c in commands if isinstance(c, Acquire | Release)}
        self.changes += len(changed | {c.instance.gpu for c in commands if isinstance(c, CreateInstance)})

    def observe(self, now_ns: int) -> ClusterState:
        """Describe the cluster as it is now."""
        slots = sorted(self.slots.values(), key=lambda slot: slot.number)
        return ClusterState(
            tuple(g for g in self._inventory if g in self._held),
            tuple(slot.state(now_ns) for slot in slots),
            self.sub_clusters,
            self.routes,
        )

    def settled_at_ns(self) -> int:
        """Return when everything started so far is done."""
        return max((max(s.created_ns, s.loaded_ns) for s in self.slots.values()), default=0)

    def held(self) -> int:
        """Count the GPUs held now; those that still drain are not among them."""
        return len(self._held)

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
            case Acquire(gpu):
                self._acquire(gpu, command, now_ns)
            case Release(gpu):
                self._release(gpu, command, now_ns)
            case CreateInstance(instance):
                self._begin_instance(instance, command, now_ns)
            case DestroyInstance(instance):
                self._destroy(self._slot(instance, command), now_ns)
            case SetShare(instance, gpu_percent):
                slot = self._slot(instance, command)
                slot.instance = replace(slot.instance, gpu_percent=gpu_percent)
                self._load(slot, slot.services, now_ns)
            case StartReplicas(instance, services, batching):
                slot = self._slot(instance, command)
                self._load(slot, services, now_ns)
                slot.batching = {**slot.batching, **dict(zip(services, batching, strict=True))}
            case Drain(instance, _):
                self._slot(instance, command)  # what a batch holds is answered whatever happens to its instance
            case StopReplicas(instance, services):
                slot = self._slot(instance, command)
                slot.services = tuple(s for s in slot.services if s not in services)
                slot.loading = tuple(s for s in slot.loading if s not in services)
                slot.batching = {s: b for s, b in slot.batching.items() if s not in services}
            case SetBatching(instance, services, batching):
                slot = self._slot(instance, command)
                slot.batching = {**slot.batching, **dict(zip(services, batching, strict=True))}
            case SetRoutes(sub_clusters, routes):
                if any(r.weight != 1.0 or r.up_to_size != inf for r in routes):
                    raise Unsupported("requests cannot be split by weight or size in replay", command=command)
                self.sub_clusters, self.routes = sub_clusters, routes
            case _:
                assert_never(command)

    def _load(self, slot: Slot, services: Sequence[str], now_ns: int) -> None:
        begin, idle = max(now_ns, slot.created_ns, slot.free_ns), max(now_ns, slot.created_ns, slot.loaded_ns)
        slot.loading = tuple(sorted({*slot.loading, *services} if now_ns < slot.loaded_ns else services))
        slot.services = tuple(sorted({*slot.services, *slot.loading}))
        slot.free_ns = slot.loaded_ns = begin + round(self._delays.model_load_s * 1e9)
        share = 1 / sum(other.instance.gpu == slot.instance.gpu for other in self.slots.values())
        self._away.append(Away(slot.instance.id, idle, slot.free_ns, share))

    def _acquire(self, gpu: str, command: Command, now_ns: int) -> None:
        if gpu not in self._inventory or gpu in self._held:
            raise Failed(f"GPU {gpu} is not there to be acquired", command=command)
        draining = next((h for h in reversed(self.holds) if h.gpu == gpu and (h.until_ns or 0) > now_ns), None)
        begin = now_ns
        if draining is not None and draining.until_ns is not None:
            begin = draining.until_ns
            draining.until_ns = None
        else:
            self.holds.append(Hold(gpu, now_ns))
        self._held[gpu] = _Held(begin)

    def _release(self, gpu: str, command: Command, now_ns: int) -> None:
        if gpu not in self._held:
            raise Failed(f"GPU {gpu} is not held", command=command)
        if any(slot.instance.gpu == gpu for slot in self.slots.values()):
            raise Busy(f"GPU {gpu} still has instances", command=command)
        hold = next(h for h in reversed(self.holds) if h.gpu == gpu)
        hold.until_ns = max(now_ns, self._held.pop(gpu).free_ns)

    def _begin_instance(self, instance: Instance, command: Command, now_ns: int) -> None:
        """Create an instance; a GPU that is not, or no longer, whole takes its time for that."""
        held = self._held.get(instance.gpu)
        if held is None:
            raise Failed(f"GPU {instance.gpu} is not held", command=command)
        if instance.id in self.slots:
            raise Failed(f"the instance {instance.id} is there already", command=command)
        others = [slot.instance for slot in self.slots.values() if slot.instance.gpu == instance.gpu]
        if problem := in_the_way(instance, others, self._inventory[instance.gpu][1].model):
            raise Busy(problem, command=command)
        begin = max(now_ns, held.free_ns)
        held.cut = held.cut or instance.profile != WHOLE_GPU
        created = begin + (round(self._delays.repartition_s * 1e9) if held.cut else 0)
        held.cut = instance.profile != WHOLE_GPU
        self._create(instance, created)
        if created > begin:
            self._away.append(Away(instance.id, begin, created, self._part(instance)))

    def _part(self, instance: Instance) -> float:
        """Return the part of its GPU's memory that an instance has."""
        return min(1.0, instance.memory_gib / self._inventory[instance.gpu][1].memory_gib)

    def _create(self, instance: Instance, at_ns: int) -> Slot:
        place, _ = self._inventory[instance.gpu]
        number = place * INSTANCES_A_GPU + instance.start
        self.slots[instance.id] = Slot(instance, number, at_ns, at_ns, at_ns)
        return self.slots[instance.id]

    def _destroy(self, slot: Slot, now_ns: int) -> None:
        """Remove an instance with what it was still waiting for; its GPU is free once its last batch ends."""
        instance = slot.instance
        for away in self._away:
            if away.instance == instance.id and away.until_ns > now_ns:
                away.until_ns = max(away.since_ns, now_ns)
        del self.slots[instance.id]
        if slot.busy_ns > now_ns:
            self._away.append(Away(instance.id, now_ns, slot.busy_ns, self._part(instance)))
        held = self._held[instance.gpu]
        held.free_ns = max(held.free_ns, slot.busy_ns)

    def _slot(self, instance: str, command: Command) -> Slot:
        if instance not in self.slots:
            raise Failed(f"there is no instance {instance}", command=command)
        return self.slots[instance]


def _overlap(begin: int, end: int | None, since: int, until: int) -> int:
    return max(0, min(until if end is None else end, until) - max(begin, since))
