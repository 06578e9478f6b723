"""Requests taken apart by their size, and accounts put together again."""

from __future__ import annotations

import numpy as np

from partita.model.load import Arrivals
from partita.model.service import Bucket, LatencyCurve, Service
from partita.ports import Served
from partita.replay.lanes import Lanes


def sized(name: str, *edges: float) -> Service:
    """Return a service with a bucket up to each edge; larger ones take longer."""
    ranges = [Bucket(over, edge) for over, edge in zip((0.0, *edges), edges, strict=False)]
    curves = [LatencyCurve("whole", ((1, 0.01 * n), (8, 0.02 * n)), b) for n, b in enumerate(ranges, 1)]
    return Service.measured(name, 0.1, 0.99, 1.0, curves)


PLAIN = Service("plain", 0.1, 0.99, 1.0, (LatencyCurve.linear(1, 9),))


def arrivals(*by_service: list[tuple[int, float]]) -> Arrivals:
    rows = [row for rows in by_service for row in rows]
    offsets = np.cumsum([0, *map(len, by_service)]).astype(np.int64)
    return Arrivals(np.array([at for at, _ in rows]), offsets, np.array([size for _, size in rows], np.float32))


def test_a_service_has_a_lane_for_each_bucket() -> None:
    lanes = Lanes((sized("a", 128, 512), PLAIN, sized("b", 10, 20, 30)))
    assert [lane.name for lane in lanes.services] == ["a", "a", "plain", "b", "b", "b"]
    assert [lane.curves[0].bucket.up_to for lane in lanes.services] == [128, 512, np.inf, 10, 20, 30]
    assert all(len(lane.buckets()) == 1 and not lane.finer for lane in lanes.services)
    assert lanes.apart
    assert sized("a", 128, 512).curve("whole") == lanes.services[1].curves[0]


def test_arrivals_fall_into_their_bucket_in_their_order() -> None:
    lanes = Lanes((sized("a", 128, 512), PLAIN))
    # An edge belongs to its own bucket; what is larger than the last is nobody's.
    inside, outside = lanes.split(
        arrivals([(1, 200), (2, 128), (3, 513), (4, 128.5), (5, 0), (6, 512)], [(1, 9999), (7, 1)])
    )
    assert inside.offsets.tolist() == [0, 2, 5, 7]
    assert inside.ns.tolist() == [2, 5, 1, 4, 6, 1, 7]
    assert inside.size.tolist() == [128, 0, 200, 128.5, 512, 9999, 1]
    assert (outside.ns.tolist(), outside.offsets.tolist()) == ([3], [0, 1, 1])


def test_a_size_that_nobody_logged_counts_as_one_of_the_largest() -> None:
    lanes = Lanes((sized("a", 128, 512), PLAIN))
    inside, outside = lanes.split(arrivals([(1, np.nan), (2, 128)], [(1, np.nan)]))
    assert inside.ns.tolist() == [2, 1, 1]
    assert inside.offsets.tolist() == [0, 1, 2, 3]
    assert len(outside) == 0


def test_without_buckets_nothing_is_touched() -> None:
    lanes = Lanes((PLAIN, PLAIN))
    given = arrivals([(1, 5)], [(2, 7)])
    assert not lanes.apart
    assert lanes.split(given)[0] is given
    served = account(given, np.array([0]))
    assert lanes.join(served) is served


def test_no_arrivals_are_no_arrivals_of_every_lane() -> None:
    inside, outside = Lanes((sized("a", 1, 2), PLAIN)).split(Arrivals.empty(2))
    assert (inside.offsets.tolist(), outside.offsets.tolist()) == ([0] * 4, [0] * 3)


def account(of: Arrivals, batch_service: np.ndarray) -> Served:
    zero = np.zeros(len(batch_service), np.int64)
    return Served(of, np.zeros(len(of), np.int64), np.zeros(len(of), np.int64), zero, batch_service, zero, zero, zero)


def test_an_account_of_lanes_becomes_one_of_services() -> None:
    lanes = Lanes((sized("a", 128, 512), PLAIN))
    inside, _ = lanes.split(arrivals([(1, 200), (2, 128)], [(3, 1)]))
    joined = lanes.join(account(inside, np.array([0, 1, 2, 1])))
    assert joined.arrivals.offsets.tolist() == [0, 2, 3]
    assert joined.arrivals.ns.tolist() == [2, 1, 3]
    assert joined.batch_service.tolist() == [0, 0, 1, 0]


def test_many_sizes_keep_everybody_once() -> None:
    rng = np.random.default_rng(5)
    lanes = Lanes((sized("a", 10, 20, 40), PLAIN, sized("b", 7)))
    offsets = np.array([0, 500, 700, 1000])
    given = Arrivals(np.sort(rng.integers(0, 9999, 1000)), offsets, rng.uniform(0, 50, 1000).astype(np.float32))
    inside, outside = lanes.split(given)
    assert len(inside) + len(outside) == 1000
    for lane, service in enumerate(lanes.services):
        rows = slice(inside.offsets[lane], inside.offsets[lane + 1])
        bucket = service.buckets()[0]
        assert np.all((inside.size[rows] > bucket.over) & (inside.size[rows] <= bucket.up_to))
        assert np.all(np.diff(inside.ns[rows]) >= 0)
    by_service = np.diff(lanes.together(inside).offsets) + np.diff(outside.offsets)
    assert by_service.tolist() == [500, 200, 300]
