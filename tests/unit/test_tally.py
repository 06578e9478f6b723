"""Counting requests: fates, spans and histogram classes, against plain Python."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from partita.kernels.tally import CLASSES, FLOOR_NS, PER_OCTAVE, add_per_second, busy_ns, tally

MS = 1_000_000
SECOND = 1_000_000_000


def count(
    ns: list[int], start: list[int], finish: list[int], *, offsets: list[int], slo: list[int], span: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    services = len(offsets) - 1
    settled, counts = np.zeros((services, 4), np.int64), np.zeros((services, 4), np.int64)
    latencies, queueing = np.zeros(CLASSES, np.int64), np.zeros(CLASSES, np.int64)
    at, edges, starts, ends, limits = (np.array(x, np.int64) for x in (ns, offsets, start, finish, slo))
    tally(at, edges, starts, ends, limits, *span, settled, counts, latencies, queueing)
    return settled, counts, latencies, queueing


def test_each_fate_is_counted_once() -> None:
    """Arrived at 10 ms, SLO 5: finished at 14 (good), at 15 (late, since good is before), dropped, waiting."""
    settled, counts, latencies, queueing = count(
        [10 * MS] * 4 + [20 * MS],
        [11 * MS, 11 * MS, 0, 0, 20 * MS],
        [14 * MS, 15 * MS, -1, 0, 21 * MS],
        offsets=[0, 4, 4, 5],
        slo=[5 * MS] * 3,
        span=(0, SECOND),
    )
    expected = [[3, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert settled.tolist() == counts.tolist() == expected
    assert latencies.sum() == queueing.sum() == 3


def test_only_the_counted_span_is_scored_and_all_is_settled() -> None:
    settled, counts, latencies, _ = count(
        [9, 10, 19, 20], [9, 10, 19, 20], [10, 11, -1, 21], offsets=[0, 4], slo=[5], span=(10, 20)
    )
    assert settled.tolist() == [[4, 3, 0, 1]]
    assert counts.tolist() == [[2, 1, 0, 1]]
    assert latencies.sum() == 1


@pytest.mark.parametrize("ns", [0, 1, 999, 1000, 1001, 1023, 5 * MS, 25 * MS, 3 * SECOND, 80_000 * SECOND])
def test_a_time_falls_into_its_class(ns: int) -> None:
    *_, queueing = count([7], [7 + ns], [7 + 2 * ns + 1], offsets=[0, 1], slo=[1], span=(0, SECOND))
    wanted = 0 if ns <= FLOOR_NS else min(CLASSES - 1, int(log2(ns / FLOOR_NS) * PER_OCTAVE))
    assert np.flatnonzero(queueing).tolist() == [wanted]
    if FLOOR_NS < ns < FLOOR_NS * 2**36:
        low, high = (FLOOR_NS * 2 ** (k / PER_OCTAVE) for k in (wanted, wanted + 1))
        assert low <= ns * (1 + 1e-12)
        assert ns < high * (1 + 1e-12)
        assert high / low < 1.022


@settings(max_examples=50, deadline=None, database=None)
@given(
    st.lists(st.tuples(st.integers(0, 5 * SECOND), st.integers(0, 2)), max_size=60),
    st.integers(0, 2),
    st.integers(0, 4),
)
def test_requests_a_second(requests: list[tuple[int, int]], since_s: int, seconds: int) -> None:
    by_service = [sorted(ns for ns, s in requests if s == k) for k in range(3)]
    offsets = np.cumsum([0, *map(len, by_service)])
    counts = np.zeros((3, seconds), np.int64)
    until = (since_s + seconds) * SECOND
    add_per_second(
        np.array([ns for group in by_service for ns in group], np.int64), offsets, since_s * SECOND, until, counts
    )
    for s, second in np.ndindex(counts.shape):
        begin = (since_s + second) * SECOND
        assert counts[s, second] == sum(begin <= ns < begin + SECOND for ns in by_service[s])


def test_busy_time_is_cut_to_the_span() -> None:
    start, finish = np.array([0, 50, 90, 200]), np.array([20, 70, 120, 300])
    assert busy_ns(start, finish, 10, 100) == 10 + 20 + 10
    assert busy_ns(start[:0], finish[:0], 10, 100) == 0
