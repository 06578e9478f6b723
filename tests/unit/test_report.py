"""The report stands alone, shows what the result says, and escapes whatever comes from outside."""

import os
import re
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partita.controller.comparison import Shown
from partita.controller.report import report_text, write_report
from partita.controller.results import result_text, write_whole
from partita.controller.scoretable import COLUMNS, LOST, cells, columns, misses, targets_of, verdict
from partita.errors import ConfigError
from partita.model.occupancy import BatchWindow, Occupancy, Outage
from partita.plots import (
    Course,
    Mark,
    attainment_figure,
    batch_figure,
    batches_figure,
    course_figure,
    occupancy_figure,
    service_colours,
    service_legend,
    slower_figure,
    thin,
)
from partita.replay.score import Histograms, class_edges_ms

EVIL = "<script>alert('x')</script>&\"</style>"


def record(**changes: Any) -> dict[str, Any]:
    percentiles = {"p50": 8.0, "p90": 14.0, "p99": 22.5, "max": 31.0}
    return {
        "offered": 1000, "good": 990, "late": 4, "dropped": 6, "duration_s": 100.0, "goodput_rps": 9.9,
        "attainment": 0.99, "attainment_by_service": {EVIL: 0.98, "plain": 1.0}, "worst_service": EVIL,
        "worst_attainment": 0.98, "bad_rate": 0.01, "gpus_held_mean": 2.0, "gpus_held_peak": 3, "gpu_hours": 0.05,
        "utilisation": 0.61, "mean_batch": 4.25, "batches": 200, "latency_ms": percentiles, "queue_ms": percentiles,
        "reconfigurations": 2, "reconfiguration_gpu_hours": 0.001, "bound_staggered_rps": 20.0, "bound_fluid_rps": 25.0,
        **changes,
    }  # fmt: skip


def decision(**changes: Any) -> dict[str, Any]:
    return {
        "tick": 3, "at_s": 30.0, "action": "act", "chosen": "3 GPUs", "reason": f"because {EVIL}", "gpus_held": 2,
        "gpus_wanted": 3, **changes,
    }  # fmt: skip


RESULT: dict[str, Any] = {
    "scenario": {
        "cluster": [{"gpu": "A100-80GB", "count": 3}],
        "services": [{"name": "*", "slo_ms": 17_000, "attainment": 0.985}],
        "load": {"trace": {"file": f"{EVIL}.csv"}, "arrivals": None},
    },
    "seed": 7,
    "versions": {"partita": "0.1.0"},
    "scores": {"static": record(gpu_hours=0.1, attainment=1.0), EVIL: record()},
    "decisions": {
        "static": [],
        EVIL: [decision(at_s=3661.0), decision(tick=4, action="hold", reason="nothing to gain")],
    },
    "timing": {},
}
STEPS = np.arange(0.0, 100.0, 10.0)
COURSE = Course(STEPS, STEPS + 10, STEPS + 9, np.full(10, 2.0), STEPS + 11, (Mark(30.0, 3, f"why {EVIL}"),))
COURSES = {"static": COURSE, EVIL: COURSE}
CLASSES = len(class_edges_ms())
HISTOGRAMS = Histograms(*(np.bincount([400, 420], minlength=CLASSES) for _ in range(2)), np.array([0, 5, 0, 2]))
# Two GPUs, three intervals of 10 s: "plain" has gpu0 for half of the time, then both share it; gpu1 is there late.
OCCUPANCY = Occupancy(
    (EVIL, "plain"),
    ("gpu0", "gpu1"),
    10.0,
    np.array([[0.5, 0.8, 0.0], [np.nan, 0.25, 0.25]]),
    np.array([[[1, 0], [1, 0], [0, 1]], [[0, 1], [0, 1], [0, 1]]]),
    np.array([[[0.5, 0.0], [0.4, 0.4], [0.0, 0.0]], [[np.nan, np.nan], [0.25, 0.0], [0.25, 0.0]]]),
    np.array([[0.0, 0.65, 0.25], [0.5, 0.4, 0.0]]),
    np.array([1.0, 2.0, 2.0]),
    BatchWindow(
        (10.0, 20.0),
        np.array([0, 1]),
        np.array([1, 0]),
        np.array([4, 0]),
        np.array([9.5, 12.0]),
        np.array([11, 12.5]),
        ("gpu0", "gpu1"),
    ),
)
SHOWN = {"static": Shown(COURSE, HISTOGRAMS), EVIL: Shown(COURSE, HISTOGRAMS, OCCUPANCY)}
COMMAND = f"partita replay '{EVIL}.yaml' --seed 7"


class Page(HTMLParser):
    """Collects tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._inside in ("script", "style") else self.text).append(data)


@pytest.fixture(scope="module")
def html() -> str:
    return report_text(RESULT, SHOWN, title=f"report of {EVIL}", command=COMMAND)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
        assert not {"src", "href", "srcset", "action"} & set(attributes), (tag, attributes)
    rules = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert rules is not None
    assert rules.startswith("default-src 'none'")
    assert "http" not in rules
    style = next(text for text in page.scripts if ":root" in text)
    assert "url(" not in style
    assert "@import" not in style


def test_what_comes_from_outside_is_escaped(page: Page, html: str) -> None:
    assert EVIL not in html
    assert [t for t, _ in page.tags].count("script") == 9  # plotly's code, ours, and seven figures
    shown = " ".join(page.text)
    assert f"report of {EVIL}" in shown
    assert f"3 GPUs: because {EVIL}" in shown
    assert "1:01:01" in shown
    assert f"from {EVIL}.csv; up to 3 × A100-80GB" in shown


def test_it_shows_the_scores(page: Page) -> None:
    shown = " ".join(page.text)
    for text in ("9.9", "99.00 %", "98.00 %", "−50 %", "61.0 %", "4.25", "22.5", "Seed 7; partita 0.1.0."):
        assert text in shown
    assert "must keep it: * 17 s (98.5 %)." in shown
    assert f"{EVIL} misses the target of {EVIL} (98.00 % of 98.5 %)." in shown
    assert "nothing to gain" not in shown
    assert "1 decision that changed the plan" in shown


def test_figures_hold_the_data(html: str) -> None:
    drawn = re.findall(r'draw\("(\w+)", ', html)
    assert drawn == ["course", "services", "latency", "queue", "batches", "gpus0", "single0"]
    assert sorted(drawn) == sorted(re.findall(r'<div id="(\w+)"', html))
    figure = course_figure(COURSES)
    held = [t for t in figure.data if t.yaxis == "y2" and t.mode == "lines"]
    assert [list(t.y) for t in held] == [[2.0] * 11] * 2
    marks = [t for t in figure.data if t.mode == "markers"]
    assert "why &lt;script&gt;" in marks[0].text[0]
    assert "<script>" not in figure.to_json()


def test_an_interval_is_drawn_from_its_beginning_to_its_end() -> None:
    """Two intervals, which end at 10 and 12 s: 5 req/s in the first, 7 in the second."""
    ends, two = np.array([10.0, 12.0]), np.array([5.0, 7.0])
    offered = course_figure({"p": Course(ends, two, two, two, np.full(2, np.nan))}).data[0]
    assert offered.line.shape == "hv"
    assert (offered.x.tolist(), offered.y.tolist()) == ([0.0, 10.0, 12.0], [5.0, 7.0, 7.0])
    empty = np.empty(0)
    assert len(course_figure({"p": Course(empty, empty, empty, empty, empty)}).data[0].x) == 0


def test_a_run_without_a_policy_has_no_list_of_decisions() -> None:
    result = {**RESULT, "scores": {"fixed": record()}, "decisions": {"fixed": []}}
    text = report_text(result, {"fixed": SHOWN[EVIL]}, title="t")
    assert "that changed the plan" not in text
    assert 'draw("gpus0"' in text


def test_it_says_how_to_run_it_again(page: Page) -> None:
    shown = " ".join(page.text)
    assert COMMAND in shown
    assert '"gpu": "A100-80GB"' in shown


def test_what_takes_longer_falls_to_the_edge_of_the_figure_and_marks_percentiles() -> None:
    """Of four requests one took up to edge 400, three up to edge 700: 75 % take longer than edge 400, none edge 700."""
    edges = class_edges_ms()
    counts = np.bincount([400, 700, 700, 700], minlength=len(edges))
    figure = slower_figure({"p": counts}, edges, {"p": {"p50": 2.0, "p99": "nan"}}, what="time", slo_ms=[25.0])
    line, marks, slo = figure.data
    shares = dict(zip(line.x.tolist(), line.y.tolist(), strict=True))
    assert shares[edges[400]] == shares[edges[699]] == 75.0
    assert shares[edges[399]] == 100.0
    assert 10 ** figure.layout.yaxis.range[0] > shares[edges[700]] > 0
    assert (list(marks.x), list(marks.y)) == ([2.0], [50.0])
    assert list(slo.x) == [25.0, 25.0]
    assert 10 ** figure.layout.xaxis.range[0] < edges[399]
    assert 10 ** figure.layout.xaxis.range[1] > edges[700]


def test_without_requests_the_distributions_are_empty() -> None:
    figure = slower_figure({"p": np.zeros(CLASSES, np.int64)}, class_edges_ms(), {"p": {"p50": 0.0}}, what="time")
    assert [len(trace.x) for trace in figure.data] == [0, 0]
    assert list(batch_figure({"p": np.zeros(1, np.int64)}).data[0].x) == []


def test_batch_sizes_are_weighed_by_their_requests() -> None:
    """Five batches of 1 and two of 3: 5 of 11 requests ran alone, 6 in threes."""
    figure = batch_figure({"p": HISTOGRAMS.batch_size})
    assert list(figure.data[0].x) == [1, 2, 3]
    assert figure.data[0].y.tolist() == pytest.approx([500 / 11, 0.0, 600 / 11])


def test_points_of_one_service_do_not_hide_each_other() -> None:
    figure = attainment_figure({"p": {"a": 1.0, "b": 0.9}, "q": {"a": 1.0}}, {"a": 0.99})
    target, p, q = figure.data
    assert list(figure.layout.yaxis.ticktext) == ["b", "a"]
    assert list(target.x) == [None, 99.0]
    assert list(p.x) == [90.0, 100.0]
    assert list(q.x) == [None, 100.0]
    assert len({*p.y, *q.y}) == 4


def test_the_services_with_most_of_the_time_have_colours() -> None:
    names = tuple(f"s{n}" for n in range(12))
    working = np.arange(12.0)[:, None] * np.ones((12, 3))
    many = replace(OCCUPANCY, services=names, working=working)
    colours = service_colours([many])
    assert list(colours) == [f"s{n}" for n in range(11, 3, -1)]
    meaning = service_legend(many, colours, mixed=True)
    assert [text for text, _ in meaning][7:] == ["s4", "4 others", "no service has half"]
    assert len({look for _, look in meaning}) == 10
    assert service_legend(many, colours, mixed=False) == meaning[:-1]


def test_a_cell_has_the_colour_of_the_service_with_more_than_half() -> None:
    colours = service_colours([OCCUPANCY])
    assert list(colours) == [EVIL, "plain"]  # 9 s against 9 s at work: then by name
    figure = occupancy_figure(OCCUPANCY, colours)
    cells = next(trace for trace in figure.data if trace.type == "heatmap")
    z = np.array(cells.z, np.float64)
    # Slots: EVIL 0, plain 1, others 2, mixed 3; inside a slot it is how busy the cell was, of 0.98.
    assert z[0].tolist() == pytest.approx([1.49, 3 + 0.98 * 0.8, 3.0], rel=1e-6)
    assert np.isnan(z[1, 0])
    assert z[1, 1:].tolist() == pytest.approx([0.98 * 0.25] * 2)
    stacked = {trace.name: list(trace.y) for trace in figure.data if trace.type == "scatter"}
    assert stacked["plain"] == [0.5, 0.4, 0.0, 0.0]
    assert stacked["ready"] == [1.0, 2.0, 2.0, 2.0]


def test_failures_strike_out_the_time_that_they_took() -> None:
    struck = replace(OCCUPANCY, outages=(Outage(1, 12.0, 25.0), Outage(0, 5.0, 6.5)))
    [mark] = [t for t in occupancy_figure(struck, {}).data if t.name == "failed"]
    assert list(mark.x) == [12.0, 25.0, None, 5.0, 6.5, None]
    assert list(mark.y) == ["gpu1", "gpu1", None, "gpu0", "gpu0", None]
    assert mark.text[0] == "gpu1 failed at 12, back at 25 seconds"
    assert ("failed", mark.line.color) in service_legend(struck, {}, mixed=True)
    assert "failed" not in dict(service_legend(struck, {}, mixed=False))
    assert not [t for t in occupancy_figure(OCCUPANCY, {}).data if t.name == "failed"]


def test_what_failures_took_is_told_where_they_did() -> None:
    struck = replace(OCCUPANCY, outages=(Outage(1, 12.0, 25.0),))
    scores = {"static": record(lost=0), EVIL: record(lost=1234, dropped=2000)}
    shown = {**SHOWN, EVIL: replace(SHOWN[EVIL], occupancy=struck)}
    told = Page(report_text({**RESULT, "scores": scores}, shown, title="t"))
    text = " ".join(told.text)
    assert "2,000 dropped (1,234 of them lost to failures while they ran)" in text
    assert "Struck out in red" in text
    assert any(attributes.get("title") == LOST.meaning for _, attributes in told.tags)
    quiet = report_text(RESULT, SHOWN, title="t")
    assert not any(word in quiet for word in ("lost to failures", "Struck out", LOST.meaning))


def test_the_table_has_what_failures_took_where_they_did() -> None:
    assert columns({"a": record(), "b": record(lost=0)}) == COLUMNS  # older results do not say
    scores = {"a": record(lost=0), "b": record(lost=1234)}
    assert columns(scores) == (*COLUMNS, LOST)
    assert [texts[-1] for _, texts in cells(scores)] == ["0", "1,234"]


def test_what_a_cell_says_is_packed() -> None:
    cells = next(t for t in occupancy_figure(OCCUPANCY, {}).data if t.type == "heatmap")
    assert cells.meta["cells"] == [2, 3, 2]
    assert cells.meta["services"][1] == "plain"
    assert "<" not in cells.meta["services"][0]
    assert list(b64decode(cells.meta["busy"])) == [50, 80, 0, 255, 25, 25]
    leaders = np.frombuffer(b64decode(cells.meta["leaders"]), "<u2").tolist()
    shares = list(b64decode(cells.meta["shares"]))
    assert (leaders[:4], shares[:4]) == ([1, 0, 1, 0], [50, 0, 40, 40])


def test_single_batches_are_bars_on_their_gpu() -> None:
    figure = batches_figure(OCCUPANCY, {"plain": "#123456"})
    own, other = figure.data
    assert (own.name, own.y[0], own.base[0], own.x[0]) == ("plain", "gpu0", -0.5, 1.5)
    assert own.text[0] == "plain, batch of 4"
    assert other.name == "1 other"
    assert other.text[0].endswith(", cut short")
    assert "<script>" not in figure.to_json()


def test_a_file_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    write_report(path, RESULT, SHOWN, title="one")
    assert "<h1>one</h1>" in path.read_text("utf-8")
    assert re.search(r"</html>\s*$", path.read_text("utf-8"))
    monkeypatch.setattr("os.replace", _fail)
    with pytest.raises(ConfigError, match=r"report\.html: cannot be written: disk full"):
        write_report(path, RESULT, SHOWN, title="two")
    assert "<h1>one</h1>" in path.read_text("utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_device_stays_one_and_a_link_keeps_its_target(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "kept.json")
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit((tmp_path / "pipe").read_text)
        write_whole(tmp_path / "pipe", "through")
        assert read.result(timeout=20) == "through"
    write_whole(tmp_path / "link", "whole")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "kept.json").read_text() == "whole"


def _fail(*_: object) -> None:
    raise OSError(28, "disk full")


@pytest.mark.parametrize(
    ("keep", "expected"), [("mean", [0.5, 2.5, 4.0]), ("max", [1.0, 3.0, 4.0]), ("first", [0.0, 2.0, 4.0])]
)
def test_long_series_are_thinned(keep: str, expected: list[float]) -> None:
    assert thin(np.arange(5.0), 3, keep=keep).tolist() == expected
    assert thin(np.arange(3.0), 3, keep=keep).tolist() == [0.0, 1.0, 2.0]
    assert thin(np.empty(0), 3, keep=keep).tolist() == []


def test_the_verdict_prefers_the_cheapest_that_meets_every_target() -> None:
    good = {"a": 0.992, "b": 0.981}
    scores = {
        "static": record(gpu_hours=10.0, attainment=0.999, attainment_by_service={"a": 1.0, "b": 0.998}),
        # More of all requests than "good", but one service is left behind.
        "cheap": record(gpu_hours=4.0, attainment=0.995, attainment_by_service={"a": 0.999, "b": 0.97}),
        "good": record(gpu_hours=6.0, attainment=0.991, attainment_by_service=good),
    }
    assert verdict(scores, {"a": 0.99, "b": 0.98}) == (
        "good answered 99.10 % of the requests within their SLO, with 0.60 × the GPU-hours of static (99.90 %)."
    )
    assert verdict(scores, {"a": 1.0, "b": 1.0}).startswith("No policy met every target. static answered 99.90 %")
    assert verdict({"fixed": scores["cheap"]}, {"b": 0.98}).startswith("Not every target was met. fixed answered")
    assert (
        verdict({"fixed": record()}, {})
        == "fixed answered 99.00 % of the requests within their SLO, with 0.05 GPU-hours."
    )


def test_who_misses_a_target_is_named_with_the_service_furthest_below() -> None:
    scores = {
        "static": record(attainment_by_service={"a": 1.0, "b": 0.98, "idle": "nan"}),
        "hair": record(attainment_by_service={"a": 0.98999, "b": 1.0, "idle": "nan"}),
        "two": record(attainment_by_service={"a": 0.97, "b": 0.9, "idle": "nan"}),
    }
    assert misses(scores, {"a": 0.99, "b": 0.98, "idle": 0.99}) == {
        "hair": "hair misses the target of a (98.999 % of 99 %)",
        "two": "two misses the target of b (90.00 % of 98 %) and of 1 other",
    }


def test_targets_are_those_of_the_entry_that_says_most() -> None:
    entries = [("*", 0.9), ("m/*", 0.95), ("m/a", 0.99)]
    scenario = {"services": [{"name": name, "attainment": target} for name, target in entries]}
    scores = {"p": record(attainment_by_service={"m/a": 1.0, "m/b": 1.0, "x": 1.0})}
    assert targets_of(scores, scenario) == {"m/a": 0.99, "m/b": 0.95, "x": 0.9}


def test_every_column_is_explained_in_the_guide() -> None:
    page = (Path(__file__).parents[2] / "docs/replay.md").read_text("utf-8")
    written = re.findall(r"^\| ((?!column|-).*?) \| (.*) \|$", page, re.MULTILINE)
    assert written == [(f"{c.heading}, {c.unit}" if c.unit else c.heading, c.meaning) for c in (*COLUMNS, LOST)]


def test_a_faster_trace_is_said_to_be_faster() -> None:
    scenario = {**RESULT["scenario"], "load": {"log": {"import": 1, "speed": 12.0}}}
    shown = " ".join(Page(report_text({**RESULT, "scenario": scenario}, SHOWN, title="t")).text)
    assert "over 20 minutes, played in 100 s (12 ×), from the request log" in shown


def test_the_table_survives_a_run_without_requests() -> None:
    nothing = record(attainment="nan", latency_ms={"p99": "nan"}, gpu_hours=0.0, mean_batch="nan")
    ((name, texts),) = cells({"fixed": nothing})
    assert name == "fixed"
    assert len(texts) == len(COLUMNS)
    assert texts.count("–") == 4  # attainment, batch, p99, and nothing to compare the GPU-hours with


def test_results_are_written_alike() -> None:
    one = result_text({"b": 0.1 + 0.2, "a": {"y": 1, "x": [1.0]}})
    assert one == '{\n "a": {\n  "x": [\n   1.0\n  ],\n  "y": 1\n },\n "b": 0.30000000000000004\n}\n'
