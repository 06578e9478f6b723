"""Kinds of instances in one pool: what each runs, how long that takes, and what disciplines count on."""

from __future__ import annotations

import numpy as np
import pytest

from partita.kernels import INFEASIBLE_NS
from partita.model.cluster import Batching, Instance, SubCluster
from partita.model.service import Bucket, LatencyCurve, Service
from partita.model.staggered import NO_OVERHEADS, Overheads
from partita.ports import Kinds, Pool
from partita.replay.lanes import Lanes
from partita.replay.pools import AS_MEASURED, PoolMaker, Variation

MS = 1_000_000
# A batch of b takes b + 9 ms on a whole GPU, twice as long on half of one, and three times as long on 2g.20gb.
WHOLE = LatencyCurve.linear(1, 9, up_to=64)
HALF = LatencyCurve("whole", ((1, 0.020), (64, 0.146)), gpu_percent=50.0)
SLICE = LatencyCurve.linear(3, 27, profile="2g.20gb", up_to=64)
A = Service.measured("a", 0.0605, 0.99, 2.0, [HALF, SLICE, WHOLE])
B = Service.measured("b", 0.0255, 0.99, 30.0, [WHOLE, SLICE])

GPU = Instance("gpu0", "gpu0", 80.0)
HALVES = tuple(Instance(f"gpu1/{n}", "gpu1", 80.0, gpu_percent=50.0) for n in "ab")
SLICED = Instance("gpu2/2g.20gb@0", "gpu2", 20.0, "2g.20gb")
MIXED = (GPU, *HALVES, SLICED)


def group(*instances: Instance, services: tuple[str, ...] = ("a",), batching: Batching | None = None) -> SubCluster:
    return SubCluster("g", instances, services, (batching or Batching("deferred"),) * len(services))


def pool(of: SubCluster, variation: Variation = AS_MEASURED, beside: tuple[float, ...] = ()) -> Pool:
    maker = PoolMaker((A, B), NO_OVERHEADS, variation=variation)
    count = len(of.instances)
    return maker.pool(of, np.arange(count), np.zeros(count, np.int64), of.instances, beside)


def kinds(of: SubCluster, variation: Variation = AS_MEASURED, beside: tuple[float, ...] = ()) -> Kinds:
    found = pool(of, variation, beside).kinds
    assert found is not None
    return found


def test_each_profile_and_share_has_its_own_curve() -> None:
    """Within 60.5 ms: 51 on the whole GPU, 21 on a half (20 + 2 (b - 1) ms), 11 on the slice."""
    found = kinds(group(*MIXED))
    by_instance = found.max_batch[found.of, 0]
    assert by_instance.tolist() == [51, 21, 21, 11]
    assert found.of[1] == found.of[2]
    assert len(found.max_batch) == 3
    assert found.run_ns[found.of, 0, 11].tolist() == [20 * MS, 40 * MS, 40 * MS, 60 * MS]
    assert found.planned_ns[found.of, 0, 12].tolist() == [21 * MS, 42 * MS, 42 * MS, INFEASIBLE_NS]
    np.testing.assert_array_equal(found.planned_ns, found.run_ns)


def test_the_pool_itself_is_that_of_the_slowest() -> None:
    made = pool(group(*MIXED))
    assert made.max_batch[0] == 11
    assert made.latency_ns[0, [1, 11, 12]].tolist() == [30 * MS, 60 * MS, INFEASIBLE_NS]


def test_a_kind_serves_only_what_fits_it_and_can_be_met_there() -> None:
    """b needs 30 GiB, which the slice has not, and has no curve for halves; on the whole GPU 16 take its 25 ms."""
    found = kinds(group(*MIXED, services=("a", "b")))
    assert found.max_batch[found.of, 1].tolist() == [16, 0, 0, 0]
    made = pool(group(*MIXED, services=("a", "b")))
    assert made.max_batch[1] == 16
    assert made.latency_ns[1, 16] == 25 * MS
    # With 20 GiB it fits the slice, but takes 30 ms alone there: too long as long as another kind can.
    light = Service.measured("b", 0.0255, 0.99, 20.0, [WHOLE, SLICE])
    maker = PoolMaker((A, light), NO_OVERHEADS)
    both = group(GPU, SLICED, services=("b",))
    found_light = maker.pool(both, np.arange(2), np.zeros(2, np.int64), both.instances).kinds
    assert found_light is not None
    assert found_light.max_batch[found_light.of, 1].tolist() == [16, 0]
    alone = maker.pool(group(SLICED, services=("b",)), np.arange(1), np.zeros(1, np.int64), (SLICED,))
    assert (alone.kinds, alone.max_batch[1], alone.latency_ns[1, 1]) == (None, 1, 30 * MS)


def test_a_kind_must_leave_time_for_the_overheads() -> None:
    """30 ms alone on the slice and 1 ms around it are too long for 30.5 ms; the whole GPU takes 10."""
    service = Service.measured("b", 0.0305, 0.99, 2.0, [WHOLE, SLICE])
    both = group(GPU, SLICED, services=("b",))
    for response_s, serves in ((0.0, True), (0.001, False)):
        maker = PoolMaker((A, service), Overheads(response_s=response_s))
        found = maker.pool(both, np.arange(2), np.zeros(2, np.int64), both.instances).kinds
        assert found is not None
        assert (found.max_batch[found.of, 1] > 0).tolist() == [True, serves]


def test_the_batchings_own_limit_and_the_blind_half_hold_for_each_kind() -> None:
    capped = kinds(group(*MIXED, batching=Batching("deferred", max_batch=16)))
    assert capped.max_batch[capped.of, 0].tolist() == [16, 16, 16, 11]
    # Within half of that: 21 whole, 6 on a half, one on the slice.
    blind = kinds(group(*MIXED, batching=Batching("timeout")))
    assert blind.max_batch[blind.of, 0].tolist() == [21, 6, 6, 1]


def test_one_kind_needs_no_telling_apart() -> None:
    assert pool(group(*HALVES)).kinds is None
    assert pool(group(*HALVES)).max_batch[0] == 21
    assert pool(group()).kinds is None


def test_tail_and_jitter_are_told_even_of_one_kind() -> None:
    """Planned for half as long again, so 31 within 60.5 ms: 1.5 · 40; what runs is the mean."""
    found = kinds(group(GPU), Variation(tail=1.5, jitter=0.05, seed=7))
    assert (found.of.tolist(), found.max_batch[0, 0], found.spread, found.seed) == ([0], 31, 0.05, 7)
    assert found.planned_ns[0, 0, [1, 31, 32]].tolist() == [15 * MS, 60 * MS, INFEASIBLE_NS]
    assert found.run_ns[0, 0, [1, 31, 32]].tolist() == [10 * MS, 40 * MS, INFEASIBLE_NS]
    made = pool(group(GPU), Variation(tail=1.5))
    assert (made.max_batch[0], made.latency_ns[0, 31]) == (31, 60 * MS)


def test_other_shares_beside_make_a_batch_longer() -> None:
    """With c = 0.4 and a half beside it, a batch takes 1.2 times as long: 16 in 60.5 ms, as 1.2 · 50."""
    slowed = Variation(colocation=0.4)
    found = kinds(group(GPU, *HALVES), slowed, (0.0, 50.0, 50.0))
    assert found.max_batch[found.of, 0].tolist() == [51, 16, 16]
    assert found.run_ns[found.of, 0, 16].tolist() == [25 * MS, 60 * MS, 60 * MS]
    np.testing.assert_array_equal(found.planned_ns, found.run_ns)
    unlike = kinds(group(*HALVES), slowed, (50.0, 0.0))
    assert unlike.run_ns[unlike.of, 0, 1].tolist() == [24 * MS, 20 * MS]


def test_instances_that_are_not_named_are_all_taken_for_the_slowest() -> None:
    maker = PoolMaker((A, B), NO_OVERHEADS)
    made = maker.pool(group(*MIXED), np.arange(4), np.zeros(4, np.int64))
    assert (made.kinds, made.max_batch[0]) == (None, 11)


def test_lanes_of_a_service_are_rows_of_their_own() -> None:
    """Up to size 128 a batch takes b + 9 ms, up to 512 4 b + 6: within 60.5 ms 51 and 13."""
    small, large = Bucket(0, 128), Bucket(128, 512)
    curves = [
        LatencyCurve("whole", ((1, 0.010), (64, 0.262)), large),
        LatencyCurve("whole", ((1, 0.010), (64, 0.073)), small),
    ]
    sized = Service.measured("a", 0.0605, 0.99, 2.0, curves)
    lanes = Lanes((B, sized))
    maker = PoolMaker(lanes.services, NO_OVERHEADS)
    made = maker.pool(group(GPU), np.arange(1), np.zeros(1, np.int64), (GPU,))
    assert made.active.tolist() == [1, 2]
    assert made.max_batch.tolist() == [1, 51, 13]
    assert made.latency_ns[[1, 2], [51, 13]].tolist() == [60 * MS, 58 * MS]
    # Where lanes are not told apart (a live runtime), the service runs at the pace of the largest.
    whole = PoolMaker((B, sized), NO_OVERHEADS).pool(group(GPU), np.arange(1), np.zeros(1, np.int64), (GPU,))
    assert whole.max_batch.tolist() == [1, 13]


@pytest.mark.parametrize("percent", [50.0, 25.0])
def test_a_share_that_was_not_measured_serves_nothing(percent: float) -> None:
    share = Instance("gpu1/x", "gpu1", 80.0, gpu_percent=percent)
    assert A.curve("whole", percent) == (HALF if percent == 50.0 else None)
    found = kinds(group(GPU, share))
    assert found.max_batch[found.of, 0].tolist() == [51, 21 if percent == 50.0 else 0]
