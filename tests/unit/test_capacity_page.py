"""The page of a search for capacity: seeds joined, bounds drawn, what comes from outside escaped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from partita.controller.report.capacity import capacity_text, scans_of
from partita.controller.whatif.tables import capacity_remarks
from partita.plots import Scan, bad_rate_figure, goodput_by_rate

EVIL = "<script>alert('x')</script>"


def point(discipline: str, level: float, seed: int, good: float, worst: float) -> dict[str, Any]:
    numbers = {"goodput_rps": good, "bad_rate": worst / 2, "worst_bad_rate": worst}
    return {"discipline": discipline, "level": level, "seed": seed, "problem": None, "met": worst <= 0.01, **numbers}


POINTS = [
    point("a", 100.0, 1, 100.0, 0.0),
    point("a", 100.0, 2, 98.0, 0.02),
    point("a", 200.0, 1, 160.0, 0.2),
    point("a", 300.0, 2, 178.0, 0.4),
    point(EVIL, 100.0, 1, 90.0, 0.1),
    {"discipline": "a", "level": 50.0, "seed": 1, "problem": "no room"},
]


def document(**changes: Any) -> dict[str, Any]:
    there = dict.fromkeys(("mean_batch", "utilisation", "gpus_held_mean", "gpus_busy_mean", "latency_p99_ms"), 1.0)
    answer = {
        "mean": 110.0, "low": 100.0, "high": 120.0, "by_seed": {"1": {"level": 110.0, "missed": None}},
        "monotone": True, "scanned": False, "why": None, "of_staggered": 0.5, "of_fluid": 0.4, "at_it": there,
    }  # fmt: skip
    return {
        "find": "rate", "by": "worst", "bad_rate": 0.01, "resolution": 0.005, "seeds": [1, 2], "confidence": 0.95,
        "finished": True, "policy": None, "method": "", "versions": {"partita": "0.1.0"}, "points": POINTS,
        "bounds": {"gpus": 2, "offered_rps": 100.0, "fluid_rps": 275.0, "staggered_rps": 220.0},
        "answers": {"a": answer, EVIL: {**answer, "monotone": False, "why": EVIL}},
        "scenario": {"cluster": [], "load": {"arrivals": {"duration_s": 10.0}}}, **changes,
    }  # fmt: skip


def test_seeds_are_joined_where_they_have_readings() -> None:
    """At 200 seed 2, measured at 100 and 300, stands half-way between its readings; at 300 it is alone."""
    scan = scans_of(POINTS, bad="worst_bad_rate")["a"]
    assert scan.level.tolist() == [100.0, 200.0, 300.0]
    assert scan.goodput_rps.tolist() == [99.0, (160.0 + 138.0) / 2, 178.0]
    assert scan.goodput_low_rps.tolist() == [98.0, 138.0, 178.0]
    assert scan.goodput_high_rps.tolist() == [100.0, 160.0, 178.0]
    assert scan.bad_rate.tolist() == pytest.approx([0.01, (0.2 + 0.21) / 2, 0.4])
    assert scans_of(POINTS, bad="bad_rate")["a"].bad_rate.tolist() == pytest.approx([0.005, 0.1025, 0.2])


@pytest.mark.parametrize(
    ("staggered", "fluid", "sentence"),
    [
        (220.0, 275.0, "Bounds of all 2 GPUs: staggered 220 req/s, fluid 275 req/s."),
        (0.0, 275.0, "Bounds of all 2 GPUs: fluid 275 req/s."),
        (
            0.0,
            0.0,
            "Bounds of all 2 GPUs: none, since the kind of instance that there is most of cannot answer every service "
            "in time.",
        ),
    ],
)
def test_a_bound_that_there_is_not_is_no_rate(staggered: float, fluid: float, sentence: str) -> None:
    bounds = {**document()["bounds"], "fluid_rps": fluid, "staggered_rps": staggered}
    assert sentence in capacity_remarks(document(bounds=bounds))


def test_both_bounds_are_drawn_over_all_rates() -> None:
    scans = scans_of(POINTS, bad="worst_bad_rate")
    drawn = {trace.name: trace for trace in goodput_by_rate(scans, staggered_rps=220.0, fluid_rps=275.0).data}
    for name, height in (("staggered bound", 220.0), ("fluid bound", 275.0)):
        assert (list(drawn[name].x), list(drawn[name].y)) == ([0.0, 300.0], [height] * 2)
    assert list(drawn["all in time"].y) == [0.0, 300.0]
    for none in (None, 0.0):
        figure = goodput_by_rate(scans, staggered_rps=220.0, fluid_rps=none)
        assert "fluid bound" not in {trace.name for trace in figure.data}


def test_a_bad_rate_of_nothing_stays_on_the_logarithmic_axis() -> None:
    zero = np.zeros(2)
    scan = Scan(np.array([1.0, 2.0]), zero, zero, zero, zero, zero, zero)
    figure = bad_rate_figure({"a": scan}, level="GPUs", target=0.01)
    band, line, target = figure.data
    assert min(*band.y, *line.y) > 0
    assert np.log10(min(line.y)) >= figure.layout.yaxis.range[0]
    assert list(line.customdata) == [0.0, 0.0]
    assert list(target.y) == [1.0, 1.0]
    assert figure.layout.xaxis.title.text == "GPUs"


@pytest.mark.parametrize(
    ("levels", "apart"),
    [
        ([3.0, 4.0, 7.0], 1),  # numbers of GPUs: a tick at each, and none at halves
        ([1.0, 17.0], 1),
        ([1.0, 18.0], None),  # too many for one each
        ([3.0, 4.5, 7.0], None),  # rates
    ],
)
def test_a_few_whole_levels_have_a_tick_each(levels: list[float], apart: int | None) -> None:
    at, zero = np.array(levels), np.zeros(len(levels))
    figure = bad_rate_figure({"a": Scan(at, zero, zero, zero, zero, zero, zero)}, level="GPUs")
    assert figure.layout.xaxis.dtick == apart


def test_the_page_holds_it_all_and_escapes_it() -> None:
    html = capacity_text(document(), title=EVIL, command=f"partita capacity {EVIL}")
    assert EVIL not in html
    for text in (
        'draw("goodput"',
        'draw("bad"',
        "110 ± 10",
        "6 runs on up to 2 GPUs, 10 s each, with 2 seeds",
        "Seeds 1, 2",
    ):
        assert text in html


def test_a_search_for_gpus_has_no_goodput_by_rate() -> None:
    html = capacity_text(document(find="gpus"), title="t")
    assert 'draw("goodput"' not in html
    assert 'draw("bad"' in html


def test_the_bad_rate_drawn_is_that_of_the_search() -> None:
    worst, average = (capacity_text(document(by=by), title="t").split('draw("bad"')[1] for by in ("worst", "average"))
    drawn = [text[: text.index("</script>")] for text in (worst, average)]
    assert drawn[0] != drawn[1]


def test_nothing_measured_is_said_in_a_table_alone() -> None:
    html = capacity_text(document(points=[POINTS[-1]]), title="t")
    assert 'draw("' not in html
    assert "110 ± 10" in html
