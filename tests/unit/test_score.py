"""The score of a record worked by hand."""

from __future__ import annotations

from dataclasses import fields, replace
from math import inf

import numpy as np
import pytest
from miniature import MS, SECOND, service

from partita.kernels.tally import FLOOR_NS, PER_OCTAVE
from partita.model.load import Arrivals
from partita.model.service import Service
from partita.model.staggered import NO_OVERHEADS, Overheads, fluid_rps, staggered_rps
from partita.ports import Served
from partita.replay.score import Holding, Tally

# 10 ms alone, SLO 100 ms
SERVICES = (service("a"), service("b"), service("c"))
HOLDING = Holding(gpu_seconds=20.0, peak=3, changes=4, away_gpu_seconds=1.8, profile="whole", instances_per_gpu=1.0)


def served(requests: list[list[tuple[int, int, int]]], batches: list[tuple[int, int, int, int, int]] = ()) -> Served:  # type: ignore[assignment]
    """Make an account from (arrival, start, finish) by service and (instance, service, size, start, finish), in ms."""
    rows = np.array([r for group in requests for r in group], np.int64).reshape(-1, 3)
    settle = np.where(rows[:, 2] > 0, rows[:, 2] * MS, rows[:, 2])
    offsets = np.cumsum([0, *map(len, requests)]).astype(np.int64)
    table = np.array(batches, np.int64).reshape(-1, 5)
    return Served(
        Arrivals(rows[:, 0] * MS, offsets, np.ones(len(rows), np.float32)),
        rows[:, 1] * MS,
        settle,
        table[:, 0],
        table[:, 1],
        table[:, 2],
        table[:, 3] * MS,
        table[:, 4] * MS,
    )


def example() -> Tally:
    """From 1 s to 11 s: a has four good and one late request, b one good and two dropped, c none."""
    tally = Tally(SERVICES, SECOND, 11 * SECOND)
    a = [(1000, 1010, 1020), (2000, 2000, 2010), (3000, 3000, 3012), (2999, 3000, 3012), (4000, 4090, 4100)]
    b = [(500, 500, 510), (5000, 5000, 5010), (6000, 0, -1), (7000, 0, -1), (8000, 0, 0)]
    tally.add(
        served(
            [a, b, []],
            [(0, 1, 1, 500, 510), (0, 0, 1, 1010, 1020), (0, 0, 1, 2000, 2010), (1, 0, 2, 3000, 3012)],
        )
    )
    tally.add(served([[], [], []], [(1, 0, 1, 4090, 4100), (0, 1, 1, 5000, 5010)]))
    return tally


def test_a_record_worked_by_hand() -> None:
    score = example().score(HOLDING, NO_OVERHEADS)
    assert (score.offered, score.good, score.late, score.dropped) == (8, 5, 1, 2)
    assert score.duration_s == 10.0
    assert score.goodput_rps == 0.5
    assert score.attainment == 5 / 8
    assert score.bad_rate == pytest.approx(3 / 8)
    assert score.attainment_by_service == {"a": 4 / 5, "b": 1 / 3, "c": 1.0}
    assert score.offered_by_service == {"a": 5, "b": 3, "c": 0}
    assert score.good_by_service == {"a": 4, "b": 1, "c": 0}
    assert (score.worst_service, score.worst_attainment) == ("b", 1 / 3)
    assert (score.gpus_held_mean, score.gpus_held_peak) == (2.0, 3)
    assert score.gpu_hours == 20 / 3600
    assert score.reconfigurations == 4
    assert score.reconfiguration_gpu_hours == 1.8 / 3600
    # In the counted span: 1 + 1 + 2 + 1 + 1 requests in 5 batches, 10 + 10 + 12 + 10 + 10 ms.
    assert (score.batches, score.mean_batch) == (5, 6 / 5)
    assert score.utilisation == pytest.approx(0.052 / 20)


def test_a_batch_of_nobody_is_no_batch_but_was_busy() -> None:
    """One that was cut short after 30 ms, in the counted span."""
    tally = example()
    tally.add(served([[], [], []], [(0, 0, 0, 6000, 6030)]))
    score = tally.score(HOLDING, NO_OVERHEADS)
    assert (score.batches, score.mean_batch) == (5, 6 / 5)
    assert score.utilisation == pytest.approx((0.052 + 0.030) / 20)
    assert tally.histograms().batch_size[0] == 0


def test_percentiles_are_within_their_class() -> None:
    score = example().score(HOLDING, NO_OVERHEADS)
    half = 2 ** (0.5 / PER_OCTAVE) - 1 + 1e-9
    # Latencies of the six answered: 10, 10, 12, 13, 20, 100 ms.
    for value, exact in zip(
        (score.latency_ms.p50, score.latency_ms.p90, score.latency_ms.p99, score.latency_ms.max),
        (12.0, 100.0, 100.0, 100.0),
        strict=True,
    ):
        assert value == pytest.approx(exact, rel=half)
    # Queueing: 0, 0, 0, 1, 10, 90 ms.
    assert score.queue_ms.p50 <= FLOOR_NS / 1e6 * 1.022
    assert score.queue_ms.max == pytest.approx(90.0, rel=half)


@pytest.mark.parametrize("count", [1, 2, 10, 99, 100, 1000])
def test_percentiles_of_many(count: int) -> None:
    """Latencies 1, 2, … ms: the p-th percentile is the ceil(p·n)-th."""
    tally = Tally(SERVICES, 0, SECOND)
    tally.add(served([[(0, 0, k + 1) for k in range(count)], [], []]))
    spread = tally.score(HOLDING, NO_OVERHEADS).latency_ms
    for share, value in ((0.5, spread.p50), (0.9, spread.p90), (0.99, spread.p99), (1.0, spread.max)):
        assert value == pytest.approx(float(np.ceil(round(share * count, 9))), rel=0.011)


def test_bounds_are_those_of_the_mix_and_the_gpus_held() -> None:
    overheads = Overheads(control_s=0.001, response_s=0.002)
    score = example().score(replace(HOLDING, profile="3g.40gb", instances_per_gpu=2.0), overheads)
    mix = [5 / 8, 3 / 8, 0.0]
    assert score.bound_staggered_rps == staggered_rps(SERVICES, mix, 4.0, profile="3g.40gb", overheads=overheads)
    assert score.bound_fluid_rps == fluid_rps(SERVICES, mix, 4.0, profile="3g.40gb")
    assert score.utilisation == pytest.approx(0.052 / 40)


def test_bounds_are_those_of_the_lanes_where_sizes_count() -> None:
    lanes = [*SERVICES, SERVICES[0]]
    score = example().score(HOLDING, NO_OVERHEADS, by_bucket=(lanes, np.array([1, 3, 0, 4])))
    mix = [0.125, 0.375, 0.0, 0.5]
    assert score.bound_staggered_rps == staggered_rps(lanes, mix, 2.0)
    assert score.bound_fluid_rps == fluid_rps(lanes, mix, 2.0)


def test_bounds_of_shares_are_those_of_their_own_latency() -> None:
    """Four halves of a GPU, each as fast as a MIG half: the bounds are the same."""
    halves = [replace(s.curve("3g.40gb"), profile="whole", gpu_percent=50.0) for s in SERVICES]  # type: ignore[type-var]
    shared = [Service.measured(s.name, s.slo_s, s.attainment, 1.0, [c]) for s, c in zip(SERVICES, halves, strict=True)]
    mix = [0.5, 0.5, 0.0]
    for bound in (staggered_rps, fluid_rps):
        assert bound(shared, mix, 4.0, gpu_percent=50.0) == bound(SERVICES, mix, 4.0, profile="3g.40gb") > 0
        assert bound(shared, mix, 4.0) == 0.0


def test_nothing_offered_is_nothing_missed() -> None:
    score = Tally(SERVICES, 0, SECOND).score(HOLDING, NO_OVERHEADS)
    assert (score.offered, score.attainment, score.bad_rate, score.worst_attainment) == (0, 1.0, 0.0, 1.0)
    assert (score.mean_batch, score.latency_ms.max, score.bound_fluid_rps) == (0.0, 0.0, 0.0)
    assert all(np.isfinite(getattr(score, f.name)) for f in fields(score) if f.type in ("float", "int"))


def test_no_gpu_held_is_no_use_and_no_bound() -> None:
    score = example().score(Holding(0.0, 0, 0, 0.0, "whole", 1.0), NO_OVERHEADS)
    assert (score.utilisation, score.gpu_hours, score.bound_fluid_rps) == (0.0, 0.0, 0.0)
    assert score.bound_staggered_rps < inf


def test_what_nobody_took_is_dropped_in_the_counted_span() -> None:
    tally = Tally(SERVICES, 10, 20)
    tally.drop(np.array([10, 9, 11, 19, 20, 12]), np.array([0, 0, 5, 6]))
    score = tally.score(HOLDING, NO_OVERHEADS)
    assert score.offered_by_service == {"a": 0, "b": 3, "c": 1}
    assert (score.offered, score.dropped) == (4, 4)
    tally.drop(np.empty(0, np.int64), np.zeros(4, np.int64))
    assert tally.score(HOLDING, NO_OVERHEADS).offered == 4


def test_what_is_settled_is_told_whether_counted_or_not() -> None:
    tally = Tally(SERVICES, SECOND, 2 * SECOND)
    settled = tally.add(served([[(1, 1, 9)], [(1, 0, -1), (2, 0, 0)], [(1500, 1500, 1700)]]))
    assert settled.tolist() == [[1, 1, 0, 0], [1, 0, 0, 1], [1, 0, 1, 0]]
    assert tally.score(HOLDING, NO_OVERHEADS).offered == 1
