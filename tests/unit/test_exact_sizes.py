"""Exact sizes, worked by hand: what batches of mixed sizes take, on pools and in kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from partita.model.cluster import Batching, Instance, SubCluster
from partita.model.load import Arrivals
from partita.model.service import Bucket, LatencyCurve, Service
from partita.model.staggered import NO_OVERHEADS
from partita.ports import Discipline, Pool, Served
from partita.replay.disciplines import DISCIPLINES, Adaptive, Deferred, Eager, Timeout, Triton
from partita.replay.lanes import Lanes
from partita.replay.pools import AS_MEASURED, PoolMaker, Variation

MS = 1_000_000
GPU = Instance("gpu0/0", "gpu0", 80.0)
SMALL = LatencyCurve.linear(2, 10, up_to=40)
LARGE = LatencyCurve.linear(4, 20, up_to=40)
TEXT = Service.measured(
    "text",
    0.040,
    0.99,
    2.0,
    [replace(SMALL, bucket=Bucket(0, 512)), replace(LARGE, bucket=Bucket(512, 1000))],
    exact_sizes=True,
)
"""Up to size 512 a batch takes 2 b + 10 ms, up to 1000 4 b + 20: within 40 ms 15 and 5."""


def pool(*services: Service, kind: str = "deferred", variation: Variation = AS_MEASURED) -> Pool:
    names = tuple(dict.fromkeys(s.name for s in services))
    group = SubCluster("all", (GPU,), names, (Batching(kind),) * len(names))
    maker = PoolMaker(services, NO_OVERHEADS, {d.name: d for d in DISCIPLINES}, variation)
    return maker.pool(group, np.arange(1), np.zeros(1, np.int64), (GPU,))


def serve(discipline: Discipline, *requests: tuple[float, float], until_ms: float = 1000.0) -> Served:
    """Serve requests of one service on one instance, each with its instant in ms and its size."""
    ns = np.array([round(at * MS) for at, _ in requests], np.int64)
    arrivals = Arrivals(ns, np.array([0, len(ns)]), np.array([size for _, size in requests], np.float32))
    made = pool(TEXT, kind=discipline.name)
    return discipline.advance(discipline.initial_state(1), arrivals, made, round(until_ms * MS))[1]


@pytest.mark.parametrize("discipline", [Timeout(), Eager(), Triton()], ids=lambda d: d.name)
def test_a_batch_takes_as_long_as_its_largest_input(discipline: Discipline) -> None:
    """Sizes 100, 512 and 1000.

    The first runs alone from 0: 100 is below the smallest edge, so 2 + 10 ms. The others come meanwhile and run
    together from 12 ms: the larger of them is 1000, so 4 · 2 + 20 = 28 ms. Where half an SLO bounds batches (20 ms),
    none of two may run: 512 from 12 for 12 ms, 1000 from 24 for 24 ms.
    """
    served = serve(discipline, (0, 100), (3, 512), (5, 1000))
    together = discipline.name == "eager"
    assert served.finish_ns.tolist() == [12 * MS, *([40 * MS] * 2 if together else [24 * MS, 48 * MS])]
    assert served.batch_size.tolist() == ([1, 2] if together else [1, 1, 1])


def test_between_two_edges_latency_is_linear() -> None:
    """756 is half-way from 512 to 1000: 18 ms alone, half-way from 12 to 24; 634 a quarter of it: 15 ms."""
    served = serve(Timeout(), (0, 756), (100, 634), (200, 1), (300, 1000), (400, 512))
    took = (served.batch_finish_ns - served.batch_start_ns) / MS
    assert took.tolist() == [18, 15, 12, 24, 12]


@pytest.mark.parametrize("discipline", [Deferred(), Eager(), Adaptive()], ids=lambda d: d.name)
def test_a_size_that_nobody_logged_counts_as_the_largest(discipline: Discipline) -> None:
    """Two take 4 · 2 + 20 ms then, not the 2 · 2 + 10 of the one that is known."""
    served = serve(discipline, (0, 100), (0, np.nan))
    assert (served.batch_finish_ns - served.batch_start_ns).tolist() == [28 * MS]


def test_small_inputs_run_in_larger_batches_where_the_sizes_are_known() -> None:
    """Ten small ones take 30 ms; ten large ones would take 60, and 5 are all that fit into 40.

    Deferred waits until eleven would no longer fit, which take 32: from 8 ms.
    """
    assert serve(Eager(), *[(0, 500)] * 10).finish_ns.tolist() == [30 * MS] * 10
    assert serve(Eager(), *[(0, 1000)] * 10).batch_size.tolist() == [5]
    assert serve(Deferred(), *[(0, 500)] * 10).finish_ns.tolist() == [38 * MS] * 10


def test_one_large_input_keeps_a_batch_small() -> None:
    """At 0 six small ones and a large one wait, at an instance that is free at 10 ms.

    Six small ones take 22 ms and end at 32; with the large one they would take 48, and end at 58. The large one alone
    takes 24, from 32 to 56: nobody can meet its deadline.
    """
    made = pool(TEXT)
    made.free_at_ns[:] = 10 * MS
    sizes = np.array([100.0] * 6 + [1000.0], np.float32)
    arrivals = Arrivals(np.zeros(7, np.int64), np.array([0, 7]), sizes)
    _, served = Eager().advance(Eager().initial_state(1), arrivals, made, 1000 * MS)
    assert served.finish_ns.tolist() == [32 * MS] * 6 + [0]


@pytest.mark.parametrize("discipline", [Deferred(), Eager(), Adaptive()], ids=lambda d: d.name)
def test_a_hopeless_large_input_does_not_hold_small_ones_up(discipline: Discipline) -> None:
    """From 20 ms on a large one takes until 44: too late. The small one before it takes until 32."""
    made = pool(TEXT, kind=discipline.name)
    made.free_at_ns[:] = 20 * MS
    arrivals = Arrivals(np.array([0, 1]), np.array([0, 2]), np.array([10, 1000], np.float32))
    _, served = discipline.advance(discipline.initial_state(1), arrivals, made, 1000 * MS)
    assert served.finish_ns[0] <= 40 * MS
    assert served.finish_ns[0] > 0
    assert served.finish_ns[1] <= 0


def test_a_pool_holds_both_views() -> None:
    """Its own tables are those of the largest inputs; those of sizes reach as far as the smallest ones."""
    made = pool(TEXT, Service("plain", 0.1, 0.99, 2.0, (LatencyCurve.linear(1, 9),)))
    assert made.sizes is not None
    assert made.max_batch.tolist() == [5, 91]
    assert made.sizes.max_batch.tolist() == [15, 91]
    assert made.latency_ns[0, 5] == 40 * MS
    assert made.sizes.planned_ns[0, 0, :, 5].tolist() == [20 * MS, 40 * MS]
    assert made.sizes.run_ns[0, 0, :, 15].tolist() == [40 * MS, 80 * MS]
    assert made.sizes.edges.tolist() == [[512, 1000], [np.inf, np.inf]]
    arrivals = Arrivals(np.arange(5), np.array([0, 4, 5]), np.array([1, 512, 756, 1000, 756], np.float32))
    assert made.sizes.places(arrivals).tolist() == [0, 0, 0.5, 1, -1]


def test_a_margin_is_planned_with_and_not_run() -> None:
    made = pool(TEXT, variation=Variation(tail=1.25))
    assert made.sizes is not None
    assert made.sizes.max_batch.tolist() == [11]  # 1.25 · (2 · 11 + 10) = 40
    assert made.sizes.planned_ns[:, 0, 0, 11].tolist() == [40 * MS] * 2
    assert made.sizes.run_ns[0, 0, 0, 11] == 32 * MS


def test_a_share_that_was_not_measured_for_every_size_serves_nothing() -> None:
    half = replace(LARGE, gpu_percent=50.0, bucket=Bucket(512, 1000))
    service = replace(TEXT, finer=(*TEXT.finer, half))
    share = replace(GPU, id="gpu0/1", gpu_percent=50.0)
    group = SubCluster("all", (GPU, share), ("text",), (Batching("deferred"),))
    made = PoolMaker((service,), NO_OVERHEADS).pool(group, np.arange(2), np.zeros(2, np.int64), (GPU, share))
    assert made.kinds is not None
    assert made.kinds.max_batch[made.kinds.of, 0].tolist() == [5, 0]


def test_instances_that_are_not_named_are_all_taken_for_the_slowest() -> None:
    """On a part of the GPU everything takes twice as long: within 50 ms seven small ones, or one large one."""
    curves = [
        replace(c, profile=profile, points=tuple((b, s * k) for b, s in c.points))
        for c in (*TEXT.curves, *TEXT.finer)
        for profile, k in (("whole", 1), ("3g.40gb", 2))
    ]
    service = Service.measured("text", 0.050, 0.99, 2.0, curves, exact_sizes=True)
    part = replace(GPU, id="gpu1/0", gpu="gpu1", profile="3g.40gb", memory_gib=40.0)
    group = SubCluster("all", (GPU, part), ("text",), (Batching("deferred"),))
    maker = PoolMaker((service,), NO_OVERHEADS)
    unnamed = maker.pool(group, np.arange(2), np.zeros(2, np.int64))
    assert unnamed.kinds is None
    assert unnamed.sizes is not None
    assert (unnamed.max_batch.tolist(), unnamed.sizes.max_batch_of.tolist()) == ([1], [[7]])
    assert unnamed.sizes.run_ns[0, 0, :, 1].tolist() == [24 * MS, 48 * MS]
    named = maker.pool(group, np.arange(2), np.zeros(2, np.int64), (GPU, part))
    assert named.kinds is not None
    assert named.sizes is not None
    assert named.sizes.max_batch_of[named.kinds.of, 0].tolist() == [20, 7]
    assert named.sizes.run_ns[named.kinds.of, 0, 1, 1].tolist() == [24 * MS, 48 * MS]


def test_all_sizes_are_one_lane_and_too_large_ones_are_nobodys() -> None:
    lanes = Lanes((TEXT,))
    assert lanes.services == (TEXT,)
    assert [bucket.curves[0].latency_s(1) for bucket in lanes.buckets] == [0.012, 0.024]
    given = Arrivals(np.arange(4), np.array([0, 4]), np.array([700, 1001, 5, 1000], np.float32))
    inside, outside = lanes.split(given)
    assert (inside.size.tolist(), outside.size.tolist()) == ([700, 5, 1000], [1001])
    assert lanes.together(inside).offsets.tolist() == [0, 3]


def test_between_two_edges_a_request_counts_for_both() -> None:
    """634 is three parts of the lower edge and one of the upper; what is not counted counts for none."""
    plain = Service("plain", 0.1, 0.99, 2.0, (LatencyCurve.linear(1, 9),))
    lanes = Lanes((plain, TEXT, replace(TEXT, name="padded", exact_sizes=False)))
    sizes = np.array([634, 100, 634, 1000, 634, 100, 634, 634], np.float32)
    inside, _ = lanes.split(Arrivals(np.arange(8), np.array([0, 1, 5, 8]), sizes))
    counted = np.ones(8, np.bool_)
    assert (lanes.by_bucket(inside, counted) / 1e6).tolist() == [1, 1 + 2 * 0.75, 1 + 2 * 0.25, 1, 2]
    inside.size[:] = np.where(inside.size == 1000, np.nan, inside.size)
    assert (lanes.by_bucket(inside, counted) / 1e6).tolist() == [1, 1 + 2 * 0.75, 1 + 2 * 0.25, 1, 2]
    counted[0] = counted[1] = False
    assert (lanes.by_bucket(inside, counted) / 1e6).tolist() == [0, 1.5, 1.5, 1, 2]


def test_what_was_not_measured_for_larger_inputs_is_infeasible_just_above_the_edge() -> None:
    """Up to 512 batches of 40 were measured, above only of 5."""
    curves = (
        LatencyCurve("whole", ((1, 0.012), (40, 0.090)), Bucket(0, 512)),
        LatencyCurve("whole", ((1, 0.024), (5, 0.040)), Bucket(512, 1000)),
    )
    text = Service.measured("text", 0.2, 0.99, 2.0, curves, exact_sizes=True)
    for size, largest in ((512, 20), (512.1, 5)):
        arrivals = Arrivals(np.zeros(20, np.int64), np.array([0, 20]), np.full(20, size, np.float32))
        _, served = Eager().advance(Eager().initial_state(1), arrivals, pool(text, kind="eager"), 1000 * MS)
        assert served.batch_size.max() == largest
