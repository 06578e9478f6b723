"""Packing of services onto instances by their rates, after Nexus ("squishy bin packing").

Source: Nexus (SOSP 2019), its public code (github.com/uwsampl/nexus) and its emulation in Symphony's public scheduler
(github.com/abcdabcd987/nexuslb). An instance goes round its services once a *duty cycle*; the batch of each is what
arrives in one. Rates are in requests a second, times in seconds. Several kinds of instances are ours: they are filled
in the order of their numbers, each at its own latencies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from numpy.typing import NDArray

from partita.ports import Pool

SLACK = 1e-3
"""How far above a whole number a batch may lie that is not rounded up."""
SHRINK_BELOW = 0.97
"""A service shrinks when its rate is below this share of its throughput."""
TINY_RPS = 1e-6


@dataclass(frozen=True, slots=True)
class Cycle:
    """What one instance runs: the load of each service, its batch, and how long the duty cycle is."""

    load_rps: Mapping[int, float] = field(default_factory=dict)
    batch: Mapping[int, int] = field(default_factory=dict)
    duty_s: float = 1.0
    busy_s: float = 0.0

    @property
    def occupancy(self) -> float:
        """Say which share of the duty cycle batches take."""
        return self.busy_s / self.duty_s

    def throughput_rps(self, service: int) -> float:
        """Return what the instance can do for a service."""
        return self.batch.get(service, 0) / self.duty_s


EMPTY = Cycle()


class Packer:
    """Makes cycles for the instances of one pool; `largest` is ``(kinds, services)``, the largest batch of each."""

    def __init__(self, pool: Pool, net_s: float) -> None:
        kinds = pool.by_kind()
        self.numbers = [int(n) for n in pool.number]
        self.services = [int(s) for s in pool.active]
        self._kind = {int(n): int(k) for n, k in zip(pool.number, kinds.of, strict=True)}
        self._slo_s = pool.slo_ns / 1e9
        self._planned_s = kinds.planned_ns / 1e9
        self.largest = largest_batches(pool, net_s)

    def cap(self, number: int, s: int) -> int:
        """Return the largest batch of a service on an instance; 0 if it may not run there."""
        return int(self.largest[self._kind[number], s])

    def runs_s(self, number: int, s: int, batch: int) -> float:
        """Return how long a batch takes on an instance."""
        return float(self._planned_s[self._kind[number], s, batch])

    def full_rps(self, number: int, s: int) -> float:
        """Return what an instance can do for a service that it runs alone."""
        cap = self.cap(number, s)
        return cap / self.runs_s(number, s, cap)

    def cycle(self, number: int, load_rps: Mapping[int, float]) -> Cycle | None:
        """Return the cycle that carries these loads on an instance, or None if there is none."""
        if not load_rps:
            return EMPTY
        if len(load_rps) == 1:
            ((s, load),) = load_rps.items()
            if load >= self.full_rps(number, s) * (1 - 1e-9):
                return self.round(number, load_rps)
        duty = min(self._longest_duty_s(number, s, load) for s, load in load_rps.items())
        if duty <= 0:
            return None
        batch = {s: max(1, ceil(duty * load - SLACK)) for s, load in load_rps.items()}
        if any(b > self.cap(number, s) for s, b in batch.items()):
            return None
        busy = sum(self.runs_s(number, s, b) for s, b in batch.items())
        return Cycle(dict(load_rps), batch, duty, busy) if busy <= duty else None

    def round(self, number: int, services: Mapping[int, float] | Sequence[int]) -> Cycle:
        """Return the cycle in which an instance runs largest batches of these services, one after the other."""
        batch = {s: self.cap(number, s) for s in services}
        busy = sum(self.runs_s(number, s, b) for s, b in batch.items())
        return Cycle({s: b / busy for s, b in batch.items()}, batch, busy, busy)

    def _longest_duty_s(self, number: int, s: int, load: float) -> float:
        """Return the longest duty cycle in which a service with this load keeps its SLO."""
        slo, best = float(self._slo_s[s]), 1
        for b in range(2, self.cap(number, s) + 1):
            if (b - 1) / load + self.runs_s(number, s, b) > slo:
                break
            best = b
        return min(slo - self.runs_s(number, s, best), best / load)


Plan = dict[int, Cycle]
"""Cycles by instance number."""


def largest_batches(pool: Pool, net_s: float) -> NDArray[np.int64]:
    """Return the largest batch, ``(kinds, services)``, that runs in half of the SLO less `net_s`; at least 1."""
    kinds = pool.by_kind()
    largest = np.minimum(kinds.max_batch, 1)
    for s in pool.active:
        half_ns = (pool.slo_ns[s] - net_s * 1e9) / 2
        for k, most in enumerate(kinds.max_batch[:, s]):
            within = np.flatnonzero(kinds.planned_ns[k, s, 1 : most + 1] <= half_ns)
            largest[k, s] = within[-1] + 1 if len(within) else largest[k, s]
    return largest


def throughput_rps(plan: Plan, s: int) -> float:
    """Return what a plan can do for a service."""
    return sum(plan[number].throughput_rps(s) for number in sorted(plan))


def spread(packer: Packer) -> Plan:
    """Return the plan to begin with: every service has an instance of its own; if there are too few, they share."""
    members: dict[int, list[int]] = {number: [] for number in packer.numbers}
    for s in packer.services:
        able = [number for number in packer.numbers if packer.cap(number, s) > 0]
        if able:
            members[min(able, key=lambda number: (len(members[number]), number))].append(s)
    return {number: packer.round(number, own) if own else EMPTY for number, own in members.items()}


def pack(packer: Packer, rates_rps: NDArray[np.float64]) -> Plan:
    """Return a plan for these rates from nothing: whole instances first, then what is left, largest share first."""
    plan: Plan = dict.fromkeys(packer.numbers, EMPTY)
    rest = {s: _fill(packer, plan, s, float(rates_rps[s])) for s in packer.services}

    def share(s: int) -> float:
        able = [number for number in packer.numbers if packer.cap(number, s) > 0]
        alone = packer.cycle(able[0], {s: rest[s]}) if able and rest[s] > TINY_RPS else None
        return alone.occupancy if alone is not None else 0.0

    for s in sorted(packer.services, key=lambda s: (-share(s), s)):
        place(packer, plan, s, rest[s])
    return house(packer, plan)


def adapt(packer: Packer, plan: Plan, rates_rps: NDArray[np.float64]) -> Plan:
    """Return the plan that follows another one when rates have changed: services shrink, then others grow."""
    plan = dict(plan)
    for s in packer.services:
        if rates_rps[s] < SHRINK_BELOW * throughput_rps(plan, s):
            _shrink(packer, plan, s, float(rates_rps[s]))
    for s in packer.services:
        rest = float(rates_rps[s]) - throughput_rps(plan, s)
        if rest > TINY_RPS:
            place(packer, plan, s, _grow(packer, plan, s, rest))
    return house(packer, plan)


def _shrink(packer: Packer, plan: Plan, s: int, rate: float) -> None:
    """Take a service off its smallest instances, as long as the others carry it; let the next one carry the rest."""
    hosts = [number for number in plan if s in plan[number].batch]
    for number in sorted(hosts, key=lambda n: (plan[n].throughput_rps(s), -n)):
        others = throughput_rps(plan, s) - plan[number].throughput_rps(s)
        left = max(0.0, rate - others)
        loads = {**plan[number].load_rps, s: left}
        if left <= TINY_RPS:
            del loads[s]
        cycle = packer.cycle(number, loads)
        if cycle is not None:
            plan[number] = cycle
        if left > TINY_RPS:
            break


def _grow(packer: Packer, plan: Plan, s: int, rest: float) -> float:
    """Let a service's instances carry more, one after the other; return what they cannot."""
    for number in sorted(plan):
        if s not in plan[number].batch or rest <= TINY_RPS:
            continue
        before = plan[number].throughput_rps(s)
        cycle = packer.cycle(number, {**plan[number].load_rps, s: before + rest})
        if cycle is not None and cycle.throughput_rps(s) > before:
            plan[number] = cycle
            rest -= cycle.throughput_rps(s) - before
    return max(0.0, rest)


def _fill(packer: Packer, plan: Plan, s: int, rate: float) -> float:
    """Give a service unused instances as long as it fills them, the lowest-numbered first; return what is left."""
    for number in packer.numbers:
        if not plan[number].batch and packer.cap(number, s) > 0:
            if rate < packer.full_rps(number, s):
                break
            plan[number] = packer.round(number, [s])
            rate -= plan[number].throughput_rps(s)
    return rate


def place(packer: Packer, plan: Plan, s: int, rate: float) -> None:
    """Add a load to the plan: whole instances, then the fullest instance that carries what is left."""
    rate = _fill(packer, plan, s, rate)
    if rate <= TINY_RPS:
        return
    able = [number for number in packer.numbers if packer.cap(number, s) > 0 and s not in plan[number].batch]
    cycles = {number: packer.cycle(number, {**plan[number].load_rps, s: rate}) for number in able}
    fitting = {number: cycle for number, cycle in cycles.items() if cycle is not None}
    if fitting:
        number = min(fitting, key=lambda n: (-fitting[n].occupancy, n))
        plan[number] = fitting[number]


def house(packer: Packer, plan: Plan) -> Plan:
    """Give each service without instance a batch of one on the one least occupied, so that nobody waits for ever."""
    for s in packer.services:
        able = [number for number in packer.numbers if packer.cap(number, s) > 0]
        if not able or any(s in plan[number].batch for number in able):
            continue
        number = min(able, key=lambda n: (plan[n].occupancy, n))
        old, runs = plan[number], packer.runs_s(number, s, 1)
        duty = max(old.duty_s, old.busy_s + runs) if old.batch else runs
        plan[number] = Cycle({**old.load_rps, s: 1 / duty}, {**old.batch, s: 1}, duty, old.busy_s + runs)
    return plan
