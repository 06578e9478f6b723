"""The report stands alone, shows what the result says, and escapes whatever comes from outside."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partita.controller.report import report_text, write_report
from partita.controller.results import result_text, write_whole
from partita.controller.scoretable import COLUMNS, cells, misses, targets_of, verdict
from partita.errors import ConfigError
from partita.plots import Course, Mark, course_figure, thin

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
    return report_text(RESULT, COURSES, title=f"report of {EVIL}")


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
    assert [t for t, _ in page.tags].count("script") == 4  # plotly's code and three figures
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
    assert "1 that changed the plan" in shown


def test_figures_hold_the_data(html: str) -> None:
    assert html.count("Plotly.newPlot(") == 3
    figure = course_figure(COURSES)
    held = [t for t in figure.data if t.line.shape == "hv"]
    assert [list(t.y) for t in held] == [[2.0] * 10] * 2
    marks = [t for t in figure.data if t.mode == "markers"]
    assert "why &lt;script&gt;" in marks[0].text[0]
    assert "<script>" not in figure.to_json()


def test_a_file_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    write_report(path, RESULT, COURSES, title="one")
    assert "<h1>one</h1>" in path.read_text("utf-8")
    assert re.search(r"</html>\s*$", path.read_text("utf-8"))
    monkeypatch.setattr("os.replace", _fail)
    with pytest.raises(ConfigError, match=r"report\.html: cannot be written: disk full"):
        write_report(path, RESULT, COURSES, title="two")
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
    assert written == [(f"{c.heading}, {c.unit}" if c.unit else c.heading, c.meaning) for c in COLUMNS]


def test_a_faster_trace_is_said_to_be_faster() -> None:
    scenario = {**RESULT["scenario"], "load": {"log": {"import": 1, "speed": 12.0}}}
    shown = " ".join(Page(report_text({**RESULT, "scenario": scenario}, COURSES, title="t")).text)
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
