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
from partita.replay.failures import Failure

INSTANCES_A_GPU = 64
"""Numbers kept free for the instances of one GPU, so that an instance's number grows with its GPU's."""

FIRST_SHARE = 16
"""Number, within its GPU, of the first instance that stands where another does: the second of several MPS shares."""


@dataclass(frozen=True, slots=True)
class Delays:
    """How long changes take, in seconds; what is None takes as long as a repartition, or as loading a model."""

    model_load_s: float = 22.0
    repartition_s: float = 4.0
    create_s: float | None = None
    destroy_s: float = 0.0
    drain_s: float = 0.0
    mps_restart_s: float | None = None

    @property
    def creation_s(self) -> float:
        """Seconds that creating a MIG instance takes."""
        return self.repartition_s if self.create_s is None else self.create_s

    @property
    def share_s(self) -> float:
        """Seconds until a model whose GPU% was set answers again: its process starts anew."""
        return self.model_load_s if self.mps_restart_s is None else self.mps_restart_s


@dataclass(slots=True)
class Slot:
    """An instance that exists or is coming: when it may start its next batch, and what it holds.

    `services` are those it holds or will hold; `loading`, the last ones loaded, are not there before `loaded_ns`. It is
    not destroyed before `drained_ns`.
    """

    instance: Instance
    number: int
    created_ns: int
    free_ns: int
    busy_ns: int
    services: tuple[str, ...] = ()
    loading: tuple[str, ...] = ()
    loaded_ns: int = 0
    drained_ns: int = 0
    batching: Mapping[str, Batching] = field(default_factory=dict)

    def holds(self, services: tuple[str, ...]) -> bool:
        """Say whether these services are among those it holds or will hold."""
        return services == self.services or set(services) <= set(self.services)

    def state(self, now_ns: int) -> InstanceState:
        """Describe the instance as it is now."""
        if now_ns < self.created_ns:
            return InstanceState(self.instance, Status.CREATING, (), self.loading, batching=self.batching)
        if now_ns < self.loaded_ns:
            ready = tuple(s for s in self.services if s not in self.loading)
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
class _Missing:
    """An instance that failed, as it was, and when it is back."""

    slot: Slot
    back_ns: int


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
        self._missing: list[_Missing] = []
        self._back_ns: dict[str, int] = {}
        self.changes = 0
        self.slots: dict[str, Slot] = {}
        self.sub_clusters: tuple[SubCluster, ...] = ()
        self.routes: tuple[Route, ...] = ()

    def begin_with(self, plan: Plan) -> None:
        """Put a plan in place at instant 0 at no cost: everything it uses is there and loaded."""
        for held in plan.gpus:
            self._held[held.gpu] = _Held(0, cut=held.geometry is not None)
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

    def fail(self, failure: Failure) -> list[int]:
        """Take away what a failure strikes, at its instant; what is ordered there until it is back begins then.

        Return the numbers of the instances that are gone by it, those included that were missing already.
        """
        key, back_ns = failure.instance or failure.gpu, failure.back_ns
        self._back_ns[key] = max(back_ns, self._back_ns.get(key, 0))
        for missing in self._missing:
            if failure.strikes(missing.slot.instance):
                missing.back_ns = max(missing.back_ns, back_ns)
        for slot in [s for s in self.slots.values() if failure.strikes(s.instance)]:
            del self.slots[slot.instance.id]
            self._end_away(slot.instance.id, failure.at_ns)
            self._missing.append(_Missing(slot, back_ns))
        if not failure.instance and failure.gpu in self._held:
            held = self._held[failure.gpu]
            held.free_ns = min(held.free_ns, failure.at_ns)  # what drained there is gone as well
        return sorted(m.slot.number for m in self._missing if failure.strikes(m.slot.instance))

    def restore(self, now_ns: int) -> None:
        """Put back what has failed and is there again by now, as it was, unless its place is taken; its models load."""
        due = [m.slot for m in self._missing if m.back_ns <= now_ns]
        self._missing = [m for m in self._missing if m.back_ns > now_ns]
        for old in sorted(due, key=lambda slot: slot.number):
            if old.instance.id in self.slots or self._in_the_way(old.instance):
                continue
            slot = self._create(old.instance, now_ns)
            slot.batching = old.batching
            if old.services:
                self._load(slot, old.services, now_ns)

    def places(self) -> tuple[str, ...]:
        """List the GPUs of the inventory; an instance's number tells the place of its GPU among them."""
        return tuple(self._inventory)

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
                self._load(slot, slot.services, now_ns, self._delays.share_s)
            case StartReplicas(instance, services, batching):
                slot = self._slot(instance, command)
                self._load(slot, services, now_ns)
                slot.batching = {**slot.batching, **dict(zip(services, batching, strict=True))}
            case Drain(instance, _):
                slot = self._slot(instance, command)  # what a batch holds is answered whatever happens to its instance
                slot.drained_ns = now_ns + round(self._delays.drain_s * 1e9)
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

    def _load(self, slot: Slot, services: Sequence[str], now_ns: int, takes_s: float | None = None) -> None:
        takes_s = self._delays.model_load_s if takes_s is None else takes_s
        begin, idle = max(now_ns, slot.created_ns, slot.free_ns), max(now_ns, slot.created_ns, slot.loaded_ns)
        slot.loading = tuple(sorted({*slot.loading, *services} if now_ns < slot.loaded_ns else services))
        slot.services = tuple(sorted({*slot.services, *slot.loading}))
        slot.free_ns = slot.loaded_ns = begin + round(takes_s * 1e9)
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
        self._missing = [m for m in self._missing if m.slot.instance.gpu != gpu]
        hold = next(h for h in reversed(self.holds) if h.gpu == gpu)
        hold.until_ns = max(now_ns, self._held.pop(gpu).free_ns)

    def _begin_instance(self, instance: Instance, command: Command, now_ns: int) -> None:
        """Create an instance; a GPU that is not, or no longer, whole takes its time for that."""
        held = self._held.get(instance.gpu)
        if held is None:
            raise Failed(f"GPU {instance.gpu} is not held", command=command)
        if instance.id in self.slots:
            raise Failed(f"the instance {instance.id} is there already", command=command)
        if problem := self._in_the_way(instance):
            raise Busy(problem, command=command)
        back_ns = max(self._back_ns.get(instance.gpu, 0), self._back_ns.get(instance.id, 0))
        begin = max(now_ns, held.free_ns, back_ns)
        held.cut = held.cut or instance.profile != WHOLE_GPU
        created = begin + (round(self._delays.creation_s * 1e9) if held.cut else 0)
        held.cut = instance.profile != WHOLE_GPU
        self._create(instance, created)
        if created > begin:
            self._away.append(Away(instance.id, begin, created, self._part(instance)))

    def _in_the_way(self, instance: Instance) -> str | None:
        """Say why an instance does not fit beside what is on its GPU; MPS shares of one place stand in nobody's way."""
        others = [slot.instance for slot in self.slots.values() if slot.instance.gpu == instance.gpu]
        if instance.gpu_percent < 100.0:
            others = [i for i in others if i.gpu_percent == 100.0 or _stand(i) != _stand(instance)]
        return in_the_way(instance, others, self._inventory[instance.gpu][1].model)

    def _part(self, instance: Instance) -> float:
        """Return the part of its GPU's memory that an instance has."""
        return min(1.0, instance.memory_gib / self._inventory[instance.gpu][1].memory_gib)

    def _create(self, instance: Instance, at_ns: int) -> Slot:
        place, _ = self._inventory[instance.gpu]
        number = place * INSTANCES_A_GPU + instance.start
        taken = {slot.number for slot in self.slots.values() if slot.instance.gpu == instance.gpu}
        if number in taken:  # by another share of the same whole GPU or MIG instance
            first = place * INSTANCES_A_GPU + FIRST_SHARE
            number = next(n for n in range(first, (place + 1) * INSTANCES_A_GPU) if n not in taken)
        self.slots[instance.id] = Slot(instance, number, at_ns, at_ns, at_ns)
        return self.slots[instance.id]

    def _destroy(self, slot: Slot, now_ns: int) -> None:
        """Remove an instance with what it was still waiting for; its GPU is free once its last batch ends."""
        instance = slot.instance
        self._end_away(instance.id, now_ns)
        del self.slots[instance.id]
        gone = max(now_ns, slot.busy_ns, slot.drained_ns) + round(self._delays.destroy_s * 1e9)
        if gone > now_ns:
            self._away.append(Away(instance.id, now_ns, gone, self._part(instance)))
        held = self._held[instance.gpu]
        held.free_ns = max(held.free_ns, gone)

    def _end_away(self, instance: str, now_ns: int) -> None:
        """End what an instance was away for."""
        for away in self._away:
            if away.instance == instance and away.until_ns > now_ns:
                away.until_ns = max(away.since_ns, now_ns)

    def _slot(self, instance: str, command: Command) -> Slot:
        if instance not in self.slots:
            raise Failed(f"there is no instance {instance}", command=command)
        return self.slots[instance]


def _stand(instance: Instance) -> tuple[str, int]:
    """Return where on its GPU an instance stands."""
    return instance.profile, instance.start


def _overlap(begin: int, end: int | None, since: int, until: int) -> int:
    return max(0, min(until if end is None else end, until) - max(begin, since))
