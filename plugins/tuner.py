"""Batching for servers that wait by the clock: batches just large enough, and nothing served that is too late.

For services that share instances and batch by `timeout` or `triton`. Batches grow from one request on, each time where
a larger one saves most time, until the instances are busy for no more than a target share; none grows further than the
SLOs leave after two executions, a service's own batch and the one in front of it. A batch is waited for as long as it
takes to gather, within what is left. Requests are rejected once they have waited for what one round of batches would
leave of their SLO: under overload that keeps batches, and with them the round, from growing. The rules are ours.

These limits hold for the load that is forecast. Where much more comes, batches are fuller than was reckoned with, and
who has waited longest is answered too late until the next turn sets shorter ones. Limits, or batches, that no load
could break would cost more at the load that is expected.

What it proposes is weighed in rehearsal, beside variants with larger batches and without any wait; nothing replaces
what stands unheard. A server may take seconds to change over, and then serves some requests late: what has been
changed stays for a while unless the load has left what it was made for.

Options: ``quantile`` (0.8) of the near forecast; ``utilisation`` (0.8) that the instances may reach; ``tolerance``
(0.25), the share by which settings may differ from those in force without a change; ``hold_s`` (60), for how long a
change stands before another one of the same services is proposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any

import numpy as np

from partita.hookspecs import hookimpl
from partita.model.cluster import SubCluster
from partita.model.load import Forecast, Observation
from partita.model.plan import Batching, Batchings, OptionValue, Plan, Proposal
from partita.model.service import Service
from partita.model.staggered import Overheads
from partita.plugins.options import ABOVE_ZERO, BELOW_ONE, complaint, read_numbers

TUNED = ("timeout", "triton")
"""Disciplines that are tuned; services with another are left alone."""
LEAST_S = 1e-3
"""Times are set in whole milliseconds, and differences below one are none."""
SOONER_S = 2e-3
"""A wait ends this long before its requests would be rejected: they are as soon as they are as old as the limit, and a
server's clock wakes it late rather than early."""
CALMER = 0.75
"""Share of the target at which the variant with larger batches keeps the instances."""
HIDDEN = 0.05
"""Share of a batch's time for its inputs from which on a second model instance is worth having to hide it."""
MOVED, LEAST_MOVED = 0.25, 0.1
"""Share of the load it was made for, and of an instance's time, by which load must have moved to end a hold. A quarter
more fills instances that were 80 % busy."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator may set."""

    quantile: float = 0.8
    utilisation: float = 0.8
    tolerance: float = 0.25
    hold_s: float = 60.0

    @classmethod
    def read(cls, options: Mapping[str, OptionValue]) -> Settings:
        """Read the options; ConfigError for one that is unknown or out of range."""
        limits = {"quantile": (ABOVE_ZERO, BELOW_ONE), "utilisation": (ABOVE_ZERO, BELOW_ONE)}
        return read_numbers(cls, options, limits)


@dataclass(frozen=True, slots=True)
class Member:
    """One service on shared instances: its requests a second, and what batches take there.

    `rate_rps` is what its queue sees (with buckets of input sizes that of most of them), `share_rps` what one instance
    does. `budget_s` is the SLO less the way back. `run_s` and `lead_s` give execution (of the largest inputs) and the
    way to the instance by batch, from 1, `busy_s` the execution that its mix of sizes takes on average; `sizes` are the
    batches that need less time a request than every smaller one.
    """

    name: str
    rate_rps: float
    share_rps: float
    budget_s: float
    run_s: tuple[float, ...]
    busy_s: tuple[float, ...]
    lead_s: tuple[float, ...]
    sizes: tuple[int, ...]

    def run(self, batch: int) -> float:
        """Return how long a batch runs."""
        return self.run_s[batch - 1]

    def load(self, batch: int) -> float:
        """Return how much of an instance's time its requests take in batches of this size."""
        return self.share_rps * self.busy_s[batch - 1] / batch

    def left_s(self, batch: int) -> float:
        """Return what the SLO leaves when a batch of this size has run."""
        return self.budget_s - self.lead_s[batch - 1] - self.run(batch)


@hookimpl
def check_options(options: Mapping[str, OptionValue]) -> str | None:
    """Say what is wrong with the options."""
    return complaint(lambda: Settings.read(options))


@hookimpl
def propose_batching(
    services: Sequence[Service],
    observation: Observation,
    near: Forecast,
    standing: Plan,
    overheads: Overheads,
    options: Mapping[str, OptionValue],
    memory: Any,
) -> Proposal | None:
    """Set batches, waits and rejection of the services that share instances, where they differ from those in force."""
    settings = Settings.read(options)
    level = np.maximum(near.lasting(settings.quantile), observation.load.surely_rps())
    rates = dict(zip((s.name for s in services), level.tolist(), strict=True))
    variants: list[dict[str, Batching]] = [{}, {}, {}, {}]
    asked = dict(memory or {})
    reasons = []
    for group in standing.sub_clusters:
        members = _members(group, services, rates, overheads)
        if not members or _held(group, members, asked, observation.now_s - settings.hold_s):
            continue
        just = batches(members, settings.utilisation)
        made = _variants(group, members, just, settings)
        if _alike(made[0], group, settings.tolerance):
            continue
        reasons.append(_reason(group, members, just))
        asked.update(_asked(group, members, made, observation.now_s))
        for variant, by_service in zip(variants, made, strict=True):
            variant.update(by_service)
    if not reasons:
        return None
    first, *others = (tuple(sorted(variant.items())) for variant in variants)
    alternatives = tuple(dict.fromkeys(other for other in others if other != first))
    return Proposal(Batchings(first, alternatives, firm=False), "; ".join(reasons), asked)


def batches(members: Sequence[Member], utilisation: float) -> list[int]:
    """Return the smallest batches that keep an instance below this utilisation, or the largest that SLOs allow.

    The next batch to grow is the one that saves most; it must leave every member time for two executions, the longest
    batch of all in front of its own.
    """
    chosen = [0] * len(members)
    sizes = [m.sizes[0] for m in members]
    while sum(m.load(b) for m, b in zip(members, sizes, strict=True)) > utilisation:
        left = [m.left_s(b) for m, b in zip(members, sizes, strict=True)]
        front = max(m.run(b) for m, b in zip(members, sizes, strict=True))
        tightest = sorted(left)[:2]
        best, saved = -1, 0.0
        for n, member in enumerate(members):
            if chosen[n] + 1 == len(member.sizes):
                continue
            larger = member.sizes[chosen[n] + 1]
            others = [*tightest, inf][1 if left[n] == tightest[0] else 0]
            fits = min(others, member.left_s(larger)) >= max(front, member.run(larger), LEAST_S)
            if fits and (gain := member.load(sizes[n]) - member.load(larger)) > saved:
                best, saved = n, gain
        if best < 0:
            break
        chosen[best] += 1
        sizes[best] = members[best].sizes[chosen[best]]
    return sizes


def _members(
    group: SubCluster, services: Sequence[Service], rates: Mapping[str, float], overheads: Overheads
) -> list[Member]:
    """Describe the services of a group; none if it batches otherwise, or its instances are not all measured.

    None either if the SLO of one leaves less than the shortest limit beside a single request's run.
    """
    if not group.instances or any(b.discipline not in TUNED for b in group.batching):
        return []
    known = {s.name: s for s in services}
    members = []
    for name in group.services:
        service = known[name]
        kinds = sorted({(i.profile, i.gpu_percent) for i in group.instances})
        lanes, shares = zip(*service.weighed(), strict=True)
        curves = [[lane.curve(*kind) for kind in kinds] for lane in (service, *lanes)]
        measured = [[c for c in of_lane if c is not None] for of_lane in curves]
        largest = min((c.largest_within(service.slo_s) for of_lane in measured for c in of_lane), default=0)
        if any(len(of_lane) < len(kinds) for of_lane in measured) or largest == 0:
            return []
        run, *of_lanes = [
            np.max([c.table_ns(largest)[1 : largest + 1] for c in of_lane], axis=0) / 1e9 for of_lane in measured
        ]
        busy = np.average(of_lanes, axis=0, weights=shares)
        a_request = busy / np.arange(1, largest + 1)
        members.append(
            Member(
                name,
                rates[name] * max(shares),
                rates[name] / len(group.instances),
                service.slo_s - overheads.response_s,
                tuple(run.tolist()),
                tuple(busy.tolist()),
                tuple(overheads.control_s + overheads.data_s * b for b in range(1, largest + 1)),
                tuple(b for b in range(1, largest + 1) if b == 1 or a_request[b - 1] < a_request[: b - 1].min()),
            )
        )
    return members if all(m.left_s(1) >= LEAST_S for m in members) else []


def _held(group: SubCluster, members: Sequence[Member], asked: Mapping[str, Any], since_s: float) -> bool:
    """Say whether a group batches, since less than a while, as it was asked to, and its load is what that was for."""
    pairs = list(zip(members, group.batching, strict=True))
    notes = [asked.get(m.name, {"at_s": -inf, "share_rps": m.share_rps, "tried": ()}) for m in members]
    if not any(n["at_s"] > since_s and str(b) in n["tried"] for n, (_, b) in zip(notes, pairs, strict=True)):
        return False
    a_request = [m.busy_s[b - 1] / b for m, b in ((m, min(b.max_batch or 1, len(m.run_s))) for m, b in pairs)]
    before: float = sum(n["share_rps"] * s for n, s in zip(notes, a_request, strict=True))
    moved: float = sum(abs(m.share_rps - n["share_rps"]) * s for m, n, s in zip(members, notes, a_request, strict=True))
    return moved <= max(MOVED * before, LEAST_MOVED)


def _asked(
    group: SubCluster, members: Sequence[Member], made: Sequence[Mapping[str, Batching]], now_s: float
) -> dict[str, object]:
    """Note what each service is asked to become, when, and for which load; what stands already is no change."""
    return {
        m.name: {
            "at_s": now_s,
            "share_rps": m.share_rps,
            "tried": sorted({str(variant[m.name]) for variant in made} - {str(before)}),
        }
        for m, before in zip(members, group.batching, strict=True)
    }


def _variants(
    group: SubCluster, members: Sequence[Member], just: Sequence[int], settings: Settings
) -> tuple[dict[str, Batching], ...]:
    """Return settings to weigh: just large enough and larger batches, waited for; just enough and the largest, not.

    Where instances are busy anyway, batches gather while they wait for one.
    """
    calmer = batches(members, settings.utilisation * CALMER)
    largest = batches(members, 0.0)
    return (
        _batching(group, members, just, wait=True),
        _batching(group, members, calmer, wait=True),
        _batching(group, members, just, wait=False),
        _batching(group, members, largest, wait=False),
    )


def _batching(group: SubCluster, members: Sequence[Member], sizes: Sequence[int], *, wait: bool) -> dict[str, Batching]:
    """Put the settings of a group together, keeping what else is set for its discipline."""
    made = {}
    front = max(m.run(b) for m, b in zip(members, sizes, strict=True))
    shared = round_s(members, sizes)
    for member, batch, before in zip(members, sizes, group.batching, strict=True):
        gather = (batch - 1) / member.rate_rps if member.rate_rps > 0 else 0.0
        options: dict[str, OptionValue] = {**dict(before.options), "queue_policy": "reject"}
        line = round_s([member], [batch])
        if before.discipline == "triton":
            hides = len(members) == 1 and member.lead_s[batch - 1] > HIDDEN * member.run(batch)
            options["instances"] = 2 if hides else 1
            line = 2 * line if hides else shared
        least_s = min(max(member.budget_s / 10, LEAST_S), member.left_s(batch))
        queue_ms = _whole_ms(max(member.budget_s - member.lead_s[batch - 1] - line, least_s))
        options["queue_timeout_ms"] = queue_ms
        delay_s = max(min(gather, queue_ms / 1e3 - SOONER_S, member.left_s(batch) - front), 0.0) if wait else 0.0
        made[member.name] = Batching(before.discipline, _whole_ms(delay_s) / 1e3, batch, tuple(sorted(options.items())))
    return made


def round_s(members: Sequence[Member], sizes: Sequence[int]) -> float:
    """Return how long one batch of each member takes under overload, when those too late are rejected.

    A batch that is taken finishes a round later at the worst, so that its riders may have waited for what the round
    leaves of their SLO; what comes in that time is the batch, and all batches are the round.
    """
    low, high = 0.0, sum(m.run(b) for m, b in zip(members, sizes, strict=True))
    while high - low > LEAST_S / 10:
        middle = (low + high) / 2
        came = [ceil(m.share_rps * max(m.budget_s - middle, 0.0)) for m in members]
        taken = sum(m.run(max(1, min(b, n))) for m, b, n in zip(members, sizes, came, strict=True))
        low, high = (middle, high) if taken > middle else (low, middle)
    return high


def _whole_ms(seconds: float) -> float:
    """Round down to milliseconds, so that settings do not change with every last digit of a forecast."""
    return float(int(seconds / LEAST_S + 1e-9))


def _alike(wanted: Mapping[str, Batching], group: SubCluster, tolerance: float) -> bool:
    """Say whether a group batches nearly as wanted already."""
    return all(_near(wanted[name], b, tolerance) for name, b in zip(group.services, group.batching, strict=True))


def _near(one: Batching, other: Batching, tolerance: float) -> bool:
    if other.max_batch is None:
        return False
    numbers: list[tuple[Any, Any, float]] = [
        (one.max_batch, other.max_batch, 1.0),
        (one.timeout_s, other.timeout_s, LEAST_S),
        (_option(one, "queue_timeout_ms"), _option(other, "queue_timeout_ms"), LEAST_S * 1e3),
    ]
    same = replace(one, max_batch=None, timeout_s=0.0, options=_texts(one)) == replace(
        other, max_batch=None, timeout_s=0.0, options=_texts(other)
    )
    return same and all(abs(a - b) <= max(least, tolerance * min(a, b)) for a, b, least in numbers)


def _option(batching: Batching, key: str) -> float:
    value = dict(batching.options).get(key, inf)
    return inf if isinstance(value, str) else float(value)


def _texts(batching: Batching) -> tuple[tuple[str, OptionValue], ...]:
    """Return the options but for the time in the queue, which is compared as a number."""
    return tuple((key, value) for key, value in batching.options if key != "queue_timeout_ms")


def _reason(group: SubCluster, members: Sequence[Member], sizes: Sequence[int]) -> str:
    load = sum(m.load(b) for m, b in zip(members, sizes, strict=True))
    alone = sum(m.load(1) for m in members)
    shown = ", ".join(f"{m.name} {b}" for m, b in zip(members, sizes, strict=True))
    batched = f"{group.name}: batches of {shown} keep its instances"
    if load > 1:
        return f"{batched} more than busy ({load * 100:.0f} %); what is too late is rejected"
    return f"{batched} {load * 100:.0f} % busy (single requests: {alone * 100:.0f} %)"
