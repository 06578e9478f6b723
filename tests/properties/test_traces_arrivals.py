"""However time is cut, the same requests come; counts are kept; tables come back as they were written."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from partita.ports import Counts, Rows
from partita.traces import detect
from partita.traces.arrivals import ArrivalSource, ProcessArrivals, TraceArrivals
from partita.traces.blocks import join_counts, pick
from partita.traces.services import ServiceMap
from partita.traces.writers import SUFFIXES, write_trace

SECOND = 1_000_000_000
WIDTH_S = 10
NAMES = ("a", "b", "c")
LAWS = st.sampled_from(["even", "poisson", "gamma", "weibull"])


@st.composite
def count_traces(draw: st.DrawFn) -> Counts:
    keys = sorted(draw(st.sets(st.tuples(st.integers(0, 20), st.sampled_from(NAMES)), min_size=1, max_size=25)))
    size = len(keys)
    return Counts(
        np.array([k * WIDTH_S * SECOND for k, _ in keys]),
        np.array([name for _, name in keys], object),
        np.array(draw(st.lists(st.integers(0, 300), min_size=size, max_size=size))),
        np.array(draw(st.lists(LAWS, min_size=size, max_size=size)), object),
        np.array(draw(st.lists(st.floats(0.05, 20), min_size=size, max_size=size))),
    )


@st.composite
def row_traces(draw: st.DrawFn) -> Rows:
    at = sorted(draw(st.lists(st.integers(0, 200 * SECOND), min_size=1, max_size=60)))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=len(at), max_size=len(at)))
    size = st.one_of(st.just(np.nan), st.floats(0, 1e6, width=32))
    sizes = [draw(st.lists(size, min_size=len(at), max_size=len(at))) for _ in range(2)]
    return Rows(np.array(at), np.array(names, object), *(np.array(s, np.float32) for s in sizes))


def cut_blocks(trace: Rows | Counts, cuts: list[int]) -> list[Rows | Counts]:
    edges = [0, *sorted(c % (trace.at_ns.size + 1) for c in cuts), trace.at_ns.size]
    return [pick(trace, slice(low, high)) for low, high in pairwise(edges)]


def pull(source: ArrivalSource, cuts: list[float]) -> list[list[tuple[int, float]]]:
    """Pull up to each cut and to the end; return (instant, size) by service."""
    found: list[list[tuple[int, float]]] = [[] for _ in source.services]
    before = 0
    for until in [*sorted(int(c * source.span_ns) for c in cuts), source.span_ns]:
        part = source.until(until)
        assert ((part.ns >= before) & (part.ns < until)).all()
        for service, (low, high) in enumerate(zip(part.offsets[:-1], part.offsets[1:], strict=True)):
            assert (np.diff(part.ns[low:high]) >= 0).all()
            found[service] += list(zip(part.ns[low:high].tolist(), part.size[low:high].tolist(), strict=True))
        before = until
    assert len(source.until(3 * source.span_ns)) == 0
    return found


cuts_of_time = st.lists(st.floats(0, 1), max_size=12)
cuts_of_blocks = st.lists(st.integers(0, 100), max_size=4)
speeds = st.sampled_from([1.0, 2.0, 0.3])


@given(st.one_of(count_traces(), row_traces()), cuts_of_time, cuts_of_blocks, speeds, st.integers(0, 3))
@settings(deadline=None, max_examples=150)
def test_any_cutting_of_time_and_blocks_gives_the_same_requests(
    trace: Rows | Counts, times: list[float], blocks: list[int], speed: float, seed: int
) -> None:
    def source(parts: list[Rows | Counts]) -> TraceArrivals:
        mapping = ServiceMap({"a": "x", "*": "y"}, ["x", "y"])
        return TraceArrivals(
            parts, mapping, begin_ns=7 * SECOND, end_ns=190 * SECOND, bin_s=WIDTH_S, speed=speed, seed=seed
        )

    assert pull(source(cut_blocks(trace, blocks)), times) == pull(source([trace]), [])


@given(
    st.lists(st.floats(0.1, 3000), min_size=1, max_size=3),
    st.sampled_from(["constant", "poisson", "gamma"]),
    st.floats(0.1, 10),
    cuts_of_time,
)
@settings(deadline=None, max_examples=50)
def test_any_cutting_of_time_gives_the_same_process(
    rates: list[float], process: str, shape: float, times: list[float]
) -> None:
    def source() -> ProcessArrivals:
        return ProcessArrivals(NAMES[: len(rates)], rates, process=process, shape=shape, span_s=5)  # type: ignore[arg-type]

    assert pull(source(), times) == pull(source(), [])


@given(count_traces(), st.integers(0, 5))
@settings(deadline=None)
def test_each_bin_holds_its_count(trace: Counts, seed: int) -> None:
    end_ns = 21 * WIDTH_S * SECOND
    source = TraceArrivals([trace], ServiceMap(services=NAMES), begin_ns=0, end_ns=end_ns, bin_s=WIDTH_S, seed=seed)
    for name, requests in zip(NAMES, pull(source, []), strict=True):
        mine = pick(trace, trace.service == name)
        bins = np.array([at for at, _ in requests], np.int64) // (WIDTH_S * SECOND)
        expected = np.zeros(21, np.int64)
        expected[mine.at_ns // (WIDTH_S * SECOND)] = mine.count
        assert np.bincount(bins, minlength=21).tolist() == expected.tolist()


@given(st.one_of(count_traces(), row_traces()), cuts_of_blocks, st.sampled_from(SUFFIXES))
@settings(deadline=None, max_examples=40)
def test_a_written_table_comes_back(trace: Rows | Counts, blocks: list[int], suffix: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"trace{suffix}"
        assert write_trace(path, cut_blocks(trace, blocks), bin_s=float(WIDTH_S)) == trace.at_ns.size
        reader = detect(path)
        width, found = reader.info(path).bin_s, list(reader.blocks(path))
        assert [p.name for p in Path(folder).iterdir()] == [path.name]
    if isinstance(trace, Counts):
        assert width == WIDTH_S
        back = join_counts([b for b in found if isinstance(b, Counts)])
        assert back.count.tolist() == trace.count.tolist()
        assert back.law.tolist() == trace.law.tolist()
        assert back.shape.tolist() == trace.shape.tolist()
        columns = (back.at_ns, back.service)
    else:
        rows = [b for b in found if isinstance(b, Rows)]
        for column in ("size", "output_size"):
            parts = np.concatenate([getattr(b, column) for b in rows])
            np.testing.assert_array_equal(parts, getattr(trace, column))
        columns = np.concatenate([b.at_ns for b in rows]), np.concatenate([b.service for b in rows])
    assert columns[0].tolist() == trace.at_ns.tolist()
    assert columns[1].tolist() == trace.service.tolist()
