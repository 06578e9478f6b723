"""Arrivals: laws, bounds, speed, mapping, and the renewal processes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from partita.errors import ConfigError
from partita.model.load import Arrivals
from partita.ports import Counts, Rows
from partita.traces.arrivals import ArrivalSource, Process, ProcessArrivals, TraceArrivals
from partita.traces.services import ServiceMap

SECOND = 1_000_000_000


def counts(*bins: tuple[int, str, int], law: str = "poisson", shape: float = 1.0) -> Counts:
    return Counts(
        np.array([b[0] * SECOND for b in bins]),
        np.array([b[1] for b in bins], object),
        np.array([b[2] for b in bins]),
        np.full(len(bins), law, object),
        np.full(len(bins), shape),
    )


def play(
    *blocks: Rows | Counts, services: tuple[str, ...] = ("a",), end_s: float = 100, **options: object
) -> TraceArrivals:
    rules = options.pop("rules", {"*": "*"})
    settings = {"begin_ns": 0, "bin_s": 10.0, **options}
    return TraceArrivals(blocks, ServiceMap(rules, services), end_ns=int(end_s * SECOND), **settings)  # type: ignore[arg-type]


def everything(source: ArrivalSource) -> Arrivals:
    return source.until(source.span_ns)


def gaps_cv(ns: NDArray[np.int64]) -> float:
    gaps = np.diff(ns)
    return float(gaps.std() / gaps.mean())


@pytest.mark.parametrize("law", ["even", "poisson", "gamma", "weibull"])
def test_a_bin_holds_its_count_inside_its_bounds(law: str) -> None:
    found = everything(play(counts((10, "a", 1), (20, "a", 0), (30, "a", 999), law=law, shape=0.3))).ns
    assert found.size == 1000
    assert 10 * SECOND <= found[0] < 20 * SECOND
    assert 30 * SECOND <= found[1] <= found[-1] < 40 * SECOND
    assert (np.diff(found) >= 0).all()


def test_even_gaps() -> None:
    assert everything(play(counts((0, "a", 4), law="even"))).ns.tolist() == [
        1_250_000_000 + 2_500_000_000 * k for k in range(4)
    ]


@pytest.mark.parametrize(
    ("law", "shape", "cv"),
    [
        ("poisson", 1.0, 1.0),
        ("gamma", 0.25, 2.0),  # 1/sqrt(shape)
        ("gamma", 4.0, 0.5),
        ("weibull", 1.0, 1.0),
        ("weibull", 2.0, 0.5227),  # sqrt(Gamma(2) / Gamma(1.5)**2 - 1)
    ],
)
def test_gaps_follow_the_law(law: str, shape: float, cv: float) -> None:
    # The standard error of the CV is about 1/sqrt(n) times a small factor: 2 % is beyond five of them.
    found = everything(play(counts((0, "a", 400_000), law=law, shape=shape)))
    assert gaps_cv(found.ns) == pytest.approx(cv, rel=0.02)


def test_no_part_of_a_bin_is_favoured() -> None:
    blocks = [counts(*((10 * k, "a", 2) for k in range(20_000)), law="gamma", shape=0.2)]
    found = everything(play(*blocks, end_s=200_000)).ns % (10 * SECOND)
    share = np.histogram(found, bins=10, range=(0, 10 * SECOND))[0] / found.size
    # 20,000 pairs: the share of a tenth has a standard error below 0.3 %.
    assert share == pytest.approx(np.full(10, 0.1), abs=0.012)


@pytest.mark.parametrize(("law", "shape"), [("gamma", 1e-3), ("weibull", 1e-3), ("gamma", 1e-300), ("weibull", 0.02)])
def test_tiny_shapes_keep_the_count(law: str, shape: float) -> None:
    found = everything(play(counts((0, "a", 500), law=law, shape=shape))).ns
    assert found.size == 500
    assert 0 <= found[0] <= found[-1] < 10 * SECOND


def test_any_bin_can_be_drawn_alone() -> None:
    bins = [(10 * k, name, 50 + k) for k in range(5) for name in ("a", "b")]
    for law in ("poisson", "gamma"):
        whole = everything(play(counts(*bins, law=law, shape=0.5), services=("a", "b")))
        alone = everything(play(counts(bins[7], law=law, shape=0.5), services=("b",)))
        b = whole.ns[whole.offsets[1] :]
        assert alone.ns.tolist() == b[(b >= 30 * SECOND) & (b < 40 * SECOND)].tolist()


def test_seeds_services_and_bins_differ() -> None:
    bins = counts((0, "a", 50), (0, "b", 50), (10, "a", 50), law="gamma", shape=0.5)
    one = everything(play(bins, services=("a", "b")))
    other = everything(play(bins, services=("a", "b"), seed=1))
    a, b = one.ns[: one.offsets[1]], one.ns[one.offsets[1] :]
    assert a[:50].tolist() != b.tolist()
    assert (a[:50] + 10 * SECOND).tolist() != a[50:].tolist()
    assert one.ns.tolist() != other.ns.tolist()


def test_bounds_cut_bins_and_change_nothing_else() -> None:
    bins = counts((0, "a", 100), (10, "a", 100), (20, "a", 100))
    whole = everything(play(bins)).ns
    part = play(bins, begin_ns=5 * SECOND, end_s=22)
    assert part.span_ns == 17 * SECOND
    inside = whole[(whole >= 5 * SECOND) & (whole < 22 * SECOND)]
    assert everything(part).ns.tolist() == (inside - 5 * SECOND).tolist()


def test_speed_compresses_time() -> None:
    slow = everything(play(counts((20, "a", 100), law="even"), begin_ns=10 * SECOND)).ns
    fast = play(counts((20, "a", 100), law="even"), begin_ns=10 * SECOND, speed=2.5)
    assert fast.span_ns == 36 * SECOND
    assert everything(fast).ns == pytest.approx(slow / 2.5, abs=1)


def test_several_services_of_the_trace_become_one() -> None:
    bins = counts((0, "x/1", 40), (0, "x/2", 60), (0, "y/1", 7), (10, "x/1", 5), law="gamma", shape=0.5)
    source = play(bins, services=("one",), rules={"x/*": "one"})
    found = everything(source).ns
    assert found.size == 105
    assert (np.diff(found) >= 0).all()
    assert source.dropped == 7


@pytest.mark.parametrize("order", [1, -1])
def test_the_pattern_that_says_most_counts_whatever_the_order(order: int) -> None:
    rules = {"x/1": "a", "x/*": "b", "y": "*", "x*": None}
    mapping = ServiceMap(dict(list(rules.items())[::order]), ["a", "b"])
    names = ["x/1", "x/2", "y", "z"]
    assert [mapping.target(name) for name in names] == ["a", "b", None, None]
    assert mapping.indices(np.array(names, object)).tolist() == [0, 1, -1, -1]


def test_the_very_name_counts_before_patterns_and_none_leaves_out() -> None:
    mapping = ServiceMap({"*": "a", "m[1]": "b", "x": None}, ["a", "b"])
    assert [mapping.target(name) for name in ("m[1]", "m1", "x")] == ["b", "b", None]


def test_without_names_services_come_in_the_order_of_the_trace() -> None:
    mapping = ServiceMap()
    assert mapping.indices(np.array(["q", "p", "q"], object)).tolist() == [0, 1, 0]
    assert mapping.services == ("q", "p")


def test_requests_are_grouped_by_service_and_keep_their_sizes() -> None:
    names = np.array(["b", "a", "a", "b", "c"], object)
    rows = Rows(
        np.array([1, 2, 3, 4, 5]), names, np.array([10, 20, np.nan, 40, 50], np.float32), np.zeros(5, np.float32)
    )
    source = play(rows, services=("a", "b"))
    first = source.until(4)
    assert first.ns.tolist() == [2, 3, 1]
    assert first.offsets.tolist() == [0, 2, 3]
    assert first.size.tolist() == [20, 1, 10]  # an unknown size counts as 1
    assert source.until(100).ns.tolist() == [4]
    assert source.until(100).ns.size == 0
    assert source.dropped == 1


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ConfigError, match="no law 'cauchy'"):
        everything(play(counts((0, "a", 1), law="cauchy")))
    with pytest.raises(ConfigError, match="empty"):
        play(end_s=0)
    with pytest.raises(ConfigError, match="must not be negative"):
        ProcessArrivals(["a"], [-1.0], span_s=1)


@pytest.mark.parametrize(
    ("process", "shape", "cv"),
    [("constant", 1.0, 0.0), ("poisson", 9.0, 1.0), ("gamma", 0.25, 2.0), ("gamma", 4.0, 0.5)],
)
def test_processes_have_the_rate_and_the_spread_asked_for(process: Process, shape: float, cv: float) -> None:
    source = ProcessArrivals(["a", "b", "none"], [3000.0, 100.0, 0.0], process=process, shape=shape, span_s=100)
    found = everything(source)
    a, b = found.ns[: found.offsets[1]], found.ns[found.offsets[1] : found.offsets[2]]
    assert found.offsets[3] == found.offsets[2]
    # The number of renewals in t has the variance rate*t*cv**2: five standard deviations.
    assert a.size == pytest.approx(300_000, abs=1 + 5 * cv * np.sqrt(300_000))
    assert b.size == pytest.approx(10_000, abs=1 + 5 * cv * np.sqrt(10_000))
    assert gaps_cv(a) == pytest.approx(cv, abs=0.03)
    assert (found.size == 1).all()


def test_the_first_request_comes_inside_the_first_mean_gap() -> None:
    firsts = [
        ProcessArrivals(["a"], [1.0], process="constant", span_s=9, seed=s).until(9 * SECOND).ns for s in range(50)
    ]
    assert all(ns.size == 9 and ns[0] < SECOND for ns in firsts)
    assert len({int(ns[0]) for ns in firsts}) == 50
    assert all((np.diff(ns) == SECOND).all() for ns in firsts)


def test_a_service_does_not_depend_on_the_others() -> None:
    alone = everything(ProcessArrivals(["a"], [50.0], span_s=10, seed=3)).ns
    both = everything(ProcessArrivals(["a", "b"], [50.0, 70.0], span_s=10, seed=3))
    assert alone.tolist() == both.ns[: both.offsets[1]].tolist()
