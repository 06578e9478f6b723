"""The mix of input sizes, and what is planned with it."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest

from partita.model.load import Arrivals
from partita.model.mix import KNOWN_BEFORE, as_given, as_seen
from partita.model.service import Bucket, LatencyCurve, Service
from partita.model.staggered import fluid_rps, gpus_needed, staggered_rps


def curve(ms: float, over: float, up_to: float) -> LatencyCurve:
    """Return a curve of one batch only: single requests."""
    return LatencyCurve("whole", ((1, ms / 1e3),), Bucket(over, up_to))


SIZED = Service.measured("text", 0.2, 0.99, 1.0, [curve(5, 0, 128), curve(20, 128, 512), curve(100, 512, 1024)])
PLAIN = Service("plain", 0.2, 0.99, 1.0, (LatencyCurve("whole", ((1, 0.01),)),))


def recent(*sizes: list[float]) -> Arrivals:
    offsets = np.cumsum([0, *map(len, sizes)]).astype(np.int64)
    flat = np.array([size for of_service in sizes for size in of_service], np.float32)
    return Arrivals(np.arange(len(flat)), offsets, flat)


def test_a_mix_that_is_given_falls_into_buckets_up_to_their_edges() -> None:
    given = as_given(SIZED, {1.0: 0.5, 128.0: 0.2, 128.5: 0.1, 1024.0: 0.15, 5000.0: 0.05})
    assert given.mix == pytest.approx((0.7, 0.1, 0.2)), "what is too large for all counts as of the largest"
    assert as_given(PLAIN, {1.0: 1.0}) is PLAIN


def test_a_mix_that_is_seen_weighs_more_than_what_was_known_the_more_was_seen() -> None:
    assert as_seen((SIZED,), None) == (SIZED,)
    assert as_seen((SIZED,), recent([]))[0].mix == (0.0, 0.0, 1.0), "nothing is known: all are of the largest"
    few, many = (as_seen((PLAIN, SIZED), recent([7.0], [100.0] * n)) for n in (KNOWN_BEFORE, 99 * KNOWN_BEFORE))
    assert few[0] is many[0] is PLAIN
    assert few[1].mix == pytest.approx((0.5, 0.0, 0.5))
    assert many[1].mix == pytest.approx((0.99, 0.0, 0.01))
    known = replace(SIZED, mix=(0.5, 0.5, 0.0))
    assert as_seen((known,), recent([300.0] * KNOWN_BEFORE))[0].mix == pytest.approx((0.25, 0.75, 0.0))


def test_a_size_that_nobody_logged_counts_as_of_the_largest() -> None:
    [seen] = as_seen((replace(SIZED, mix=(1.0, 0.0, 0.0)),), recent([nan] * KNOWN_BEFORE))
    assert seen.mix == (0.5, 0.0, 0.5)


def test_what_is_planned_counts_on_the_mix() -> None:
    """Single requests of 5, 20 and 100 ms; 60, 30 and 10 of a hundred take 300 + 600 + 1000 ms together."""
    mixed = replace(SIZED, mix=(0.6, 0.3, 0.1))
    assert gpus_needed([SIZED], [100.0]) == pytest.approx(10.0), "not known: all are of the largest"
    assert gpus_needed([mixed], [100.0]) == pytest.approx(1.9)
    assert gpus_needed([mixed, PLAIN], [100.0, 50.0]) == pytest.approx(2.4)
    assert fluid_rps([mixed, PLAIN], [2, 1], 2.4) == pytest.approx(150.0)
    assert staggered_rps([mixed, PLAIN], [2, 1], 2.4) == pytest.approx(150.0)
    assert mixed.gpu_time_s("whole") == pytest.approx(0.019)
    assert mixed.gpu_time_s("3g.40gb") == inf


def test_whether_a_request_can_be_served_in_time_is_asked_of_the_largest() -> None:
    mixed = replace(SIZED, mix=(1.0, 0.0, 0.0))
    largest = mixed.curve("whole")
    assert largest is not None
    assert largest.latency_s(1) == 0.1
    assert mixed.largest_batch("whole", 0.05) == 0
