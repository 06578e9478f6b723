"""Rehearsal: what a plan would have made of the recent log, at the rates that the forecast expects.

The last window's requests are replayed against each candidate from an empty start. To rehearse a rate that is not the
window's own, each service's requests are thinned, or joined by a thinned copy of themselves shifted around the window,
so that their bursts stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.kernels.tally import GOOD
from partita.model.cluster import Batching, SubCluster
from partita.model.load import Arrivals
from partita.model.plan import Plan
from partita.model.service import Service
from partita.model.staggered import Overheads
from partita.ports import Discipline
from partita.replay.lanes import Lanes
from partita.replay.pools import AS_MEASURED, PoolMaker, Variation
from partita.replay.score import Tally
from partita.replay.serving import Ready, Server


@dataclass(frozen=True, slots=True, eq=False)
class Rehearsed:
    """How many requests of each service were offered, and how many were good."""

    offered: NDArray[np.int64]
    good: NDArray[np.int64]


def mean(found: Sequence[Rehearsed]) -> Rehearsed:
    """Return what one rehearsal came to on the average of these; more of the same requests make it no more certain."""
    if len(found) == 1:
        return found[0]
    offered, good = (np.mean([getattr(r, name) for r in found], axis=0) for name in ("offered", "good"))
    return Rehearsed(np.rint(offered).astype(np.int64), np.rint(good).astype(np.int64))


class Rehearser:
    """Replays plans on a window of the log; it keeps nothing between calls but what a call would find out again."""

    def __init__(
        self,
        services: Sequence[Service],
        overheads: Overheads,
        disciplines: Mapping[str, Discipline],
        variation: Variation = AS_MEASURED,
    ) -> None:
        self._services = tuple(services)
        self._lanes = Lanes(services)
        self._pools = PoolMaker(self._lanes.services, overheads, disciplines, variation)
        self._disciplines = disciplines
        self._tried: dict[tuple[Batching, ...], str] = {}

    def refusal(self, plan: Plan) -> str:
        """Say why some sub-cluster cannot batch as the plan wants it to; empty if all can."""
        for group in plan.sub_clusters:
            if group.batching not in self._tried:
                self._tried[group.batching] = self._try(group)
            if self._tried[group.batching]:
                return f"sub-cluster {group.name}: {self._tried[group.batching]}"
        return ""

    def _try(self, group: SubCluster) -> str:
        """Let the group's discipline serve nothing."""
        first = group.batching[0]
        if any(b.discipline != first.discipline for b in group.batching):
            return "its services must batch alike: they name different disciplines"
        discipline = self._disciplines.get(first.discipline)
        if discipline is None:
            return f"no discipline is named {first.discipline!r}; there are: {', '.join(sorted(self._disciplines))}"
        differ = any(replace(b, max_batch=first.max_batch) != first for b in group.batching)
        if differ and not getattr(discipline, "by_service", False):
            return "its services must batch alike but for their largest batch"
        nobody, queues = np.empty(0, np.int64), len(self._lanes.services)
        try:
            state = discipline.initial_state(queues)
            discipline.advance(state, Arrivals.empty(queues), self._pools.pool(group, nobody, nobody, ()), 0)
        except ConfigError as problem:
            return str(problem)
        return ""

    def rehearse(self, plan: Plan, arrivals: Arrivals, until_ns: int) -> Rehearsed:
        """Serve these requests, all before `until_ns`, with everything in the plan up and loaded from the start."""
        names = [s.name for s in self._services]
        server = Server(self._lanes, self._pools, self._disciplines)
        tally = Tally(self._services, -(2**62), 2**62)
        begin = int(arrivals.ns.min()) if len(arrivals) else 0
        instances = {
            g.name: Ready(g.instances, np.arange(len(g.instances)), np.full(len(g.instances), begin, np.int64))
            for g in plan.sub_clusters
        }
        end = until_ns + round(2 * max(s.slo_s for s in self._services) * 1e9)
        by_lane, _ = self._lanes.split(arrivals)
        accounts, _ = server.advance(plan.sub_clusters, plan.routes, instances, by_lane, end)
        good = np.zeros(len(names), np.int64)
        for _, served in accounts:
            good += tally.add(served)[:, GOOD]
        return Rehearsed(np.diff(arrivals.offsets), good)


def scale(
    arrivals: Arrivals, span_ns: tuple[int, int], factors: NDArray[np.float64], rng: np.random.Generator
) -> Arrivals:
    """Return the requests of ``[since, until)`` with each service's rate multiplied by its factor."""
    since, until = span_ns
    ns_parts, size_parts, counts = [], [], []
    for s, factor in enumerate(factors):
        rows = slice(arrivals.offsets[s], arrivals.offsets[s + 1])
        ns, size = arrivals.ns[rows], arrivals.size[rows]
        times, sizes = [], []
        whole = int(factor)
        for copy in range(whole + 1):
            share = 1.0 if copy < whole else factor - whole
            if share <= 0 or not len(ns):
                continue
            keep = np.ones(len(ns), bool) if share >= 1 else rng.random(len(ns)) < share
            shift = 0 if copy == 0 else int(rng.integers(until - since))
            times.append(since + (ns[keep] - since + shift) % (until - since))
            sizes.append(size[keep])
        joined = np.concatenate(times) if times else ns[:0]
        order = np.argsort(joined, kind="stable")
        ns_parts.append(joined[order])
        size_parts.append((np.concatenate(sizes) if sizes else size[:0])[order])
        counts.append(len(joined))
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return Arrivals(np.concatenate(ns_parts), offsets, np.concatenate(size_parts))
