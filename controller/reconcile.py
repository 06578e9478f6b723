"""Reconcile: join what the plugins suggest into a few complete candidate plans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import inf

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
    same,
)
from partita.model.service import Service

MOVE_GAIN = 0.1
"""Share by which the most crowded group must gain for instances to change groups: rates are never the same twice."""


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
                case Batchings(by_service, _, firm=True):
                    wishes = wishes.batched(by_service)
                case Placement():
                    wishes = replace(wishes, placement=proposal.suggestion)
                case Batchings() | Capacity() | Shares():
                    pass
        return wishes

    def batched(self, by_service: Iterable[tuple[str, Batching]]) -> Wishes:
        """Return the wishes with this batching of some services."""
        return replace(self, batching={**self.batching, **dict(by_service)})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A complete plan with the name it goes by in the decision; a firm one is not weighed against the standing plan."""

    label: str
    plan: Plan
    firm: bool = False


def candidates(
    proposals: Sequence[tuple[str, Proposal]],
    wishes: Wishes,
    services: Sequence[Service],
    inventory: Sequence[Gpu],
    rates_rps: Sequence[float],
    standing: Plan,
) -> list[Candidate]:
    """Return the plans worth considering, without the standing one; each number of GPUs appears once for each batching.

    Where no plugin has an opinion on the number of GPUs, the standing number is kept. Numbers too small to give every
    group of services an instance are raised. A firm wish for what stands already leaves no other number to consider.
    Batchings that are to be weighed are tried on the standing number of GPUs and on the number each plugin asks for.
    """
    held = max(1, len(standing.gpus))
    opinions = [(name, p.suggestion, p.reason) for name, p in proposals if isinstance(p.suggestion, Capacity)]
    if not opinions:
        opinions = [("standing", Capacity(held), "no plugin asks for another number of GPUs")]
    wanted: dict[int, Candidate] = {}
    main = {held: ""}
    settled = False
    for name, capacity, reason in opinions:
        for number in (capacity.gpus, *capacity.alternatives):
            asked = max(1, min(number, len(inventory)))
            gpus = least(asked, wishes, services, inventory, rates_rps)
            firm = capacity.firm and number == capacity.gpus
            why = reason if gpus == asked else f"{reason} ({gpus} GPUs at least, for the services to fit)"
            if number == capacity.gpus:
                main.setdefault(gpus, why)
            if gpus in wanted and not firm:
                continue
            plan = build(gpus, wishes, services, inventory, rates_rps, why, standing)
            if not same(plan, standing):
                wanted[gpus] = Candidate(f"{name}: {_gpus(gpus)}", plan, firm)
            settled = settled or (firm and same(plan, standing))
    found = list(wanted.values())
    if any(c.firm for c in found):
        return found
    if settled:
        found, main = [], {held: ""}
    for label, by_service, reason in _weighed(proposals):
        tried = wishes.batched(by_service)
        for gpus, why in main.items():
            plan = build(gpus, tried, services, inventory, rates_rps, f"{why}; {reason}" if why else reason, standing)
            if not any(same(plan, other) for other in (standing, *(c.plan for c in found))):
                found.append(Candidate(label if gpus == held else f"{label}, {_gpus(gpus)}", plan))
    return found


def _weighed(proposals: Sequence[tuple[str, Proposal]]) -> Iterator[tuple[str, tuple[tuple[str, Batching], ...], str]]:
    """List the batchings that are to be weighed against what stands: label, batching by service, reason."""
    for name, proposal in proposals:
        if isinstance(proposal.suggestion, Batchings):
            first = () if proposal.suggestion.firm else (proposal.suggestion.by_service,)
            for n, by_service in enumerate((*first, *proposal.suggestion.alternatives), start=1):
                yield f"{name}: batching{f' {n}' if n > 1 else ''}", by_service, proposal.reason


def _gpus(number: int) -> str:
    return f"{number} GPU{'s' if number != 1 else ''}"


def build(
    gpus: int,
    wishes: Wishes,
    services: Sequence[Service],
    inventory: Sequence[Gpu],
    rates_rps: Sequence[float],
    reason: str,
    standing: Plan | None = None,
) -> Plan:
    """Make the plan that holds this many GPUs of the inventory.

    Lower numbers are held first, so that the GPUs given back are those that a min-id discipline leaves idle; but each
    group keeps GPUs that hold its services already. Instances stay in the groups that they have in `standing` as far as
    the groups' shares allow.
    """
    _, instances = _hold(inventory[:gpus], wishes)
    wanted = _wanted(wishes.placement, services, instances, rates_rps)
    names, weights = [n for n, _ in wanted], [w for _, w in wanted]
    held, instances = _hold(_chosen(gpus, names, weights, inventory, standing), wishes)
    homes = _homes(standing, names, instances)
    groups = zip(names, _settled(instances, _shares(len(instances), weights, homes), homes), strict=True)
    sub_clusters = tuple(
        SubCluster(f"group{n}", tuple(members), names, tuple(wishes.batching[name] for name in names))
        for n, (names, members) in enumerate(groups)
        if members
    )
    routes = tuple(Route(name, group.name) for group in sub_clusters for name in group.services)
    return Plan(held, sub_clusters, tuple(sorted(routes, key=lambda r: r.service)), reason)


def least(
    gpus: int, wishes: Wishes, services: Sequence[Service], inventory: Sequence[Gpu], rates_rps: Sequence[float]
) -> int:
    """Return the smallest number from `gpus` on that gives every group an instance; `gpus` if none does."""
    for number in range(gpus, len(inventory) + 1):
        _, instances = _hold(inventory[:number], wishes)
        if len(instances) >= len(_wanted(wishes.placement, services, instances, rates_rps)):
            return number
    return gpus


def _chosen(
    gpus: int,
    names: Sequence[tuple[str, ...]],
    weights: Sequence[float],
    inventory: Sequence[Gpu],
    standing: Plan | None,
) -> Sequence[Gpu]:
    """Say which GPUs to hold: the first ones, or, of several groups, each group's first ones up to its share."""
    groups = standing.sub_clusters if standing is not None else ()
    homes = {(i.gpu, names.index(g.services)) for g in groups if g.services in names for i in g.instances}
    if len(names) < 2 or len({gpu for gpu, _ in homes}) < len(homes):
        return inventory[:gpus]
    home = dict(homes)
    kept: set[str] = set()
    for group, share in enumerate(_shares(gpus, weights, [])):
        kept.update(islice((g.id for g in inventory if home.get(g.id) == group), share))
    kept.update(islice((g.id for g in inventory if g.id not in kept), gpus - len(kept)))
    return [g for g in inventory if g.id in kept]


def _hold(chosen: Sequence[Gpu], wishes: Wishes) -> tuple[tuple[HeldGpu, ...], list[Instance]]:
    """Return these GPUs as held, cut as wished, and their instances."""
    held = tuple(HeldGpu(g.id, wishes.geometry.get(g.id, g.geometry)) for g in chosen)
    return held, [i for g, h in zip(chosen, held, strict=True) for i in instances_of(g, h.geometry)]


def _wanted(
    placement: Placement | None, services: Sequence[Service], instances: Sequence[Instance], rates_rps: Sequence[float]
) -> list[tuple[tuple[str, ...], float]]:
    """Say which services live together, and each group's share.

    Without a wish, all live together where they fit; else they are packed into as few groups as fit, largest first,
    and the instances are shared out by the GPU time that the groups' requests take.
    """
    if placement is not None:
        return [(tuple(sorted(names)), weight) for names, weight in placement.groups]
    packed = _packed(services, min((i.memory_gib for i in instances), default=0.0))
    if len(packed) == 1:
        return [(packed[0], 1.0)]
    work = {s.name: max(r, 1e-9) * _gpu_time_s(s) for s, r in zip(services, rates_rps, strict=True)}
    return [(names, sum(work[n] for n in names)) for names in packed]


def _gpu_time_s(service: Service) -> float:
    """Return the time a request takes in the largest batch that the SLO allows, on the profile that is best at it."""
    return min((time for c in service.curves if (time := service.gpu_time_s(c.profile)) < inf), default=1.0)


def _packed(services: Sequence[Service], room_gib: float) -> list[tuple[str, ...]]:
    """Pack services into groups that fit into one instance: first fit, largest first."""
    bins: list[tuple[float, list[str]]] = []
    for service in sorted(services, key=lambda s: (-s.memory_gib, s.name)):
        for n, (used, names) in enumerate(bins):
            if used + service.memory_gib <= room_gib:
                names.append(service.name)
                bins[n] = (used + service.memory_gib, names)
                break
        else:
            bins.append((service.memory_gib, [service.name]))
    return [tuple(sorted(names)) for _, names in bins]


def _homes(standing: Plan | None, names: Sequence[tuple[str, ...]], instances: Sequence[Instance]) -> list[int | None]:
    """Return the group that each instance serves in the standing plan; None if it is none of these."""
    groups = standing.sub_clusters if standing is not None else ()
    place = {i.id: names.index(g.services) for g in groups if g.services in names for i in g.instances}
    return [place.get(instance.id) for instance in instances]


def _shares(instances: int, weights: Sequence[float], homes: Sequence[int | None]) -> list[int]:
    """Share a number of instances out by weight: one each as far as they go, the rest to the most crowded group.

    Where every instance has its home already, the shares stay unless the most crowded group gains by MOVE_GAIN.
    """
    counts = [1 if n < instances else 0 for n in range(len(weights))]
    for _ in range(instances - sum(counts)):
        neediest = max(range(len(weights)), key=lambda n: (weights[n] / max(counts[n], 1), -n))
        counts[neediest] += 1
    before = [homes.count(n) for n in range(len(weights))]
    if None in homes or 0 in before or _crowding(weights, before) > _crowding(weights, counts) * (1 + MOVE_GAIN):
        return counts
    return before


def _settled(instances: Sequence[Instance], counts: Sequence[int], homes: Sequence[int | None]) -> list[list[Instance]]:
    """Give each group its number of instances: those at home in it first, then the others, in their order."""
    free = list(counts)
    groups: list[list[int]] = [[] for _ in counts]
    moving = []
    for n, home in enumerate(homes):
        if home is not None and free[home] > 0:
            free[home] -= 1
            groups[home].append(n)
        else:
            moving.append(n)
    newcomers = iter(moving)
    for group, count in zip(groups, free, strict=True):
        group.extend(islice(newcomers, count))
    return [[instances[n] for n in sorted(group)] for group in groups]


def _crowding(weights: Sequence[float], counts: Sequence[int]) -> float:
    """Return the most weight an instance that any group has."""
    return max((w / n for w, n in zip(weights, counts, strict=True) if n), default=0.0)
