"""Traces renamed, thinned, played faster, moved and put together: as blocks, and as arrivals however time is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partita.errors import ConfigError, TraceError
from partita.model.load import Arrivals
from partita.ports import Counts, Rows, TraceInfo
from partita.traces.arrivals import ArrivalSource, ProcessArrivals, TraceArrivals
from partita.traces.blocks import join, join_counts, join_rows, pick
from partita.traces.changes import Changed, Changes
from partita.traces.moving import as_fraction, parse_shift, scaled
from partita.traces.services import ServiceMap
from partita.traces.superposition import Later, Superposed, merge
from partita.traces.thinning import Thinned, Thinning, thinned

SECOND = 1_000_000_000
PATH = Path("trace")


class Held:
    """A reader of blocks that are at hand."""

    name = "held"

    def __init__(self, *blocks: Rows | Counts, bin_s: float | None = None) -> None:
        self.held, self.bin_s = blocks, bin_s

    def recognises(self, path: Path, head: str) -> bool:
        return False

    def info(self, path: Path) -> TraceInfo:
        return TraceInfo(self.name, "requests" if self.bin_s is None else "counts", self.bin_s)

    def blocks(self, path: Path) -> Iterator[Rows | Counts]:
        yield from self.held


def requests(at_ns: Iterable[int], services: str = "ab", seed: int = 0) -> Rows:
    at = np.sort(np.fromiter(at_ns, np.int64))
    names = np.random.default_rng(seed).choice(np.array(list(services), object), at.size)
    return Rows(at, names, np.arange(at.size).astype(np.float32), np.zeros(at.size, np.float32))


def bins(width_s: int, counts: list[int], service: str = "a", law: str = "poisson", start_s: int = 0) -> Counts:
    size = len(counts)
    at_ns = (np.arange(size) * width_s + start_s) * SECOND
    laws, names = np.full(size, law, object), np.full(size, service, object)
    return Counts(at_ns, names, np.array(counts), laws, np.ones(size))


def all_of(blocks: Iterable[Rows | Counts]) -> Any:
    return join(list(blocks))


def cut_up(block: Any, places: list[int]) -> list[Any]:
    edges = sorted({0, block.at_ns.size, *(p % (block.at_ns.size + 1) for p in places)})
    return [pick(block, slice(low, high)) for low, high in pairwise(edges)]


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in type(one).__slots__)


def drawn(source: ArrivalSource, cuts: Iterable[int]) -> Arrivals:
    found = Arrivals.empty(len(source.services))
    for at in [*sorted(cuts), source.span_ns]:
        part = source.until(at)
        assert not (part.ns >= at).any()
        found = found.followed_by(part)
    return found


def trace_of(block: Rows | Counts, span_s: int, *, bin_s: float | None = None) -> TraceArrivals:
    return TraceArrivals([block], ServiceMap(services=["a", "b"]), begin_ns=0, end_ns=span_s * SECOND, bin_s=bin_s)


instants = st.lists(st.integers(0, 60 * SECOND), min_size=1, max_size=60)
coarse = st.lists(st.integers(0, 5).map(lambda s: s * SECOND), min_size=1, max_size=60)
cuts = st.lists(st.integers(0, 60 * SECOND), max_size=6)

# Thinning -------------------------------------------------------------------------------------------------------------


@given(st.one_of(instants, coarse), st.lists(st.integers(0, 100), max_size=5), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_what_is_kept_does_not_depend_on_the_blocks(at_ns: list[int], places: list[int], seed: int) -> None:
    block, thinning = requests(at_ns), Thinning({"a": 0.4, "*": 0.7}, seed)
    whole = all_of(thinned([block], thinning))
    assert same(whole, all_of(thinned(cut_up(block, places), thinning)))


@given(st.one_of(instants, coarse), cuts)
@settings(deadline=None, max_examples=60)
def test_arrivals_kept_are_those_kept_of_the_trace_however_time_is_cut(at_ns: list[int], at: list[int]) -> None:
    block, thinning = requests(at_ns), Thinning({"*": 0.5}, 3)
    found = drawn(Thinned(trace_of(block, 61), thinning), at)
    kept = all_of(thinned([block], thinning))
    for s, name in enumerate("ab"):
        rows = slice(found.offsets[s], found.offsets[s + 1])
        assert found.ns[rows].tolist() == kept.at_ns[kept.service == name].tolist()
        assert found.size[rows].tolist() == kept.size[kept.service == name].tolist()


def test_a_smaller_share_is_part_of_a_larger_one_and_as_large_as_it_says() -> None:
    block = requests(np.random.default_rng(1).integers(0, 60 * SECOND, 40_000).tolist())
    few, many = (all_of(thinned([block], Thinning({"*": share}, 5))) for share in (0.1, 0.3))
    assert set(few.size.tolist()) < set(many.size.tolist())
    # 40,000 chances of 0.3: standard deviation sqrt(40000 * 0.3 * 0.7) = 92; five of them.
    assert abs(many.at_ns.size - 12_000) < 460
    assert all_of(thinned([block], Thinning({"*": 0.3}, 6))).size.tolist() != many.size.tolist()


def test_requests_of_one_instant_have_chances_of_their_own() -> None:
    block = requests([7] * 2000, services="a")
    kept = all_of(thinned([block], Thinning({"a": 0.5}))).at_ns.size
    # Standard deviation sqrt(2000 / 4) = 22; five of them.
    assert abs(kept - 1000) < 112


def test_counts_are_thinned_by_the_same_chance_and_stay_counts() -> None:
    block = bins(60, [1000] * 200)
    kept = all_of(thinned([block], Thinning({"a": 0.25})))
    assert same(kept, all_of(thinned(cut_up(block, [3, 50]), Thinning({"a": 0.25}))))
    # 200,000 chances of 0.25: standard deviation 194; and a bin's is sqrt(1000 * 0.25 * 0.75) = 13.7.
    assert abs(kept.count.sum() - 50_000) < 970
    assert 11 < kept.count.std() < 17
    assert kept.law.tolist() == block.law.tolist()


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_shares_that_are_none(share: float) -> None:
    with pytest.raises(ConfigError, match="is not a share above 0 and up to 1"):
        Thinning({"a": share})


# Speed and start ------------------------------------------------------------------------------------------------------


@given(st.integers(-(2**62), 2**62), st.fractions(Fraction(1, 5000), 5000, max_denominator=10_000))
def test_times_are_divided_exactly(after_ns: int, speed: Fraction) -> None:
    exact = after_ns * speed.denominator // speed.numerator
    if abs(exact) < 2**63 and abs(after_ns // speed.numerator * speed.denominator) < 2**63:
        assert scaled(np.array([after_ns]), speed).tolist() == [exact]


@pytest.mark.parametrize(("text", "by_s"), [("+2d", 172_800), ("-90", -90), ("+1.5h", 5400), ("1970-01-01T00:10", 500)])
def test_shifts(text: str, by_s: int) -> None:
    assert parse_shift(text, origin_ns=100 * SECOND, key="--shift") == by_s * SECOND


@pytest.mark.parametrize("text", ["2d", "90", "soon", "+soon", ""])
def test_shifts_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--shift"):
        parse_shift(text, origin_ns=0, key="--shift")


@pytest.mark.parametrize("speed", [0.0, -1.0, float("inf"), float("nan"), 1e-9, 1e12])
def test_speeds_that_are_none(speed: float) -> None:
    with pytest.raises(ConfigError, match="is not a speed"):
        as_fraction(speed)


def test_a_trace_played_faster_keeps_its_start_and_its_counts() -> None:
    changed = Changed([(Held(bins(60, [5, 0, 7], start_s=600), bin_s=60.0), PATH, Changes(speed=4.0, shift="+1h"))])
    assert changed.info == TraceInfo("held", "counts", 15.0)
    found = all_of(changed)
    assert (found.at_ns / SECOND).tolist() == [4200, 4215, 4230]
    assert found.count.tolist() == [5, 0, 7]


def test_a_trace_moved_beyond_time_is_refused() -> None:
    changed = Changed([(Held(requests([2**62])), PATH, Changes(speed=0.001))])
    with pytest.raises(TraceError, match="is moved beyond the years 1678 to 2262"):
        list(Changed([(Held(requests([0, 2**62])), PATH, Changes(speed=0.001))]))
    assert all_of(changed).at_ns.tolist() == [2**62]


def test_cut_then_renamed_then_thinned_then_moved() -> None:
    block = requests(range(0, 100 * SECOND, SECOND), services="ab")
    changes = Changes(services={"a": "x"}, begin="10", end="50", thin={"x": 1.0}, speed=2.0, shift="1970-01-02")
    changed = Changed([(Held(block), PATH, changes)])
    found = all_of(changed)
    inside = (block.at_ns >= 10 * SECOND) & (block.at_ns < 50 * SECOND)
    chosen = block.at_ns[inside & (block.service == "a")]
    assert found.at_ns.tolist() == (86_400 * SECOND + (chosen - 10 * SECOND) // 2).tolist()
    assert set(found.service.tolist()) == {"x"}
    assert changed.dropped == int((inside & (block.service == "b")).sum())


# Several at once ------------------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(instants, coarse), min_size=1, max_size=3), st.lists(st.integers(0, 100), max_size=5))
@settings(deadline=None, max_examples=60)
def test_merged_traces_rise_and_lose_nothing_whatever_the_blocks(traces: list[list[int]], places: list[int]) -> None:
    blocks = [requests(at_ns, seed=n) for n, at_ns in enumerate(traces)]
    whole = join_rows(blocks)
    wanted = pick(whole, np.argsort(whole.at_ns, kind="stable"))
    assert same(all_of(merge([cut_up(block, places) for block in blocks])), wanted)


def test_bins_of_one_service_and_instant_are_added() -> None:
    one, other = Held(bins(60, [5, 6, 7]), bin_s=60.0), Held(bins(60, [10, 20], start_s=6000), bin_s=60.0)
    aligned = all_of(Changed([(one, PATH, Changes()), (other, PATH, Changes())]))
    assert aligned.count.tolist() == [15, 26, 7]
    dated = all_of(Changed([(one, PATH, Changes()), (other, PATH, Changes())], "dated"))
    assert dated.count.tolist() == [5, 6, 7, 10, 20]


def test_unlike_traces_become_one_only_when_drawn() -> None:
    members = [(Held(requests([5 * SECOND])), PATH), (Held(bins(60, [5, 6]), bin_s=60.0), PATH)]
    with pytest.raises(ConfigError, match=r"trace holds counts in bins of 60 s, trace requests: only like traces"):
        Changed([(reader, path, Changes()) for reader, path in members])
    found = all_of(Changed([(reader, path, Changes(raw=True)) for reader, path in members]))
    assert found.at_ns.size == 12
    assert found.at_ns[0] >= 5 * SECOND


def test_two_like_traces_are_not_drawn_alike() -> None:
    held = Held(bins(60, [50, 50]), bin_s=60.0)
    found = all_of(Changed([(held, PATH, Changes(raw=True)), (held, PATH, Changes(raw=True))]))
    assert np.unique(found.at_ns).size == 200


def sources() -> list[Callable[[], ArrivalSource]]:
    rows = requests(np.random.default_rng(4).integers(0, 50 * SECOND, 300).tolist())
    counts = bins(20, [30, 0, 25], service="b", law="gamma")
    return [
        lambda: Superposed([trace_of(rows, 51), trace_of(counts, 60, bin_s=20.0)]),
        lambda: Later(trace_of(rows, 51), 7 * SECOND),
        lambda: Thinned(Superposed([trace_of(rows, 51), Later(trace_of(rows, 51), SECOND)]), Thinning({"a": 0.3}, 1)),
        lambda: Superposed([ProcessArrivals(["c"], [5.0], span_s=30.0), Later(trace_of(rows, 51), 9)]),
    ]


@pytest.mark.parametrize("made", sources())
@given(at=cuts)
@settings(deadline=None, max_examples=25)
def test_decorated_sources_give_the_same_however_time_is_cut(made: Callable[[], ArrivalSource], at: list[int]) -> None:
    whole, source = made(), made()
    wanted, found = whole.until(whole.span_ns), drawn(source, (t for t in at if t < source.span_ns))
    assert len(wanted) > 100
    assert all(np.array_equal(getattr(found, n), getattr(wanted, n)) for n in ("ns", "offsets", "size"))


def test_superposed_sources_hold_what_each_holds() -> None:
    rows, counts = requests(range(0, 50 * SECOND, SECOND)), bins(20, [30, 0, 25], service="b")
    parts = [trace_of(rows, 51), Later(trace_of(counts, 60, bin_s=20.0), 5 * SECOND)]
    both = Superposed(parts)
    assert (both.services, both.origin_ns, both.span_ns) == (("a", "b"), 0, 65 * SECOND)
    found = both.until(both.span_ns)
    alone = [s.until(s.span_ns) for s in (trace_of(rows, 51), Later(trace_of(counts, 60, bin_s=20.0), 5 * SECOND))]
    for s in range(2):
        wanted = np.sort(np.concatenate([a.ns[a.offsets[s] : a.offsets[s + 1]] for a in alone]))
        assert found.ns[found.offsets[s] : found.offsets[s + 1]].tolist() == wanted.tolist()


def test_joining_keeps_kinds_apart() -> None:
    assert isinstance(join([bins(60, [1]), bins(60, [2])]), Counts)
    assert same(join([bins(60, [1])]), join_counts([bins(60, [1])]))
