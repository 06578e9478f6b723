"""Instances of several kinds in one group, and batches that vary, in a whole world."""

from __future__ import annotations

import numpy as np
import pytest
from miniature import BUILT_IN, MS, SECOND, Recording, cut, gpus, make_world, random_instants, service
from numpy.typing import NDArray

from partita.controller.reconcile import Wishes, build
from partita.model.cluster import Batching
from partita.model.load import Arrivals
from partita.model.plan import Plan
from partita.model.staggered import NO_OVERHEADS
from partita.replay.cluster import INSTANCES_A_GPU, Delays, SimulatedCluster
from partita.replay.pools import AS_MEASURED, Variation
from partita.replay.rehearsal import Rehearser
from partita.replay.score import Score

INVENTORY = gpus(2)
SERVICES = (service("a", slo_ms=200.0),)
HALVES = cut("3g.40gb@0,3g.40gb@4")


def plan(kind: str, *, mixed: bool = True) -> Plan:
    """Hold a whole GPU and, where they are mixed, one in halves, on which a batch takes twice as long."""
    geometry = {"gpu0": None, "gpu1": HALVES if mixed else None}
    return build(2, Wishes(geometry, {"a": Batching(kind)}), SERVICES, INVENTORY, [1.0], "why")


def play(
    kind: str, variation: Variation = AS_MEASURED, *, mixed: bool = True, rate_rps: float = 700.0, steps: int = 1
) -> tuple[Score, NDArray[np.float64]]:
    """Serve random requests; return the score, and of each batch its GPU, its size and how many ms it took."""
    recording = Recording(BUILT_IN[kind])
    cluster = SimulatedCluster(INVENTORY, Delays())
    cluster.begin_with(plan(kind, mixed=mixed))
    world = make_world(
        SERVICES,
        [random_instants(rate_rps, 10.0, 3)],
        cluster,
        span_s=10.0,
        disciplines={**BUILT_IN, kind: recording},
        variation=variation,
    )
    for k in range(1, steps + 1):
        world.advance(10 * SECOND * k // steps)
    score = world.finish()
    rows = [
        (number // INSTANCES_A_GPU, size, (finish - start) / MS)
        for r in recording.records
        for number, size, start, finish in zip(
            r.served.batch_instance,
            r.served.batch_size,
            r.served.batch_start_ns,
            r.served.batch_finish_ns,
            strict=True,
        )
        if size > 0
    ]
    return score, np.array(rows)


@pytest.mark.parametrize("kind", BUILT_IN)
def test_no_batch_is_faster_than_its_own_instance(kind: str) -> None:
    """A batch of b takes b + 9 ms on the whole GPU and twice that on halves; a discipline may count all as halves."""
    score, batches = play(kind)
    assert score.offered == score.good + score.late + score.dropped == 7000
    slower = np.where(batches[:, 0] == 0, 1.0, 2.0)
    own = slower * (batches[:, 1] + 9)
    assert np.all(batches[:, 2] >= own - 1e-6)
    assert np.all((np.abs(batches[:, 2] - own) < 1e-5) | (np.abs(batches[:, 2] - 2 * (batches[:, 1] + 9)) < 1e-5))


def test_a_discipline_that_tells_kinds_apart_runs_each_at_its_own_pace() -> None:
    _, batches = play("timeout")
    slower = np.where(batches[:, 0] == 0, 1.0, 2.0)
    np.testing.assert_allclose(batches[:, 2], slower * (batches[:, 1] + 9), atol=1e-5)
    assert set(batches[:, 0]) == {0.0, 1.0}


def test_batches_vary_around_their_latency_and_the_seed_decides() -> None:
    """What is drawn has the latency as its mean and the jitter as its spread: within four standard errors."""
    _, batches = play("timeout", Variation(tail=1.2, jitter=0.1, seed=3), mixed=False)
    over = batches[:, 2] / (batches[:, 1] + 9)
    count = len(over)
    assert count > 1000
    assert abs(over.mean() - 1.0) < 4 * 0.1 / np.sqrt(count)
    assert abs(np.log(over).std() - 0.1) < 4 * 0.1 / np.sqrt(2 * count)
    _, again = play("timeout", Variation(tail=1.2, jitter=0.1, seed=3), mixed=False)
    _, other = play("timeout", Variation(tail=1.2, jitter=0.1, seed=4), mixed=False)
    np.testing.assert_array_equal(batches, again)
    assert not np.array_equal(batches, other)


@pytest.mark.parametrize("kind", BUILT_IN)
@pytest.mark.parametrize("mixed", [False, True])
def test_what_is_drawn_does_not_hang_on_how_a_run_is_cut(kind: str, mixed: bool) -> None:
    variation = Variation(tail=1.1, jitter=0.2, seed=5)
    once, often = (play(kind, variation, mixed=mixed, rate_rps=1500.0, steps=n)[0] for n in (1, 37))
    assert once == often


@pytest.mark.parametrize("kind", BUILT_IN)
def test_rehearsal_of_mixed_instances(kind: str) -> None:
    """One request at a time is answered in time on either kind."""
    load = Arrivals(np.arange(20) * SECOND // 2, np.array([0, 20]), np.ones(20, np.float32))
    done = Rehearser(SERVICES, NO_OVERHEADS, BUILT_IN, Variation(1.1, 0.05)).rehearse(plan(kind), load, 10 * SECOND)
    assert (done.offered.tolist(), done.good.tolist()) == ([20], [20])
