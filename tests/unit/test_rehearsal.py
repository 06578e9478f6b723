"""Rehearsal: the recent log at other rates, and what a plan would have made of it."""

from __future__ import annotations

import numpy as np
import pytest
from miniature import BUILT_IN, MS, SECOND, cut, gpus, random_instants, service

from partita.controller.reconcile import Wishes, build
from partita.model.cluster import Batching
from partita.model.load import Arrivals
from partita.model.staggered import NO_OVERHEADS
from partita.replay.rehearsal import Rehearser, scale

SPAN = (50 * SECOND, 60 * SECOND)
SERVICES = (service("a"), service("b"), service("c"))
INVENTORY = gpus(4)


def arrivals(*rates: float) -> Arrivals:
    """Random requests in the span; their sizes say which they are."""
    parts = [random_instants(rate, 10.0, seed) + SPAN[0] for seed, rate in enumerate(rates)]
    offsets = np.cumsum([0, *map(len, parts)]).astype(np.int64)
    return Arrivals(np.concatenate(parts), offsets, np.arange(offsets[-1], dtype=np.float32))


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def scaled(load: Arrivals, *factors: float, seed: int = 1) -> Arrivals:
    return scale(load, SPAN, np.array(factors), rng(seed))


def test_factor_one_keeps_the_requests_exactly() -> None:
    load = arrivals(100, 0, 30)
    same = scaled(load, 1.0, 1.0, 1.0)
    np.testing.assert_array_equal(same.ns, load.ns)
    np.testing.assert_array_equal(same.offsets, load.offsets)
    np.testing.assert_array_equal(same.size, load.size)


def test_factor_zero_gives_none() -> None:
    none = scaled(arrivals(100, 50, 30), 0.0, 1.0, 0.0)
    assert np.diff(none.offsets).tolist() == [0, 500, 0]


@pytest.mark.parametrize("factor", [0.25, 0.9, 1.5, 2.0, 2.5, 4.0])
def test_other_factors_give_that_many_times_as_many(factor: float) -> None:
    load = arrivals(100, 0, 400)
    more = scaled(load, factor, factor, factor)
    assert np.diff(more.offsets)[1] == 0
    for before, after in zip(np.diff(load.offsets), np.diff(more.offsets), strict=True):
        part = factor % 1
        # Whole copies are exact, of the rest each request is drawn: four standard deviations.
        assert abs(after - factor * before) <= 4 * np.sqrt(before * part * (1 - part))
    for s in range(3):
        ns = more.ns[more.offsets[s] : more.offsets[s + 1]]
        assert np.all(np.diff(ns) >= 0)
    assert more.ns.min() >= SPAN[0]
    assert more.ns.max() < SPAN[1]
    whole = int(factor)
    sizes, copies = np.unique(more.size, return_counts=True)
    assert set(copies.tolist()) <= {whole, whole + 1} - {0}
    assert set(sizes.tolist()) <= set(load.size.tolist())


def test_copies_keep_their_bursts_and_move_together() -> None:
    """A burst of ten in one ms stays a burst; its copy lies elsewhere."""
    burst = SPAN[0] + 3 * SECOND + np.arange(10) * MS // 10
    load = Arrivals(burst, np.array([0, 10]), np.ones(10, np.float32))
    more = scale(load, SPAN, np.array([2.0]), rng())
    gaps = np.diff(more.ns)
    assert (gaps < MS).sum() == 18
    np.testing.assert_array_equal(np.intersect1d(more.ns, burst), burst)


def test_the_generator_decides_everything() -> None:
    load = arrivals(100, 200, 30)
    one, again, other = (scaled(load, 1.3, 0.4, 2.2, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.ns, again.ns)
    assert one.ns.tolist() != other.ns.tolist()


def test_scaling_leaves_the_log_as_it_was() -> None:
    load = arrivals(100, 200, 30)
    before = load.ns.copy()
    scaled(load, 2.5, 0.5, 1.0)
    np.testing.assert_array_equal(load.ns, before)


# Rehearsing a plan --------------------------------------------------------------------------------------------------


def rehearse(held: int, load: Arrivals, kind: str = "deferred", geometry: str | None = None) -> tuple[list[int], ...]:
    wishes = Wishes({g.id: cut(geometry) for g in INVENTORY}, {s.name: Batching(kind) for s in SERVICES})
    plan = build(held, wishes, SERVICES, INVENTORY, [1.0] * 3, "")
    done = Rehearser(SERVICES, NO_OVERHEADS, BUILT_IN).rehearse(plan, load, SPAN[1])
    return done.offered.tolist(), done.good.tolist()


@pytest.mark.parametrize("kind", BUILT_IN)
def test_everything_is_up_from_the_start(kind: str) -> None:
    """The first request comes at the first instant, and is good."""
    first = Arrivals(np.array([SPAN[0]]), np.array([0, 1, 1, 1]), np.ones(1, np.float32))
    assert rehearse(1, first, kind) == ([1, 0, 0], [1, 0, 0])


def test_what_comes_at_the_end_is_given_its_time() -> None:
    last = Arrivals(np.array([SPAN[1] - 1]), np.array([0, 1, 1, 1]), np.ones(1, np.float32))
    assert rehearse(1, last) == ([1, 0, 0], [1, 0, 0])


def test_more_gpus_answer_more_in_time() -> None:
    load = arrivals(900, 900, 900)
    goods = [sum(rehearse(held, load)[1]) for held in (0, 1, 2, 3, 4)]
    assert goods[0] == 0
    assert goods == sorted(goods)
    assert goods[1] < 0.7 * len(load)
    assert goods[4] > 0.99 * len(load)


def test_slower_instances_answer_less() -> None:
    load = arrivals(400, 400, 400)
    assert sum(rehearse(1, load, geometry="3g.40gb@0")[1]) < sum(rehearse(1, load)[1])


def test_a_rehearser_keeps_nothing_between_calls() -> None:
    wishes = Wishes({g.id: None for g in INVENTORY}, {s.name: Batching("deferred") for s in SERVICES})
    rehearser, load = Rehearser(SERVICES, NO_OVERHEADS, BUILT_IN), arrivals(900, 900, 900)
    one, two = (build(n, wishes, SERVICES, INVENTORY, [1.0] * 3, "") for n in (1, 2))
    first = rehearser.rehearse(one, load, SPAN[1]).good.tolist()
    rehearser.rehearse(two, load, SPAN[1])
    assert rehearser.rehearse(one, load, SPAN[1]).good.tolist() == first


def test_no_requests_are_all_answered() -> None:
    assert rehearse(1, Arrivals.empty(3)) == ([0, 0, 0], [0, 0, 0])
