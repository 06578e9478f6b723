"""Regular series: what is counted, what is missing, what is only begun, and what came too late."""

from __future__ import annotations

import numpy as np
import pytest

from partita.errors import ConfigError
from partita.model.load import Load
from partita.ports import Counts, Rows
from partita.traces.series import dispersion, roll_up
from partita.traces.services import ServiceMap
from partita.traces.sizes import merged, sizes_of

NAN = np.nan


def rows(*requests: tuple[float, str], size: float = NAN) -> Rows:
    at = np.array([round(s * 1e9) for s, _ in requests], np.int64)
    names = np.array([name for _, name in requests], object)
    return Rows(at, names, np.full(len(at), size, np.float32), np.full(len(at), NAN, np.float32))


def counts(*bins: tuple[float, str, int]) -> Counts:
    at = np.array([round(s * 1e9) for s, _, _ in bins], np.int64)
    names, number = np.array([name for _, name, _ in bins], object), np.array([n for _, _, n in bins], np.int64)
    return Counts(at, names, number, np.full(len(at), "poisson", object), np.ones(len(at)))


def test_requests_are_counted_where_a_step_is_whole() -> None:
    # Steps of 10 s. The trace begins within [0, 10), which is not whole; the last request at 34 s cuts [30, 40).
    found = roll_up([rows((4.0, "a"), (11.0, "a")), rows((12.0, "b"), (19.9, "a"), (34.0, "a"))], 10.0)
    assert found.load.services == ("a", "b")
    assert found.load.start_s == 10.0
    assert found.load.counts.tolist() == [[2.0, 0.0], [1.0, 0.0]]
    assert found.rest.tolist() == [1.0, 0.0]
    assert found.rest_s == pytest.approx(4.0, abs=1e-6)
    assert found.missing.tolist() == [0, 0]


def test_nothing_after_the_watermark_is_read_as_load() -> None:
    block = rows((0.0, "a"), (15.0, "a"), (21.0, "a"), (29.0, "a"), (30.0, "a"))
    found = roll_up([block], 10.0, watermark_s=25.0)
    assert found.load.counts.tolist() == [[1.0, 1.0]]
    assert (found.rest.tolist(), found.rest_s) == ([1.0], 5.0)
    assert found.beyond == 2
    whole = roll_up([block], 10.0, begin_s=0.0, watermark_s=50.0)  # complete for longer than anything came
    assert whole.load.counts.tolist() == [[1.0, 1.0, 2.0, 1.0, 0.0]]
    assert (whole.rest_s, whole.beyond) == (0.0, 0)


def test_a_step_that_touches_a_gap_is_missing_and_not_zero() -> None:
    block = rows((0.0, "a"), (12.0, "a"), (45.0, "a"))
    found = roll_up([block], 10.0, begin_s=0.0, watermark_s=60.0, gaps=[(18.0, 30.0), (55.0, 99.0)])
    np.testing.assert_array_equal(found.load.counts, [[1.0, NAN, NAN, 0.0, 1.0, NAN]])
    assert found.missing.tolist() == [3]


def test_a_bin_without_an_entry_is_missing() -> None:
    block = counts((0, "a", 5), (0, "b", 0), (60, "a", 7), (120, "a", 1), (120, "b", 2), (180, "b", 3), (180, "a", 0))
    minutes = roll_up([block], 60.0, bin_s=60.0)
    np.testing.assert_array_equal(minutes.load.counts, [[5, 7, 1, 0], [0, NAN, 2, 3]])
    pairs = roll_up([block], 120.0, bin_s=60.0)
    np.testing.assert_array_equal(pairs.load.counts, [[12, 1], [NAN, 5]])
    assert pairs.rest_s == 0.0


def test_a_bin_that_the_watermark_cuts_is_not_counted() -> None:
    found = roll_up([counts((0, "a", 5), (60, "a", 7))], 60.0, bin_s=60.0, watermark_s=90.0)
    assert found.load.counts.tolist() == [[5.0]]
    assert (found.beyond, found.rest_s) == (7, 30.0)


def test_bins_that_lie_askew_keep_their_own_grid() -> None:
    found = roll_up([counts((95, "a", 5), (395, "a", 7))], 600.0, bin_s=300.0)
    assert found.load.start_s == 95.0
    assert found.load.counts.tolist() == [[12.0]]


def test_bins_cannot_be_cut() -> None:
    with pytest.raises(ConfigError, match="steps of 90 s cannot be made of bins of 60 s"):
        roll_up([counts((0, "a", 5))], 90.0, bin_s=60.0)


def test_only_mapped_services_count() -> None:
    found = roll_up([rows((0.0, "a"), (0.5, "b"), (1.0, "c"))], 1.0, mapping=ServiceMap({"a": "x", "b": "x"}))
    assert found.load.services == ("x",)
    assert found.load.counts.tolist() == [[2.0]]


def test_late_rows_are_told() -> None:
    assert roll_up([rows((0.0, "a"), (1.0, "a"))], 1.0, late={"a": 3}).late == {"a": 3}


def test_an_empty_stream_is_an_empty_series() -> None:
    assert roll_up([], 1.0).load.counts.shape == (0, 0)


def test_many_blocks_are_added_up() -> None:
    blocks = [rows(*((float(s), "a") for s in range(n, n + 10))) for n in range(0, 2000, 10)]
    assert roll_up(blocks, 10.0, watermark_s=2000.0).load.counts.tolist() == [[10.0] * 200]


def test_dispersion_by_hand() -> None:
    # Windows (2, 4) and (0, 2): variances 2 and 2, means 3 and 1, so 4/4.
    load = Load(("a", "b", "c"), 0.0, 1.0, np.array([[2.0, 4, 0, 2], [5, 5, NAN, 5], [0, 0, NAN, NAN]]))
    np.testing.assert_allclose(dispersion(load, window_steps=2), [1.0, 0.0, NAN])


def test_dispersion_of_poisson_arrivals_with_a_cycle_is_one() -> None:
    rng = np.random.default_rng(3)
    rate = 50 + 40 * np.sin(np.arange(14_400) / 14_400 * 2 * np.pi)
    load = Load(("a",), 0.0, 10.0, rng.poisson(rate)[None].astype(float))
    assert dispersion(load)[0] == pytest.approx(1.0, abs=0.05)
    assert dispersion(load, window_steps=14_400)[0] > 10  # the cycle itself is not burstiness


def test_sizes_are_known_to_a_hundredth() -> None:
    rng = np.random.default_rng(5)
    drawn = rng.lognormal(6, 1.5, 5000)
    block = rows(*((float(n), "a") for n in range(5000)))
    block.size[:] = drawn
    found = sizes_of([block, rows((9999.0, "b"))])
    for level in (0.01, 0.5, 0.95, 0.99):
        assert found.quantile(level)[0] == pytest.approx(np.quantile(drawn, level, method="inverted_cdf"), rel=0.0101)
    assert np.isnan(found.quantile(0.5)[1])
    assert found.unknown.tolist() == [0, 1]
    shares = found.shares([100.0, 1000.0])[0]
    assert shares == pytest.approx(
        [(drawn <= 100).mean(), ((drawn > 100) & (drawn <= 1000)).mean(), (drawn > 1000).mean()], abs=0.01
    )
    both = merged(found, found)
    assert both.quantile(0.5)[0] == found.quantile(0.5)[0]
    assert both.unknown.tolist() == [0, 2]


def test_sizes_of_nothing_stand_for_themselves() -> None:
    found = sizes_of([rows((0.0, "a"), size=0.0), rows((1.0, "a"), size=0.0), rows((2.0, "a"), size=8.0)])
    assert found.quantile(0.5)[0] == 0.0
    assert found.quantile(1.0)[0] == pytest.approx(8.0, rel=0.01)
