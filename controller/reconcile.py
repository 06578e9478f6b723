"""Reconcile: join what the plugins suggest into a few complete candidate plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from partita.mig import Geometry
from partita.model.cluster import Gpu, Instance, instances_of
from partita.model.plan import (
    Batching,
    Batchings,
    Capacity,
    Geometries,
    HeldGpu,
    Placement,
    Plan,
    Proposal,
    Route,
    Shares,
    SubCluster,
)
from partita.model.service import Service


@dataclass(frozen=True, slots=True)
class Wishes:
    """What holds until a plugin says otherwise: geometry by GPU, services that live together, batching by service."""

    geometry: Mapping[str, Geometry | None]
    batching: Mapping[str, Batching]
    placement: Placement | None = None

    def updated(self, proposals: Sequence[tuple[str, Proposal]]) -> Wishes:
        """Return the wishes with these proposals in force; among several the last by plugin name stands."""
        wishes = self
        for _, proposal in proposals:
            match proposal.suggestion:
                case Geometries(by_gpu):
                    wishes = replace(wishes, geometry={**wishes.geometry, **dict(by_gpu)})
                case Batchings(by_service):
                    wishes = replace(wishes, batching={**wishes.batching, **dict(by_service)})
                case Placement():
                    wishes = replace(wishes, placement=proposal.suggestion)
                case Capacity() | Shares():
                    pass
        return wishes


@dataclass(frozen=True, slots=True)
class Candidate:
    """A complete plan with the name it goes by in the decision; a firm one is not weighed against the standing plan."""

    label: str
    plan: Plan
    firm: bool = False
    commands: int = field(default=0)


def candidates(
    proposals: Sequence[tuple[str, Proposal]],
    wishes: Wishes,
    services: Sequence[Service],
    inventory: Sequence[Gpu],
    rates_rps: Sequence[float],
    standing: Plan,
) -> list[Candidate]:
    """Return the plans worth considering, without the standing one; each number of GPUs appears once.

    Where no plugin has an opinion on the number of GPUs, the standing number is kept.
    """
    wanted: dict[int, Candidate] = {}
    opinions = [(name, p.suggestion, p.reason) for name, p in proposals if isinstance(p.suggestion, Capacity)]
    if not opinions:
        opinions = [("standing", Capacity(max(1, len(standing.gpus))), "no plugin asks for another number of GPUs")]
    for name, capacity, reason in opinions:
        for number in (capacity.gpus, *capacity.alternatives):
            gpus = max(1, min(number, len(inventory)))
            firm = capacity.firm and number == capacity.gpus
            if gpus in wanted and not firm:
                continue
            plan = build(gpus, wishes, services, inventory, rates_rps, reason)
            if not same(plan, standing):
                wanted[gpus] = Candidate(f"{name}: {gpus} GPU{'s' if gpus != 1 else ''}", plan, firm)
    return list(wanted.values())


def build(
    gpus: int,
    wishes: Wishes,
    services: Sequence[Service],
    inventory: Sequence[Gpu],
    rates_rps: Sequence[float],
    reason: str,
) -> Plan:
    """Make the plan that holds the first `gpus` GPUs of the inventory.

    Lower numbers are held first, so that the GPUs given back are those that a min-id discipline leaves idle.
    """
    chosen = inventory[:gpus]
    held = tuple(HeldGpu(g.id, wishes.geometry.get(g.id, g.geometry)) for g in chosen)
    instances = [i for g, h in zip(chosen, held, strict=True) for i in instances_of(g, h.geometry)]
    groups = _groups(wishes.placement, services, instances, rates_rps)
    sub_clusters = tuple(
        SubCluster(f"group{n}", tuple(members), names, tuple(wishes.batching[name] for name in names))
        for n, (names, members) in enumerate(groups)
        if members
    )
    routes = tuple(Route(name, group.name) for group in sub_clusters for name in group.services)
    return Plan(held, sub_clusters, tuple(sorted(routes, key=lambda r: r.service)), reason)


def same(plan: Plan, other: Plan) -> bool:
    """Say whether two plans want the same thing, whatever their reasons."""
    return replace(plan, reason="") == replace(other, reason="")


def _groups(
    placement: Placement | None, services: Sequence[Service], instances: Sequence[Instance], rates_rps: Sequence[float]
) -> list[tuple[tuple[str, ...], list[Instance]]]:
    """Say which services live on which instances.

    Without a wish, all live together where they fit; else they are packed into as few groups as fit, largest first,
    and the instances are shared out by the groups' rates.
    """
    if placement is not None:
        wanted = [(tuple(sorted(names)), weight) for names, weight in placement.groups]
    else:
        rate = {s.name: max(r, 1e-9) for s, r in zip(services, rates_rps, strict=True)}
        room = min((i.memory_gib for i in instances), default=0.0)
        wanted = [(names, sum(rate[n] for n in names)) for names in _packed(services, room)]
    return list(zip((names for names, _ in wanted), _shared_out(instances, [w for _, w in wanted]), strict=True))


def _packed(services: Sequence[Service], room_gib: float) -> list[tuple[str, ...]]:
    """Pack services into groups that fit into one instance: first fit, largest first."""
    bins: list[tuple[float, list[str]]] = []
    for service in sorted(services, key=lambda s: (-s.memory_gib, s.name)):
        for n, (used, names) in enumerate(bins):
            if used + service.memory_gib <= room_gib:
                bins[n] = (used + service.memory_gib, [*names, service.name])
                break
        else:
            bins.append((service.memory_gib, [service.name]))
    return [tuple(sorted(names)) for _, names in bins]


def _shared_out(instances: Sequence[Instance], weights: Sequence[float]) -> list[list[Instance]]:
    """Share instances out by weight: one each as far as they go, the rest to whoever has most weight an instance."""
    counts = [1 if n < len(instances) else 0 for n in range(len(weights))]
    for _ in range(len(instances) - sum(counts)):
        neediest = max(range(len(weights)), key=lambda n: (weights[n] / max(counts[n], 1), -n))
        counts[neediest] += 1
    ends = [sum(counts[: n + 1]) for n in range(len(counts))]
    return [list(instances[end - count : end]) for count, end in zip(counts, ends, strict=True)]
