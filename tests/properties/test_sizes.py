"""Input sizes in a world: padded to their bucket's edge, each bucket a queue of its own, accounts by service."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miniature import BUILT_IN, MS, SECOND, Listed, Recording, gpus, make_world, random_instants
from numpy.typing import NDArray

from partita.controller.commands import commands_for
from partita.controller.reconcile import Wishes, build
from partita.model.cluster import Batching
from partita.model.load import Arrivals
from partita.model.plan import Plan
from partita.model.service import Bucket, LatencyCurve, Service
from partita.model.staggered import NO_OVERHEADS
from partita.replay.cluster import Delays, SimulatedCluster
from partita.replay.rehearsal import Rehearser
from partita.replay.score import Score
from partita.replay.world import World

INVENTORY = gpus(2)
SPAN_S = 2.0
ANY = Bucket()

examples = settings(
    max_examples=int(os.environ.get("PARTITA_EXAMPLES", "60")) // 3,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def line(alpha_ms: float, beta_ms: float, bucket: Bucket = ANY) -> LatencyCurve:
    return replace(LatencyCurve.linear(alpha_ms, beta_ms, up_to=64), bucket=bucket)


def sized(name: str, slo_ms: float, *buckets: tuple[float, float, float]) -> Service:
    """Return a service of buckets, each with its edge, alpha and beta in ms."""
    edges = [edge for edge, _, _ in buckets]
    curves = [
        line(alpha, beta, Bucket(over, edge))
        for over, (edge, alpha, beta) in zip((0.0, *edges[:-1]), buckets, strict=True)
    ]
    return Service.measured(name, slo_ms / 1e3, 0.99, 2.0, curves)


TEXT = sized("text", 60.0, (128, 0.5, 4.0), (512, 2.0, 5.0))
IMAGES = Service("images", 0.04, 0.99, 2.0, (line(1.0, 5.0),))


class Sized(Listed):
    """Arrivals whose sizes are given."""

    def __init__(
        self, names: Sequence[str], instants: Sequence[NDArray[np.int64]], sizes: Sequence[NDArray[np.float32]]
    ) -> None:
        super().__init__(names, instants, round(SPAN_S * SECOND))
        self._sizes = list(sizes)


def planned(services: Sequence[Service], kind: str, held: int = 2) -> Plan:
    wishes = Wishes({g.id: None for g in INVENTORY}, {s.name: Batching(kind) for s in services})
    return build(held, wishes, services, INVENTORY, [1.0] * len(services), "why")


def play(
    services: Sequence[Service],
    kind: str,
    instants: Sequence[NDArray[np.int64]],
    sizes: Sequence[NDArray[np.float32]],
    *,
    steps: int = 1,
) -> tuple[World, Score, list[Recording]]:
    """Serve requests of these sizes; half-way one GPU of the two is given back."""
    recordings = {name: Recording(inner) for name, inner in BUILT_IN.items()}
    cluster = SimulatedCluster(INVENTORY, Delays(0.1, 0.0))
    cluster.begin_with(planned(services, kind))
    source = Sized([s.name for s in services], instants, sizes)
    world = make_world(
        services, instants, cluster, span_s=SPAN_S, log_delay_s=0.0, disciplines=recordings, source=source
    )
    half = round(SPAN_S * SECOND) // 2
    for part in range(2):
        for k in range(1, steps + 1):
            world.advance(part * half + half * k // steps)
        if part == 0:
            cluster.apply(commands_for(planned(services, kind, 1), cluster.observe(half)), half)
    return world, world.finish(), list(recordings.values())


def load(
    seed: int, rates: tuple[float, float] = (900.0, 500.0)
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]:
    rng = np.random.default_rng(seed)
    instants = [random_instants(rate, SPAN_S, seed + n) for n, rate in enumerate(rates)]
    return instants, [rng.uniform(1, 600, len(ns)).astype(np.float32) for ns in instants]


@pytest.mark.parametrize("kind", BUILT_IN)
def test_accounts_by_service_are_the_sums_of_their_lanes(kind: str) -> None:
    @examples
    @given(st.integers(0, 999), st.integers(1, 5))
    def holds(seed: int, steps: int) -> None:
        instants, sizes = load(seed)
        _, score, recordings = play((TEXT, IMAGES), kind, instants, sizes, steps=steps)
        assert list(score.offered_by_service.values()) == [len(ns) for ns in instants]
        assert score.offered == score.good + score.late + score.dropped
        too_large = int((sizes[0] > 512).sum())
        assert score.unplaced == too_large
        good, answered = np.zeros(3, int), 0
        slo = np.array([0.060, 0.060, 0.040]) * SECOND
        for r in (r for recording in recordings for r in recording.records):
            arrivals = r.served.arrivals
            assert len(arrivals.offsets) == 4
            lane = np.repeat(np.arange(3), np.diff(arrivals.offsets))
            ran = r.served.finish_ns > 0
            in_time = ran & (r.served.finish_ns - arrivals.ns < slo[lane])
            good += np.bincount(lane[in_time], minlength=3)
            answered += int(ran.sum())
        assert list(score.good_by_service.values()) == [good[0] + good[1], good[2]]
        assert score.good + score.late == answered

    holds()


@pytest.mark.parametrize("kind", BUILT_IN)
def test_each_batch_is_of_one_bucket_and_costs_its_edge(kind: str) -> None:
    instants, sizes = load(3)
    _, _, recordings = play((TEXT, IMAGES), kind, instants, sizes)
    cost = ((0.5, 4.0), (2.0, 5.0), (1.0, 5.0))
    seen = set()
    for r in (r for recording in recordings for r in recording.records):
        for lane, size, start, finish in zip(
            r.served.batch_service, r.served.batch_size, r.served.batch_start_ns, r.served.batch_finish_ns, strict=True
        ):
            if size == 0:  # cut short
                continue
            alpha, beta = cost[lane]
            assert finish - start == pytest.approx((alpha * size + beta) * MS, abs=2)
            seen.add(int(lane))
        for lane, (over, up_to) in enumerate(((0, 128), (128, 512))):
            rows = slice(*r.served.arrivals.offsets[lane : lane + 2])
            inside = r.served.arrivals.size[rows]
            assert np.all((inside > over) & (inside <= up_to))
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("kind", sorted(BUILT_IN.keys() - {"nexus", "temporal"}))
def test_with_all_sizes_in_one_bucket_nothing_is_different(kind: str) -> None:
    """The other bucket stays empty, so that the run is that of a service which knows no sizes.

    Not so where each bucket is given room of its own before anybody comes: an instance, or a slice.
    """
    plain = Service("text", 0.06, 0.99, 2.0, (line(0.5, 4.0),))

    @examples
    @given(st.integers(0, 999), st.integers(1, 5))
    def holds(seed: int, steps: int) -> None:
        instants, _ = load(seed, (2500.0, 900.0))
        sizes = [np.full(len(ns), 100, np.float32) for ns in instants]
        apart, whole = (play((text, IMAGES), kind, instants, sizes, steps=steps)[1] for text in (TEXT, plain))
        assert apart == whole

    holds()


@pytest.mark.parametrize("kind", BUILT_IN)
def test_looking_more_often_changes_nothing(kind: str) -> None:
    @examples
    @given(st.integers(0, 999), st.integers(2, 7))
    def holds(seed: int, steps: int) -> None:
        instants, sizes = load(seed)
        once, often = (play((TEXT, IMAGES), kind, instants, sizes, steps=n)[1] for n in (1, steps))
        assert once == often

    holds()


def test_the_bounds_know_the_mix_of_sizes() -> None:
    """The SLO of 60 ms allows 64 small ones (36 ms) and 27 large ones (59 ms): 1 / (36/64/2 + 59/27/2) = 0.728 a ms."""
    ns = np.arange(100) * 10 * MS
    sizes = np.where(np.arange(100) % 2 == 0, 100, 300).astype(np.float32)
    cluster = SimulatedCluster(INVENTORY, Delays())
    cluster.begin_with(planned((TEXT,), "eager", 1))
    world = make_world((TEXT,), [ns], cluster, span_s=SPAN_S, source=Sized(["text"], [ns], [sizes]))
    world.advance(round(SPAN_S * SECOND))
    score = world.finish()
    assert (score.good, score.offered) == (100, 100)
    assert score.bound_fluid_rps == pytest.approx(1e3 / (0.5 * 36 / 64 + 0.5 * 59 / 27), rel=1e-6)
    assert 0 < score.bound_staggered_rps < score.bound_fluid_rps


def test_rehearsal_tells_sizes_apart_and_answers_by_service() -> None:
    """Twenty-seven large ones fit into a batch that ends in time, and a twenty-eighth does not; 64 small ones do."""

    def good(*sizes: float) -> list[int]:
        load_ = Arrivals(
            np.zeros(len(sizes), np.int64), np.array([0, len(sizes), len(sizes)]), np.array(sizes, np.float32)
        )
        plan = planned((TEXT, IMAGES), "eager", 1)
        rehearsed = Rehearser((TEXT, IMAGES), NO_OVERHEADS, BUILT_IN).rehearse(plan, load_, SECOND)
        assert rehearsed.offered.tolist() == [len(sizes), 0]
        return [int(n) for n in rehearsed.good]

    assert good(*[100.0] * 64) == [64, 0]
    assert good(*[300.0] * 28) == [27, 0]
    assert good(9999.0) == [0, 0]
