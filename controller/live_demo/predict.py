"""What replay makes of the requests as they were really sent: under one setting, several in turn, or the whole loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from partita.controller.config import Scenario
from partita.controller.live_demo.case import GPU
from partita.controller.live_demo.load import EPOCH_NS, Load
from partita.controller.run import Run, run_scenario
from partita.model.load import Arrivals
from partita.model.plan import Plan, SetRoutes
from partita.model.service import Service
from partita.model.staggered import Overheads
from partita.replay.cluster import Delays, SimulatedCluster
from partita.replay.disciplines import DISCIPLINES
from partita.replay.score import Score
from partita.replay.world import World


class _Sent:
    """A load as a source of arrivals; implements `traces.arrivals.ArrivalSource`."""

    def __init__(self, load: Load) -> None:
        self._all = load.arrivals()
        self._next = self._all.offsets[:-1].copy()
        self.services, self.origin_ns, self.span_ns = load.services, 0, round(load.span_s * 1e9)

    def until(self, ns: int) -> Arrivals:
        """Return the requests before `ns` that have not been returned yet."""
        arrivals, parts = self._all, []
        for s, first in enumerate(self._next.tolist()):
            rows = arrivals.ns[first : arrivals.offsets[s + 1]]
            parts.append(rows[: int(np.searchsorted(rows, ns))])
            self._next[s] += len(parts[-1])
        offsets = np.concatenate(([0], np.cumsum([len(part) for part in parts]))).astype(np.int64)
        joined = np.concatenate(parts)
        return Arrivals(joined, offsets, np.ones(len(joined), np.float32))


@dataclass(frozen=True, slots=True)
class Change:
    """A plan and the instant from which it is in force."""

    at_s: float
    plan: Plan


def replay(
    load: Load, changes: Sequence[Change], services: Sequence[Service], overheads: Overheads
) -> tuple[Score, Mapping[str, Any]]:
    """Replay a load under plans that follow each other; return its score and its course by second."""
    cluster = SimulatedCluster((GPU,), Delays(0.0, 0.0))
    cluster.begin_with(changes[0].plan)
    disciplines = {d.name: d for d in DISCIPLINES}
    world = World(services, _Sent(load), cluster, disciplines, overheads, counted_s=(0.0, load.span_s), log_delay_s=0.0)
    later = list(changes[1:])
    for second in np.append(np.arange(1.0, load.span_s), load.span_s).tolist():
        while later and later[0].at_s <= second:
            change = later.pop(0)
            world.advance(round(change.at_s * 1e9))
            cluster.apply([SetRoutes(change.plan.sub_clusters, change.plan.routes, "")], world.now_ns)
        world.advance(round(second * 1e9))
    return world.finish(), world.timeline.columns()


def replay_loop(load: Load, document: Mapping[str, Any], policy: Any, scratch: Path, *, after_s: float = 0.0) -> Run:
    """Replay a load with the controller in the loop, its policy and control as in the live cluster's file.

    The load begins `after_s` after the controller has, so that its turns come at the instants of the live one's.
    """
    trace = scratch / "sent.parquet"
    load.write(trace, after_s=after_s)
    window = {"file": str(trace), "from": datetime.fromtimestamp(EPOCH_NS / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S")}
    scenario = Scenario.model_validate({**document, "load": {"trace": window}, "policies": [policy]})
    return run_scenario(scenario, policy=policy["name"], seed=scenario.seed)
