"""Batches that are cut short in a replay: they free their instance sooner, count as no batch, and can be lost."""

from __future__ import annotations

import numpy as np
import pytest
from miniature import BUILT_IN, MS, SECOND, Recording, gpus, make_world

from partita.controller.reconcile import Wishes, build
from partita.model.cluster import Batching
from partita.model.plan import DestroyInstance, StopReplicas
from partita.model.service import LatencyCurve, Service
from partita.model.staggered import NO_OVERHEADS, Overheads
from partita.replay.cluster import Delays, SimulatedCluster
from partita.replay.failures import Failure
from partita.replay.world import World

INVENTORY = gpus(1)
# One request of `slow` takes 50 ms and has 60; up to eight of `fast` take 5 ms and have 30.
SERVICES = (
    Service("slow", 0.060, 0.99, 2.0, (LatencyCurve("whole", ((1, 0.050),)),)),
    Service("fast", 0.030, 0.99, 2.0, (LatencyCurve("whole", ((1, 0.005), (8, 0.005))),)),
)


def world_of(
    slow_ms: list[int],
    fast_ms: list[int],
    *struck: Failure,
    kind: str = "shepherd",
    overheads: Overheads = NO_OVERHEADS,
) -> tuple[World, SimulatedCluster, Recording]:
    """Serve both services on one GPU."""
    recording = Recording(BUILT_IN[kind])
    cluster = SimulatedCluster(INVENTORY, Delays(0.010, 0.0))
    wishes = Wishes({g.id: None for g in INVENTORY}, {s.name: Batching(kind) for s in SERVICES})
    cluster.begin_with(build(1, wishes, SERVICES, INVENTORY, [1.0, 1.0], ""))
    instants = [np.array(own, np.int64) * MS for own in (slow_ms, fast_ms)]
    world = make_world(
        SERVICES,
        instants,
        cluster,
        span_s=1.0,
        log_delay_s=0.0,
        disciplines={**BUILT_IN, kind: recording},
        overheads=overheads,
        failures=struck,
    )
    return world, cluster, recording


def test_a_batch_that_is_cut_short_frees_its_instance_sooner() -> None:
    """What runs from 1 to 51 ms gives way at 20 ms to four requests, done at 25 ms; then it is too late for its own."""
    world, cluster, recording = world_of([1], [20] * 4)
    world.advance(10 * MS)
    [slot] = cluster.slots.values()
    assert slot.free_ns == 51 * MS
    world.advance(24 * MS)
    assert (slot.free_ns, slot.busy_ns) == (25 * MS, 25 * MS)
    world.advance(SECOND)
    score = world.finish()
    assert (score.good, score.dropped) == (4, 1)
    logged = sorted((int(b), int(at)) for r in recording.records for b, at in _batches(r))
    assert logged == [(0, 20 * MS), (4, 25 * MS)]
    # One batch of four; busy for the 19 ms until the first one gave way, and for 5.
    assert (score.batches, score.mean_batch) == (1, 4.0)
    assert score.utilisation == pytest.approx(0.024)
    assert world.histograms().batch_size.tolist() == [0, 0, 0, 0, 1]


def _batches(record: object) -> list[tuple[int, int]]:
    served = record.served  # type: ignore[attr-defined]
    return list(zip(served.batch_size.tolist(), served.batch_finish_ns.tolist(), strict=True))


@pytest.mark.parametrize("kind", ["shepherd", "eager"])
@pytest.mark.parametrize("instance", ["", "gpu0"])
@pytest.mark.parametrize("at_ms", [3, 8, 10])
def test_what_runs_or_is_about_to_when_its_instance_fails_is_lost(kind: str, instance: str, at_ms: int) -> None:
    """A request at 1 ms begins 4 ms later, at 5, and would end at 10: it is lost before that, and answered then."""
    failure = Failure(at_ms * MS, 60 * MS, "gpu0", instance)
    world, _, _ = world_of([], [1], failure, kind=kind, overheads=Overheads(control_s=0.004))
    world.advance(SECOND)
    score = world.finish()
    assert (score.good, score.dropped, world.lost) == ((0, 1, 1) if at_ms < 10 else (1, 0, 0))
    assert score.utilisation == pytest.approx(max(0, at_ms - 5) / 1000)


@pytest.mark.parametrize("kind", ["shepherd", "eager"])
def test_an_earlier_failure_takes_nothing_that_began_after_it(kind: str) -> None:
    """The GPU fails at 1 ms and is loaded again at 13; what runs then is answered, though its instance goes at 16."""
    world, cluster, _ = world_of([], [2], Failure(MS, 3 * MS, "gpu0"), kind=kind)
    world.advance(16 * MS)
    cluster.apply([StopReplicas("gpu0", ("fast", "slow"), ""), DestroyInstance("gpu0", "")], 16 * MS)
    world.advance(SECOND)
    assert (world.finish().good, world.lost) == (1, 0)
