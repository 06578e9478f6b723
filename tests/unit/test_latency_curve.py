"""Latency curves and what a service can batch within its SLO."""

from __future__ import annotations

from math import inf, nan

import pytest

from partita.kernels import INFEASIBLE_NS
from partita.model.service import Bucket, LatencyCurve, Service

MEASURED = LatencyCurve("whole", ((1, 0.010), (4, 0.016), (8, 0.032)))


@pytest.mark.parametrize(
    ("batch", "seconds"),
    [
        (1, 0.010),
        (2, 0.012),  # a third of the way from 10 ms at 1 to 16 ms at 4
        (4, 0.016),
        (6, 0.024),  # halfway from 16 ms at 4 to 32 ms at 8
        (8, 0.032),
        (9, inf),  # never scaled beyond what was measured
    ],
)
def test_latency_is_linear_between_measurements_and_infinite_beyond(batch: int, seconds: float) -> None:
    assert MEASURED.latency_s(batch) == pytest.approx(seconds)


def test_the_table_says_the_same_in_whole_nanoseconds() -> None:
    table = MEASURED.table_ns(10)
    assert table.tolist()[:5] == [0, 10_000_000, 12_000_000, 14_000_000, 16_000_000]
    assert table.tolist()[9:] == [INFEASIBLE_NS] * 3
    assert MEASURED.table_ns(4).tolist()[-1] == 20_000_000  # one entry past the largest batch asked for


def test_a_line_is_its_formula_up_to_its_last_batch() -> None:
    line = LatencyCurve.linear(1.053, 5.072, up_to=100)
    for batch in (1, 37, 100):
        assert line.latency_s(batch) == pytest.approx((1.053 * batch + 5.072) / 1e3)
    assert line.max_batch == 100
    assert LatencyCurve.linear(1.0, 2.0, up_to=1).points == ((1, 0.003),)


@pytest.mark.parametrize(
    "points",
    [(), ((0, 0.1),), ((1, 0.0),), ((1, -0.1),), ((1, nan),), ((1, inf),), ((2, 0.1), (1, 0.2)), ((1, 0.2), (2, 0.1))],
)
def test_a_curve_that_was_not_measured_right_is_refused(points: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ValueError, match="latency"):
        LatencyCurve("whole", points)


@pytest.mark.parametrize(
    ("budget_s", "largest"), [(0.009, 0), (0.010, 1), (0.0139, 2), (0.014, 3), (0.031, 7), (0.032, 8), (9.0, 8)]
)
def test_largest_batch_within_a_budget(budget_s: float, largest: int) -> None:
    service = Service("s", slo_s=0.5, attainment=0.99, memory_gib=1.0, curves=(MEASURED,))
    assert service.largest_batch("whole", budget_s) == largest


def test_the_slo_is_the_budget_unless_told_and_an_unmeasured_profile_runs_nothing() -> None:
    service = Service("s", slo_s=0.016, attainment=0.99, memory_gib=1.0, curves=(MEASURED,))
    assert service.largest_batch("whole") == 4
    assert service.largest_batch("1g.10gb") == 0
    assert service.curve("1g.10gb") is None


def test_buckets_hold_sizes_above_their_lower_and_up_to_their_upper_bound() -> None:
    bucket = Bucket(over=64, up_to=128)
    assert [size for size in (64, 65, 128, 129) if bucket.holds(size)] == [65, 128]
