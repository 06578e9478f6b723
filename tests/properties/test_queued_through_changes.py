"""A change of plan in mid-run keeps what is queued: for every built-in discipline and every sort of change."""

from __future__ import annotations

import numpy as np
import pytest
from miniature import BUILT_IN, MS, SECOND, Recording, cut, gpus, make_world, service

from partita.controller.commands import commands_for
from partita.controller.reconcile import Wishes, build
from partita.model.cluster import Batching
from partita.model.plan import Placement, Plan
from partita.replay.cluster import Delays, SimulatedCluster

INVENTORY = gpus(3)
SERVICES = (service("a", slo_ms=5000.0), service("b", slo_ms=5000.0))
TOGETHER = None
APART = Placement(((("a",), 1.0), (("b",), 1.0)))


def plan(kind: str, held: int = 1, geometry: str | None = None, placement: Placement | None = TOGETHER) -> Plan:
    wishes = Wishes(
        {g.id: cut(geometry) for g in INVENTORY}, {s.name: Batching(kind, max_batch=4) for s in SERVICES}, placement
    )
    return build(held, wishes, SERVICES, INVENTORY, [1.0, 1.0], "why")


def other(kind: str) -> str:
    return "eager" if kind != "eager" else "deferred"


CHANGES = {
    "more GPUs": lambda kind: plan(kind, 3),
    "another geometry": lambda kind: plan(kind, 1, "3g.40gb@0,3g.40gb@4"),
    "services apart": lambda kind: plan(kind, 2, None, APART),
    "another discipline": lambda kind: plan(other(kind), 1),
    "all of it": lambda kind: plan(other(kind), 3, "3g.40gb@0,3g.40gb@4", APART),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", BUILT_IN)
def test_what_waits_at_a_change_of_plan_is_answered_after_it(kind: str, change: str) -> None:
    """Two hundred requests of each service come at once; most still wait when the plan changes at 50 ms, and again.

    A batch of four takes 13 ms on a whole GPU, twice as long on half of one: 100 batches end long before 5 s, even
    though the GPUs are away for up to 0.2 s.
    """
    recordings = {name: Recording(inner) for name, inner in BUILT_IN.items()}
    cluster = SimulatedCluster(INVENTORY, Delays(0.1, 0.05))
    cluster.begin_with(plan(kind))
    instants = [np.arange(200) * 1000, np.arange(200) * 1000 + 500]
    world = make_world(SERVICES, instants, cluster, span_s=6.0, disciplines=recordings)
    world.advance(50 * MS)
    before = answered(recordings)
    assert len(before) < 100
    for at_ns, wanted in ((50 * MS, CHANGES[change](kind)), (150 * MS, plan(kind, 2))):
        world.advance(at_ns)
        cluster.apply(commands_for(wanted, cluster.observe(world.now_ns)), world.now_ns)
    world.advance(6 * SECOND)
    score = world.finish()
    assert (score.good, score.dropped, score.unplaced) == (400, 0, 0)
    after = answered(recordings)
    assert sorted(after) == list(range(400))
    assert after[: len(before)] == before


def answered(recordings: dict[str, Recording]) -> list[int]:
    """List the numbers of the requests that have got a batch, in the order in which that was told."""
    records = sorted((r for rec in recordings.values() for r in rec.records), key=lambda r: r.until_ns)
    return [
        int(number)
        for r in records
        for number, finish in zip(r.served.arrivals.size, r.served.finish_ns, strict=True)
        if finish > 0
    ]
