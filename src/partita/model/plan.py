"""What is suggested, wanted, done and decided: proposals, plans, commands, decisions, and the one feasibility check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf
from typing import Literal

from partita.mig import Geometry, validate
from partita.model.cluster import MOST_ON_A_GPU, Gpu, Instance, instances_of
from partita.model.cluster import Batching as Batching
from partita.model.cluster import OptionValue as OptionValue
from partita.model.cluster import Replica as Replica
from partita.model.cluster import Route as Route
from partita.model.cluster import SubCluster as SubCluster
from partita.model.service import Service, label
from partita.model.staggered import NO_OVERHEADS, Overheads, answers


@dataclass(frozen=True, slots=True)
class HeldGpu:
    """A GPU the plan holds, and how it is partitioned (None: not at all)."""

    gpu: str
    geometry: Geometry | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A complete wish: GPUs held, how they are partitioned, what runs where, how it batches, where requests go."""

    gpus: tuple[HeldGpu, ...]
    sub_clusters: tuple[SubCluster, ...]
    routes: tuple[Route, ...]
    reason: str = ""

    def replicas(self) -> tuple[Replica, ...]:
        """List every service on every instance."""
        return tuple(r for group in self.sub_clusters for r in group.replicas())

    def price_per_hour(self, inventory: Sequence[Gpu]) -> float:
        """Add up what the held GPUs cost an hour."""
        held = {h.gpu for h in self.gpus}
        return sum(g.price_per_hour for g in inventory if g.id in held)


def same(plan: Plan, other: Plan) -> bool:
    """Say whether two plans want the same thing, whatever their reasons."""
    return replace(plan, reason="") == replace(other, reason="")


# What a plugin may suggest ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many GPUs to hold; `alternatives` are other numbers worth rehearsing.

    A firm wish is carried out as it is, if it is feasible and nobody vetoes it: it is not weighed against the standing
    plan. That is for policies that must act by their own rule, such as the baselines.
    """

    gpus: int
    alternatives: tuple[int, ...] = ()
    firm: bool = False


@dataclass(frozen=True, slots=True)
class Geometries:
    """A geometry (None: whole) for each GPU named."""

    by_gpu: tuple[tuple[str, Geometry | None], ...]


@dataclass(frozen=True, slots=True)
class Shares:
    """GPU% for a service on instances of a profile: (service, profile, gpu_percent)."""

    shares: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True, slots=True)
class Batchings:
    """Batching by service; `alternatives` are other settings worth rehearsing.

    A firm wish is part of every plan from then on. One that is not firm, as every alternative, is only a candidate
    beside the standing plan; it is part of later plans once it has been chosen.
    """

    by_service: tuple[tuple[str, Batching], ...]
    alternatives: tuple[tuple[tuple[str, Batching], ...], ...] = ()
    firm: bool = True


@dataclass(frozen=True, slots=True)
class Placement:
    """Groups of services that live together, each with its share (weight) of the GPUs held."""

    groups: tuple[tuple[tuple[str, ...], float], ...]


Suggestion = Capacity | Geometries | Shares | Batchings | Placement


@dataclass(frozen=True, slots=True)
class Proposal:
    """One plugin's opinion at one tick.

    `memory` is handed back to the same plugin and hook at the next tick (None at the first), so that plugins can stay
    free of hidden state: it must be plain data (numbers, text, lists, dicts).
    """

    suggestion: Suggestion
    reason: str
    memory: object = None


# What is done -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acquire:
    """Hold a GPU; nothing is on it yet."""

    gpu: str
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """Give a GPU back, once what was on it has drained and is gone."""

    gpu: str
    reason: str


@dataclass(frozen=True, slots=True)
class CreateInstance:
    """Make an instance on a held GPU; it comes up empty."""

    instance: Instance
    reason: str


@dataclass(frozen=True, slots=True)
class DestroyInstance:
    """Remove an instance that nothing is loaded on any more."""

    instance: str
    reason: str


@dataclass(frozen=True, slots=True)
class SetShare:
    """Give an instance another GPU%; what runs there is started again, since it keeps the share it began with."""

    instance: str
    gpu_percent: float
    reason: str


@dataclass(frozen=True, slots=True)
class StartReplicas:
    """Load these services on an instance, side by side, each with its batching (`batching` runs parallel)."""

    instance: str
    services: tuple[str, ...]
    batching: tuple[Batching, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Send these services' replicas on an instance nothing new, and let what they hold be answered."""

    instance: str
    services: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class StopReplicas:
    """Unload these services from an instance; what was not answered by then is lost, so they drain first."""

    instance: str
    services: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class SetBatching:
    """Let these replicas on an instance batch otherwise (`batching` runs parallel to `services`)."""

    instance: str
    services: tuple[str, ...]
    batching: tuple[Batching, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class SetRoutes:
    """Put sub-clusters and the routes to them into force, all at once."""

    sub_clusters: tuple[SubCluster, ...]
    routes: tuple[Route, ...]
    reason: str


Command = (
    Acquire
    | Release
    | CreateInstance
    | DestroyInstance
    | SetShare
    | StartReplicas
    | Drain
    | StopReplicas
    | SetBatching
    | SetRoutes
)


def target(command: Command) -> str:
    """Name what a command acts on: a GPU, an instance, or the routes."""
    match command:
        case Acquire(gpu) | Release(gpu):
            return gpu
        case CreateInstance(instance):
            return instance.id
        case SetRoutes():
            return "routes"
        case _:
            return command.instance


# What was chosen ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Objective:
    """What is better, in this order: attainment targets met, then cost, then fewer commands.

    Cost is the price of the GPUs over `period_s`, plus the cost of change: the capacity that is away while GPUs load
    and repartition, at the same price. A change must save more than `margin` (a share of the standing plan's cost)
    to pay for the disturbance; `tolerance` is how far below its target an attainment may be measured and still count
    as met, on top of the rehearsal's own sampling error.
    """

    period_s: float = 600.0
    margin: float = 0.02
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What rehearsal and pricing say of one candidate plan.

    `attainment` is the share of good requests in rehearsal, None where nothing was rehearsed, `attainment_error` its
    standard error. `shortfall` is the sum over services of (target − attainment) where that is positive beyond the
    sampling error, weighted by their share of requests; `worst_service` is the one furthest below its target.
    `cost` and `change_cost` are in GPU-hours times price over the objective's period.
    """

    label: str
    plan: Plan
    gpus: int
    attainment: float | None
    attainment_error: float
    shortfall: float
    worst_service: str
    cost: float
    change_cost: float
    commands: int
    terms: Mapping[str, float] = field(default_factory=dict)
    rejected: str = ""


class Action(StrEnum):
    """What a decision does."""

    ACT = "act"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Opinion:
    """One plugin's answer to one hook, as it stands in a decision: its reason, or the fault that cost it its say."""

    plugin: str
    hook: str
    reason: str
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was chosen at one tick, and everything that led to it."""

    tick: int
    at_s: float
    action: Action
    chosen: str
    reason: str
    opinions: tuple[Opinion, ...]
    candidates: tuple[Appraisal, ...]
    commands: tuple[Command, ...]
    objective: Objective
    offered_rps: float
    forecast_rps: float
    gpus_held: int
    gpus_wanted: int


# What is allowed ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Budgets:
    """Limits a plan must keep."""

    max_gpus: int | None = None
    max_price_per_hour: float = inf


@dataclass(frozen=True, slots=True)
class Violation:
    """One way in which a plan is not allowed; `subject` names the GPU, instance or service, `rule` the rule broken."""

    rule: Literal["geometry", "memory", "curve", "slo", "route", "budget", "inventory", "overlap"]
    subject: str
    message: str


def feasible(
    plan: Plan,
    services: Sequence[Service],
    inventory: Sequence[Gpu],
    budgets: Budgets = Budgets(),
    overheads: Overheads = NO_OVERHEADS,
) -> tuple[Violation, ...]:
    """Check a plan against every rule there is and return what it breaks; empty means feasible.

    Rules: GPUs exist and are held once; geometries are valid; instances belong to the held geometry and serve one
    sub-cluster; models fit into memory; of the kinds of instances in a sub-cluster, each of its services has one with a
    latency curve that meets the SLO at batch 1 with the overheads (the others take none of its requests); every service
    has routes to sub-clusters that hold it, with weights that sum to 1 at each size; budgets are kept.
    """
    return (
        *_check_gpus(plan, inventory, budgets),
        *_check_instances(plan, inventory),
        *_check_services(plan, services, overheads),
        *_check_routes(plan, services),
    )


def _check_gpus(plan: Plan, inventory: Sequence[Gpu], budgets: Budgets) -> list[Violation]:
    known, found, seen = {g.id: g for g in inventory}, [], set[str]()
    for held in plan.gpus:
        gpu = known.get(held.gpu)
        if gpu is None:
            found.append(Violation("inventory", held.gpu, f"GPU {held.gpu} is not in the cluster"))
        elif held.gpu in seen:
            found.append(Violation("inventory", held.gpu, f"GPU {held.gpu} is held twice"))
        elif held.geometry is not None and (problem := validate(gpu.model, held.geometry)):
            found.append(Violation("geometry", held.gpu, problem))
        seen.add(held.gpu)
    if budgets.max_gpus is not None and len(seen) > budgets.max_gpus:
        found.append(Violation("budget", "gpus", f"{len(seen)} GPUs held, {budgets.max_gpus} allowed"))
    price = plan.price_per_hour(inventory)
    if price > budgets.max_price_per_hour:
        found.append(Violation("budget", "price", f"{price:g} an hour, {budgets.max_price_per_hour:g} allowed"))
    return found


def _check_instances(plan: Plan, inventory: Sequence[Gpu]) -> list[Violation]:
    known = {g.id: g for g in inventory}
    made, used, found = set[Instance](), set[str](), list[Violation]()
    for held in plan.gpus:
        gpu = known.get(held.gpu)
        if gpu is not None and (held.geometry is None or validate(gpu.model, held.geometry) is None):
            parts = instances_of(gpu, held.geometry)
            if len(parts) > MOST_ON_A_GPU:
                text = f"GPU {gpu.id} would have {len(parts)} instances, it runs {MOST_ON_A_GPU} MPS shares at most"
                found.append(Violation("geometry", gpu.id, text))
            made.update(parts)
    for group in plan.sub_clusters:
        for instance in group.instances:
            if instance not in made:
                found.append(Violation("inventory", instance.id, f"no held GPU has the instance {instance.id}"))
            if instance.id in used:
                found.append(Violation("overlap", instance.id, f"{instance.id} is in two sub-clusters"))
            used.add(instance.id)
    return found


def _check_services(plan: Plan, services: Sequence[Service], overheads: Overheads) -> list[Violation]:
    known, found = {s.name: s for s in services}, []
    for group in plan.sub_clusters:
        members = [known[name] for name in group.services if name in known]
        found += [
            Violation("route", name, f"sub-cluster {group.name} names an unknown service {name}")
            for name in group.services
            if name not in known
        ]
        need = sum(s.memory_gib for s in members)
        for size in sorted({i.memory_gib for i in group.instances if i.memory_gib < need}):
            text = f"its services need {need:g} GiB, its instances have {size:g} GiB"
            found.append(Violation("memory", group.name, f"sub-cluster {group.name}: {text}"))
        kinds = sorted({(i.profile, i.gpu_percent) for i in group.instances})
        for service in members:
            if not any(answers(service, *kind, overheads=overheads) for kind in kinds):
                found += [_unanswered(service, *kind, overheads) for kind in kinds]
    return found


def _unanswered(service: Service, profile: str, percent: float, overheads: Overheads) -> Violation:
    """Say why a kind of instance cannot answer a service."""
    curve, kind = service.curve(profile, percent), label(profile, percent)
    if curve is None:
        return Violation("curve", service.name, f"service {service.name} has no latency curve for {kind}")
    around_s = overheads.control_s + overheads.data_s + overheads.response_s
    extra = f" and {around_s * 1e3:g} ms of overheads" if around_s else ""
    text = f"takes {curve.latency_s(1) * 1e3:g} ms alone on {kind}{extra}, its SLO is {service.slo_s * 1e3:g} ms"
    return Violation("slo", service.name, f"service {service.name} {text}")


def _check_routes(plan: Plan, services: Sequence[Service]) -> list[Violation]:
    holders = {group.name: group for group in plan.sub_clusters}
    found = []
    if len(holders) < len(plan.sub_clusters):
        names = Counter(group.name for group in plan.sub_clusters)
        twice = sorted(name for name, count in names.items() if count > 1)
        found += [Violation("route", name, f"two sub-clusters are called {name}") for name in twice]
    known = {s.name for s in services}
    by_service: dict[str, list[Route]] = {s.name: [] for s in services}
    for route in plan.routes:
        by_service.setdefault(route.service, []).append(route)
        group = holders.get(route.sub_cluster)
        if route.service not in known:
            text = f"a route to {route.sub_cluster} names an unknown service {route.service}"
            found.append(Violation("route", route.service, text))
        elif group is None or route.service not in group.services or not group.instances:
            text = f"{route.service} is routed to {route.sub_cluster}, which does not serve it"
            found.append(Violation("route", route.service, text))
    for service in services:
        routes = by_service[service.name]
        for size in sorted({inf, *(r.up_to_size for r in routes)}):
            weights = [r.weight for r in routes if r.up_to_size == size]
            if not abs(sum(weights) - 1.0) <= 1e-9 or min(weights) < 0:
                sizes = "" if size == inf else f" up to size {size:g}"
                text = f"the routes of {service.name} do not cover all requests{sizes}"
                found.append(Violation("route", service.name, f"{text}: their weights are {weights}, not shares of 1"))
    return found
